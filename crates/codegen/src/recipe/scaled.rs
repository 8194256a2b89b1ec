//! Quantized weights of any size: scales are computed first, as a whole, then values a range at a time.

use std::ops::Range;
use std::sync::OnceLock;

use ir::WeightSource;
use plan::{DType, RandomPart};
use plan::{largest_magnitude, scale_block, scale_of};
use rayon::prelude::*;

use crate::Recipe;

/// A matrix that is computed from another one and its scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaled {
    /// The unquantized input of quantization, or the quantized one of dequantization.
    pub matrix: Recipe,
    /// Rows and columns.
    pub shape: [u64; 2],
    /// The scales.
    pub scales: Recipe,
    /// Their rows and columns.
    pub scale_shape: [u64; 2],
    /// A zero point per scale, if there are any.
    pub zero_point: Option<Recipe>,
    /// Type of an element.
    pub to: DType,
}

impl Scaled {
    /// Computes a range of elements as little-endian bytes.
    pub fn read(&self, weights: &dyn WeightSource, range: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        let values = self.matrix.floats(weights, range.clone())?;
        let [rows, cols] = self.blocks()?;
        let (cols_of_matrix, width) = (self.shape[1], self.scale_shape[1]);
        // all scales of the rows in the range
        let first = range.start / cols_of_matrix / rows;
        let last = (range.end - 1) / cols_of_matrix / rows + 1;
        let scales = self.scales.floats(weights, first * width..last * width)?;
        let zeros = self
            .zero_point
            .as_ref()
            .map(|zero_point| zero_point.floats(weights, first * width..last * width))
            .transpose()?;
        let mut at = range.start;
        let mut values_left = &values[..];
        let mut results = Vec::with_capacity(values.len());
        while at < range.end {
            let (row, col) = (at / cols_of_matrix, at % cols_of_matrix);
            let len = (cols - col % cols).min(cols_of_matrix - col).min(range.end - at);
            let index = ((row / rows - first) * width + col / cols) as usize;
            let (scale, zero) = (scales[index], zeros.as_ref().map(|zeros| zeros[index]));
            let (block, rest) = values_left.split_at(len as usize);
            let reciprocal = 1.0 / scale;
            results.extend(block.iter().map(|value| match (self.to.is_code(), zero) {
                (false, zero) => (value - zero.unwrap_or(0.0)) * scale,
                (true, Some(zero)) => (value * reciprocal).round_ties_even() + zero,
                (true, None) => value * reciprocal,
            }));
            (values_left, at) = (rest, at + len);
        }
        self.to.encode(results, out);
        Ok(())
    }

    /// Random parts with the distribution of a quantized random matrix: they use the full range.
    pub fn random(&self, weights: &dyn WeightSource) -> Option<Vec<RandomPart>> {
        let Recipe::BlockScales(scales) = &self.scales else { return None };
        let quantized = |part: RandomPart| {
            let scale = likely_scale(&part, scales.quantized);
            RandomPart { mean: part.mean / scale, std: part.std / scale, ..part }
        };
        // dequantized values have none
        self.to.largest_code()?;
        Some(self.matrix.random(weights)?.into_iter().map(quantized).collect())
    }

    /// Rows and columns that share a scale.
    fn blocks(&self) -> Result<[u64; 2], String> {
        let of = |axis: usize| {
            scale_block(self.shape[axis], self.scale_shape[axis]).ok_or("scales that do not fit the matrix")
        };
        Ok([of(0)?, of(1)?])
    }
}

/// The scale of a block of many random numbers.
fn likely_scale(part: &RandomPart, quantized: DType) -> f32 {
    scale_of(part.mean.abs() + RandomPart::BOUND * part.std, quantized)
}

/// The scales of a matrix's blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockScales {
    /// The unquantized values.
    pub matrix: Recipe,
    /// Rows and columns.
    pub shape: [u64; 2],
    /// Rows and columns of a block.
    pub block: [u64; 2],
    /// The quantized type.
    pub quantized: DType,
    /// The scales, once they are computed.
    pub known: OnceLock<Vec<f32>>,
}

impl BlockScales {
    /// Rows and columns of the scales.
    pub fn scale_shape(&self) -> [u64; 2] {
        [0, 1].map(|axis| self.shape[axis].div_ceil(self.block[axis]))
    }

    /// Random scales with the values of a random matrix: for each of its parts, if that is whole blocks, the scale of a
    /// block with its extremes.
    pub fn random(&self, weights: &dyn WeightSource) -> Option<Vec<RandomPart>> {
        let parts = self.matrix.random(weights)?;
        let lines = self.block[0] * self.shape[1];
        let (last, whole) = parts.split_last()?;
        if whole.iter().any(|part| part.elements % lines != 0) || last.elements % self.shape[1] != 0 {
            return None;
        }
        let scales = |part: RandomPart| {
            let elements = part.elements.div_ceil(lines) * self.scale_shape()[1];
            RandomPart { elements, mean: likely_scale(&part, self.quantized), std: 0.0, ..part }
        };
        Some(parts.into_iter().map(scales).collect())
    }

    /// Computes all of them, on all threads.
    pub fn prepare(&self, weights: &dyn WeightSource) -> Result<(), String> {
        if self.known.get().is_none() {
            let lines = (0..self.scale_shape()[0]).into_par_iter().map(|line| self.line(weights, line));
            // another thread may have computed the same scales first
            let _ = self.known.set(lines.collect::<Result<Vec<_>, _>>()?.concat());
        }
        Ok(())
    }

    /// Computes a range of scales.
    pub fn floats(&self, weights: &dyn WeightSource, range: Range<u64>) -> Result<Vec<f32>, String> {
        if let Some(known) = self.known.get() {
            return Ok(known[range.start as usize..range.end as usize].to_vec());
        }
        let width = self.scale_shape()[1];
        let mut scales = Vec::new();
        let first = range.start / width;
        for line in first..range.end.div_ceil(width) {
            scales.extend(self.line(weights, line)?);
        }
        let start = (range.start - first * width) as usize;
        Ok(scales[start..start + (range.end - range.start) as usize].to_vec())
    }

    /// The scales of a row of blocks.
    fn line(&self, weights: &dyn WeightSource, line: u64) -> Result<Vec<f32>, String> {
        let ([rows, cols], [block_rows, block_cols]) = (self.shape, self.block);
        let mut largest = vec![0.0f32; self.scale_shape()[1] as usize];
        for row in line * block_rows..((line + 1) * block_rows).min(rows) {
            let values = self.matrix.floats(weights, row * cols..(row + 1) * cols)?;
            for (largest, values) in largest.iter_mut().zip(values.chunks(block_cols as usize)) {
                *largest = largest_magnitude(*largest, values);
            }
        }
        let scales: Vec<f32> = largest.into_iter().map(|largest| scale_of(largest, self.quantized)).collect();
        match scales.iter().all(|scale| scale.is_finite()) {
            true => Ok(scales),
            false => {
                let name = self.matrix.tensor().map_or_else(String::new, |key| format!(" of `{key}`"));
                let row = line * block_rows;
                Err(format!(
                    "a value{name} in or shortly after row {row} is NaN or infinite, which cannot be quantized"
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One tensor, random.
    struct Random(RandomPart);

    impl WeightSource for Random {
        fn read(&self, _: &str, elements: Range<u64>, out: &mut [u8]) -> Result<(), String> {
            DType::F32.encode(elements.map(|index| self.0.value(index)), out);
            Ok(())
        }

        fn random(&self, _: &str) -> Option<RandomPart> {
            Some(self.0.clone())
        }
    }

    #[test]
    fn random_codes_are_like_those_of_random_numbers() {
        let shape = [64, 512];
        let elements = shape.iter().product();
        let source = Random(RandomPart::named("w", elements, 0.0, 0.02));
        let matrix = Recipe::Tensor { key: "w".to_owned(), dtype: DType::F32, elements };
        for (quantized, block) in [(DType::I8, [1, 512]), (DType::F8E4M3, [32, 128]), (DType::I4, [1, 128])] {
            let known = OnceLock::new();
            let scales = BlockScales { matrix: matrix.clone(), shape, block, quantized, known };
            let scale_shape = scales.scale_shape();
            let parts = scales.random(&source).unwrap();
            assert_eq!(parts.iter().map(|part| part.elements).sum::<u64>(), scale_shape.iter().product::<u64>());
            let real = scales.floats(&source, 0..1).unwrap()[0];
            // the extremes of a block are somewhat within those of all values
            let made = parts[0].value(0);
            assert!(made >= real && made < 1.6 * real, "{quantized}: {made} for {real}");
            let scaled = Scaled {
                matrix: matrix.clone(),
                shape,
                scales: Recipe::BlockScales(Box::new(scales)),
                scale_shape,
                zero_point: None,
                to: quantized,
            };
            let parts = scaled.random(&source).unwrap();
            let largest = (0..elements).map(|index| quantized.round(parts[0].value(index)).abs()).fold(0.0, f32::max);
            let most = quantized.largest_code().unwrap();
            assert!(parts.len() == 1 && largest > 0.8 * most && largest <= most, "{quantized}: {largest} of {most}");
        }
    }
}
