//! `kernels/rope`: RoPE, and storing keys and values in the KV cache.

use ir::DeclaredOp;
use ir::ops::{AppendKv, Rope, RopeAppendKv};

use super::body::{Body, c_type};
use super::heads::{HeadNorm, frequencies};
use super::kv::{check_blocks, with_step};
use crate::kernels::Row;
use crate::{Call, KvUse, Refusal, Site};

const FILE: &str = "kernels/rope/rope.cuh";

pub(super) const ROPE: Row = Row::new("rope", &[Rope::MNEMONIC], FILE, rope);

pub(super) const APPEND_KV: Row = Row::new("append_kv", &[AppendKv::MNEMONIC], FILE, append_kv);

pub(super) const ROPE_APPEND_KV: Row = Row::new("rope_append_kv", &[RopeAppendKv::MNEMONIC], FILE, rope_append_kv);

/// Threads per block, which has one token.
const THREADS: u32 = 256;

fn rope(site: &Site<'_>) -> Result<Call, Refusal> {
    let head_dim = site.cast::<Rope>()?.head_dim;
    let (half, tokens) = (frequencies(site, 2)?, site.dim(0, 0)?);
    let (x, out) = (c_type(site.operand_type(0)?.dtype), c_type(site.result_type()?.dtype));
    let instance = format!("Rope<{x}, {out}, {}, {head_dim}, {half}>", site.width()?);
    Body::of(&ROPE, instance, THREADS, tokens.clone()).scalar("tokens", tokens).call(site)
}

fn append_kv(site: &Site<'_>) -> Result<Call, Refusal> {
    let append = site.cast::<AppendKv>()?;
    let (kv, k) = (check_blocks(site, append.group)?, site.operand_type(0)?);
    let instance = format!("AppendKv<{}, {}, {}, {}>", c_type(k.dtype), c_type(kv.dtype), kv.kv_heads, kv.head_dim);
    let mut body = Body::of(&APPEND_KV, instance, THREADS, site.dim(0, 0)?);
    body.kv = Some(KvUse::writing(append.group, append.layer));
    with_step(body, site, 4)?.call(site)
}

fn rope_append_kv(site: &Site<'_>) -> Result<Call, Refusal> {
    let rope = site.cast::<RopeAppendKv>()?;
    let (kv, qkv) = (check_blocks(site, rope.group)?, site.operand_type(0)?);
    let RopeAppendKv { heads, kv_heads, head_dim, .. } = rope;
    let (half, norm) = (frequencies(site, 4)?, HeadNorm::of(site, rope.norm_eps)?);
    let types = [qkv.dtype, site.result_type()?.dtype, kv.dtype].map(c_type).join(", ");
    let instance = format!("RopeAppendKv<{types}, {heads}, {kv_heads}, {head_dim}, {half}, {}>", norm.ty);
    let mut body = Body::of(&ROPE_APPEND_KV, instance, THREADS, site.dim(0, 0)?);
    body.kv = Some(KvUse::writing(rope.group, rope.layer));
    body.absent = norm.absent;
    with_step(body, site, 3)?.call(site)
}
