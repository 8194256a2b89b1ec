//! Elementwise regions: a formula, parsed once when the plan is loaded, evaluated a block of elements at a time.

use std::borrow::Cow;
use std::ops::Range;

use plan::{BLOCK, DType, Formula, Kernel, Registers, Scalar};

use super::rows::{row_tasks, task_rows};
use super::{Args, CpuKernel, Tensor};

/// A kernel that runs a formula; the one in the catalog has none yet.
#[derive(Default)]
pub(super) struct Map {
    formula: Option<Formula>,
}

impl Map {
    fn formula(&self) -> Result<&Formula, String> {
        self.formula.as_ref().ok_or_else(|| "expected a formula `f`".to_owned())
    }
}

/// Whether an operand is a broadcast row.
fn is_row(operand: &Tensor, out: &Tensor) -> bool {
    operand.shape().len() < out.shape().len()
}

impl CpuKernel for Map {
    fn name(&self) -> &'static str {
        "map"
    }

    fn configured(&self, kernel: &Kernel) -> Result<Option<Box<dyn CpuKernel>>, String> {
        match kernel.param("f") {
            Some(Scalar::Text(text)) => Ok(Some(Box::new(Map { formula: Some(text.parse()?) }))),
            _ => Err("expected a formula `f`".to_owned()),
        }
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        let formula = self.formula()?;
        args.expect_counts(formula.inputs(), formula.stores().len())?;
        let out = &args.outputs[0];
        for (store, result) in formula.stores().iter().zip(&args.outputs) {
            store_is_f32(store.dtype)?;
            result.expect_shape(DType::F32, out.shape())?;
        }
        for operand in &args.inputs {
            let shape = if is_row(operand, out) { &out.shape()[out.shape().len() - 1..] } else { out.shape() };
            operand.expect_shape(operand.dtype(), shape)?;
            if !operand.dtype().is_float() {
                return Err(format!("expected a floating-point operand, found one of {}", operand.dtype()));
            }
        }
        Ok(())
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.outputs[0])
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (formula, out) = (self.formula()?, &args.outputs[0]);
        let width = out.width();
        let rows = task_rows(task, out.row_count());
        let range = rows.start * width..rows.end * width;
        let elements = |operand| if is_row(operand, out) { 0..width } else { range.clone() };
        let inputs = args.inputs.iter().map(|operand| floats(operand, elements(operand)));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        // SAFETY: rows are divided between tasks.
        let results = args.outputs.iter().map(|out| unsafe { out.write::<f32>(range.clone()) });
        let mut results = results.collect::<Result<Vec<_>, _>>()?;

        // rows matter only for a broadcast row
        let any_row = args.inputs.iter().any(|operand| is_row(operand, out));
        let line = if any_row { width } else { range.len() };
        let mut registers = Registers::of(formula);
        for start in (0..range.len()).step_by(line.max(1)) {
            for column in (0..line).step_by(BLOCK) {
                let len = BLOCK.min(line - column);
                let blocks = args.inputs.iter().zip(&inputs).map(|(operand, values)| {
                    let at = if is_row(operand, out) { column } else { start + column };
                    &values[at..at + len]
                });
                let blocks: Vec<&[f32]> = blocks.collect();
                formula.compute(&blocks, len, &mut registers);
                for (index, result) in results.iter_mut().enumerate() {
                    let values = formula.result(index, &blocks, len, &registers);
                    result[start + column..start + column + len].copy_from_slice(values);
                }
            }
        }
        Ok(())
    }
}

/// Elements of an operand as f32, copied only if they are narrower.
fn floats(operand: &Tensor, range: Range<usize>) -> Result<Cow<'_, [f32]>, String> {
    match operand.dtype() {
        DType::F32 => Ok(Cow::Borrowed(&operand.floats()?[range])),
        _ => operand.widened(range).map(Cow::Owned),
    }
}

fn store_is_f32(dtype: DType) -> Result<(), String> {
    match dtype {
        DType::F32 => Ok(()),
        other => Err(format!("expected a formula with an f32 result, found {other}")),
    }
}
