//! What a gate measured, and why a plan was not kept.

use std::fmt;

use serde::Serialize;

use super::bound::Measured;
use crate::eval::{LayerError, Score};

/// What a gate measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateReport {
    /// The plan's loss on the text.
    pub plan: Score,
    /// The loss at the checkpoint's own precision.
    pub reference: Score,
    /// Mean `KL(reference || plan)` over all positions, in nats.
    pub kl: f64,
    /// Top-1 agreement with the reference.
    pub top1: f64,
    /// The bounds, and the measured values.
    pub bounds: Vec<Measured>,
}

/// Why a plan was not kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateFailure {
    /// What was measured.
    pub report: GateReport,
    /// The layers that add most to the error, the worst first.
    pub layers: Vec<LayerError>,
}

impl fmt::Display for GateFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the plan fails its gate and was not written")?;
        for bound in &self.report.bounds {
            write!(f, "\n{bound}")?;
        }
        if !self.layers.is_empty() {
            write!(f, "\n\nlayers with the largest growth of the relative error:")?;
        }
        for layer in &self.layers {
            write!(f, "\n{:<16} +{:.4} %, to {:.4} %", layer.layer, layer.growth * 100.0, layer.error * 100.0)?;
        }
        Ok(())
    }
}

impl std::error::Error for GateFailure {}
