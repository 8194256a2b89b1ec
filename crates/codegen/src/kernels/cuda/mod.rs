//! The kernels for NVIDIA GPUs: one file for each family of `kernels/`, which says when its bodies are used and how
//! they are instantiated and launched.

mod attention;
mod body;
mod linear;
mod map;
mod norm;
mod rope;
mod rows;
mod sampling;

use ir::OpDef;
use plan::{DType, Dim};

use crate::kernels::about::about;
use crate::{About, Call, Catalog, Kernel, Refusal, Site, Target};

pub use body::{Body, c_float, c_type};
pub(crate) use rows::fill_random;

/// A row of the catalog.
#[derive(Debug)]
struct CudaKernel {
    name: &'static str,
    call: fn(&Site<'_>) -> Result<Call, Refusal>,
}

impl Kernel for CudaKernel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn call(&self, site: &Site<'_>) -> Result<Call, Refusal> {
        (self.call)(site)
    }

    fn about(&self) -> About {
        about(Target::Sm90a, self.name)
    }
}

/// The kernels of the `sm_90a` target. Where several do one op, the fast ones come first and refuse what they cannot.
pub(crate) fn catalog() -> Catalog {
    let kernel = |name, call| -> Box<dyn Kernel> { Box::new(CudaKernel { name, call }) };
    Catalog::new(vec![
        kernel("linear_skinny", linear::skinny),
        kernel("linear_wgmma", linear::wgmma),
        kernel("linear_plain_few", linear::plain_few),
        kernel("linear_plain", linear::plain),
        kernel("rope_attention_decode", attention::rope_decode),
        kernel("attention_decode", attention::decode),
        kernel("attention_prefill", attention::prefill),
        kernel("attention_plain", attention::plain),
        kernel("rope_append_kv", rope::rope_append_kv),
        kernel("append_kv", rope::append_kv),
        kernel("rope", rope::rope),
        kernel("add_rms_norm", norm::add_rms_norm),
        kernel("rms_norm", norm::rms_norm),
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
