//! Activation statistics of a model on a text, by observed tensor, from which quantization scales are computed. Only
//! values: running the model and reading files is done by callers.

mod clip;
mod histogram;
mod observers;
mod stats;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::fmt;

pub use clip::ClipMethod;
pub use histogram::{BINS, Histogram};
pub use observers::{InsertObservers, Observed, observed};
pub use stats::TensorStats;

/// Version of the text format.
pub const SCHEMA_VERSION: u32 = 1;

/// Statistics of a model's activations.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Version of the text format: [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Fingerprint of the model, in hexadecimal: of its configuration and the headers of its weights.
    pub model: String,
    /// Number of samples.
    pub samples: u64,
    /// Number of their tokens.
    pub tokens: u64,
    /// Maximum sample length in tokens.
    pub max_len: u64,
    /// The default clipping method.
    pub method: ClipMethod,
    /// By the name of the value in the imported graph: the input of every `linear`, and the keys and values of every
    /// `append_kv`.
    pub tensors: BTreeMap<String, TensorStats>,
}

/// Errors of reading, merging or using a calibration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CalibrationError {
    /// The text is not a calibration, or damaged.
    #[error("not a calibration: {0}")]
    Text(String),
    /// It is of another model.
    #[error("the calibration is of model {found}, expected one of model {expected}: calibrate this model")]
    Model {
        /// Fingerprint of the model that it is for.
        found: String,
        /// Fingerprint of the current model.
        expected: String,
    },
    /// Two calibrations do not describe the same tensors.
    #[error("cannot merge: {0}")]
    Merge(String),
}

impl Calibration {
    /// An empty calibration.
    pub fn new(model: &str, max_len: u64, method: ClipMethod) -> Calibration {
        Calibration {
            schema_version: SCHEMA_VERSION,
            model: model.to_owned(),
            samples: 0,
            tokens: 0,
            max_len,
            method,
            tensors: BTreeMap::new(),
        }
    }

    /// Reads the text of a calibration.
    pub fn parse(text: &str) -> Result<Calibration, CalibrationError> {
        text::parse(text).map_err(CalibrationError::Text)
    }

    /// The text, with one line per array: equal calibrations have equal texts, and diffs are readable.
    pub fn print(&self) -> String {
        text::print(self)
    }

    /// Refuses a calibration of another model than the one with this fingerprint.
    pub fn check_model(&self, fingerprint: &str) -> Result<(), CalibrationError> {
        if self.model == fingerprint {
            return Ok(());
        }
        Err(CalibrationError::Model { found: self.model.clone(), expected: fingerprint.to_owned() })
    }

    /// Adds the statistics of another run of the same model.
    pub fn merge(&mut self, other: &Calibration) -> Result<(), CalibrationError> {
        other.check_model(&self.model)?;
        if let Some(name) = different_key(&self.tensors, &other.tensors) {
            return Err(CalibrationError::Merge(format!("only one of them has tensor `{name}`")));
        }
        let mut tensors = self.tensors.clone();
        for (name, stats) in &mut tensors {
            stats.merge(&other.tensors[name]).map_err(|error| match error {
                CalibrationError::Merge(reason) => CalibrationError::Merge(format!("`{name}`: {reason}")),
                other => other,
            })?;
        }
        self.tensors = tensors;
        self.samples = self.samples.saturating_add(other.samples);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.max_len = self.max_len.max(other.max_len);
        Ok(())
    }
}

/// A key that only one of the maps has.
fn different_key<'a, V>(a: &'a BTreeMap<String, V>, b: &'a BTreeMap<String, V>) -> Option<&'a String> {
    let lacking = a.keys().find(|key| !b.contains_key(*key));
    lacking.or_else(|| b.keys().find(|key| !a.contains_key(*key)))
}

/// Rows of an activation.
#[derive(Clone, PartialEq)]
pub struct Rows {
    /// Values per row.
    pub channels: usize,
    /// The values, row by row.
    pub values: Vec<f32>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.channels.max(1)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.channels.max(1))
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows[{}, {}]", self.len(), self.channels)
    }
}

/// Data too large for text: sampled activations, by the names of [`Calibration::tensors`].
pub trait Activations: Sync {
    /// A sample of a tensor's rows: the same tokens for every tensor.
    fn rows(&self, tensor: &str) -> Option<Rows>;

    /// The mean of `x x^T` over all rows `x` of a tensor, row by row.
    fn hessian(&self, tensor: &str) -> Option<Vec<f32>>;
}
