//! Seeded values for the constants of a graph.

use std::collections::HashMap;
use std::ops::Range;

use ir::ops::Constant;
use ir::{DType, Graph, TensorType, WeightSource};
use plan::RandomPart;

/// Every constant of a graph, random by its key.
#[derive(Clone, Debug)]
pub struct SeededWeights {
    types: HashMap<String, TensorType>,
    dummy: bool,
}

impl SeededWeights {
    /// Values for the constants of `graph`. `dummy` ones are also described as runs.
    pub fn of(graph: &Graph, dummy: bool) -> SeededWeights {
        let constants = graph.ops().filter_map(|id| graph.cast::<Constant>(id));
        let types = constants.map(|constant| (constant.key.clone(), constant.ty.clone())).collect();
        SeededWeights { types, dummy }
    }

    fn part(&self, key: &str) -> Result<(RandomPart, DType), String> {
        let ty = self.types.get(key).ok_or_else(|| format!("there is no tensor `{key}`"))?;
        let elements = ty.const_shape().ok_or_else(|| format!("`{key}` has a symbolic size"))?.iter().product();
        // Norm weights are around 1. The others keep the values of a few layers of some tens of elements near 1.
        let norm_weight = ty.shape.len() == 1 && !key.ends_with("bias");
        let (mean, std) = match ty.width().filter(|_| key.ends_with("fan_in")) {
            // products with rows of values near 1 stay near 1, however long the rows are
            Some(width) => (0.0, (width as f32).powf(-0.5)),
            None if norm_weight => (1.0, 0.25),
            None => (0.0, 0.5),
        };
        // quantized values use most of their range
        // zero points are within the range of the values, which may have 4 bits
        let largest = if key.ends_with("zero") { Some(8.0) } else { ty.dtype.largest_code() };
        let unit = largest.map_or(1.0, |largest| largest / 2.0);
        Ok((RandomPart::named(key, elements, mean * unit, std * unit), ty.dtype))
    }
}

impl WeightSource for SeededWeights {
    fn read(&self, key: &str, elements: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        let (part, dtype) = self.part(key)?;
        for (index, cell) in elements.zip(out.chunks_exact_mut(dtype.bytes() as usize)) {
            let value = part.value(index);
            dtype.encode([if dtype == DType::I32 { value * 8.0 } else { value }], cell);
        }
        Ok(())
    }

    fn random(&self, key: &str) -> Option<RandomPart> {
        self.part(key).ok().filter(|_| self.dummy).map(|(part, _)| part)
    }
}
