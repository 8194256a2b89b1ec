//! Outputs of linear layers on sampled rows, and the error of quantized ones: the loss that searches minimize.

use ir::HostTensor;
use rayon::prelude::*;

use super::by_input::multiply;
use super::rounding::dot;
use crate::PassError;
use crate::calibration::Rows;

/// The outputs of linear layers over the same rows.
pub(crate) struct Outputs<'a> {
    /// Rows of all weights, concatenated: each is an output.
    weights: Vec<&'a [f32]>,
    /// For each output, its value on each row.
    wanted: Vec<Vec<f32>>,
}

impl<'a> Outputs<'a> {
    pub fn of(rows: &Rows, weights: &'a [HostTensor]) -> Outputs<'a> {
        let weights: Vec<&[f32]> = weights.iter().flat_map(HostTensor::rows).collect();
        let wanted = weights.par_iter().map(|weight| rows.iter().map(|row| dot(row, weight)).collect()).collect();
        Outputs { weights, wanted }
    }

    /// The sum of squared errors of the outputs, computed from these rows and from the weights that `weight` returns
    /// for each index.
    pub fn losses(&self, rows: &Rows, weight: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f64> {
        let loss = |output: usize| {
            let mut weights = self.weights[output].to_vec();
            weight(output, &mut weights);
            let off = |(row, wanted): (&[f32], &f32)| f64::from(dot(row, &weights) - wanted).powi(2);
            rows.iter().zip(&self.wanted[output]).map(off).sum()
        };
        (0..self.weights.len()).into_par_iter().map(loss).collect()
    }

    /// The first candidate of minimum loss; there must be one.
    pub fn best<T>(
        &self,
        candidates: Vec<T>,
        losses: impl Fn(&T) -> Result<Vec<f64>, PassError>,
    ) -> Result<T, PassError> {
        let mut best: Option<(f64, T)> = None;
        for candidate in candidates {
            // each output's own sum first: the total does not depend on the number of threads
            let loss = losses(&candidate)?.iter().sum::<f64>();
            if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                best = Some((loss, candidate));
            }
        }
        best.map(|(_, candidate)| candidate).ok_or_else(|| PassError::Other("nothing to choose from".to_owned()))
    }

    /// Rows of all weights.
    pub fn weights(&self) -> &[&'a [f32]] {
        &self.weights
    }
}

/// Rows with each channel divided by its factor.
pub(crate) fn divided(rows: &Rows, factors: &[f32]) -> Rows {
    let reciprocals: Vec<f32> = factors.iter().map(|factor| 1.0 / factor).collect();
    let mut rows = rows.clone();
    rows.values.chunks_exact_mut(rows.channels.max(1)).for_each(|row| multiply(row, &reciprocals));
    rows
}
