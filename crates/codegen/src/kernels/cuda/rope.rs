//! `kernels/rope`: RoPE, and storing keys and values in the KV cache.

use ir::ops::{AppendKv, Rope, RopeAppendKv};
use plan::DType;

use super::attention::check_blocks;
use super::body::{Body, c_float, c_type};
use super::{dim, width};
use crate::{Call, Refusal, Site};

pub(super) fn rope(site: &Site<'_>) -> Result<Call, Refusal> {
    let head_dim = site.cast::<Rope>()?.head_dim;
    let (half, tokens) = (frequencies(site, 2)?, dim(site, 0, 0)?);
    let (x, out) = (c_type(site.operand_type(0)?.dtype), c_type(site.result_type()?.dtype));
    let instance = format!("Rope<{x}, {out}, {}, {head_dim}, {half}>", width(site)?);
    let body = Body::new("rope", "rope/rope.cuh", instance, THREADS, tokens.clone());
    body.scalar("tokens", tokens).call(site)
}

pub(super) fn append_kv(site: &Site<'_>) -> Result<Call, Refusal> {
    let append = site.cast::<AppendKv>()?;
    let (kv, k) = (check_blocks(site, append.group)?, site.operand_type(0)?);
    let instance = format!("AppendKv<{}, {}, {}, {}>", c_type(k.dtype), c_type(kv.dtype), kv.kv_heads, kv.head_dim);
    step_body(site, "append_kv", instance, 4, (append.group, append.layer, true))?.call(site)
}

pub(super) fn rope_append_kv(site: &Site<'_>) -> Result<Call, Refusal> {
    let rope = site.cast::<RopeAppendKv>()?;
    let (kv, qkv) = (check_blocks(site, rope.group)?, site.operand_type(0)?);
    let RopeAppendKv { heads, kv_heads, head_dim, .. } = rope;
    let (half, norm) = (frequencies(site, 4)?, HeadNorm::of(site, rope.norm_eps)?);
    let types = [qkv.dtype, site.result_type()?.dtype, kv.dtype].map(c_type).join(", ");
    let instance = format!("RopeAppendKv<{types}, {heads}, {kv_heads}, {head_dim}, {half}, {}>", norm.ty);
    let mut body = step_body(site, "rope_append_kv", instance, 3, (rope.group, rope.layer, true))?;
    body.absent = norm.absent;
    body.call(site)
}

/// The norm of heads before RoPE, as a template argument of bodies with the norm weights after the frequencies.
pub(super) struct HeadNorm {
    /// The template argument.
    pub ty: String,
    /// The input indices of the norm weights, if there are none.
    pub absent: Vec<usize>,
}

impl HeadNorm {
    /// The norm of an op whose sixth operand is the norm weight of the queries, if it has one.
    pub fn of(site: &Site<'_>, eps: Option<f32>) -> Result<HeadNorm, Refusal> {
        Ok(match eps {
            Some(eps) => {
                let weight = c_type(site.operand_type(5)?.dtype);
                HeadNorm { ty: format!("smelt::HeadNorm<{weight}, {}>", c_float(eps)), absent: Vec::new() }
            }
            None => HeadNorm { ty: "smelt::NoNorm".to_owned(), absent: vec![5, 6] },
        })
    }
}

/// Threads per block, which has one token.
const THREADS: u32 = 256;

/// A body with one block per token, which finds its sequence; `table` is the block table operand.
fn step_body(
    site: &Site<'_>,
    name: &'static str,
    instance: String,
    table: usize,
    kv: (u32, u32, bool),
) -> Result<Body, Refusal> {
    let (tokens, sequences, blocks) = (dim(site, 0, 0)?, dim(site, table, 0)?, dim(site, table, 1)?);
    let mut body = Body::new(name, "rope/rope.cuh", instance, THREADS, tokens.clone());
    body.kv = Some(kv);
    Ok(body.scalar("tokens", tokens).scalar("sequences", sequences).scalar("blocks_per_sequence", blocks))
}

/// The number of frequencies, which are f32.
pub(super) fn frequencies(site: &Site<'_>, operand: usize) -> Result<u64, Refusal> {
    let ty = site.operand_type(operand)?;
    ty.width().filter(|_| ty.dtype == DType::F32).ok_or_else(|| Refusal::because("its frequencies are not f32"))
}
