//! 8-bit integer weights and activations, with channel scaling that balances their difficulty. (SmoothQuant, arXiv
//! 2211.10438.)

use ir::scale_of;
use ir::{DType, Graph, HostTensor, Value};

use super::formats::{by_row, quantized};
use super::group::{find, inputs, magnitudes, members, multiply, rows, shrink_key, weights};
use super::rounding::{absmax, round_by};
use super::sample::{Sample, divided};
use super::smooth::{Place, candidates};
use super::static_scales::{self, ActivationScales};
use super::{Codes, Layers, SEARCH_ROWS};
use crate::calibration::Rows;
use crate::{Changed, Numerics, Pass, PassContext, PassError};

/// Values of alpha to try: twentieths.
const STEPS: usize = 20;

/// `linear(x, w) → fused_linear(x', q, s', s) {quantized = [x, weight]}`, `x / f` and `w * f` as 8-bit integers, by
/// SmoothQuant.
#[derive(Clone, Debug, Default)]
pub struct QuantizeInt8Smoothquant {
    /// Which linear layers.
    pub layers: Layers,
    /// Source of activation scales.
    pub activations: ActivationScales,
}

impl Pass for QuantizeInt8Smoothquant {
    fn summary(&self) -> &'static str {
        "`linear(x, w) → fused_linear(x', q, s', s) {quantized = [x, weight]}`, `x / f` and `w * f` as 8-bit integers, by \
         SmoothQuant."
    }

    fn needs_calibration(&self) -> bool {
        true
    }

    fn numerics(&self) -> Numerics {
        // 1.5, and 4.7 where the inputs lack the outlier of the calibration
        Numerics::Quantizing { percent: 7 }
    }

    fn run(&self, graph: &mut Graph, ctx: &PassContext<'_>) -> Result<Changed, PassError> {
        let inputs = inputs(graph, &self.layers);
        for name in &inputs {
            let x = &find(graph, name)?;
            let linears = members(graph, &self.layers, *x);
            let group = Group::of(graph, ctx, *x, self.activations)?;
            let factors = group.factors(&weights(graph, ctx, &linears)?)?;
            let scale = group.scale(&factors, &group.divided(&factors))?;
            let read = group.place.smooth(graph, ctx, *x, &linears, &factors)?;
            for linear in members(graph, &self.layers, read) {
                let patch = quantized(graph, linear, by_row(DType::I8), &|patch, x| match scale {
                    Some(scale) => static_scales::codes(graph, ctx, patch, x, scale, DType::I8),
                    None => Codes::of(patch.add(graph, by_row(DType::I8), &[x.into()])),
                });
                let patch =
                    patch.ok_or_else(|| PassError::Other(format!("`{}`: expected linear layers", group.name)))?;
                graph.apply("smoothquant", linear, patch)?;
            }
        }
        Ok((!inputs.is_empty()).into())
    }
}

/// Activations that some linear layers share.
struct Group<'a> {
    ctx: &'a PassContext<'a>,
    name: String,
    rows: Rows,
    place: Place,
    /// Factors that the channels have been multiplied by since the calibration.
    before: Vec<f32>,
    activations: ActivationScales,
}

impl<'a> Group<'a> {
    fn of(
        graph: &Graph,
        ctx: &'a PassContext<'a>,
        x: Value,
        activations: ActivationScales,
    ) -> Result<Group<'a>, PassError> {
        let name = graph.value_name(x).to_owned();
        let rows = rows(graph, ctx, x, SEARCH_ROWS)?;
        let before = ctx.weights.values(&shrink_key(&name)).unwrap_or_else(|| vec![1.0; rows.channels]);
        Ok(Group { ctx, name, rows, place: Place::of(graph, ctx, x), before, activations })
    }

    /// The factors with the minimum error.
    fn factors(&self, weights: &[HostTensor]) -> Result<Vec<f32>, PassError> {
        let sample = Sample::of(&self.rows, weights);
        let mut w = magnitudes(sample.weights().iter().copied(), self.rows.channels, f32::max);
        let mut x = static_scales::stats(self.ctx, &self.name)?.channel_absmax.clone();
        multiply(&mut x, &self.before);
        self.place.share(&mut x);
        self.place.share(&mut w);
        let alphas = (0..=STEPS).map(|step| step as f32 / STEPS as f32);
        sample.best(candidates(&x, &w, alphas.map(|alpha| (alpha, 1.0 - alpha))), |factors| {
            let mut rows = self.divided(factors);
            let scale = self.scale(factors, &rows)?;
            for row in rows.values.chunks_exact_mut(rows.channels.max(1)) {
                round_by(row, scale.unwrap_or_else(|| scale_of(absmax(row), DType::I8)), DType::I8);
            }
            Ok(sample.losses(&rows, |_, weight| {
                multiply(weight, factors);
                round_by(weight, scale_of(absmax(weight), DType::I8), DType::I8);
            }))
        })
    }

    fn divided(&self, factors: &[f32]) -> Rows {
        divided(&self.rows, factors)
    }

    /// The scale of the divided activations, if it is static.
    fn scale(&self, factors: &[f32], rows: &Rows) -> Result<Option<f32>, PassError> {
        if self.activations == ActivationScales::Dynamic {
            return Ok(None);
        }
        let by: Vec<f32> = factors.iter().zip(&self.before).map(|(factor, before)| before / factor).collect();
        let by = by.iter().any(|by| *by != 1.0).then_some(by.as_slice());
        static_scales::scale(self.ctx, &self.name, by, rows, DType::I8).map(Some)
    }
}
