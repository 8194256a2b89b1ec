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

use crate::{Call, Catalog, Kernel, Refusal, Site};

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
}

/// The kernels of the `sm_90a` target. Where several do one op, the fast ones come first and refuse what they cannot.
pub(crate) fn catalog() -> Catalog {
    let kernel = |name, call| -> Box<dyn Kernel> { Box::new(CudaKernel { name, call }) };
    Catalog::new(vec![
        kernel("linear_skinny", linear::skinny),
        kernel("linear_wgmma", linear::wgmma),
        kernel("linear_plain_few", linear::plain_few),
        kernel("linear_plain", linear::plain),
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

/// The innermost size of the first result, which kernels are instantiated for.
fn width(site: &Site<'_>) -> Result<u64, Refusal> {
    site.result_type()?.width().ok_or_else(|| Refusal::because("its rows have a symbolic width"))
}

/// The rows of the first result: all sizes but the innermost.
fn row_count(site: &Site<'_>) -> Result<Dim, Refusal> {
    let shape = &site.result_type()?.shape;
    let outer = shape.split_last().map_or(&[][..], |(_, outer)| outer);
    Ok(outer.iter().cloned().fold(Dim::from(1), |product, dim| product * dim))
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
