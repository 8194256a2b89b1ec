//! Recipes: how a weight of the plan is computed from tensors of the checkpoint. Evaluated a range at a time, in
//! parallel, while the plan is written: no tensor is ever whole in memory.

mod mapped;
mod scaled;
mod tiled;

use std::ops::Range;
use std::sync::OnceLock;

use ir::ops::{Cast, Concat, Constant, Dequantize, Quantize, QuantizeBlocks};
use ir::{EvalError, Graph, HostData, HostTensor, Value, WeightSource, constant_value};
use plan::{CHUNK_BYTES, DType, PlanError, PlanWriter, RandomPart, Tiles};
use rayon::prelude::*;

pub use self::mapped::Mapped;
pub use self::scaled::{BlockScales, Scaled};
use self::tiled::Matrix;

/// An elementwise recipe: element `i` of the weight depends on few elements of the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Recipe {
    /// A tensor of the checkpoint.
    Tensor {
        /// Its key.
        key: String,
        /// Its dtype.
        dtype: DType,
        /// Number of its elements.
        elements: u64,
    },
    /// Another recipe in another dtype.
    Cast(Box<Recipe>, DType),
    /// Concatenated recipes.
    Concat(Vec<Recipe>),
    /// An elementwise formula of other recipes.
    Mapped(Box<Mapped>),
    /// Quantization or dequantization.
    Scaled(Box<Scaled>),
    /// The scales of quantized values.
    BlockScales(Box<BlockScales>),
    /// A value that was computed by the interpreter: frequencies, and other small constants.
    Value(HostTensor, DType),
    /// 4-bit values in [`Layout::Packed`](plan::Layout::Packed).
    Packed(Box<Recipe>),
    /// A matrix in [`Layout::Tiled`](plan::Layout::Tiled).
    Tiled {
        /// The matrix, row-major.
        inner: Box<Recipe>,
        /// Its rows.
        rows: u64,
        /// Its columns.
        cols: u64,
        /// Its padded size.
        tiles: Tiles,
        /// Whether the rows of its two halves are interleaved: [`Layout::TiledHalves`](plan::Layout::TiledHalves).
        halves: bool,
    },
}

/// Maximum number of elements of constants that the interpreter computes, which are all except casts, joins and
/// formulas: it is slow, and holds them whole.
const MAX_VALUE_ELEMENTS: u64 = 1 << 24;

impl Recipe {
    /// The recipe of a constant value of a graph.
    pub fn of(graph: &Graph, value: Value, weights: &dyn WeightSource) -> Result<Recipe, EvalError> {
        if let Some((_, constant)) = graph.producer::<Constant>(value) {
            let elements = constant.ty.const_shape().unwrap_or_default().iter().product();
            return Ok(Recipe::Tensor { key: constant.key.clone(), dtype: constant.ty.dtype, elements });
        }
        let operands = graph.operands(value.op);
        if let Some((_, cast)) = graph.producer::<Cast>(value) {
            return Ok(Recipe::Cast(Box::new(Recipe::of(graph, operands[0], weights)?), cast.to));
        }
        if graph.producer::<Concat>(value).is_some() {
            let parts = operands.into_iter().map(|part| Recipe::of(graph, part, weights));
            return Ok(Recipe::Concat(parts.collect::<Result<_, _>>()?));
        }
        let error = |reason: &str| EvalError { value: graph.value_name(value).to_owned(), reason: reason.to_owned() };
        let ty = graph.tensor(value).ok_or_else(|| error("is an effect, not a tensor"))?;
        let elements = ty.const_shape().ok_or_else(|| error("is constant but has a symbolic size"))?;
        let elements: u64 = elements.iter().product();
        if let Some(formula) = graph.formula(value.op) {
            let parts = operands.into_iter().map(|part| Recipe::of(graph, part, weights)).collect::<Result<_, _>>()?;
            let (result, width) = (value.result as usize, ty.width().unwrap_or(1));
            return Ok(Recipe::Mapped(Box::new(Mapped { formula, result, parts, width, elements })));
        }
        if let Some(scaled) = Recipe::scaled(graph, value, weights)? {
            return Ok(scaled);
        }
        if elements > MAX_VALUE_ELEMENTS {
            return Err(error(&format!(
                "is a constant of {elements} elements; constants that the interpreter computes may have \
                 {MAX_VALUE_ELEMENTS}"
            )));
        }
        Ok(Recipe::Value(constant_value(graph, value, weights)?, ty.dtype))
    }

    /// The recipe of `quantize`, `quantize_blocks` or `dequantize` of a constant matrix.
    fn scaled(graph: &Graph, value: Value, weights: &dyn WeightSource) -> Result<Option<Recipe>, EvalError> {
        let operands = graph.operands(value.op);
        let shape = |value: Value| {
            let shape = graph.tensor(value).and_then(ir::TensorType::const_shape);
            shape.and_then(|shape| <[u64; 2]>::try_from(shape).ok())
        };
        let Some(shape_of_matrix) = operands.first().copied().and_then(shape) else { return Ok(None) };
        if let Some((_, quantize)) = graph.producer::<QuantizeBlocks>(value) {
            let (rows, cols) = quantize.block();
            let block = [rows, cols.unwrap_or(shape_of_matrix[1])];
            let matrix = Recipe::of(graph, operands[0], weights)?;
            let (shape, quantized) = (shape_of_matrix, quantize.to);
            let scales = BlockScales { matrix: matrix.clone(), shape, block, quantized, known: OnceLock::new() };
            let scale_shape = scales.scale_shape();
            let scales = Recipe::BlockScales(Box::new(scales));
            let scaled = Scaled { matrix, shape, scales, scale_shape, zero_point: None, to: quantized };
            return Ok(Some(if value.result == 0 { Recipe::Scaled(Box::new(scaled)) } else { scaled.scales }));
        }
        let quantize = graph.producer::<Quantize>(value).map(|(_, quantize)| quantize.to);
        let dequantize = graph.producer::<Dequantize>(value).map(|(_, dequantize)| dequantize.to);
        let scale_shape = operands.get(1).copied().and_then(shape);
        let Some((to, scale_shape)) = quantize.or(dequantize).zip(scale_shape) else { return Ok(None) };
        let zero_point = operands.get(2).map(|value| Recipe::of(graph, *value, weights)).transpose()?;
        let [matrix, scales] = [operands[0], operands[1]].map(|operand| Recipe::of(graph, operand, weights));
        let (matrix, scales) = (matrix?, scales?);
        Ok(Some(Recipe::Scaled(Box::new(Scaled {
            matrix,
            shape: shape_of_matrix,
            scales,
            scale_shape,
            zero_point,
            to,
        }))))
    }

    /// Computes values that ranges need of the whole weight.
    fn prepare(&self, weights: &dyn WeightSource) -> Result<(), String> {
        match self {
            Recipe::Cast(inner, _) | Recipe::Packed(inner) | Recipe::Tiled { inner, .. } => inner.prepare(weights),
            Recipe::Concat(parts) => parts.iter().try_for_each(|part| part.prepare(weights)),
            Recipe::Mapped(mapped) => mapped.parts.iter().try_for_each(|part| part.prepare(weights)),
            Recipe::Scaled(scaled) => {
                scaled.matrix.prepare(weights)?;
                scaled.scales.prepare(weights)
            }
            Recipe::BlockScales(scales) => {
                scales.matrix.prepare(weights)?;
                scales.prepare(weights)
            }
            Recipe::Tensor { .. } | Recipe::Value(..) => Ok(()),
        }
    }

    /// A tiled matrix; `None` if its type has no tiles, or its padded size overflows.
    pub fn tiled(inner: Recipe, rows: u64, cols: u64, halves: bool) -> Option<Recipe> {
        let tiles = Tiles::of(inner.dtype(), rows, cols)?;
        Some(Recipe::Tiled { inner: Box::new(inner), rows, cols, tiles, halves })
    }

    /// Type of an element.
    pub fn dtype(&self) -> DType {
        match self {
            Recipe::Tiled { inner, .. } | Recipe::Packed(inner) => inner.dtype(),
            Recipe::Tensor { dtype, .. } | Recipe::Cast(_, dtype) | Recipe::Value(_, dtype) => *dtype,
            Recipe::Concat(parts) => parts.first().map_or(DType::F32, Recipe::dtype),
            Recipe::Mapped(mapped) => mapped.dtype(),
            Recipe::Scaled(scaled) => scaled.to,
            Recipe::BlockScales(_) => DType::F32,
        }
    }

    /// Number of elements, padding included; for packed types, bytes.
    pub fn elements(&self) -> u64 {
        match self {
            Recipe::Tiled { tiles, .. } => tiles.bytes() / self.dtype().bytes(),
            Recipe::Packed(inner) => inner.elements() / 2,
            Recipe::Tensor { elements, .. } => *elements,
            Recipe::Cast(inner, _) => inner.elements(),
            Recipe::Concat(parts) => parts.iter().map(Recipe::elements).sum(),
            Recipe::Mapped(mapped) => mapped.elements,
            Recipe::Scaled(scaled) => scaled.shape.iter().product(),
            Recipe::BlockScales(scales) => scales.scale_shape().iter().product(),
            Recipe::Value(value, _) => value.shape.iter().product::<usize>() as u64,
        }
    }

    /// The random parts, if all of the recipe is random and rounding to its dtype is the only rounding. Random numbers
    /// are not quantized: their quantized values and scales are random, with the distribution that they would have.
    pub fn random(&self, weights: &dyn WeightSource) -> Option<Vec<RandomPart>> {
        match self {
            Recipe::Tensor { key, .. } => weights.random(key).map(|part| vec![part]),
            Recipe::Cast(inner, to) => match inner.dtype() == DType::F32 || inner.dtype() == *to {
                true => inner.random(weights),
                false => None,
            },
            Recipe::Concat(parts) => {
                let parts: Option<Vec<_>> = parts.iter().map(|part| part.random(weights)).collect();
                parts.map(|parts| parts.concat())
            }
            Recipe::Tiled { inner, .. } | Recipe::Packed(inner) => inner.random(weights),
            Recipe::Scaled(scaled) => scaled.random(weights),
            Recipe::BlockScales(scales) => scales.random(weights),
            Recipe::Mapped(_) | Recipe::Value(..) => None,
        }
    }

    /// Computes a range of elements as little-endian bytes.
    pub fn read(&self, weights: &dyn WeightSource, range: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        match self {
            Recipe::Tensor { key, .. } => weights.read(key, range, out),
            Recipe::Cast(inner, to) => {
                let from = inner.dtype();
                let mut source = vec![0; ((range.end - range.start) * from.bytes()) as usize];
                inner.read(weights, range, &mut source)?;
                convert(&source, from, out, *to);
                Ok(())
            }
            Recipe::Mapped(mapped) => mapped.read(weights, range, out),
            Recipe::Scaled(scaled) => scaled.read(weights, range, out),
            Recipe::BlockScales(scales) => {
                DType::F32.encode(scales.floats(weights, range)?, out);
                Ok(())
            }
            Recipe::Concat(parts) => {
                let bytes = self.dtype().bytes();
                let mut start = 0;
                for part in parts {
                    let end = start + part.elements();
                    let (from, to) = (range.start.max(start), range.end.min(end));
                    if from < to {
                        let at = |element: u64| ((element - range.start) * bytes) as usize;
                        part.read(weights, from - start..to - start, &mut out[at(from)..at(to)])?;
                    }
                    start = end;
                }
                Ok(())
            }
            Recipe::Tiled { inner, rows, cols, tiles, halves } => {
                Matrix { inner, rows: *rows, cols: *cols, tiles: *tiles, halves: *halves }.read(weights, range, out)
            }
            Recipe::Packed(inner) => {
                let mut bytes = vec![0; 2 * out.len()];
                inner.read(weights, 2 * range.start..2 * range.end, &mut bytes)?;
                let pairs = bytes.as_chunks::<2>().0.iter();
                out.iter_mut().zip(pairs).for_each(|(byte, [first, second])| *byte = first & 0xf | second << 4);
                Ok(())
            }
            Recipe::Value(value, dtype) => {
                let range = range.start as usize..range.end as usize;
                match &value.data {
                    HostData::F32(values) => dtype.encode(values[range].iter().copied(), out),
                    HostData::I32(values) => {
                        let cells = out.chunks_exact_mut(4).zip(&values[range]);
                        cells.for_each(|(cell, value)| cell.copy_from_slice(&value.to_le_bytes()));
                    }
                }
                Ok(())
            }
        }
    }

    /// The tensor of the checkpoint whose values it keeps, perhaps in another dtype or layout.
    pub(crate) fn tensor(&self) -> Option<&str> {
        match self {
            Recipe::Tensor { key, .. } => Some(key),
            Recipe::Cast(inner, _) | Recipe::Packed(inner) => inner.tensor(),
            _ => None,
        }
    }

    /// Computes a range of elements, widened to f32.
    pub(crate) fn floats(&self, weights: &dyn WeightSource, range: Range<u64>) -> Result<Vec<f32>, String> {
        let mut source = vec![0; ((range.end - range.start) * self.dtype().bytes()) as usize];
        self.read(weights, range, &mut source)?;
        Ok(self.dtype().decode(&source))
    }

    /// Appends the whole weight to a plan.
    pub fn write(&self, weights: &dyn WeightSource, writer: &mut PlanWriter) -> Result<(), WriteError> {
        self.chunks(weights, &mut |chunk| Ok(writer.append(chunk)?))
    }

    /// Yields the whole weight, a chunk at a time, each computed by all threads.
    pub fn chunks(
        &self,
        weights: &dyn WeightSource,
        each: &mut dyn FnMut(&mut [u8]) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        self.prepare(weights).map_err(WriteError::Weights)?;
        let bytes = self.dtype().bytes();
        let per_chunk = CHUNK_BYTES as u64 / bytes;
        // small enough to spread over threads, large enough to copy at full speed
        let per_piece = per_chunk / 32;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut start = 0;
        while start < self.elements() {
            let end = self.elements().min(start + per_chunk);
            let chunk = &mut buffer[..((end - start) * bytes) as usize];
            let pieces = chunk.par_chunks_mut((per_piece * bytes) as usize).enumerate();
            pieces.try_for_each(|(index, piece)| {
                let from = start + index as u64 * per_piece;
                self.read(weights, from..from + piece.len() as u64 / bytes, piece).map_err(WriteError::Weights)
            })?;
            each(chunk)?;
            start = end;
        }
        Ok(())
    }
}

/// Why a weight was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The checkpoint could not be read.
    #[error("{0}")]
    Weights(String),
    /// The plan could not be written.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

fn convert(source: &[u8], from: DType, out: &mut [u8], to: DType) {
    match from {
        DType::I32 => out.copy_from_slice(source),
        _ => to.encode(from.decode(source), out),
    }
}
