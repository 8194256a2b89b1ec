//! The source of weights for interpreter, passes and code generation: by key, a range at a time.

use std::ops::Range;

use plan::{DType, RandomPart};

use crate::{HostTensor, TensorType};

/// A checkpoint, read lazily.
pub trait WeightSource: Sync {
    /// Copies elements of the tensor `key`, in its own dtype, little-endian, row-major.
    fn read(&self, key: &str, elements: Range<u64>, out: &mut [u8]) -> Result<(), String>;

    /// The random parts of a tensor, if it is random.
    fn random(&self, key: &str) -> Option<RandomPart>;
}

/// A source without tensors, for graphs without weights.
#[derive(Debug)]
pub struct NoWeights;

impl WeightSource for NoWeights {
    fn read(&self, key: &str, _: Range<u64>, _: &mut [u8]) -> Result<(), String> {
        Err(format!("there is no tensor `{key}`"))
    }

    fn random(&self, _: &str) -> Option<RandomPart> {
        None
    }
}

/// Reads a whole tensor of a known type as f32 values.
pub fn read_tensor(source: &dyn WeightSource, key: &str, ty: &TensorType) -> Result<HostTensor, String> {
    let shape = ty.const_shape().ok_or_else(|| format!("`{key}` has a symbolic size"))?;
    let elements: u64 = shape.iter().product();
    let mut bytes = vec![0; (elements * ty.dtype.bytes()) as usize];
    source.read(key, 0..elements, &mut bytes)?;
    let shape: Vec<usize> = shape.into_iter().map(|size| size as usize).collect();
    Ok(match ty.dtype {
        DType::I32 => {
            HostTensor::i32(shape, bytes.as_chunks().0.iter().map(|cell| i32::from_le_bytes(*cell)).collect())
        }
        dtype => HostTensor::f32(shape, dtype.decode(&bytes)),
    })
}
