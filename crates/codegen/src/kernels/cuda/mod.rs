//! The kernels for NVIDIA GPUs. Each file mirrors a family of `kernels/`, or a header of `kernels/common`: it selects,
//! instantiates and launches its bodies.

mod attention;
mod body;
mod element_grid;
mod functor;
mod heads;
mod kv;
mod layout;
mod linear;
mod map;
mod norm;
mod quantize;
mod quantized;
mod rope;
mod rows;
mod sampling;

use plan::DType;
use plan::devices::sm90;

use self::linear::{few, reference, skinny, stream, wgmma};
use crate::{Catalog, Kernel};

pub use body::{Body, c_float, c_type};
pub(crate) use rows::{READ_TILE_BYTES, fill_random, stream_read};

/// The kernels of the `sm_90a` target. If several support an op, the fast ones come first.
pub(crate) fn catalog() -> Catalog {
    let kernels = [
        few::LINEAR_FEW,
        stream::LINEAR_STREAM,
        skinny::LINEAR_SKINNY,
        wgmma::LINEAR_WGMMA,
        wgmma::LINEAR_WGMMA_QUANTIZED,
        wgmma::LINEAR_WGMMA_WEIGHTS,
        reference::LINEAR_REFERENCE_FEW,
        reference::LINEAR_REFERENCE,
        attention::ROPE_ATTENTION_DECODE,
        attention::ATTENTION_DECODE,
        attention::ATTENTION_PREFILL,
        attention::ATTENTION_REFERENCE,
        rope::ROPE_APPEND_KV,
        rope::APPEND_KV,
        rope::ROPE,
        norm::ADD_RMS_NORM,
        norm::RMS_NORM,
        quantize::RMS_NORM_QUANTIZE,
        quantize::QUANTIZE_BLOCKS,
        quantize::QUANTIZE,
        norm::ADD_LAYER_NORM,
        norm::LAYER_NORM,
        rows::SWIGLU,
        map::MAP,
        rows::SPLIT,
        rows::EMBEDDING,
        rows::GATHER_ROWS,
        sampling::ARGMAX,
    ];
    Catalog::new(kernels.into_iter().map(|row| -> Box<dyn Kernel> { Box::new(row) }).collect())
}

/// Multiprocessors to occupy.
const MULTIPROCESSORS: u64 = sm90::MULTIPROCESSORS as u64;

fn is_16_bit(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

#[cfg(test)]
mod tests {
    use plan::devices::sm90;

    use crate::cuda::KERNEL_FILES;

    #[test]
    fn headers_have_the_numbers_of_the_host() {
        let numbers = [
            ("common/limits.cuh", "kMaxSharedBytes", sm90::SHARED_BYTES),
            ("common/cache.cuh", "kBlockTokens", sm90::KV_BLOCK_TOKENS),
        ];
        for (path, name, value) in numbers {
            let (_, text) = KERNEL_FILES.iter().find(|(file, _)| *file == path).expect("a file");
            assert!(text.contains(&format!("constexpr int {name} = {value};")), "{path}: {name} is {value} here");
        }
    }
}
