//! Evaluation: how well a plan predicts a text, from the logits of every position, window by window.
//!
//! A text is one stream of tokens, cut into windows that begin with the tokenizer's prefix (such as `<s>`), if it has
//! one. Each token is scored once, with the preceding tokens of its window as context; the first token of a text is not
//! scored without a prefix.

mod comparison;
mod formats;
mod layers;
mod measures;
mod passage;
mod windows;

use engine::{GenerationParams, Request, RequestId};
use plan::PortData;
use rayon::prelude::*;

pub use comparison::compare;
pub use formats::{FormatError, compare_formats};
pub use layers::compare_layers;
pub use measures::{Comparison, LayerError, Score, ValueError};
pub use passage::Passage;
use windows::Window;
pub use windows::{WindowOptions, Windows};

use crate::{CompileOptions, Error, Llm};

/// What to compare a checkpoint with its reference on.
#[derive(Clone, Copy, Debug)]
pub struct EvalRequest<'a> {
    /// The text.
    pub text: &'a str,
    /// How the checkpoint is compiled.
    pub options: &'a CompileOptions,
    /// How the text is cut.
    pub windows: WindowOptions,
}

impl EvalRequest<'_> {
    /// The options of plans that run the windows.
    fn compile_options(&self) -> CompileOptions {
        self.windows.compile_options(self.options.clone())
    }
}

/// Scores a passage. Calls `each` for each position, with the next token and its negative log-likelihood.
pub fn score(
    llm: &mut Llm,
    passage: &Passage,
    windows: Windows,
    each: &mut dyn FnMut(usize, u32, f64),
) -> Result<Score, Error> {
    let mut scoring = Scoring::new(llm, passage, windows);
    let (mut sum, mut tokens) = (0.0, 0);
    while let Some(rows) = scoring.next_rows()? {
        for (index, nll) in rows.nll()?.into_iter().enumerate() {
            each(rows.position + index, rows.targets[index], nll);
            sum += nll;
            tokens += 1;
        }
    }
    Ok(Score::new(sum, tokens))
}

/// Logits of consecutive positions, and the tokens that follow them in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Index of the first target in the passage.
    pub position: usize,
    /// The tokens to predict, at least one.
    pub targets: Vec<u32>,
    /// `[targets, vocab]`.
    pub logits: Vec<f32>,
}

impl Rows {
    /// The negative log-likelihood of each target, in nats.
    pub fn nll(&self) -> Result<Vec<f64>, Error> {
        let rows = self.logits.par_chunks_exact(self.logits.len() / self.targets.len());
        let nll = |(row, target): (&[f32], &u32)| log_sum_exp(row) - f64::from(row[*target as usize]);
        let found: Vec<f64> = rows.zip(&self.targets).map(nll).collect();
        match found.iter().position(|nll| !nll.is_finite()) {
            Some(index) => Err(Error::BadInput(format!(
                "the logits that predict token {} of the text are not finite: expected weights and a dtype with \
                 which logits are finite",
                self.position + index
            ))),
            None => Ok(found),
        }
    }
}

/// The mean KL divergence of rows of logits from expected ones, in nats.
pub fn divergence(expected: &Rows, found: &Rows) -> f64 {
    let vocab = expected.logits.len() / expected.targets.len();
    let rows = expected.logits.par_chunks_exact(vocab).zip(found.logits.par_chunks_exact(vocab));
    let divergence = |(p, q): (&[f32], &[f32])| {
        let (p_sum, q_sum) = (log_sum_exp(p), log_sum_exp(q));
        let terms = p.iter().zip(q).map(|(p, q)| {
            let (p, q) = (f64::from(*p) - p_sum, f64::from(*q) - q_sum);
            p.exp() * (p - q)
        });
        terms.sum::<f64>()
    };
    rows.map(divergence).sum()
}

/// `ln(sum(exp(row)))`.
pub(crate) fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + row.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum::<f64>().ln()
}

/// A passage being evaluated by a plan: yields logits as steps compute them.
pub struct Scoring<'a> {
    llm: &'a mut Llm,
    passage: &'a Passage,
    /// Windows that have not begun, the next one last.
    waiting: Vec<Window>,
    running: Option<Running>,
}

/// A window in the engine.
struct Running {
    request: RequestId,
    window: Window,
    /// Received rows: row `i` predicts token `i + 1` of the window.
    rows: usize,
}

impl<'a> Scoring<'a> {
    /// Nothing has run yet.
    pub fn new(llm: &'a mut Llm, passage: &'a Passage, windows: Windows) -> Scoring<'a> {
        // requests of an earlier passage that was not read to its end
        llm.engine.clear();
        let mut waiting: Vec<Window> = windows.over(passage).collect();
        waiting.reverse();
        Scoring { llm, passage, waiting, running: None }
    }

    /// Logits of the next positions, as many as a step of the plan computes; `None` at the end of the passage.
    pub fn next_rows(&mut self) -> Result<Option<Rows>, Error> {
        let vocab = self.llm.plan().plan().model.vocab_size as usize;
        loop {
            let Running { request, window, rows } = match self.running.take() {
                Some(running) => running,
                None => match self.waiting.pop() {
                    Some(window) => self.start(window)?,
                    None => return Ok(None),
                },
            };
            let (mut logits, mut done) = (Vec::new(), false);
            for event in self.llm.engine.step().into_iter().filter(|event| event.request == request) {
                if let Some(error) = event.failed {
                    return Err(error.into());
                }
                logits.extend(event.logits);
                done |= event.done;
            }
            let end = rows + logits.len() / vocab;
            // rows of the prefix, and of tokens that an earlier window has scored, are dropped
            let first = rows.max(window.first_row(self.passage));
            let position = window.begin + first + 1;
            if !done {
                self.running = Some(Running { request, window, rows: end });
            }
            if first < end {
                logits.drain(..(first - rows) * vocab);
                let position = position - self.passage.prefix.len();
                let targets = self.passage.tokens[position..position + end - first].to_vec();
                return Ok(Some(Rows { position, targets, logits }));
            }
        }
    }

    /// Another output of the step that computed the latest rows.
    fn output(&mut self, port: &str) -> Result<PortData, Error> {
        Ok(self.llm.engine.output(port)?)
    }

    /// Submits a window to the engine, without its last token, which is only predicted.
    fn start(&mut self, window: Window) -> Result<Running, Error> {
        let prompt = [&self.passage.prefix, &self.passage.tokens[window.begin..window.end - 1]].concat();
        let params = GenerationParams { max_tokens: 0, ignore_eos: true, logits: true };
        let request = self.llm.engine.add(Request { prompt, params, ..Request::default() })?;
        Ok(Running { request, window, rows: 0 })
    }
}

impl std::fmt::Debug for Scoring<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scoring").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}
