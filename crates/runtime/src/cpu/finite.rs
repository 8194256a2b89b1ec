//! Checks for NaN and infinity: of E4M3 weights before a plan runs, since kernels widen them without a NaN check, and
//! of the operands and results of launches when logits are not finite.

use std::ops::ControlFlow;

use plan::{Arg, DType, ExecError, Launch, Plan, PlanError, PlanFile, WeightData};
use rayon::prelude::*;

use super::{Args, Tensor};

/// Elements that a thread checks at a time.
const PIECE: usize = 1 << 16;

/// Refuses plans with a stored E4M3 weight that contains NaN.
pub(super) fn check_codes(file: &PlanFile) -> Result<(), ExecError> {
    let is_nan = |code: &u8| code & 0x7f == 0x7f;
    for weight in &file.plan().weights {
        if let (DType::F8E4M3, WeightData::Stored { offset }) = (weight.dtype, &weight.data) {
            let stored = file.stored(*offset, weight.bytes().unwrap_or(0));
            // no early end within a piece, so that the loop is vectorized
            let found = |piece: &[u8]| piece.iter().filter(|code| is_nan(code)).count() > 0;
            if stored.par_chunks(PIECE).any(found) {
                let reason = format!("E4M3 weight `{}` contains NaN, expected finite values", weight.name);
                return Err(PlanError::Corrupt { path: file.path().to_owned(), reason }.into());
            }
        }
    }
    Ok(())
}

/// Breaks with a message on the first weight that a launch read, or else result that it wrote, with a value that is NaN
/// or infinite.
pub(super) fn first(plan: &Plan, launch: &Launch, args: &Args) -> ControlFlow<String> {
    let weights = launch.inputs.iter().filter(|arg| !matches!(arg, Arg::Kv { .. })).zip(&args.inputs);
    for (arg, tensor) in weights {
        if let Arg::Weight(index) = arg
            && !is_finite(tensor)
        {
            let name = &plan.weights[*index as usize].name;
            return ControlFlow::Break(format!("the first such value is in weight `{name}`"));
        }
    }
    match args.outputs.iter().all(is_finite) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(format!(
            "the first such value is a result of `{}` (kernel `{}`), whose weights are finite; a dtype of larger range \
         may help (--dtype bf16 or f32)",
            launch.site, args.kernel.name
        )),
    }
}

fn is_finite(tensor: &Tensor) -> bool {
    let finite = |start: usize| {
        let values = tensor.widened(start..(start + PIECE).min(tensor.len()));
        values.is_ok_and(|values| values.iter().all(|value| value.is_finite()))
    };
    match tensor.dtype() {
        DType::I32 | DType::I8 | DType::I4 => true,
        _ => (0..tensor.len().div_ceil(PIECE)).into_par_iter().all(|piece| finite(piece * PIECE)),
    }
}
