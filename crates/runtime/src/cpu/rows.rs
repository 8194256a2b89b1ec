//! Simple kernels with a few rows per task: lookups, splits, gated halves, argmax.

use super::simd::with_element;
use super::{Args, CpuKernel, RowArgs, RowKernel, Tensor};
use plan::DType;
use plan::devices::cpu;

/// Rows per task.
const ROWS: usize = cpu::ROWS_PER_TASK as usize;

/// The rows of a task.
pub(super) fn task_rows(task: usize, rows: usize) -> std::ops::Range<usize> {
    let first = task.saturating_mul(ROWS).min(rows);
    first..(first + ROWS).min(rows)
}

/// The tasks for all rows of a tensor.
pub(super) fn row_tasks(tensor: &Tensor) -> usize {
    tensor.row_count().div_ceil(ROWS)
}

/// Rows of a table by token id.
pub(super) struct Embedding;
/// Rows of x by index.
pub(super) struct GatherRows;
/// Widths of the outputs add up to that of the input.
pub(super) struct Split;
/// `silu(left half) * right half`.
pub(super) struct Swiglu;
/// The index of the largest of the first `classes` elements, [`plan::most_likely`]; one row per task.
pub(super) struct Argmax;

/// Copies row `index` of a table to row `row` of the output.
fn lookup(table: &Tensor, index: i32, out: &Tensor, row: usize) -> Result<(), String> {
    let width = table.width();
    let index = usize::try_from(index).ok().filter(|index| *index < table.row_count());
    let index = index.ok_or_else(|| format!("an index is outside {} rows", table.row_count()))?;
    let (from, to) = (index * width..(index + 1) * width, row * width..(row + 1) * width);
    with_element!(table.dtype(), E => {
        // SAFETY: the type is that of both dtypes, by `check_lookup`; rows are divided between tasks.
        unsafe { out.write::<E>(to)?.copy_from_slice(&table.elements::<E>()[from]) };
        Ok(())
    })
}

/// Checks a lookup: a table, indices, and an output of the selected rows.
fn check_lookup(table: &Tensor, indices: &Tensor, out: &Tensor) -> Result<(), String> {
    indices.expect(DType::I32)?;
    indices.expect_below(table.row_count())?;
    with_element!(table.dtype(), E => {
        let _: Option<E> = None;
        Ok(())
    })?;
    out.expect_shape(table.dtype(), &[indices.len(), table.width()])
}

impl CpuKernel for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(2, 1)?;
        let (tokens, table) = (&args.inputs[0], &args.inputs[1]);
        if table.shape().len() != 2 {
            return Err("expected a table of rank 2".to_owned());
        }
        check_lookup(table, tokens, &args.outputs[0])
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.outputs[0])
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let tokens = args.inputs[0].ints()?;
        task_rows(task, tokens.len()).try_for_each(|row| lookup(&args.inputs[1], tokens[row], &args.outputs[0], row))
    }
}

impl CpuKernel for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(2, 1)?;
        check_lookup(&args.inputs[0], &args.inputs[1], &args.outputs[0])
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.outputs[0])
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let rows = args.inputs[1].ints()?;
        task_rows(task, rows.len()).try_for_each(|row| lookup(&args.inputs[0], rows[row], &args.outputs[0], row))
    }
}

impl CpuKernel for Split {
    fn name(&self) -> &'static str {
        "split"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(1, args.outputs.len())?;
        let x = &args.inputs[0];
        x.expect(DType::F32)?;
        let sum: usize = args.outputs.iter().map(Tensor::width).sum();
        if sum != x.width() || args.outputs.iter().any(|out| out.row_count() != x.row_count()) {
            return Err(format!("the parts are {sum} wide, x {}", x.width()));
        }
        args.outputs.iter().try_for_each(|out| out.expect(DType::F32))
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (x, width) = (args.inputs[0].floats()?, args.inputs[0].width());
        for row in task_rows(task, args.inputs[0].row_count()) {
            let mut start = row * width;
            for out in &args.outputs {
                let size = out.width();
                // SAFETY: rows are divided between tasks.
                let part = unsafe { out.write::<f32>(row * size..(row + 1) * size)? };
                part.copy_from_slice(&x[start..start + size]);
                start += size;
            }
        }
        Ok(())
    }
}

impl RowKernel for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(1, 1)?;
        let (x, out) = (&args.inputs[0], &args.outputs[0]);
        x.expect(DType::F32)?;
        out.expect(DType::F32)?;
        match 2 * out.width() == x.width() && out.row_count() == x.row_count() {
            true => Ok(()),
            false => Err(format!("expected an output half of {} wide", x.width())),
        }
    }

    fn row(&self, args: &RowArgs<'_>, row: usize, out: &mut [f32]) -> Result<(), String> {
        let (gate, up) = args.inputs[0].row(row)?.split_at(out.len());
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + (-gate).exp()) * up;
        }
        Ok(())
    }
}

impl CpuKernel for Argmax {
    fn name(&self) -> &'static str {
        "argmax"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(1, 1)?;
        args.inputs[0].expect(DType::F32)?;
        if args.int("classes")? > args.inputs[0].width() {
            return Err(format!("a row has {} elements", args.inputs[0].width()));
        }
        args.outputs[0].expect_shape(DType::I32, &[args.inputs[0].row_count()])
    }

    fn tasks(&self, args: &Args) -> usize {
        args.inputs[0].row_count()
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (x, width) = (args.inputs[0].floats()?, args.inputs[0].width());
        let row = x.get(task * width..(task + 1) * width).ok_or("a task has no row")?;
        let best = plan::most_likely(&row[..args.int("classes")?]);
        // SAFETY: one row per task.
        let out = unsafe { args.outputs[0].write::<i32>(task..task + 1)? };
        out[0] = best;
        Ok(())
    }
}
