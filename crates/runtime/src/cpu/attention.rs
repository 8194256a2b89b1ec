//! Causal attention to the paged KV cache: a task has one token and one KV head, with all query heads that share it, so
//! that each cached row is read once for the group.

use super::simd::{Element, LANES, Lanes, dispatch, with_element};
use super::{Args, CpuKernel, KvLayer, Tensor};
use plan::DType;

/// Inputs q and the step; parameter `scale`. Padding rows become zero.
pub(super) struct PagedAttention;

/// The step inputs `positions`, `query_starts`, `block_table`.
pub(super) struct StepInputs<'a> {
    pub positions: &'a [i32],
    pub query_starts: &'a [i32],
    block_table: &'a [i32],
    blocks_per_sequence: usize,
}

impl<'a> StepInputs<'a> {
    pub fn check(inputs: &[Tensor], tokens: usize, kv: &KvLayer) -> Result<(), String> {
        let [positions, starts, table] = inputs else { return Err("expected three step inputs".to_owned()) };
        positions.expect_shape(DType::I32, &[tokens])?;
        let &[sequences, _] = table.shape() else { return Err("expected a block table of rank 2".to_owned()) };
        starts.expect_shape(DType::I32, &[sequences + 1])?;
        table.expect(DType::I32)?;
        table.expect_below(kv.blocks).map_err(|reason| format!("blocks: {reason}"))
    }

    pub fn new(inputs: &'a [Tensor]) -> Result<StepInputs<'a>, String> {
        Ok(StepInputs {
            positions: inputs[0].ints()?,
            query_starts: inputs[1].ints()?,
            block_table: inputs[2].ints()?,
            blocks_per_sequence: inputs[2].width(),
        })
    }

    /// The position of a token.
    pub fn position(&self, token: usize) -> Result<usize, String> {
        let position = self.positions[token];
        usize::try_from(position).map_err(|_| format!("token {token} has position {position}"))
    }

    /// A block of a sequence.
    pub fn block(&self, sequence: usize, index: usize) -> Result<i32, String> {
        let at = sequence * self.blocks_per_sequence + index;
        let block = self.block_table.get(at).filter(|_| index < self.blocks_per_sequence);
        block.copied().ok_or_else(|| format!("sequence {sequence} has no block {index}"))
    }
}

/// The sequence of a token; `None` for padding, which follows the last sequence.
pub(super) fn sequence_of(query_starts: &[i32], token: usize) -> Option<usize> {
    let token = i32::try_from(token).ok()?;
    // the number of starts at or before the token, in an ascending list
    let next = query_starts.partition_point(|start| *start <= token);
    (next > 0 && next < query_starts.len()).then(|| next - 1)
}

impl CpuKernel for PagedAttention {
    fn name(&self) -> &'static str {
        "paged_attention"
    }

    fn check(&self, args: &Args) -> Result<(), String> {
        args.expect_counts(4, 1)?;
        let (kv, q) = (args.kv()?, &args.inputs[0]);
        args.float("scale")?;
        q.expect(DType::F32)?;
        StepInputs::check(&args.inputs[1..4], q.row_count(), kv)?;
        if q.width() == 0 || !q.width().is_multiple_of(kv.kv_heads * kv.head_dim) {
            return Err(format!("rows of q are {} wide, KV rows {} x {}", q.width(), kv.kv_heads, kv.head_dim));
        }
        args.outputs[0].expect_shape(DType::F32, q.shape())
    }

    fn tasks(&self, args: &Args) -> usize {
        args.inputs[0].row_count() * args.kv.as_ref().map_or(1, |kv| kv.kv_heads)
    }

    unsafe fn run(&self, args: &Args, task: usize) -> Result<(), String> {
        let (kv, step) = (args.kv()?, StepInputs::new(&args.inputs[1..4])?);
        let (q, width) = (args.inputs[0].floats()?, args.inputs[0].width());
        let (token, head) = (task / kv.kv_heads, task % kv.kv_heads);
        let group = width / kv.kv_heads;
        let range = token * width + head * group..token * width + (head + 1) * group;
        // SAFETY: a task owns the heads of its group in one row.
        let out = unsafe { args.outputs[0].write::<f32>(range.clone())? };
        let Some(sequence) = sequence_of(step.query_starts, token) else {
            out.fill(0.0);
            return Ok(());
        };
        let context = step.position(token)? + 1;
        let blocks = (0..context.div_ceil(kv.block_tokens)).map(|index| step.block(sequence, index));
        let blocks = blocks.map(|block| kv.keys_at(block?, head)).collect::<Result<Vec<_>, String>>()?;
        let q: Vec<f32> = q[range].iter().map(|value| value * args.float("scale").unwrap_or(1.0)).collect();
        let mut scores = vec![0.0; q.len() / kv.head_dim * context];
        with_element!(kv.dtype, E => {
            attend::<E>(kv, &blocks, &q, &mut scores, out);
            Ok(())
        })
    }
}

dispatch!(
    /// Attention of the scaled heads in `q` over the blocks whose keys start at `blocks`; `scores` is
    /// `[heads, context]`.
    fn attend<E: Element>(kv: &KvLayer, blocks: &[usize], q: &[f32], scores: &mut [f32], out: &mut [f32]) -> () =
        attend_body
);

#[inline(always)]
fn attend_body<L: Lanes, E: Element>(kv: &KvLayer, blocks: &[usize], q: &[f32], scores: &mut [f32], out: &mut [f32]) {
    let (head_dim, block_tokens) = (kv.head_dim, kv.block_tokens);
    let context = scores.len() / (q.len() / head_dim);
    // SAFETY: the offsets are from `keys_at`: a block's keys and values are `2 * block_tokens * head_dim` elements.
    let rows = |at: usize| unsafe {
        std::slice::from_raw_parts(kv.data.cast::<E>().cast_const().add(at), block_tokens * head_dim)
    };
    for (index, keys_at) in blocks.iter().enumerate() {
        let first = index * block_tokens;
        let count = block_tokens.min(context - first);
        for (token, key) in rows(*keys_at).chunks_exact(head_dim).take(count).enumerate() {
            for (head, q) in q.chunks_exact(head_dim).enumerate() {
                scores[head * context + first + token] = dot::<L, E>(q, key);
            }
        }
    }
    for scores in scores.chunks_exact_mut(context) {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for score in scores.iter_mut() {
            *score = (*score - largest).exp();
            sum += *score;
        }
        scores.iter_mut().for_each(|score| *score /= sum);
    }
    out.fill(0.0);
    for (index, keys_at) in blocks.iter().enumerate() {
        let first = index * block_tokens;
        let count = block_tokens.min(context - first);
        let values = rows(*keys_at + block_tokens * head_dim);
        for (scores, out) in scores.chunks_exact(context).zip(out.chunks_exact_mut(head_dim)) {
            mix::<L, E>(&scores[first..first + count], values, out);
        }
    }
}

#[inline(always)]
fn dot<L: Lanes, E: Element>(a: &[f32], b: &[E]) -> f32 {
    let whole = a.len() - a.len() % LANES;
    let mut sums = L::splat(0.0);
    for k in (0..whole).step_by(LANES) {
        // SAFETY: `k + LANES <= a.len()`, and b is as long.
        sums = unsafe { sums.add_product(L::load(a.as_ptr().add(k)), L::load(b.as_ptr().add(k))) };
    }
    (whole..a.len()).fold(sums.sum(), |sum, k| sum + a[k] * b[k].widen())
}

/// `out += sum of scores[t] * values[t]`, in the order of tokens.
#[inline(always)]
fn mix<L: Lanes, E: Element>(scores: &[f32], values: &[E], out: &mut [f32]) {
    let head_dim = out.len();
    let whole = head_dim - head_dim % LANES;
    for d in (0..whole).step_by(LANES) {
        // SAFETY: `d + LANES <= head_dim`, the length of `out` and of each row of `values`.
        unsafe {
            let mut sums = L::load(out.as_ptr().add(d));
            for (score, row) in scores.iter().zip(values.chunks_exact(head_dim)) {
                sums = sums.add_product(L::splat(*score), L::load(row.as_ptr().add(d)));
            }
            sums.store(out.as_mut_ptr().add(d));
        }
    }
    for d in whole..head_dim {
        let rows = scores.iter().zip(values.chunks_exact(head_dim));
        out[d] = rows.fold(out[d], |sum, (score, row)| sum + score * row[d].widen());
    }
}
