//! Where the interpreter, passes and code generation read weights: by key, a range at a time.

use std::ops::Range;

use plan::{DType, RandomPart};

use crate::{HostTensor, TensorType};

/// A checkpoint, read lazily.
pub trait WeightSource: Sync {
    /// Copies elements of the tensor `key`, in its own dtype, little-endian, row-major.
    fn read(&self, key: &str, elements: Range<u64>, out: &mut [u8]) -> Result<(), String>;

    /// How the tensor is made, where it is random rather than read.
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
    let pairs = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let words = || bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    Ok(match ty.dtype {
        DType::F32 => HostTensor::f32(shape, words().map(f32::from_bits).collect()),
        DType::F16 => HostTensor::f32(shape, pairs().map(|bits| half::f16::from_bits(bits).to_f32()).collect()),
        DType::BF16 => HostTensor::f32(shape, pairs().map(|bits| half::bf16::from_bits(bits).to_f32()).collect()),
        DType::I32 => HostTensor::i32(shape, words().map(|bits| bits as i32).collect()),
    })
}
