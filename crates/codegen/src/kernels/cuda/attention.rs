//! `kernels/attention`: with the context split over a cluster for decode, in tiles of queries for prefill, and
//! reference loops for everything else.

use ir::ops::{GatherRows, LinearParts, PagedAttention, Quantize, QuantizeBlocks, RopeAttention};
use ir::{DeclaredOp, KvDecl, OpId};
use plan::{DType, Dim, ProgramKind};

use super::body::{Body, c_float, c_type};
use super::heads::{HeadNorm, frequencies};
use super::kv::{BLOCK_TOKENS, check_blocks, with_step};
use super::linear::{few, stream};
use super::quantized::is_8_bit;
use super::{MULTIPROCESSORS, is_16_bit};
use crate::kernels::{Row, distinct};
use crate::{Call, KvUse, Refusal, Site};

pub(super) const ROPE_ATTENTION_DECODE: Row =
    Row::new("rope_attention_decode", &[RopeAttention::MNEMONIC], "kernels/attention/decode.cuh", |site| {
        rope_decode(site, None)
    })
    .tuned(rope_decode_candidates);

pub(super) const ATTENTION_DECODE: Row =
    Row::new("attention_decode", &[PagedAttention::MNEMONIC], "kernels/attention/decode.cuh", |site| {
        decode(site, None)
    })
    .tuned(decode_candidates);

pub(super) const ATTENTION_PREFILL: Row =
    Row::new("attention_prefill", &[PagedAttention::MNEMONIC], "kernels/attention/prefill.cuh", prefill);

pub(super) const ATTENTION_REFERENCE: Row =
    Row::new("attention_reference", &[PagedAttention::MNEMONIC], "kernels/attention/reference.cuh", reference);

/// Warps per block. In the reference kernel each handles a query head of a token.
const WARPS: u32 = 4;
/// Maximum number of blocks (a cluster) that share the context of a sequence and KV head.
const SPLITS: [u64; 4] = [8, 4, 2, 1];

/// Parameters of all attention kernels.
struct Shape<'a> {
    op: &'a PagedAttention,
    kv: &'a KvDecl,
    heads: u64,
    tokens: Dim,
    sequences: Dim,
}

fn shape<'a>(site: &Site<'a>) -> Result<Shape<'a>, Refusal> {
    let op = site.cast::<PagedAttention>()?;
    let kv = check_blocks(site, op.group)?;
    let width = site.operand_type(0)?.width().ok_or_else(|| Refusal::because("its rows have a symbolic width"))?;
    let heads = width / u64::from(op.head_dim);
    Ok(Shape { op, kv, heads, tokens: site.dim(0, 0)?, sequences: site.dim(4, 0)? })
}

/// Whether tensor cores support these queries, or why not.
fn check_tensor_cores(queries: DType, kv: &KvDecl, head_dim: u32, scale: f32) -> Result<(), Refusal> {
    if !is_16_bit(queries) || (queries != kv.dtype && !is_8_bit(kv.dtype)) {
        return Err(Refusal::because("requires 16-bit queries, and a cache of the same type or an 8-bit one"));
    }
    if !head_dim.is_multiple_of(16) || !(16..=256).contains(&head_dim) {
        return Err(Refusal::because(format!("requires a head dimension of 16, 32, … 256, found {head_dim}")));
    }
    match scale > 0.0 {
        true => Ok(()),
        false => Err(Refusal::because(format!("requires a positive scale, found {scale:?}"))),
    }
}

impl Shape<'_> {
    /// Whether tensor cores support it, or why not.
    fn tensor_cores(&self, site: &Site<'_>) -> Result<(), Refusal> {
        check_tensor_cores(site.operand_type(0)?.dtype, self.kv, self.op.head_dim, self.op.scale)
    }

    /// Query heads that share a KV head.
    fn group(&self) -> u64 {
        self.heads / u64::from(self.op.kv_heads)
    }

    /// The instance of a body for query and cache types, with additional template arguments.
    fn instance(&self, site: &Site<'_>, ty: &str, more: &[u64]) -> Result<String, Refusal> {
        let PagedAttention { kv_heads, head_dim, scale, .. } = self.op;
        let (dtype, cache) = (c_type(site.operand_type(0)?.dtype), c_type(self.kv.dtype));
        let (heads, scale) = (self.heads, c_float(*scale));
        let more: String = more.iter().map(|value| format!(", {value}")).collect();
        Ok(format!("{ty}<{dtype}, {cache}, {heads}, {kv_heads}, {head_dim}, {scale}{more}>"))
    }

    fn call(&self, site: &Site<'_>, mut body: Body) -> Result<Call, Refusal> {
        body.kv = Some(KvUse::reading(self.op.group, self.op.layer));
        with_step(body, site, 4)?.call(site)
    }
}

fn decode(site: &Site<'_>, splits: Option<u64>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    shape.tensor_cores(site)?;
    one_token(site)?;
    let clusters = u64::from(shape.op.kv_heads) * shape.group().div_ceil(16);
    let splits = splits.unwrap_or_else(|| splits_of(site, &shape.tokens, clusters));
    let instance = shape.instance(site, "AttentionDecode", &[splits])?;
    let grid = shape.tokens.clone() * (clusters * splits).into();
    let body = decode_body(&ATTENTION_DECODE, instance, shape.kv, grid, splits);
    Ok(shape.call(site, body)?.int("splits", splits as i64))
}

fn one_token(site: &Site<'_>) -> Result<(), Refusal> {
    match site.program.kind {
        ProgramKind::Decode => Ok(()),
        ProgramKind::Mixed => Err(Refusal::because("requires one token per sequence")),
    }
}

/// Blocks that share the context of a sequence and KV head, in a program of up to this many tokens.
fn splits_of(site: &Site<'_>, tokens: &Dim, clusters: u64) -> u64 {
    splits_for(site.program.bound(tokens).unwrap_or(u64::MAX).saturating_mul(clusters).max(1))
}

/// As many as give each multiprocessor one block, up to a whole cluster, and two if they fit at all: with two blocks on
/// each, four ranks lost 5 % of the tokens per second at batch 8 to their merge, but one rank 7 % at batch 16 with 4096
/// tokens of context (docs/performance-log.md).
fn splits_for(clusters: u64) -> u64 {
    let fits = |splits: &u64| {
        let blocks = clusters.saturating_mul(*splits);
        blocks <= MULTIPROCESSORS || *splits == 2 && blocks <= 2 * MULTIPROCESSORS
    };
    SPLITS.into_iter().find(fits).unwrap_or(1)
}

/// Fewer blocks per sequence merge less, more blocks read less each.
fn decode_candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    distinct(decode(site, None), SPLITS.into_iter().map(|splits| decode(site, Some(splits))))
}

/// Bytes of a key, or of a value.
fn row_bytes(kv: &KvDecl) -> u32 {
    kv.head_dim * kv.dtype.bytes() as u32
}

fn decode_body(kernel: &Row, instance: String, kv: &KvDecl, grid: Dim, splits: u64) -> Body {
    let mut body = Body::of(kernel, instance, WARPS * 32, grid);
    body.cluster = splits as u32;
    // as in the body: each warp has 16 keys and values of a block in each stage, two blocks fit a multiprocessor
    let share = 16 * row_bytes(kv);
    let stages = (96 * 1024 / (2 * share * WARPS)).clamp(3, 6);
    body.shared_bytes = WARPS * stages * 2 * share;
    body
}

fn rope_decode(site: &Site<'_>, splits: Option<u64>) -> Result<Call, Refusal> {
    let op = site.cast::<RopeAttention>()?;
    one_token(site)?;
    let (kv, qkv, out) = (check_blocks(site, op.group)?, site.operand_type(0)?, site.result_type()?);
    check_tensor_cores(out.dtype, kv, op.head_dim, op.scale)?;
    let RopeAttention { group, layer, head_dim, heads, kv_heads, scale, .. } = *op;
    if heads / kv_heads > 16 {
        return Err(Refusal::because(format!(
            "requires at most 16 query heads per KV head, found {}",
            heads / kv_heads
        )));
    }
    let (half, norm) = (frequencies(site, 4)?, HeadNorm::of(site, op.norm_eps)?);
    let (types, scale) = ([out.dtype, kv.dtype, qkv.dtype].map(c_type).join(", "), c_float(scale));
    let tokens = site.dim(0, 0)?;
    let splits = splits.unwrap_or_else(|| splits_of(site, &tokens, kv_heads.into()));
    let shape = format!("{heads}, {kv_heads}, {head_dim}, {half}, {scale}, {splits}");
    let alone = !before_rings(site, site.op);
    let instance = format!("RopeAttentionDecode<{types}, {shape}, {}, {alone}>", norm.ty);
    let grid = tokens.clone() * (u64::from(kv_heads) * splits).into();
    let mut body = decode_body(&ROPE_ATTENTION_DECODE, instance, kv, grid, splits);
    // after the stages: rotated queries, padded, key and value, and two tables of sines and cosines
    let queries = u64::from(heads / kv_heads) * u64::from(head_dim + 8) * 2;
    let rotated = queries + 2 * u64::from(row_bytes(kv)) + 2 * half.max(1) * 4;
    body.shared_bytes += rotated.next_multiple_of(16) as u32;
    body.kv = Some(KvUse::attending(group, layer));
    body.absent = norm.absent;
    let call = with_step(body, site, 3)?.call(site)?.int("splits", splits as i64);
    Ok(if alone { call.text("overlap", "none") } else { call })
}

/// Whether the linear layers that read the first result of an op, perhaps quantized or gathered, all have their weights
/// in rings in shared memory: only those may start beside attention.
fn before_rings(site: &Site<'_>, op: OpId) -> bool {
    let graph = site.graph;
    let users = graph.uses(graph.result(op));
    !users.is_empty()
        && users.iter().all(|user| {
            let site = Site { op: user.op, ..*site };
            let passes_on = graph.cast::<QuantizeBlocks>(user.op).is_some()
                || graph.cast::<Quantize>(user.op).is_some()
                || graph.cast::<GatherRows>(user.op).is_some();
            match LinearParts::of(graph, user.op) {
                Some(_) => few::supports(&site) || stream::supports(&site),
                None => passes_on && before_rings(&site, user.op),
            }
        })
}

fn rope_decode_candidates(site: &Site<'_>) -> Result<Vec<Call>, Refusal> {
    distinct(rope_decode(site, None), SPLITS.into_iter().map(|splits| rope_decode(site, Some(splits))))
}

fn prefill(site: &Site<'_>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    shape.tensor_cores(site)?;
    let head_dim = shape.op.head_dim;
    // as in the body: 16 rows per warp, twice as many if they fit registers
    let rows = if head_dim <= 128 { 128 } else { 64 };
    let instance = shape.instance(site, "AttentionPrefill", &[])?;
    let tiles = (shape.tokens.clone() * shape.group().into()).ceil_div(rows) + shape.sequences.clone();
    let grid = tiles * u64::from(shape.op.kv_heads).into();
    let mut body = Body::of(&ATTENTION_PREFILL, instance, WARPS * 32, grid);
    // queries, and two stages of the keys and values of a block; if quantized, one stage and the one being converted
    let (stages, quantized) = if is_8_bit(shape.kv.dtype) { (1, 2 * BLOCK_TOKENS * head_dim) } else { (2, 0) };
    body.shared_bytes = (rows as u32 + stages * 2 * BLOCK_TOKENS) * head_dim * 2 + quantized;
    Ok(shape.call(site, body)?.int("rows", rows as i64))
}

fn reference(site: &Site<'_>) -> Result<Call, Refusal> {
    let shape = shape(site)?;
    let head_dim = shape.op.head_dim;
    if head_dim > 512 {
        return Err(Refusal::because(format!("requires a head dimension of at most 512, found {head_dim}")));
    }
    let instance = shape.instance(site, "AttentionReference", &[])?;
    let grid = (shape.tokens.clone() * shape.heads.into()).ceil_div(WARPS.into());
    shape.call(site, Body::of(&ATTENTION_REFERENCE, instance, WARPS * 32, grid))
}

#[cfg(test)]
mod tests {
    use super::splits_for;

    #[test]
    fn a_sequence_is_split_as_was_fastest() {
        // batches of a model with 8 KV heads
        let batches = [1, 2, 4, 8, 16, 32, 64];
        assert_eq!(batches.map(|batch| splits_for(8 * batch)), [8, 8, 4, 2, 2, 1, 1]);
    }
}
