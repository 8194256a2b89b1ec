//! The text of a calibration as tokens: samples in order, and the tokens whose rows are kept.

use std::path::PathBuf;

use frontend::Checkpoint;
use serde_json::Value;
use text::Tokenizer;

use super::CalibrateOptions;
use crate::Error;

/// The dataset of a calibration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its path, for messages.
    pub path: PathBuf,
    /// The contents.
    pub text: String,
    /// Whether each line is a sample of its own, `{"text": …}` or `{"prompt": …}`; otherwise the text is cut into
    /// samples of full length.
    pub lines: bool,
}

/// Samples as tokens.
pub(super) struct Samples {
    samples: Vec<Vec<i32>>,
    /// The tokens whose rows are kept, by their key.
    pub kept: Vec<Kept>,
}

/// A token whose rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kept {
    /// A hash of the token's position. Those with the smallest keys are kept, whatever the order of samples: merged
    /// files keep what one run over both texts would.
    pub key: u64,
    /// Its sample.
    pub sample: usize,
    /// Its position in the sample.
    pub position: usize,
}

impl Samples {
    /// Cuts a dataset into samples.
    pub fn of(dataset: &Dataset, checkpoint: &Checkpoint, options: &CalibrateOptions) -> Result<Samples, Error> {
        let bad = |reason: &str| Error::BadInput(format!("{}: {reason}", dataset.path.display()));
        let files = checkpoint.files();
        let tokenizer = files.iter().find(|file| file.name == "tokenizer.json");
        let tokenizer = tokenizer.ok_or_else(|| {
            Error::BadInput("the checkpoint has no tokenizer.json to tokenize the text with".to_owned())
        })?;
        let tokenizer = Tokenizer::from_bytes(&tokenizer.bytes)?;
        let length = options.max_len as usize;
        let mut samples: Vec<Vec<u32>> = Vec::new();
        if dataset.lines {
            for (number, line) in (1..).zip(dataset.text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
                let text = line_text(line).map_err(|reason| bad(&format!("line {number}: {reason}")))?;
                let mut tokens = tokenizer.encode(&text, true)?;
                tokens.truncate(length);
                samples.push(tokens);
                if samples.len() == options.samples {
                    break;
                }
            }
        } else {
            // each piece begins like a prompt, with the tokenizer's BOS token
            let around = tokenizer.encode("", true)?;
            let front: Vec<u32> =
                around.into_iter().take(1).filter(|id| Some(*id) == checkpoint.config().bos).collect();
            let tokens = tokenizer.encode(&dataset.text, false)?;
            let pieces = tokens.chunks(length.saturating_sub(front.len()).max(1)).take(options.samples);
            samples.extend(pieces.map(|piece| front.iter().chain(piece).copied().take(length).collect()));
        }
        samples.retain(|sample| !sample.is_empty());
        if samples.is_empty() {
            return Err(bad("no text to calibrate with, expected at least one token"));
        }
        let vocabulary = checkpoint.config().vocab_size;
        if let Some(id) = samples.iter().flatten().find(|id| **id >= vocabulary) {
            let reason = format!("the tokenizer emits token {id}, the model's vocabulary has {vocabulary}");
            return Err(bad(&reason));
        }
        let samples: Vec<Vec<i32>> =
            samples.into_iter().map(|sample| sample.into_iter().map(|id| id as i32).collect()).collect();
        let kept = kept(&samples, options.rows);
        Ok(Samples { samples, kept })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// The tokens of one sample.
    pub fn get(&self, sample: usize) -> &[i32] {
        &self.samples[sample]
    }

    /// The number of tokens of all samples.
    pub fn tokens(&self) -> u64 {
        self.samples.iter().map(|sample| sample.len() as u64).sum()
    }

    /// A fingerprint of everything that decides the result: a stopped run is resumed only if it is the same.
    pub fn job(&self, model: &str, target: &str, options: &CalibrateOptions) -> String {
        let CalibrateOptions { max_len, rows, hessian, .. } = options;
        let mut hash = blake3::Hasher::new();
        hash.update(format!("{} {model} {target} {max_len} {rows} {hessian}", env!("CARGO_PKG_VERSION")).as_bytes());
        for sample in &self.samples {
            hash.update(sample_hash(sample).as_bytes());
        }
        hash.finalize().to_hex().to_string()
    }
}

/// The text of a line of JSON.
fn line_text(line: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let text = ["text", "prompt"].into_iter().find_map(|field| value.get(field)?.as_str());
    text.map(str::to_owned).ok_or_else(|| "expected an object with a string `text` or `prompt`".to_owned())
}

fn sample_hash(sample: &[i32]) -> blake3::Hash {
    let mut hash = blake3::Hasher::new();
    for id in sample {
        hash.update(&id.to_le_bytes());
    }
    hash.finalize()
}

/// The tokens with the smallest keys, ordered by them.
fn kept(samples: &[Vec<i32>], rows: usize) -> Vec<Kept> {
    let mut all: Vec<Kept> = Vec::new();
    for (sample, tokens) in samples.iter().enumerate() {
        let hash = sample_hash(tokens);
        all.extend((0..tokens.len()).map(|position| {
            let place = blake3::keyed_hash(hash.as_bytes(), &(position as u64).to_le_bytes());
            let key = place.as_bytes().iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte));
            Kept { key, sample, position }
        }));
    }
    all.sort_unstable();
    all.truncate(rows);
    all
}
