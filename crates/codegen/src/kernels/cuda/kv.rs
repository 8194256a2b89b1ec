//! The paged KV cache in kernels: its block size, and the sizes of a step that find a token's blocks. Mirrors
//! `kernels/common/cache.cuh`.

use ir::KvDecl;
pub(super) use plan::devices::sm90::KV_BLOCK_TOKENS as BLOCK_TOKENS;

use super::body::Body;
use crate::{Refusal, Site};

/// The KV group of an op, whose block size must be supported.
pub(super) fn check_blocks<'a>(site: &Site<'a>, group: u32) -> Result<&'a KvDecl, Refusal> {
    let kv = site.graph.kv().get(group as usize);
    let kv = kv.ok_or_else(|| Refusal::because(format!("there is no KV group {group}")))?;
    match kv.block_tokens {
        BLOCK_TOKENS => Ok(kv),
        other => Err(Refusal::because(format!("requires KV blocks of {BLOCK_TOKENS} tokens, found {other}"))),
    }
}

/// A body with the sizes of a step: tokens, the rows of the first operand, and those of the block table, operand
/// `table`.
pub(super) fn with_step(body: Body, site: &Site<'_>, table: usize) -> Result<Body, Refusal> {
    let (tokens, sequences, blocks) = (site.dim(0, 0)?, site.dim(table, 0)?, site.dim(table, 1)?);
    Ok(body.scalar("tokens", tokens).scalar("sequences", sequences).scalar("blocks_per_sequence", blocks))
}
