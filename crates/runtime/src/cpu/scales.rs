//! Scales of quantized values: lookup of the scale of an element, and the quantization kernels.

use std::ops::Range;

use plan::{DType, Scalar};

use super::rows::{row_tasks, task_rows};
use super::simd::{Element, Lanes, dispatch, with_element};
use super::{Args, CpuKernel, Tensor};

/// Scales and zero points of some rows of a matrix, by row and group of neighbours.
pub(super) struct Scales {
    /// Neighbours in a row that share a scale: a power of two, or all of them.
    pub group: usize,
    /// Groups per row.
    groups: usize,
    scales: Vec<f32>,
    zeros: Vec<f32>,
}

impl Scales {
    /// For unquantized values: no scales.
    pub fn none(rows: usize, width: usize) -> Scales {
        Scales { group: width.max(1), groups: 1, scales: vec![1.0; rows], zeros: Vec::new() }
    }

    /// For rows `range` of a matrix `[rows, width]`.
    pub fn of(
        [rows, width]: [usize; 2],
        scale: Option<&Tensor>,
        zero: Option<&Tensor>,
        range: Range<usize>,
    ) -> Result<Scales, String> {
        if zero.map(Tensor::shape) != zero.and(scale).map(Tensor::shape) {
            return Err("expected a zero point per scale".to_owned());
        }
        let Some(scale) = scale else { return Ok(Scales::none(range.len(), width)) };
        let blocks = Blocks::of(rows, width, scale)?;
        let spread = |values: &Tensor| {
            let first = range.start / blocks.rows;
            let own = values.widened(first * blocks.width..range.end.div_ceil(blocks.rows) * blocks.width)?;
            if blocks.rows == 1 {
                return Ok(own);
            }
            let mut spread = Vec::with_capacity(range.len() * blocks.width);
            for row in range.clone() {
                spread.extend_from_slice(&own[(row / blocks.rows - first) * blocks.width..][..blocks.width]);
            }
            Ok::<_, String>(spread)
        };
        let (scales, zeros) = (spread(scale)?, zero.map_or(Ok(Vec::new()), spread)?);
        Ok(Scales { group: blocks.cols, groups: blocks.width, scales, zeros })
    }

    pub fn has_zeros(&self) -> bool {
        !self.zeros.is_empty()
    }

    /// The scale of each row, if there is one per row and no zero point.
    pub fn of_rows(&self) -> Option<&[f32]> {
        (self.groups == 1 && !self.has_zeros()).then_some(&self.scales)
    }

    #[inline(always)]
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        self.scales[row * self.groups + group]
    }

    #[inline(always)]
    pub fn zero(&self, row: usize, group: usize) -> f32 {
        self.zeros[row * self.groups + group]
    }
}

/// The granularity of the scales of a matrix.
struct Blocks {
    rows: usize,
    cols: usize,
    width: usize,
}

impl Blocks {
    /// The granularity of scales of this shape.
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

/// Quantizes rows with computed scales, one per `cols` columns or per row. Input x, outputs the quantized values and
/// scales.
pub(super) struct QuantizeBlocks;

/// Quantizes a matrix with given scales. Inputs x and scales.
pub(super) struct Quantize;

/// Writes quantized values, by the reciprocal of their scale.
fn write_quantized(values: &[f32], scale: f32, out: &Tensor, at: usize) -> Result<(), String> {
    with_element!(out.dtype(), E => {
        // SAFETY: the type is that of the dtype; rows are divided between tasks.
        narrow::<E>(values, 1.0 / scale, unsafe { out.write(at..at + values.len())? });
        Ok(())
    })
}

dispatch!(
    /// Some values times a factor, rounded to the nearest quantized value.
    fn narrow<E: Element>(values: &[f32], factor: f32, quantized: &mut [E]) -> () = narrow_body
);

#[inline(always)]
fn narrow_body<L: Lanes, E: Element>(values: &[f32], factor: f32, quantized: &mut [E]) {
    quantized.iter_mut().zip(values).for_each(|(to, value)| *to = E::narrow(value * factor));
}

fn check_codes(args: &Args) -> Result<(), String> {
    args.inputs[0].expect(DType::F32)?;
    match (args.outputs[0].dtype(), args.inputs[0].shape()) {
        (DType::I8 | DType::F8E4M3, shape @ [_, _]) => args.outputs[0].expect_shape(args.outputs[0].dtype(), shape),
        (dtype, shape) => Err(format!("expected a matrix and an 8-bit quantized type, found {shape:?} and {dtype}")),
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

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (x, width) = (args.inputs[0].floats()?, args.inputs[0].width());
        let (quantized, scales) = (&args.outputs[0], &args.outputs[1]);
        let cols = QuantizeBlocks::cols(args);
        for row in task_rows(task, args.inputs[0].row_count()) {
            let values = &x[row * width..(row + 1) * width];
            for (index, block) in values.chunks(cols).enumerate() {
                let scale = plan::scale_of(plan::largest_magnitude(0.0, block), quantized.dtype());
                write_quantized(block, scale, quantized, row * width + index * cols)?;
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

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (x, width, rows) = (args.inputs[0].floats()?, args.inputs[0].width(), args.inputs[0].row_count());
        let blocks = Blocks::of(rows, width, &args.inputs[1])?;
        for row in task_rows(task, rows) {
            for (index, block) in x[row * width..(row + 1) * width].chunks(blocks.cols).enumerate() {
                let at = blocks.index(row, index * blocks.cols);
                let scale = args.inputs[1].widened(at..at + 1)?;
                write_quantized(block, scale[0], &args.outputs[0], row * width + index * blocks.cols)?;
            }
        }
        Ok(())
    }
}
