//! 8-bit integer weights and activations, with channel scaling that balances their difficulty. (SmoothQuant, arXiv
//! 2211.10438.)

use ir::scale_of;
use ir::{DType, Graph, HostTensor};

use super::by_input::{SEARCH_ROWS, magnitudes, members, multiply, rows, shrink_key, weights};
use super::channel_scaling::{FoldInto, candidates};
use super::format_info::InputGroup;
use super::nearest::nearest_of;
use super::reconstruction_loss::{Outputs, divided};
use super::rounding::{absmax, round_by};
use super::static_scales::{self, ActivationScales};
use crate::calibration::Rows;
use crate::{PassContext, PassError};

/// Values of alpha to try: twentieths.
const STEPS: usize = 20;

/// 8-bit integer weights and activations, `x / f` and `w * f`, by SmoothQuant.
pub(super) fn quantize(graph: &mut Graph, group: &InputGroup<'_>) -> Result<(), PassError> {
    let &InputGroup { x, layers, ctx, .. } = group;
    let linears = members(graph, layers, x);
    let shared = SharedInput::of(graph, group)?;
    let factors = shared.factors(&weights(graph, ctx, &linears)?)?;
    let scale = shared.scale(&factors, &shared.divided(&factors))?;
    let read = shared.fold.scale(graph, ctx, x, &linears, &factors)?;
    nearest_of(graph, group, read, scale)
}

/// The input that some linear layers share.
struct SharedInput<'a> {
    ctx: &'a PassContext<'a>,
    name: String,
    rows: Rows,
    fold: FoldInto,
    /// Factors that the channels have been multiplied by since the calibration.
    before: Vec<f32>,
    scales: ActivationScales,
}

impl<'a> SharedInput<'a> {
    fn of(graph: &Graph, group: &InputGroup<'a>) -> Result<SharedInput<'a>, PassError> {
        let &InputGroup { x, activations: scales, ctx, .. } = group;
        let name = graph.value_name(x).to_owned();
        let rows = rows(graph, ctx, x, SEARCH_ROWS)?;
        let before = ctx.weights.values(&shrink_key(&name)).unwrap_or_else(|| vec![1.0; rows.channels]);
        Ok(SharedInput { ctx, name, rows, fold: FoldInto::of(graph, ctx, x), before, scales })
    }

    /// The factors with the minimum error.
    fn factors(&self, weights: &[HostTensor]) -> Result<Vec<f32>, PassError> {
        let outputs = Outputs::of(&self.rows, weights);
        let mut w = magnitudes(outputs.weights().iter().copied(), self.rows.channels, f32::max);
        let mut x = static_scales::stats(self.ctx, &self.name)?.channel_absmax.clone();
        multiply(&mut x, &self.before);
        self.fold.share(&mut x);
        self.fold.share(&mut w);
        let alphas = (0..=STEPS).map(|step| step as f32 / STEPS as f32);
        outputs.best(candidates(&x, &w, alphas.map(|alpha| (alpha, 1.0 - alpha))), |factors| {
            let mut rows = self.divided(factors);
            let scale = self.scale(factors, &rows)?;
            for row in rows.values.chunks_exact_mut(rows.channels.max(1)) {
                round_by(row, scale.unwrap_or_else(|| scale_of(absmax(row), DType::I8)), DType::I8);
            }
            Ok(outputs.losses(&rows, |_, weight| {
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
        if self.scales == ActivationScales::Dynamic {
            return Ok(None);
        }
        let by: Vec<f32> = factors.iter().zip(&self.before).map(|(factor, before)| before / factor).collect();
        let by = by.iter().any(|by| *by != 1.0).then_some(by.as_slice());
        static_scales::scale(self.ctx, &self.name, by, rows, DType::I8).map(Some)
    }
}
