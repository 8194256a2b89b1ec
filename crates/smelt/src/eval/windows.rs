//! How a passage is cut into windows that a plan can take. Pure functions.

use serde::Serialize;

use super::Passage;
use crate::{CompileOptions, Error, Llm};

/// Default maximum window length.
const DEFAULT_CONTEXT: u32 = 2048;

/// Options of the windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowOptions {
    /// Window length in tokens, prefix included; by default the plan's maximum sequence length, at most 2048.
    pub context: Option<u32>,
    /// Tokens from the start of one window to the next; by default windows overlap as little as possible.
    pub stride: Option<u32>,
}

/// The windows in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Windows {
    /// Window length in tokens, prefix included.
    pub context: u32,
    /// Tokens from the start of one window to the next.
    pub stride: u32,
}

/// Tokens of a passage that run together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The first token.
    pub begin: usize,
    /// The end, exclusive.
    pub end: usize,
    /// The first token that is scored.
    pub scored: usize,
}

impl WindowOptions {
    /// Compilation options of a plan that is only evaluated: one sequence, logits of all tokens of a step.
    pub fn compile_options(&self, options: CompileOptions) -> CompileOptions {
        let lengths = [options.max_seq_len, options.max_input_len, options.max_output_len];
        let open = lengths.iter().all(Option::is_none);
        CompileOptions {
            max_batch_size: options.max_batch_size.or(Some(1)),
            max_seq_len: if open { self.context } else { options.max_seq_len },
            // bounded by the tokens of a step
            max_logit_rows: Some(u32::MAX),
            ..options
        }
    }

    /// The windows of a passage for a plan.
    pub fn resolve(&self, llm: &Llm, passage: &Passage) -> Result<Windows, Error> {
        let limits = &llm.plan().plan().limits;
        self.within(limits.max_seq_len.min(limits.max_input_len), passage)
    }

    fn within(&self, longest: u32, passage: &Passage) -> Result<Windows, Error> {
        let context = self.context.unwrap_or(longest.min(DEFAULT_CONTEXT));
        // a token is predicted from at least one preceding token
        let lead = passage.prefix.len().max(1) as u32;
        let usage = |message: String| Err(Error::Usage(message));
        if context > longest {
            return usage(format!("a context of {context} tokens: the plan allows sequences of at most {longest}"));
        }
        if context <= lead {
            return usage(format!(
                "a context of {context} tokens leaves none to score, expected at least {}",
                lead + 1
            ));
        }
        match self.stride {
            Some(stride) if stride == 0 || stride > context => {
                usage(format!("a stride of {stride} tokens, expected 1 to {context}, the context length"))
            }
            stride => Ok(Windows { context, stride: stride.unwrap_or(context).min(context - lead) }),
        }
    }
}

impl Windows {
    /// The windows of a passage, in order. The first scores all its tokens, each other one those after the previous
    /// window.
    pub(super) fn over(self, passage: &Passage) -> impl Iterator<Item = Window> {
        let tokens = passage.tokens.len();
        let room = self.context as usize - passage.prefix.len();
        let stride = self.stride as usize;
        let unscored = usize::from(passage.prefix.is_empty());
        let window = move |begin: usize| {
            let scored = if begin == 0 { unscored } else { begin - stride + room };
            Window { begin, end: (begin + room).min(tokens), scored }
        };
        (0..tokens).step_by(stride).map(window).take_while(move |window| window.scored < tokens)
    }
}

impl Window {
    /// The row of logits that predicts the first scored token.
    pub fn first_row(self, passage: &Passage) -> usize {
        passage.prefix.len() + self.scored - self.begin - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(prefix: &[u32], tokens: u32, context: u32, stride: Option<u32>) -> Vec<(usize, usize, usize)> {
        let passage = Passage::of_tokens(prefix.to_vec(), (0..tokens).collect()).unwrap();
        let windows = WindowOptions { context: Some(context), stride }.within(100, &passage).unwrap();
        windows.over(&passage).map(|window| (window.begin, window.scored, window.end)).collect()
    }

    #[test]
    fn every_token_is_scored_once() {
        // (begin, first scored, end)
        assert_eq!(cut(&[9], 7, 4, None), [(0, 0, 3), (3, 3, 6), (6, 6, 7)]);
        assert_eq!(cut(&[], 7, 4, None), [(0, 1, 4), (3, 4, 7)]);
        assert_eq!(cut(&[9], 7, 4, Some(4)), cut(&[9], 7, 4, None));
        assert_eq!(cut(&[9], 6, 4, Some(1)), [(0, 0, 3), (1, 3, 4), (2, 4, 5), (3, 5, 6)]);
        assert_eq!(cut(&[], 8, 4, Some(2)), [(0, 1, 4), (2, 4, 6), (4, 6, 8)]);
        assert_eq!(cut(&[9], 2, 100, None), [(0, 0, 2)]);
    }

    #[test]
    fn what_leaves_nothing_to_score_is_refused() {
        let passage = Passage::of_tokens(vec![9], vec![1, 2]).unwrap();
        for (context, stride, said) in [
            (101, None, "the plan allows sequences of at most 100"),
            (1, None, "expected at least 2"),
            (8, Some(0), "expected 1 to 8"),
            (8, Some(9), "expected 1 to 8"),
        ] {
            let error = WindowOptions { context: Some(context), stride }.within(100, &passage).unwrap_err();
            assert!(matches!(&error, Error::Usage(message) if message.contains(said)), "{error}");
        }
    }
}
