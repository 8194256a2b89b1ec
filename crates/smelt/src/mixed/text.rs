//! The text that losses are measured on, and what the reference predicts of it.

use crate::eval::{self, Passage, Rows, Score, Scoring, WindowOptions, Windows};
use crate::{Error, Llm};

/// A text with the reference's predictions.
pub(super) struct Text {
    passage: Passage,
    /// Its start, on which single formats are measured.
    start: Passage,
    windows: Windows,
    /// Logits of the start.
    rows: Vec<Rows>,
    /// The loss of the reference on the whole text.
    pub reference: Score,
}

impl Text {
    /// A text whose first `tokens` tokens single formats are measured on.
    pub fn new(reference: &mut Llm, text: &str, tokens: usize) -> Result<Text, Error> {
        let passage = Passage::new(reference, text)?;
        let windows = WindowOptions::default().resolve(reference, &passage)?;
        let score = eval::score(reference, &passage, windows, &mut |_, _, _| {})?;
        let start = passage.start(tokens);
        let mut scoring = Scoring::new(reference, &start, windows);
        let mut rows = Vec::new();
        while let Some(next) = scoring.next_rows()? {
            rows.push(next);
        }
        Ok(Text { passage, start, windows, rows, reference: score })
    }

    /// What decides the losses of plans on the start.
    pub fn decisive(&self) -> String {
        format!("{:?} {:?}", self.windows, self.start)
    }

    /// The loss of a plan on the whole text.
    pub fn score(&self, mut llm: Llm) -> Result<Score, Error> {
        eval::score(&mut llm, &self.passage, self.windows, &mut |_, _, _| {})
    }

    /// The divergence of a plan's logits from the reference's, at the start.
    pub fn divergence(&self, mut llm: Llm) -> Result<f64, Error> {
        let mut scoring = Scoring::new(&mut llm, &self.start, self.windows);
        let (mut sum, mut count) = (0.0, 0);
        for expected in &self.rows {
            let found = scoring.next_rows()?.filter(|found| found.targets == expected.targets);
            let found =
                found.ok_or_else(|| Error::Unsupported("the plan splits the text into different steps".to_owned()))?;
            sum += eval::divergence(expected, &found);
            count += expected.targets.len();
        }
        Ok(sum / f64::from(count as u32))
    }
}
