//! Matrix products with weights in rows: `[T, K] x [N, K] -> [T, N]`.
//!
//! Both operands are contiguous along K, so lanes run along K and every result has its own eight sums. A tile holds
//! R rows of x against C rows of weights in registers; which tile computes a result changes nothing in how it is
//! summed. One row streams eight rows of weights at once, four rows use each weight four times.

use super::simd::{Element, LANES, Lanes, dispatch, with_element};
use super::{Args, CpuKernel, Tensor};
use plan::{BLOCK, DType, Formula, Kernel, Registers, Scalar};

/// `f(x @ weight^T + bias) + residual`. Inputs x, weight, perhaps bias, and perhaps residual, where `behind` is `add`;
/// `f` is a formula of one element, where there is one. A task takes `columns_per_task` columns of all rows.
#[derive(Default)]
pub(super) struct Linear {
    formula: Option<Formula>,
}

impl Linear {
    /// The residual, which stands last, and the bias.
    fn behind(args: &Args) -> Result<(Option<&Tensor>, Option<&Tensor>), String> {
        let more = args.inputs.get(2..).unwrap_or_default();
        match (args.text("behind"), more) {
            (None, []) => Ok((None, None)),
            (None, [bias]) => Ok((None, Some(bias))),
            (Some("add"), [residual]) => Ok((Some(residual), None)),
            (Some("add"), [bias, residual]) => Ok((Some(residual), Some(bias))),
            (behind, _) => Err(format!("{} inputs behind the weight, and {behind:?}", more.len())),
        }
    }
}

/// Rows of x that stay in the second-level cache while the weights of a task run past them.
const ROW_TILE: usize = 32;

impl CpuKernel for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn configured(&self, kernel: &Kernel) -> Result<Option<Box<dyn CpuKernel>>, String> {
        let Some(Scalar::Text(text)) = kernel.param("f") else { return Ok(None) };
        let formula: Formula = text.parse()?;
        match (formula.inputs(), formula.stores()) {
            (1, [store]) if store.dtype == DType::F32 => Ok(Some(Box::new(Linear { formula: Some(formula) }))),
            _ => Err(format!("expected a formula of one element that stores an f32, found {text}")),
        }
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(args.inputs.len().max(2), 1)?;
        args.int("columns_per_task")?;
        let (residual, bias) = Linear::behind(args)?;
        let (x, weight) = (&args.inputs[0], &args.inputs[1]);
        let &[rows, width] = x.shape() else { return Err("expected x of rank 2".to_owned()) };
        let &[columns, weight_width] = weight.shape() else { return Err("expected weight of rank 2".to_owned()) };
        x.expect(DType::F32)?;
        if width != weight_width || !weight.dtype().is_float() {
            return Err(format!("x is {width} wide, the weight {weight_width}"));
        }
        if bias.is_some_and(|bias| bias.shape() != [columns] || !bias.dtype().is_float()) {
            return Err(format!("expected a bias of {columns} elements"));
        }
        residual.map_or(Ok(()), |residual| residual.expect_shape(DType::F32, &[rows, columns]))?;
        args.outputs[0].expect_shape(DType::F32, &[rows, columns])
    }

    fn tasks(&self, args: &Args) -> usize {
        args.inputs[1].row_count().div_ceil(args.int("columns_per_task").unwrap_or(1))
    }

    fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let per_task = args.int("columns_per_task")?;
        let columns = args.inputs[1].shape()[0];
        let first = task.saturating_mul(per_task).min(columns);
        let last = (first + per_task).min(columns);
        let (residual, bias) = Linear::behind(args)?;
        let bias = match bias {
            Some(bias) => bias.widened(first..last)?,
            None => vec![0.0; last - first],
        };
        let behind = Behind { formula: self.formula.as_ref(), residual };
        with_element!(args.inputs[1].dtype(), E => slice::<E>(args, first, last, &bias, &behind))
    }
}

/// What happens to a product with its bias.
struct Behind<'a> {
    formula: Option<&'a Formula>,
    residual: Option<&'a Tensor>,
}

/// Replaces each value by what a formula makes of it, a block at a time.
fn apply(formula: &Formula, values: &mut [f32], registers: &mut Registers) {
    for block in values.chunks_mut(BLOCK) {
        let x = &*block;
        formula.compute(&[x], x.len(), registers);
        let mut result = [0.0; BLOCK];
        result[..x.len()].copy_from_slice(formula.result(0, &[x], x.len(), registers));
        block.copy_from_slice(&result[..block.len()]);
    }
}

/// Computes columns `first..last` of all rows.
fn slice<E: Element>(args: &Args, first: usize, last: usize, bias: &[f32], behind: &Behind<'_>) -> Result<(), String> {
    let residual = behind.residual.map(Tensor::floats).transpose()?;
    let mut formula = behind.formula.map(|formula| (formula, Registers::of(formula)));
    let (x, out) = (args.inputs[0].floats()?, &args.outputs[0]);
    let width = args.inputs[0].width();
    let columns = out.width();
    // SAFETY: `with_element` chose the type of the dtype.
    let weight = unsafe { &args.inputs[1].elements::<E>()[first * width..last * width] };
    let job = Job { x, weight, bias, width };
    let rows = args.inputs[0].row_count();
    let mut results = vec![0.0; ROW_TILE.min(rows) * (last - first)];
    for start in (0..rows).step_by(ROW_TILE) {
        let count = ROW_TILE.min(rows - start);
        multiply(&job, start, count, &mut results);
        if let Some((formula, registers)) = &mut formula {
            apply(formula, &mut results[..count * (last - first)], registers);
        }
        for (index, results) in results.chunks_exact(last - first).take(count).enumerate() {
            let at = (start + index) * columns;
            // SAFETY: columns `first..last` are this task's.
            let out = unsafe { out.write::<f32>(at + first..at + last)? };
            match residual {
                None => out.copy_from_slice(results),
                Some(residual) => {
                    let terms = residual[at + first..at + last].iter().zip(results.iter());
                    out.iter_mut().zip(terms).for_each(|(out, (residual, result))| *out = residual + result);
                }
            }
        }
    }
    Ok(())
}

/// Some columns of a product.
struct Job<'a, E> {
    x: &'a [f32],
    /// Rows of these columns only.
    weight: &'a [E],
    bias: &'a [f32],
    width: usize,
}

dispatch!(
    /// Rows `start..start + count` of x times all weights of the job, into `results` `[count, columns]`.
    fn multiply<E: Element>(job: &Job<'_, E>, start: usize, count: usize, results: &mut [f32]) -> () = multiply_body
);

#[inline(always)]
fn multiply_body<L: Lanes, E: Element>(job: &Job<'_, E>, start: usize, count: usize, results: &mut [f32]) {
    match count {
        1 => columns::<L, E, 1, 8>(job, start, 0..1, results),
        2 => columns::<L, E, 2, 4>(job, start, 0..2, results),
        3 => columns::<L, E, 3, 4>(job, start, 0..3, results),
        _ => columns::<L, E, 4, 3>(job, start, 0..count, results),
    }
}

/// All columns, C at a time, of rows `start + range`, R at a time; rows that are left over one at a time.
#[inline(always)]
fn columns<L: Lanes, E: Element, const R: usize, const C: usize>(
    job: &Job<'_, E>,
    start: usize,
    range: std::ops::Range<usize>,
    results: &mut [f32],
) {
    let columns = job.bias.len();
    let mut column = 0;
    while column < columns {
        let wide = columns - column >= C;
        let mut row = range.start;
        while row < range.end {
            let tall = range.end - row >= R;
            match (tall, wide) {
                (true, true) => tile::<L, E, R, C>(job, start, row, column, results),
                (true, false) => tile::<L, E, R, 1>(job, start, row, column, results),
                (false, true) => tile::<L, E, 1, C>(job, start, row, column, results),
                (false, false) => tile::<L, E, 1, 1>(job, start, row, column, results),
            }
            row += if tall { R } else { 1 };
        }
        column += if wide { C } else { 1 };
    }
}

/// R rows times C columns, summed in registers.
#[inline(always)]
fn tile<L: Lanes, E: Element, const R: usize, const C: usize>(
    job: &Job<'_, E>,
    start: usize,
    row: usize,
    column: usize,
    results: &mut [f32],
) {
    let width = job.width;
    let x: [&[f32]; R] = std::array::from_fn(|r| &job.x[(start + row + r) * width..][..width]);
    let w: [&[E]; C] = std::array::from_fn(|c| &job.weight[(column + c) * width..][..width]);
    let mut sums = [[L::splat(0.0); C]; R];
    let whole = width - width % LANES;
    for k in (0..whole).step_by(LANES) {
        // SAFETY: `k + LANES <= width`, the length of every row.
        let weights: [L; C] = std::array::from_fn(|c| unsafe { L::load(w[c].as_ptr().add(k)) });
        for r in 0..R {
            // SAFETY: as above.
            let values = unsafe { L::load(x[r].as_ptr().add(k)) };
            for c in 0..C {
                sums[r][c] = sums[r][c].add_product(values, weights[c]);
            }
        }
    }
    let columns = job.bias.len();
    for r in 0..R {
        for c in 0..C {
            let mut sum = sums[r][c].sum();
            for k in whole..width {
                sum += x[r][k] * w[c][k].widen();
            }
            results[(row + r) * columns + column + c] = sum + job.bias[column + c];
        }
    }
}
