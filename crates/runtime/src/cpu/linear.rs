//! Matrix products with weights in rows: `[T, K] x [N, K] -> [T, N]`.
//!
//! Both operands are contiguous along K, so lanes run along K and every result has its own eight sums. A tile holds R
//! rows of x and C rows of weights in registers; the order of each sum does not depend on the tile. One row streams
//! eight rows of weights at once, four rows use each weight four times. Quantized values are multiplied by the scale of
//! their group as they are widened; a per-row scale multiplies the complete sum.

use std::ops::Range;

use super::scales::Scales;
use super::simd::{E4m3, LANES, Lanes, dispatch, prefetch, with_element};
use super::weights::{Pair, Weight, append_rows};
use super::{Args, CpuKernel, Tensor};
use plan::{BLOCK, DType, Formula, Kernel, Registers, Scalar};

/// `f(x @ weight^T + bias) + residual`. Inputs x, weight, the scales that `quantized` lists, optionally bias, and a
/// residual if `epilogue` is `add`; `f` is an optional elementwise formula. A task has `columns_per_task` columns of
/// all rows.
#[derive(Default)]
pub(super) struct Linear {
    formula: Option<Formula>,
    /// The operands that have scales or zero points: x, the weight, and zero points of the weight.
    quantized: [bool; 3],
    adds: bool,
    columns_per_task: usize,
}

/// The inputs of a product by role, and the formula of its epilogue.
struct Operands<'a> {
    x: &'a Tensor,
    weight: &'a Tensor,
    x_scale: Option<&'a Tensor>,
    weight_scale: Option<&'a Tensor>,
    zero: Option<&'a Tensor>,
    bias: Option<&'a Tensor>,
    residual: Option<&'a Tensor>,
}

impl<'a> Operands<'a> {
    fn of(linear: &Linear, args: &'a Args) -> Result<Operands<'a>, String> {
        let mut inputs = args.inputs.iter();
        let mut next = |wanted: bool| match wanted {
            true => inputs.next().map(Some).ok_or("too few inputs"),
            false => Ok(None),
        };
        let quantized = linear.quantized;
        let [x, weight, x_scale, weight_scale, zero] =
            [next(true)?, next(true)?, next(quantized[0])?, next(quantized[1])?, next(quantized[2])?];
        let (bias, residual) = match (linear.adds, inputs.as_slice()) {
            (false, []) => (None, None),
            (false, [bias]) => (Some(bias), None),
            (true, [residual]) => (None, Some(residual)),
            (true, [bias, residual]) => (Some(bias), Some(residual)),
            (_, more) => return Err(format!("{} inputs after those of the product", more.len())),
        };
        let (Some(x), Some(weight)) = (x, weight) else { return Err("too few inputs".to_owned()) };
        Ok(Operands { x, weight, x_scale, weight_scale, zero, bias, residual })
    }

    /// Columns of the weight: packed values are two per byte.
    fn width(&self) -> usize {
        if self.weight.is_packed() { 2 * self.weight.width() } else { self.weight.width() }
    }

    /// The scales of x, and those of these columns of the product, which are rows of the weight.
    fn scales(&self, columns: Range<usize>) -> Result<(Scales, Scales), String> {
        let (x, weight) = (self.x.row_count(), self.weight.row_count());
        Ok((
            Scales::of([x, self.width()], self.x_scale, None, 0..x)?,
            Scales::of([weight, self.width()], self.weight_scale, self.zero, columns)?,
        ))
    }

    /// These rows of x; quantized ones are widened into `floats`, times their scales if a row has several.
    fn rows<'b>(&'b self, rows: Range<usize>, scales: &Scales, floats: &'b mut Vec<f32>) -> Result<&'b [f32], String> {
        let (width, first) = (self.width(), rows.start);
        let range = rows.start * width..rows.end * width;
        floats.clear();
        // SAFETY: each dtype has its type.
        unsafe {
            match self.x.dtype() {
                DType::I8 => append(&self.x.elements::<i8>()[range], width, scales, first, floats),
                DType::F8E4M3 => append(&self.x.elements::<E4m3>()[range], width, scales, first, floats),
                _ => return Ok(&self.x.floats()?[range]),
            }
        }
        Ok(floats)
    }
}

/// Appends rows of quantized values as f32, times their scales if a row has several.
fn append<W: Weight>(quantized: &[W], width: usize, scales: &Scales, first: usize, to: &mut Vec<f32>) {
    match scales.of_rows() {
        Some(_) => append_widened(quantized, width, scales, first, to),
        None => append_scaled(quantized, width, scales, first, to),
    }
}

dispatch!(
    fn append_widened<W: Weight>(
        quantized: &[W],
        width: usize,
        scales: &Scales,
        first: usize,
        to: &mut Vec<f32>,
    ) -> () = append_rows, false, false
);
dispatch!(
    fn append_scaled<W: Weight>(
        quantized: &[W],
        width: usize,
        scales: &Scales,
        first: usize,
        to: &mut Vec<f32>,
    ) -> () = append_rows, true, false
);

/// Rows of x that stay in the L2 cache while the weights of a task stream past them.
const ROW_TILE: usize = 32;

impl CpuKernel for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn configured(&self, kernel: &Kernel) -> Result<Option<Box<dyn CpuKernel>>, String> {
        let text = |name: &str| match kernel.param(name) {
            Some(Scalar::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let formula: Option<Formula> = text("f").map(str::parse).transpose()?;
        if let Some(formula) = &formula
            && (formula.inputs() != 1 || !matches!(formula.stores(), [store] if store.dtype == DType::F32))
        {
            return Err(format!("expected an elementwise formula with an f32 result, found {formula}"));
        }
        let adds = match text("epilogue") {
            None => false,
            Some("add") => true,
            Some(other) => return Err(format!("expected `add` after the product, found `{other}`")),
        };
        let Some(Scalar::Int(columns_per_task @ 1..)) = kernel.param("columns_per_task") else {
            return Err("expected a positive integer parameter `columns_per_task`".to_owned());
        };
        let words = text("quantized").unwrap_or_default();
        let quantized = ["x", "weight", "zero_point"].map(|word| words.split(", ").any(|found| found == word));
        Ok(Some(Box::new(Linear { formula, quantized, adds, columns_per_task: *columns_per_task as usize })))
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(args.inputs.len().max(2), 1)?;
        let operands = Operands::of(self, args)?;
        let &[rows, width] = operands.x.shape() else { return Err("expected x of rank 2".to_owned()) };
        let &[columns, _] = operands.weight.shape() else { return Err("expected weight of rank 2".to_owned()) };
        if width != operands.width() {
            return Err(format!("x is {width} wide, the weight {}", operands.width()));
        }
        let (x, weight) = (operands.x.dtype(), operands.weight.dtype());
        let word = |scaled: bool| if scaled { "with scales" } else { "without scales" };
        // loops rely on it: only quantized values are widened group by group, whatever the width of a group
        let scaled = operands.x_scale.is_some();
        if !(x == DType::F32 && !scaled || matches!(x, DType::I8 | DType::F8E4M3) && scaled) {
            return Err(format!("expected x of f32, or quantized with scales, found {x} {}", word(scaled)));
        }
        let scaled = operands.weight_scale.is_some();
        if !(weight.is_float() && !scaled || weight.is_code() && scaled) {
            let found = word(scaled);
            return Err(format!(
                "expected an unquantized weight, or a quantized one with scales, found {weight} {found}"
            ));
        }
        if (weight == DType::I4) != operands.weight.is_packed() {
            return Err("expected packed 4-bit values".to_owned());
        }
        if operands.bias.is_some_and(|bias| bias.shape() != [columns] || !bias.dtype().is_float()) {
            return Err(format!("expected a bias of {columns} elements"));
        }
        operands.scales(0..columns)?;
        operands.residual.map_or(Ok(()), |residual| residual.expect_shape(DType::F32, &[rows, columns]))?;
        args.outputs[0].expect_shape(DType::F32, &[rows, columns])
    }

    fn tasks(&self, args: &Args) -> usize {
        args.inputs[1].row_count().div_ceil(self.columns_per_task)
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let operands = Operands::of(self, args)?;
        let (columns, width) = (operands.weight.row_count(), operands.width());
        let first = task.saturating_mul(self.columns_per_task).min(columns);
        let last = (first + self.columns_per_task).min(columns);
        let out = &args.outputs[0];
        let range = first * width..last * width;
        if operands.weight.is_packed() {
            // SAFETY: an element of packed 4-bit values is a byte.
            let weight = unsafe { &operands.weight.elements::<Pair>()[range.start / 2..range.end / 2] };
            return slice(&operands, self.formula.as_ref(), weight, first..last, out);
        }
        with_element!(operands.weight.dtype(), E => {
            // SAFETY: `with_element` selects the type of the dtype.
            let weight = unsafe { &operands.weight.elements::<E>()[range] };
            slice(&operands, self.formula.as_ref(), weight, first..last, out)
        })
    }
}

const CACHE_LINE: usize = 64;
const PAGE: usize = 4096;

/// Applies a formula to each value, a block at a time.
fn apply(formula: &Formula, values: &mut [f32], registers: &mut Registers) {
    for block in values.chunks_mut(BLOCK) {
        let x = &*block;
        formula.compute(&[x], x.len(), registers);
        let mut result = [0.0; BLOCK];
        result[..x.len()].copy_from_slice(formula.result(0, &[x], x.len(), registers));
        block.copy_from_slice(&result[..block.len()]);
    }
}

/// Computes these columns of all rows.
fn slice<W: Weight>(
    operands: &Operands<'_>,
    formula: Option<&Formula>,
    weight: &[W],
    columns: Range<usize>,
    out: &Tensor,
) -> Result<(), String> {
    let residual = operands.residual.map(Tensor::floats).transpose()?;
    let mut formula = formula.map(|formula| (formula, Registers::of(formula)));
    let bias = match operands.bias {
        Some(bias) => bias.widened(columns.clone())?,
        None => vec![0.0; columns.len()],
    };
    let (x_scales, scales) = operands.scales(columns.clone())?;
    let (rows, width, total) = (operands.x.row_count(), operands.width(), out.width());
    let row_scales = x_scales.of_rows().map_or_else(|| vec![1.0; rows], <[f32]>::to_vec);
    let column_scales = scales.of_rows().map_or_else(|| vec![1.0; columns.len()], <[f32]>::to_vec);
    let mut results = vec![0.0; ROW_TILE.min(rows) * columns.len()];
    let mut floats = Vec::new();
    for start in (0..rows).step_by(ROW_TILE) {
        let count = ROW_TILE.min(rows - start);
        let x = operands.rows(start..start + count, &x_scales, &mut floats)?;
        let job = Job {
            x,
            weight,
            first: 0,
            width,
            scales: &scales,
            row_scales: &row_scales[start..],
            column_scales: &column_scales,
            bias: &bias,
        };
        match (scales.of_rows(), scales.has_zeros()) {
            (Some(_), _) => multiply(&job, count, &mut results),
            (None, false) => multiply_by_groups(&job, count, &mut results),
            (None, true) => multiply_with_zeros(&job, count, &mut results),
        }
        if let Some((formula, registers)) = &mut formula {
            apply(formula, &mut results[..count * columns.len()], registers);
        }
        for (index, results) in results.chunks_exact(columns.len()).take(count).enumerate() {
            let at = (start + index) * total;
            let range = at + columns.start..at + columns.end;
            // SAFETY: these columns belong to this task.
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

/// Some rows of x times some columns of a task.
struct Job<'a, W> {
    x: &'a [f32],
    weight: &'a [W],
    /// The first column of the weights, relative to the task's.
    first: usize,
    width: usize,
    scales: &'a Scales,
    /// Factors of the sums, by row and by column of the task.
    row_scales: &'a [f32],
    column_scales: &'a [f32],
    bias: &'a [f32],
}

dispatch!(
    /// These rows of x times all columns of the task, into `results` `[count, columns]`.
    fn multiply<W: Weight>(job: &Job<'_, W>, count: usize, results: &mut [f32]) -> () = multiply_body, false, false
);
dispatch!(
    /// The same for weights with several scales per row.
    fn multiply_by_groups<W: Weight>(job: &Job<'_, W>, count: usize, results: &mut [f32]) -> () =
        multiply_body, true, false
);
dispatch!(
    /// The same for weights with zero points.
    fn multiply_with_zeros<W: Weight>(job: &Job<'_, W>, count: usize, results: &mut [f32]) -> () =
        multiply_body, true, true
);

#[inline(always)]
fn multiply_body<L: Lanes, W: Weight, const GROUPS: bool, const ZEROS: bool>(
    job: &Job<'_, W>,
    count: usize,
    results: &mut [f32],
) {
    let all = 0..job.bias.len();
    // narrow groups have no whole vectors; `check` guarantees that weights with groups are quantized
    if W::IS_CODE && (count > 3 || GROUPS && job.scales.group < LANES) {
        return widened_columns::<L, W, GROUPS, ZEROS>(job, count, results);
    }
    match count {
        // scales take registers, too
        1 if GROUPS => columns::<L, W, GROUPS, ZEROS, 1, 4>(job, 1, all, results),
        1 => columns::<L, W, GROUPS, ZEROS, 1, 8>(job, 1, all, results),
        2 => columns::<L, W, GROUPS, ZEROS, 2, 4>(job, 2, all, results),
        3 => columns::<L, W, GROUPS, ZEROS, 3, 4>(job, 3, all, results),
        _ => columns::<L, W, GROUPS, ZEROS, 4, 3>(job, count, all, results),
    }
}

/// All columns of many rows, whose quantized values are widened once for all of them.
#[inline(always)]
fn widened_columns<L: Lanes, W: Weight, const GROUPS: bool, const ZEROS: bool>(
    job: &Job<'_, W>,
    count: usize,
    results: &mut [f32],
) {
    let Job { x, width, scales, row_scales, column_scales, bias, .. } = *job;
    let line = width / W::WEIGHTS;
    let mut panel = Vec::new();
    for first in (0..bias.len()).step_by(3) {
        let range = first..(first + 3).min(bias.len());
        let quantized = &job.weight[range.start * line..range.end * line];
        panel.clear();
        append_rows::<L, W, GROUPS, ZEROS>(quantized, width, scales, first, &mut panel);
        let job = Job { x, weight: &panel, first, width, scales, row_scales, column_scales, bias };
        columns::<L, f32, false, false, 4, 3>(&job, count, range, results);
    }
}

/// These columns, C at a time, of all rows, R at a time; remaining rows one at a time.
#[inline(always)]
fn columns<L: Lanes, W: Weight, const GROUPS: bool, const ZEROS: bool, const R: usize, const C: usize>(
    job: &Job<'_, W>,
    count: usize,
    range: Range<usize>,
    results: &mut [f32],
) {
    let mut column = range.start;
    while column < range.end {
        let wide = range.end - column >= C;
        let mut row = 0;
        while row < count {
            let tall = count - row >= R;
            match (tall, wide) {
                (true, true) => tile::<L, W, GROUPS, ZEROS, R, C>(job, row, column, results),
                (true, false) => tile::<L, W, GROUPS, ZEROS, R, 1>(job, row, column, results),
                (false, true) => tile::<L, W, GROUPS, ZEROS, 1, C>(job, row, column, results),
                (false, false) => tile::<L, W, GROUPS, ZEROS, 1, 1>(job, row, column, results),
            }
            row += if tall { R } else { 1 };
        }
        column += if wide { C } else { 1 };
    }
}

/// R rows times C columns, summed in registers.
#[inline(always)]
fn tile<L: Lanes, W: Weight, const GROUPS: bool, const ZEROS: bool, const R: usize, const C: usize>(
    job: &Job<'_, W>,
    row: usize,
    column: usize,
    results: &mut [f32],
) {
    let (width, scales) = (job.width, job.scales);
    let line = width / W::WEIGHTS;
    let x: [&[f32]; R] = std::array::from_fn(|r| &job.x[(row + r) * width..][..width]);
    let w: [&[W]; C] = std::array::from_fn(|c| &job.weight[(column - job.first + c) * line..][..line]);
    let mut lanes = [[L::splat(0.0); C]; R];
    let whole = width - width % LANES;
    let group = if GROUPS { scales.group } else { whole.max(1) };
    // a power of two or all of a row: vectors end where groups do
    assert!(group >= LANES || whole == 0, "groups of {group}");
    // hardware prefetches within a page: for short rows the next tile's are prefetched, a cache line at a time
    let is_short = R == 1 && line * size_of::<W>() < PAGE;
    let per_line = if is_short { CACHE_LINE / size_of::<W>() * W::WEIGHTS } else { group };
    // `step_by` would divide by variable steps, once per run
    let (mut first, mut index) = (0, 0);
    while first < whole {
        let (mut scale, mut zero) = ([L::splat(1.0); C], [L::splat(0.0); C]);
        for c in 0..C {
            if GROUPS {
                scale[c] = L::splat(scales.scale(column + c, index));
            }
            if ZEROS {
                zero[c] = L::splat(scales.zero(column + c, index));
            }
        }
        let last = (first + group).min(whole);
        while first < last {
            if is_short {
                for row in w {
                    prefetch(row.as_ptr().wrapping_add(C * line + first / W::WEIGHTS));
                }
            }
            let end = (first + per_line).min(last);
            for k in (first..end).step_by(LANES) {
                let mut weights = [L::splat(0.0); C];
                for c in 0..C {
                    // SAFETY: `k + LANES <= whole`, as `first` and `end` are multiples of eight: of groups and of cache
                    // lines.
                    weights[c] = unsafe { W::load_finite(w[c].as_ptr().add(k / W::WEIGHTS)) };
                    if ZEROS {
                        weights[c] = weights[c].minus(zero[c]);
                    }
                    if GROUPS {
                        weights[c] = weights[c].times(scale[c]);
                    }
                }
                for r in 0..R {
                    // SAFETY: as above.
                    let values = unsafe { L::load(x[r].as_ptr().add(k)) };
                    for c in 0..C {
                        lanes[r][c] = lanes[r][c].add_product(values, weights[c]);
                    }
                }
            }
            first = end;
        }
        index += 1;
    }
    let mut sums = [[0.0; C]; R];
    for r in 0..R {
        for c in 0..C {
            sums[r][c] = lanes[r][c].sum();
            for (k, value) in x[r].iter().enumerate().skip(whole) {
                let weight = W::widen(w[c], k) - if ZEROS { scales.zero(column + c, k / group) } else { 0.0 };
                let weight = if GROUPS { weight * scales.scale(column + c, k / group) } else { weight };
                sums[r][c] += value * weight;
            }
        }
    }
    let (scales, bias) = (&job.column_scales[column..column + C], &job.bias[column..column + C]);
    for r in 0..R {
        let results = &mut results[(row + r) * job.bias.len() + column..][..C];
        for c in 0..C {
            results[c] = sums[r][c] * (job.row_scales[row + r] * scales[c]) + bias[c];
        }
    }
}
