//! Codes and their scales: which scale belongs to which product, packed codes, and the kernels that make codes.

use plan::{DType, Scalar};

use super::rows::{row_tasks, task_rows};
#[cfg(target_arch = "x86_64")]
use super::simd::has_avx2;
use super::{Args, CpuKernel, Tensor};

/// Scales of both operands of a product by row, column and group of neighbours along K.
pub(super) struct Scaling {
    /// Neighbours along K that share all scales.
    pub group: usize,
    x: Vec<f32>,
    /// Groups of a row of x; none where it has no scales.
    x_groups: usize,
    weight: Vec<f32>,
    zeros: Vec<f32>,
    /// Groups of a row of the weight; none where it has no scales.
    weight_groups: usize,
}

impl Scaling {
    /// The scales of all rows of x and of some columns of the product, which are rows of the weight.
    pub fn of(
        (x_rows, x_scale): (usize, Option<&Tensor>),
        (weight_rows, weight_scale, zero): (usize, Option<&Tensor>, Option<&Tensor>),
        width: usize,
        columns: std::ops::Range<usize>,
    ) -> Result<Scaling, String> {
        let group = |rows: usize, scale: Option<&Tensor>| match scale {
            Some(scale) => Blocks::of(rows, width, scale).map(|blocks| blocks.cols),
            None => Ok(width),
        };
        let group = group(x_rows, x_scale)?.min(group(weight_rows, weight_scale)?).max(1);
        if zero.map(Tensor::shape) != zero.and(weight_scale).map(Tensor::shape) {
            return Err("expected a zero for each scale".to_owned());
        }
        let spread = |rows: usize, scale: Option<&Tensor>, values: Option<&Tensor>, range: std::ops::Range<usize>| {
            let (Some(scale), Some(values)) = (scale, values) else { return Ok(Vec::new()) };
            let blocks = Blocks::of(rows, width, scale)?;
            if blocks.rows == 1 && blocks.cols == group {
                let groups = width.div_ceil(group);
                return values.widened(range.start * groups..range.end * groups);
            }
            let wide = values.widened(0..values.len())?;
            let starts = (0..width).step_by(group);
            let of_row = |row: usize| starts.clone().map(move |k| (row, k));
            Ok::<_, String>(range.flat_map(of_row).map(|(row, k)| wide[blocks.index(row, k)]).collect())
        };
        let groups = width.div_ceil(group);
        let count = |scale: Option<&Tensor>| if scale.is_some() { groups } else { 0 };
        Ok(Scaling {
            group,
            x: spread(x_rows, x_scale, x_scale, 0..x_rows)?,
            x_groups: count(x_scale),
            weight: spread(weight_rows, weight_scale, weight_scale, columns.clone())?,
            zeros: spread(weight_rows, weight_scale, zero, columns)?,
            weight_groups: count(weight_scale),
        })
    }

    pub fn has_zeros(&self) -> bool {
        !self.zeros.is_empty()
    }

    #[inline(always)]
    pub fn scale(&self, row: usize, column: usize, group: usize) -> f32 {
        let x = if self.x_groups > 0 { self.x[row * self.x_groups + group] } else { 1.0 };
        let weight = if self.weight_groups > 0 { self.weight[column * self.weight_groups + group] } else { 1.0 };
        x * weight
    }

    #[inline(always)]
    pub fn zero(&self, column: usize, group: usize) -> f32 {
        self.zeros[column * self.weight_groups + group]
    }
}

/// Which scale belongs to an element of a matrix.
struct Blocks {
    rows: usize,
    cols: usize,
    width: usize,
}

impl Blocks {
    /// How a matrix is covered by scales.
    fn of(rows: usize, cols: usize, scale: &Tensor) -> Result<Blocks, String> {
        let misfit = || format!("scales {:?} do not cover {rows} rows of {cols}", scale.shape());
        let &[scale_rows, width] = scale.shape() else { return Err(misfit()) };
        let block = |size: usize, scales: usize| {
            (scales > 0).then(|| plan::scale_block(size as u64, scales as u64)).flatten().map(|block| block as usize)
        };
        let (block_rows, block_cols) = block(rows, scale_rows).zip(block(cols, width)).ok_or_else(misfit)?;
        match scale.dtype().is_float() {
            true => Ok(Blocks { rows: block_rows, cols: block_cols, width }),
            false => Err(format!("expected floating-point scales, found {}", scale.dtype())),
        }
    }

    fn index(&self, row: usize, col: usize) -> usize {
        row / self.rows * self.width + col / self.cols
    }
}

/// The codes of packed bytes, first the lower half of each.
pub(super) fn unpack(packed: &[u8], codes: &mut Vec<i8>) {
    codes.clear();
    let rest = unpack_vectors(packed, codes);
    codes.extend(rest.iter().flat_map(|byte| [(byte << 4) as i8 >> 4, *byte as i8 >> 4]));
}

/// Appends the codes of as many bytes as vectors take; returns the bytes that are left.
#[cfg(target_arch = "x86_64")]
fn unpack_vectors<'a>(packed: &'a [u8], codes: &mut Vec<i8>) -> &'a [u8] {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2")]
    fn with_avx2(packed: &[[u8; 16]], codes: &mut Vec<i8>) {
        let (low, sign) = (_mm256_set1_epi8(0x0f), _mm256_set1_epi8(0x08));
        codes.reserve(32 * packed.len());
        let mut len = codes.len();
        for bytes in packed {
            // SAFETY: 16 bytes are there, and 32 codes were reserved for each of them.
            unsafe {
                // each byte in two: as it is, and its upper half as the lower of the second
                let wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.as_ptr().cast()));
                let halves = _mm256_and_si256(_mm256_or_si256(wide, _mm256_slli_epi16::<4>(wide)), low);
                let signed = _mm256_sub_epi8(_mm256_xor_si256(halves, sign), sign);
                _mm256_storeu_si256(codes.as_mut_ptr().add(len).cast(), signed);
                len += 32;
            }
        }
        // SAFETY: they were written.
        unsafe { codes.set_len(len) };
    }

    if !has_avx2() {
        return packed;
    }
    let (whole, rest) = packed.as_chunks::<16>();
    // SAFETY: the feature was found.
    unsafe { with_avx2(whole, codes) };
    rest
}

#[cfg(not(target_arch = "x86_64"))]
fn unpack_vectors<'a>(packed: &'a [u8], _: &mut Vec<i8>) -> &'a [u8] {
    packed
}

/// Codes of rows by scales of their own, one each `cols` columns, or one a row. Input x, outputs the codes and scales.
pub(super) struct QuantizeBlocks;

/// Codes of a matrix by given scales. Inputs x and scales.
pub(super) struct Quantize;

/// Writes the codes of some numbers, by the reciprocal of their scale.
fn write_codes(values: &[f32], scale: f32, out: &Tensor, at: usize) -> Result<(), String> {
    let reciprocal = 1.0 / scale;
    // SAFETY: codes have a byte, rows are divided between tasks.
    let bytes = unsafe { out.write::<u8>(at..at + values.len())? };
    out.dtype().encode(values.iter().map(|value| value * reciprocal), bytes);
    Ok(())
}

fn check_codes(args: &Args) -> Result<(), String> {
    args.inputs[0].expect(DType::F32)?;
    match (args.outputs[0].dtype(), args.inputs[0].shape()) {
        (DType::I8 | DType::F8E4M3, shape @ [_, _]) => args.outputs[0].expect_shape(args.outputs[0].dtype(), shape),
        (dtype, shape) => Err(format!("expected a matrix to codes of a byte, found {shape:?} to {dtype}")),
    }
}

impl QuantizeBlocks {
    fn cols(args: &Args) -> usize {
        match args.kernel.param("cols") {
            Some(Scalar::Int(cols)) if *cols > 0 => *cols as usize,
            _ => args.inputs[0].width().max(1),
        }
    }
}

impl CpuKernel for QuantizeBlocks {
    fn name(&self) -> &'static str {
        "quantize_blocks"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(1, 2)?;
        check_codes(args)?;
        let scales = args.inputs[0].width().div_ceil(QuantizeBlocks::cols(args));
        args.outputs[1].expect_shape(DType::F32, &[args.inputs[0].row_count(), scales])
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (x, width) = (args.inputs[0].floats()?, args.inputs[0].width());
        let (codes, scales) = (&args.outputs[0], &args.outputs[1]);
        let cols = QuantizeBlocks::cols(args);
        for row in task_rows(task, args.inputs[0].row_count()) {
            let values = &x[row * width..(row + 1) * width];
            for (index, block) in values.chunks(cols).enumerate() {
                let scale = plan::scale_of(plan::largest_magnitude(0.0, block), codes.dtype());
                write_codes(block, scale, codes, row * width + index * cols)?;
                let at = row * scales.width() + index;
                // SAFETY: rows are divided between tasks.
                unsafe { scales.write::<f32>(at..at + 1)?[0] = scale };
            }
        }
        Ok(())
    }
}

impl CpuKernel for Quantize {
    fn name(&self) -> &'static str {
        "quantize"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(2, 1)?;
        check_codes(args)?;
        Blocks::of(args.inputs[0].row_count(), args.inputs[0].width(), &args.inputs[1]).map(|_| ())
    }

    fn tasks(&self, args: &Args) -> usize {
        row_tasks(&args.inputs[0])
    }

    fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (x, width, rows) = (args.inputs[0].floats()?, args.inputs[0].width(), args.inputs[0].row_count());
        let blocks = Blocks::of(rows, width, &args.inputs[1])?;
        for row in task_rows(task, rows) {
            for (index, block) in x[row * width..(row + 1) * width].chunks(blocks.cols).enumerate() {
                let at = blocks.index(row, index * blocks.cols);
                let scale = args.inputs[1].widened(at..at + 1)?;
                write_codes(block, scale[0], &args.outputs[0], row * width + index * blocks.cols)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_codes_come_lower_half_first() {
        // more than a vector, and a rest
        let bytes: Vec<u8> = (0..=255).chain(7..30).collect();
        let codes: Vec<i8> = bytes.iter().flat_map(|byte| [(byte << 4) as i8 >> 4, *byte as i8 >> 4]).collect();
        let mut found = vec![1];
        unpack(&bytes, &mut found);
        assert_eq!(found, codes);
        unpack(&[0x8f, 0x70], &mut found);
        assert_eq!(found, [-1, -8, 0, 7]);
    }
}
