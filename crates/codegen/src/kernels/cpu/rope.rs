//! `runtime/src/cpu/rope.rs`: RoPE, and storing keys and values in the KV cache.

use ir::DeclaredOp;
use ir::ops::{AppendKv, Rope, RopeAppendKv};
use plan::devices::cpu::ROWS_PER_TASK;

use crate::kernels::Row;
use crate::{Call, KvUse, Refusal, Site};

const FILE: &str = "crates/runtime/src/cpu/rope.rs";

pub(super) const ROPE: Row = Row::new("rope", &[Rope::MNEMONIC], FILE, rope);

pub(super) const APPEND_KV: Row = Row::new("append_kv", &[AppendKv::MNEMONIC], FILE, append_kv);

pub(super) const ROPE_APPEND_KV: Row = Row::new("rope_append_kv", &[RopeAppendKv::MNEMONIC], FILE, rope_append_kv);

fn rope(site: &Site<'_>) -> Result<Call, Refusal> {
    let head_dim = site.cast::<Rope>()?.head_dim;
    Ok(site.by_rows()?.int("head_dim", head_dim))
}

fn append_kv(site: &Site<'_>) -> Result<Call, Refusal> {
    let append = site.cast::<AppendKv>()?;
    Ok(Call::grid(site.dim(0, 0)?.ceil_div(ROWS_PER_TASK)).kv(KvUse::writing(append.group, append.layer)))
}

fn rope_append_kv(site: &Site<'_>) -> Result<Call, Refusal> {
    let rope = site.cast::<RopeAppendKv>()?;
    let call = Call::grid(site.dim(0, 0)?.ceil_div(ROWS_PER_TASK)).int("heads", rope.heads);
    let call = match rope.norm_eps {
        Some(eps) => call.float("norm_eps", eps),
        None => call,
    };
    Ok(call.kv(KvUse::writing(rope.group, rope.layer)))
}
