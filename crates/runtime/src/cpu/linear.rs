//! Matrix products with weights in rows: `[T, K] x [N, K] -> [T, N]`.
//!
//! Both operands are contiguous along K, so lanes run along K and every result has its own eight sums. A tile holds
//! R rows of x against C rows of weights in registers; which tile computes a result changes nothing in how it is
//! summed. One row streams eight rows of weights at once, four rows use each weight four times. Where operands are
//! codes, the sums of the columns that share a scale are multiplied by it before they join the others.

use super::scales::{Scaling, unpack};
use super::simd::{E4m3, Element, LANES, Lanes, dispatch, with_element};
use super::{Args, CpuKernel, Tensor};
use plan::{BLOCK, DType, Formula, Kernel, Registers, Scalar};

/// `f(x @ weight^T + bias) + residual`. Inputs x, weight, the scales that `scaled` lists, perhaps bias, and perhaps
/// residual, where `behind` is `add`; `f` is a formula of one element, where there is one. A task takes
/// `columns_per_task` columns of all rows.
#[derive(Default)]
pub(super) struct Linear {
    formula: Option<Formula>,
}

/// The inputs of a product by what they are, and the formula behind it.
struct Operands<'a> {
    x: &'a Tensor,
    weight: &'a Tensor,
    x_scale: Option<&'a Tensor>,
    weight_scale: Option<&'a Tensor>,
    zero: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    formula: Option<&'a Formula>,
    residual: Option<&'a Tensor>,
}

impl<'a> Operands<'a> {
    fn of(args: &'a Args) -> Result<Operands<'a>, String> {
        let scaled = args.text("scaled").unwrap_or_default();
        let has = |word: &str| scaled.split(", ").any(|found| found == word);
        let mut inputs = args.inputs.iter();
        let mut next = |wanted: bool| match wanted {
            true => inputs.next().map(Some).ok_or("too few inputs"),
            false => Ok(None),
        };
        let [x, weight, x_scale, weight_scale, zero] =
            [next(true)?, next(true)?, next(has("x"))?, next(has("weight"))?, next(has("zero"))?];
        let (bias, residual) = match (args.text("behind"), inputs.as_slice()) {
            (None, []) => (None, None),
            (None, [bias]) => (Some(bias), None),
            (Some("add"), [residual]) => (None, Some(residual)),
            (Some("add"), [bias, residual]) => (Some(bias), Some(residual)),
            (behind, more) => return Err(format!("{} inputs behind the product, and {behind:?}", more.len())),
        };
        let (Some(x), Some(weight)) = (x, weight) else { return Err("too few inputs".to_owned()) };
        Ok(Operands { x, weight, x_scale, weight_scale, zero, bias, formula: None, residual })
    }

    /// Columns of the weight: those of packed codes lie two in a byte.
    fn width(&self) -> usize {
        if self.weight.dtype() == DType::I4 { 2 * self.weight.width() } else { self.weight.width() }
    }

    fn scaling(&self, columns: std::ops::Range<usize>) -> Result<Scaling, String> {
        let x = (self.x.row_count(), self.x_scale);
        let weight = (self.weight.row_count(), self.weight_scale, self.zero);
        Scaling::of(x, weight, self.width(), columns)
    }
}

/// Rows of x that stay in the second-level cache while the weights of a task run past them.
const ROW_TILE: usize = 32;

/// Columns whose codes are unpacked at a time: whole tiles for every number of rows, that fit the first-level cache if they
/// can.
fn unpacked_columns(width: usize) -> usize {
    ((16 << 10) / width.max(1) / 24).max(1) * 24
}

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
        let operands = Operands::of(args)?;
        let &[rows, width] = operands.x.shape() else { return Err("expected x of rank 2".to_owned()) };
        let &[columns, _] = operands.weight.shape() else { return Err("expected weight of rank 2".to_owned()) };
        if width != operands.width() {
            return Err(format!("x is {width} wide, the weight {}", operands.width()));
        }
        let (x, weight) = (operands.x.dtype(), operands.weight.dtype());
        let scaled_codes = matches!(x, DType::I8 | DType::F8E4M3) && operands.x_scale.is_some();
        if x != DType::F32 && !scaled_codes {
            return Err(format!("expected x of f32, or of codes with scales, found {x}"));
        }
        let scaled_codes = weight.is_code() && operands.weight_scale.is_some();
        if !weight.is_float() && !scaled_codes {
            return Err(format!("expected a weight of numbers, or of codes with scales, found {weight}"));
        }
        if operands.bias.is_some_and(|bias| bias.shape() != [columns] || !bias.dtype().is_float()) {
            return Err(format!("expected a bias of {columns} elements"));
        }
        operands.scaling(0..columns)?;
        operands.residual.map_or(Ok(()), |residual| residual.expect_shape(DType::F32, &[rows, columns]))?;
        args.outputs[0].expect_shape(DType::F32, &[rows, columns])
    }

    fn tasks(&self, args: &Args) -> usize {
        args.inputs[1].row_count().div_ceil(args.int("columns_per_task").unwrap_or(1))
    }

    fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let per_task = args.int("columns_per_task")?;
        let operands = Operands { formula: self.formula.as_ref(), ..Operands::of(args)? };
        let (columns, width) = (operands.weight.row_count(), operands.width());
        let first = task.saturating_mul(per_task).min(columns);
        let last = (first + per_task).min(columns);
        let out = &args.outputs[0];
        if operands.weight.dtype() == DType::I4 {
            // SAFETY: an element of packed codes is a byte.
            let packed = unsafe { operands.weight.elements::<u8>() };
            let mut codes = Vec::new();
            return (first..last).step_by(unpacked_columns(width)).try_for_each(|first| {
                let last = (first + unpacked_columns(width)).min(last);
                unpack(&packed[first * width / 2..last * width / 2], &mut codes);
                slice(&operands, &codes, first..last, out)
            });
        }
        with_element!(operands.weight.dtype(), E => {
            // SAFETY: `with_element` chose the type of the dtype.
            let weight = unsafe { &operands.weight.elements::<E>()[first * width..last * width] };
            slice(&operands, weight, first..last, out)
        })
    }
}

/// Computes these columns of all rows, for activations of any type.
fn slice<W: Element>(
    operands: &Operands<'_>,
    weight: &[W],
    columns: std::ops::Range<usize>,
    out: &Tensor,
) -> Result<(), String> {
    // SAFETY: `check` allows these three dtypes, each of which has its type here.
    unsafe {
        match operands.x.dtype() {
            DType::I8 => slice_of(operands, operands.x.elements::<i8>(), weight, columns, out),
            DType::F8E4M3 => slice_of(operands, operands.x.elements::<E4m3>(), weight, columns, out),
            _ => slice_of(operands, operands.x.floats()?, weight, columns, out),
        }
    }
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

fn slice_of<X: Element, W: Element>(
    operands: &Operands<'_>,
    x: &[X],
    weight: &[W],
    columns: std::ops::Range<usize>,
    out: &Tensor,
) -> Result<(), String> {
    let residual = operands.residual.map(Tensor::floats).transpose()?;
    let mut formula = operands.formula.map(|formula| (formula, Registers::of(formula)));
    let bias = match operands.bias {
        Some(bias) => bias.widened(columns.clone())?,
        None => vec![0.0; columns.len()],
    };
    let scaling = operands.scaling(columns.clone())?;
    let job = Job { x, weight, bias: &bias, width: operands.width(), scaling: &scaling };
    let (rows, total) = (operands.x.row_count(), out.width());
    let mut results = vec![0.0; ROW_TILE.min(rows) * columns.len()];
    for start in (0..rows).step_by(ROW_TILE) {
        let count = ROW_TILE.min(rows - start);
        if scaling.has_zeros() {
            multiply_with_zeros(&job, start, count, &mut results);
        } else {
            multiply(&job, start, count, &mut results);
        }
        if let Some((formula, registers)) = &mut formula {
            apply(formula, &mut results[..count * columns.len()], registers);
        }
        for (index, results) in results.chunks_exact(columns.len()).take(count).enumerate() {
            let at = (start + index) * total;
            let range = at + columns.start..at + columns.end;
            // SAFETY: these columns are this task's.
            let out = unsafe { out.write::<f32>(range.clone())? };
            match residual {
                None => out.copy_from_slice(results),
                Some(residual) => {
                    let terms = residual[range].iter().zip(results.iter());
                    out.iter_mut().zip(terms).for_each(|(out, (residual, result))| *out = residual + result);
                }
            }
        }
    }
    Ok(())
}

/// Some columns of a product.
struct Job<'a, X, W> {
    x: &'a [X],
    /// Rows of these columns only.
    weight: &'a [W],
    bias: &'a [f32],
    width: usize,
    scaling: &'a Scaling,
}

dispatch!(
    /// Rows `start..start + count` of x times all weights of the job, into `results` `[count, columns]`.
    fn multiply<X: Element, W: Element>(job: &Job<'_, X, W>, start: usize, count: usize, results: &mut [f32]) -> () =
        multiply_body, false
);
dispatch!(
    /// The same of weights that have zeros.
    fn multiply_with_zeros<X: Element, W: Element>(
        job: &Job<'_, X, W>,
        start: usize,
        count: usize,
        results: &mut [f32],
    ) -> () = multiply_body, true
);

#[inline(always)]
fn multiply_body<L: Lanes, X: Element, W: Element, const ZEROS: bool>(
    job: &Job<'_, X, W>,
    start: usize,
    count: usize,
    results: &mut [f32],
) {
    match count {
        1 => columns::<L, X, W, ZEROS, 1, 8>(job, start, 0..1, results),
        2 => columns::<L, X, W, ZEROS, 2, 4>(job, start, 0..2, results),
        3 => columns::<L, X, W, ZEROS, 3, 4>(job, start, 0..3, results),
        _ => columns::<L, X, W, ZEROS, 4, 3>(job, start, 0..count, results),
    }
}

/// All columns, C at a time, of rows `start + range`, R at a time; rows that are left over one at a time.
#[inline(always)]
fn columns<L: Lanes, X: Element, W: Element, const ZEROS: bool, const R: usize, const C: usize>(
    job: &Job<'_, X, W>,
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
                (true, true) => tile::<L, X, W, ZEROS, R, C>(job, start, row, column, results),
                (true, false) => tile::<L, X, W, ZEROS, R, 1>(job, start, row, column, results),
                (false, true) => tile::<L, X, W, ZEROS, 1, C>(job, start, row, column, results),
                (false, false) => tile::<L, X, W, ZEROS, 1, 1>(job, start, row, column, results),
            }
            row += if tall { R } else { 1 };
        }
        column += if wide { C } else { 1 };
    }
}

/// R rows times C columns, summed in registers.
#[inline(always)]
fn tile<L: Lanes, X: Element, W: Element, const ZEROS: bool, const R: usize, const C: usize>(
    job: &Job<'_, X, W>,
    start: usize,
    row: usize,
    column: usize,
    results: &mut [f32],
) {
    let (width, scaling) = (job.width, job.scaling);
    let x: [&[X]; R] = std::array::from_fn(|r| &job.x[(start + row + r) * width..][..width]);
    let w: [&[W]; C] = std::array::from_fn(|c| &job.weight[(column + c) * width..][..width]);
    let mut totals = [[L::splat(0.0); C]; R];
    let whole = width - width % LANES;
    // groups of a power of two that is less than the lanes are summed one by one below
    let lanes_fit = scaling.group >= LANES;
    let group = if lanes_fit { scaling.group } else { whole.max(1) };
    for (index, first) in (0..if lanes_fit { whole } else { 0 }).step_by(group).enumerate() {
        let mut sums = [[L::splat(0.0); C]; R];
        let zeros: [L; C] =
            std::array::from_fn(|c| L::splat(if ZEROS { -scaling.zero(column + c, index) } else { 0.0 }));
        for k in (first..(first + group).min(whole)).step_by(LANES) {
            // SAFETY: `k + LANES <= width`, the length of every row.
            let mut weights: [L; C] = std::array::from_fn(|c| unsafe { L::load(w[c].as_ptr().add(k)) });
            if ZEROS {
                weights = std::array::from_fn(|c| zeros[c].add_product(weights[c], L::splat(1.0)));
            }
            for r in 0..R {
                // SAFETY: as above.
                let values = unsafe { L::load(x[r].as_ptr().add(k)) };
                for c in 0..C {
                    sums[r][c] = sums[r][c].add_product(values, weights[c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                let scale = scaling.scale(start + row + r, column + c, index);
                totals[r][c] = totals[r][c].add_product(sums[r][c], L::splat(scale));
            }
        }
    }
    let columns = job.bias.len();
    for r in 0..R {
        for c in 0..C {
            let mut sum = totals[r][c].sum();
            for k in if lanes_fit { whole } else { 0 }..width {
                let index = k / scaling.group;
                let weight = w[c][k].widen() - if ZEROS { scaling.zero(column + c, index) } else { 0.0 };
                sum += x[r][k].widen() * weight * scaling.scale(start + row + r, column + c, index);
            }
            results[(row + r) * columns + column + c] = sum + job.bias[column + c];
        }
    }
}
