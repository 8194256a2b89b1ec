//! A request and how far it has come.

/// Names a request of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Token ids to start from.
    pub prompt: Vec<u32>,
    /// How to go on.
    pub params: GenerationParams,
}

/// How to generate. Sampling is greedy: the most likely token, the lowest id on a tie.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationParams {
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// Whether to go on past tokens that end a text.
    pub ignore_eos: bool,
    /// Whether logits of every position are wanted: prompt positions, then one row for the step of each generated
    /// token.
    pub logits: bool,
}

impl Default for GenerationParams {
    fn default() -> GenerationParams {
        GenerationParams { max_tokens: 128, ignore_eos: false, logits: false }
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It made a token that ends a text.
    Stop,
    /// It made as many tokens as were asked for.
    Length,
}

impl FinishReason {
    /// The word that OpenAI's interface uses.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// A request that has its blocks.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub id: RequestId,
    /// Prompt, then generated tokens.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Tokens whose keys and values are cached once all submitted steps have run. One more than are known where a step
    /// takes its token from the step before.
    pub cached: usize,
    pub blocks: Vec<u32>,
    pub params: GenerationParams,
    pub finished: Option<FinishReason>,
}

impl Sequence {
    /// Tokens that are known but not cached: one while decoding, more while the prompt is read.
    pub fn pending(&self) -> usize {
        self.tokens.len().saturating_sub(self.cached)
    }

    /// Whether it goes on behind one more token, whatever that token is.
    pub fn outlasts_next(&self) -> bool {
        let generated = self.tokens.len() - self.prompt_len;
        self.finished.is_none() && generated + 1 < self.params.max_tokens as usize
    }

    /// Whether nothing is left to do. Where logits are wanted, the last token has a step of its own.
    pub fn is_done(&self) -> bool {
        self.finished.is_some() && (!self.params.logits || self.pending() == 0)
    }

    /// Takes a generated token.
    pub fn push(&mut self, token: u32, eos: &[u32]) {
        self.tokens.push(token);
        if !self.params.ignore_eos && eos.contains(&token) {
            self.finished = Some(FinishReason::Stop);
        } else if self.tokens.len() - self.prompt_len >= self.params.max_tokens as usize {
            self.finished = Some(FinishReason::Length);
        }
    }
}
