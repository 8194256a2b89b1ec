//! A request and its progress.

/// Identifies a request of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A generation request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Prompt token ids.
    pub prompt: Vec<u32>,
    /// How to generate.
    pub params: GenerationParams,
}

/// Generation parameters. Sampling is greedy: the most likely token, the lowest id on a tie.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationParams {
    /// Maximum number of tokens to generate.
    pub max_tokens: u32,
    /// Whether to continue after stop tokens.
    pub ignore_eos: bool,
    /// Whether to return logits of every position: prompt positions, then one row per generated token.
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
    /// It generated a stop token.
    Stop,
    /// It generated the maximum number of tokens.
    Length,
}

impl FinishReason {
    /// The word of OpenAI's API.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// An admitted request, with its blocks.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub id: RequestId,
    /// Prompt, then generated tokens.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    /// Tokens whose keys and values are cached once all submitted steps have run. One more than are known if a step
    /// takes its token from the previous step.
    pub cached: usize,
    pub blocks: Vec<u32>,
    pub params: GenerationParams,
    pub finished: Option<FinishReason>,
}

impl Sequence {
    /// Tokens that are known but not cached: one during decode, more during prefill.
    pub fn pending(&self) -> usize {
        self.tokens.len().saturating_sub(self.cached)
    }

    /// Whether it continues after one more token, whatever that token is.
    pub fn outlasts_next(&self) -> bool {
        let generated = self.tokens.len() - self.prompt_len;
        self.finished.is_none() && generated + 1 < self.params.max_tokens as usize
    }

    /// Whether it is finished. If logits are requested, the last token has a step of its own.
    pub fn is_done(&self) -> bool {
        self.finished.is_some() && (!self.params.logits || self.pending() == 0)
    }

    /// Adds a generated token.
    pub fn push(&mut self, token: u32, eos: &[u32]) {
        self.tokens.push(token);
        if !self.params.ignore_eos && eos.contains(&token) {
            self.finished = Some(FinishReason::Stop);
        } else if self.tokens.len() - self.prompt_len >= self.params.max_tokens as usize {
            self.finished = Some(FinishReason::Length);
        }
    }
}
