//! `runtime/src/cpu/attention.rs`: a task per token and KV head.

use ir::DeclaredOp;
use ir::ops::PagedAttention;
use plan::Dim;

use crate::kernels::Row;
use crate::{Call, KvUse, Refusal, Site};

pub(super) const PAGED_ATTENTION: Row =
    Row::new("paged_attention", &[PagedAttention::MNEMONIC], "crates/runtime/src/cpu/attention.rs", paged_attention);

fn paged_attention(site: &Site<'_>) -> Result<Call, Refusal> {
    let attention = site.cast::<PagedAttention>()?;
    let grid = site.dim(0, 0)? * Dim::from(u64::from(attention.kv_heads));
    let call = Call::grid(grid).float("scale", attention.scale);
    Ok(call.kv(KvUse::reading(attention.group, attention.layer)))
}
