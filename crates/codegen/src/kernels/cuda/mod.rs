//! The kernels for NVIDIA GPUs: one file per family of `kernels/`, which selects, instantiates and launches its bodies.

mod attention;
mod body;
mod linear;
mod map;
mod norm;
mod quantize;
mod rope;
mod rows;
mod sampling;

use ir::OpDef;
use plan::{DType, Dim};

use crate::kernels::about::about;
use crate::{About, Call, Catalog, Kernel, Refusal, Site, Target};

pub use body::{Body, c_float, c_type};
pub(crate) use rows::{READ_TILE_BYTES, fill_random, stream_read};

type Candidates = fn(&Site<'_>) -> Result<Vec<Call>, Refusal>;

/// A row of the catalog.
#[derive(Debug)]
struct CudaKernel {
    name: &'static str,
    call: fn(&Site<'_>) -> Result<Call, Refusal>,
    /// Its configurations, if it has several.
    candidates: Option<Candidates>,
}

impl Kernel for CudaKernel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
        (self.call)(site)
    }

    fn candidates(&self, site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
        let Some(candidates) = self.candidates else { return Ok(vec![self.call(site)?]) };
        let fits = |call: &Call| call.device.as_ref().is_none_or(|device| device.shared_bytes <= SHARED_BYTES);
        Ok(candidates(site)?.into_iter().filter(fits).collect())
    }

    fn about(&self) -> About {
        about(Target::Sm90a, self.name)
    }
}

/// Maximum shared memory per block in bytes (CUDA C++ Programming Guide, compute capability 9.0).
const SHARED_BYTES: u32 = 227 << 10;

/// The kernels of the `sm_90a` target. If several support an op, the fast ones come first.
pub(crate) fn catalog() -> Catalog {
    let kernel = |name, call| -> Box<dyn Kernel> { Box::new(CudaKernel { name, call, candidates: None }) };
    let tuned = |name, call, candidates| -> Box<dyn Kernel> {
        Box::new(CudaKernel { name, call, candidates: Some(candidates) })
    };
    Catalog::new(vec![
        tuned("linear_few", |site| linear::few(site, None), linear::few_candidates),
        tuned("linear_skinny", |site| linear::skinny(site, None), linear::skinny_candidates),
        tuned("linear_wgmma", |site| linear::wgmma(site, None), linear::wgmma_candidates),
        tuned("linear_wgmma_quantized", |site| linear::wgmma_quantized(site, None), linear::wgmma_quantized_candidates),
        tuned("linear_wgmma_weights", |site| linear::wgmma_weights(site, None), linear::wgmma_weights_candidates),
        kernel("linear_reference_few", linear::reference_few),
        kernel("linear_reference", linear::reference),
        tuned("rope_attention_decode", |site| attention::rope_decode(site, None), attention::rope_decode_candidates),
        tuned("attention_decode", |site| attention::decode(site, None), attention::decode_candidates),
        kernel("attention_prefill", attention::prefill),
        kernel("attention_reference", attention::reference),
        kernel("rope_append_kv", rope::rope_append_kv),
        kernel("append_kv", rope::append_kv),
        kernel("rope", rope::rope),
        kernel("add_rms_norm", norm::add_rms_norm),
        kernel("rms_norm", norm::rms_norm),
        kernel("rms_norm_quantize", quantize::rms_norm_quantize),
        kernel("quantize_blocks", quantize::quantize_blocks),
        kernel("quantize", quantize::quantize),
        kernel("add_layer_norm", norm::add_layer_norm),
        kernel("layer_norm", norm::layer_norm),
        kernel("swiglu", rows::swiglu),
        kernel("map", map::map),
        kernel("split", rows::split),
        kernel("embedding", rows::embedding),
        kernel("gather_rows", rows::gather_rows),
        kernel("argmax", sampling::argmax),
    ])
}

/// See [`Site::width`].
fn width(site: &Site<'_>) -> Result<u64, Refusal> {
    site.width()
}

/// See [`Site::row_count`].
fn row_count(site: &Site<'_>) -> Result<Dim, Refusal> {
    site.row_count()
}

/// A dimension of an operand.
fn dim(site: &Site<'_>, operand: usize, index: usize) -> Result<Dim, Refusal> {
    let ty = site.operand_type(operand)?;
    ty.shape.get(index).cloned().ok_or_else(|| Refusal::because("an operand has too few dimensions"))
}

/// Checks that an op is a `T`.
fn is<T: OpDef>(site: &Site<'_>) -> Result<(), Refusal> {
    site.cast::<T>().map(|_| ())
}

fn is_16_bit(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// Whether elements are quantized to one byte.
fn is_8_bit(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::F8E4M3)
}
