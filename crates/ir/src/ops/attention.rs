//! The KV cache as state: appending to it and attending to it. An effect orders both within a layer.

use plan::DType;

use super::norm::{check_heads, normalize};
use super::rope::{check_rope, rotate};
use crate::{
    Graph, HostTensor, KvAccess, KvState, Op, OpClass, OpId, Patch, PatchValue, Semantics, Slot, TensorType, Tokens,
    Type, TypeError, Value, expect_dtype, expect_rank, expect_same, op, type_error,
};

op! {
    /// Stores the keys and values of the packed tokens, `[T, kv_heads * head_dim]` each, in the blocks that
    /// `block_table` `[B, P]` lists for their sequences. Token `t` belongs to sequence `b` if `query_starts[b] <= t <
    /// query_starts[b + 1]`; tokens after the last sequence are padding.
    pub struct AppendKv = "append_kv" (k, v, positions, query_starts, block_table) { group: u32, layer: u32 }
}

op! {
    /// Causal attention of the packed tokens to their sequences' cached keys and values: `softmax(scale * q k^T) v`
    /// over positions up to the token's own, computed in f32. Query heads share key and value heads in equal groups
    /// (GQA). `[T, heads * head_dim]` to the same; padding rows are zero.
    pub struct PagedAttention = "paged_attention" (q, cache, positions, query_starts, block_table) {
        group: u32, layer: u32, head_dim: u32, kv_heads: u32, scale: f32
    }
}

op! {
    /// `rope` of the queries and keys in a packed row `[q, k, v]` and `append_kv` of the rotated keys and the values:
    /// `[T, (heads + 2 * kv_heads) * head_dim]` to the rotated queries `[T, heads * head_dim]` and the effect. The
    /// queries have the dtype of the row, or `to`. With `norm_eps`, each head of the queries and keys is first
    /// normalized, as by `rms_norm` with `head_dim`; the norm weights `[head_dim]` of both follow.
    pub struct RopeAppendKv = "rope_append_kv"
        (qkv, positions, query_starts, block_table, frequencies; q_norm_weight, k_norm_weight)
    {
        group: u32, layer: u32, head_dim: u32, heads: u32, kv_heads: u32, norm_eps: Option<f32>, to: Option<DType>
    }
}

op! {
    /// `rope_append_kv` of a packed row `[q, k, v]`, then `paged_attention` of its queries to the updated cache: `[T,
    /// (heads + 2 * kv_heads) * head_dim]` to `[T, heads * head_dim]` and the effect. The queries are rounded to `to`,
    /// which is then the result's dtype; without it the result has that of the row, and kernels may round the queries
    /// to it. `norm_eps` and the norm weights are those of `rope_append_kv`.
    pub struct RopeAttention = "rope_attention"
        (qkv, positions, query_starts, block_table, frequencies; q_norm_weight, k_norm_weight)
    {
        group: u32, layer: u32, head_dim: u32, heads: u32, kv_heads: u32, scale: f32, norm_eps: Option<f32>,
        to: Option<DType>
    }
}

impl RopeAttention {
    fn parts(&self) -> (RopeAppendKv, PagedAttention) {
        let RopeAttention { group, layer, head_dim, heads, kv_heads, scale, norm_eps, to } = *self;
        let rope = RopeAppendKv { group, layer, head_dim, heads, kv_heads, norm_eps, to };
        (rope, PagedAttention { group, layer, head_dim, kv_heads, scale })
    }
}

impl RopeAppendKv {
    /// Checks that there are norm weights for queries and keys if and only if there is a norm.
    fn check_norm_weights(&self, qkv: &TensorType, weights: &[&Type]) -> Result<(), TypeError> {
        match (self.norm_eps, weights) {
            (None, []) => Ok(()),
            (Some(_), [q_norm_weight, k_norm_weight]) => {
                expect_same(
                    "the types of q_norm_weight and k_norm_weight",
                    q_norm_weight.tensor()?,
                    k_norm_weight.tensor()?,
                )?;
                check_heads(qkv, q_norm_weight.tensor()?, self.head_dim)
            }
            (None, _) => type_error("expected `norm_eps`, since there are norm weights"),
            (Some(_), _) => type_error("expected the norm weights of queries and keys, since there is `norm_eps`"),
        }
    }
}

/// Checks the step inputs against the packed tokens of `x`.
fn check_step(x: &TensorType, step: &[&Type]) -> Result<(), TypeError> {
    let (positions, starts, table) = (step[0].tensor()?, step[1].tensor()?, step[2].tensor()?);
    expect_rank("positions", positions, 1)?;
    expect_rank("query_starts", starts, 1)?;
    expect_rank("block_table", table, 2)?;
    for (name, ty) in [("positions", positions), ("query_starts", starts), ("block_table", table)] {
        expect_dtype(name, ty, DType::I32)?;
    }
    expect_rank("the packed tokens", x, 2)?;
    expect_same("the tokens of the step and positions", &x.shape[0], &positions.shape[0])?;
    let starts_of_table = table.shape[0].clone() + 1.into();
    expect_same("the sequences of query_starts and block_table", &starts.shape[0], &starts_of_table)
}

/// Stores the key and value rows of one token.
fn append(state: &mut KvState, slot: Slot, k: &[f32], v: &[f32]) -> Result<(), String> {
    let head_dim = state.group(slot.group)?.head_dim as usize;
    for (head, (key, value)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
        state.store(Slot { head, ..slot }, key, value)?;
    }
    Ok(())
}

/// The cache slot of a token, unless it is padding.
fn slot_of(tokens: &Tokens<'_>, token: usize, state: &KvState, group: u32, layer: u32) -> Result<Option<Slot>, String> {
    let Some(sequence) = tokens.sequence(token) else { return Ok(None) };
    let block_tokens = state.group(group)?.block_tokens;
    let position = tokens.position(token);
    let block = tokens.block(sequence, position, block_tokens)?;
    Ok(Some(Slot { group, layer, block, token: position % block_tokens as usize, head: 0 }))
}

impl Semantics for AppendKv {
    const CLASS: OpClass = OpClass::State;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (k, v) = (operands[0].tensor()?, operands[1].tensor()?);
        expect_same("the types of k and v", k, v)?;
        if !k.dtype.is_float() {
            return type_error(format!("expected floating-point keys and values, found {k}"));
        }
        check_step(k, &operands[2..])?;
        Ok(vec![Type::Effect])
    }

    fn eval(&self, operands: &[&HostTensor], state: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let tokens = Tokens::new(operands[2], operands[3], operands[4]);
        for (token, (k, v)) in operands[0].rows().zip(operands[1].rows()).enumerate() {
            if let Some(slot) = slot_of(&tokens, token, state, self.group, self.layer)? {
                append(state, slot, k, v)?;
            }
        }
        Ok(vec![HostTensor::effect()])
    }

    fn kv_access(&self, operands: &[&Type]) -> Option<KvAccess> {
        let width = operands[0].tensor().ok()?.width()?;
        Some(KvAccess { group: self.group, layer: self.layer, width, heads: None })
    }

    fn on_layer(&self, group: u32, layer: u32) -> Option<Op> {
        Some(Op::new(AppendKv { group, layer }))
    }
}

impl Semantics for RopeAppendKv {
    const CLASS: OpClass = OpClass::State;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (qkv, frequencies) = (operands[0].tensor()?, operands[4].tensor()?);
        check_step(qkv, &operands[1..4])?;
        check_rope(qkv, operands[1].tensor()?, frequencies, self.head_dim)?;
        let heads = u64::from(self.heads) + 2 * u64::from(self.kv_heads);
        if qkv.width() != Some(heads * u64::from(self.head_dim)) {
            return type_error(format!("expected {heads} heads of {}, found {qkv}", self.head_dim));
        }
        self.check_norm_weights(qkv, &operands[5..])?;
        let q = qkv.with_width(u64::from(self.heads) * u64::from(self.head_dim)).rounded(self.to)?;
        Ok(vec![q.into(), Type::Effect])
    }

    fn eval(&self, operands: &[&HostTensor], state: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let (qkv, positions, frequencies) = (operands[0], operands[1].ints(), operands[4].floats());
        let tokens = Tokens::new(operands[1], operands[2], operands[3]);
        let head_dim = self.head_dim as usize;
        let (q_width, k_width) = (self.heads as usize * head_dim, self.kv_heads as usize * head_dim);
        let mut queries = Vec::with_capacity(positions.len() * q_width);
        for (token, row) in qkv.rows().enumerate() {
            let mut row = row.to_vec();
            let (rotated, v) = row.split_at_mut(q_width + k_width);
            for (index, head) in rotated.chunks_exact_mut(head_dim).enumerate() {
                let weight = operands.get(if index < self.heads as usize { 5 } else { 6 });
                if let Some((eps, weight)) = self.norm_eps.zip(weight) {
                    normalize(head, weight.floats(), eps);
                }
                rotate(head, positions[token], frequencies);
            }
            let (q, k) = rotated.split_at(q_width);
            queries.extend_from_slice(q);
            if let Some(slot) = slot_of(&tokens, token, state, self.group, self.layer)? {
                append(state, slot, k, v)?;
            }
        }
        Ok(vec![HostTensor::f32([positions.len(), q_width], queries), HostTensor::effect()])
    }

    fn kv_access(&self, _: &[&Type]) -> Option<KvAccess> {
        Some(KvAccess::of_heads(self.group, self.layer, self.kv_heads, self.head_dim))
    }

    fn on_layer(&self, group: u32, layer: u32) -> Option<Op> {
        Some(Op::new(RopeAppendKv { group, layer, ..self.clone() }))
    }
}

impl Semantics for RopeAttention {
    const CLASS: OpClass = OpClass::State;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let (rope, attention) = self.parts();
        let rotated = rope.infer(operands)?;
        let mut result = attention.infer(&[&rotated[0], &rotated[1], operands[1], operands[2], operands[3]])?;
        result.push(Type::Effect);
        Ok(result)
    }

    fn eval(&self, operands: &[&HostTensor], state: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let (rope, attention) = self.parts();
        let mut rotated = rope.eval(operands, state)?;
        let queries = rotated.remove(0);
        let queries = match self.to {
            Some(to) => queries.rounded(to),
            None => queries,
        };
        let effect = HostTensor::effect();
        let mut result = attention.eval(&[&queries, &effect, operands[1], operands[2], operands[3]], state)?;
        result.push(effect);
        Ok(result)
    }

    fn expand(&self, graph: &Graph, id: OpId) -> Option<Patch> {
        let operands: Vec<PatchValue> = graph.operands(id).into_iter().map(PatchValue::from).collect();
        let [_, positions, query_starts, block_table, ..] = *operands.as_slice() else { return None };
        let (rope, attention) = self.parts();
        let mut patch = Patch::new();
        let queries = patch.add(graph, rope, &operands);
        let effect = queries.result(1);
        let mixed = patch.add(graph, attention, &[queries, effect, positions, query_starts, block_table]);
        patch.replace(graph.result(id), mixed);
        patch.replace(Value { op: id, result: 1 }, effect);
        Some(patch)
    }

    fn kv_access(&self, _: &[&Type]) -> Option<KvAccess> {
        Some(KvAccess::of_heads(self.group, self.layer, self.kv_heads, self.head_dim))
    }

    fn on_layer(&self, group: u32, layer: u32) -> Option<Op> {
        Some(Op::new(RopeAttention { group, layer, ..self.clone() }))
    }
}

impl Semantics for PagedAttention {
    const CLASS: OpClass = OpClass::State;

    fn infer(&self, operands: &[&Type]) -> Result<Vec<Type>, TypeError> {
        let q = operands[0].tensor()?;
        if *operands[1] != Type::Effect {
            return type_error(format!("expected an effect for `cache`, found {}", operands[1]));
        }
        check_step(q, &operands[2..])?;
        let group_width = u64::from(self.head_dim) * u64::from(self.kv_heads);
        match q.width() {
            Some(width) if group_width > 0 && width > 0 && width % group_width == 0 && q.dtype.is_float() => {
                Ok(vec![q.clone().into()])
            }
            _ => type_error(format!("expected a multiple of {} heads of {}, found {q}", self.kv_heads, self.head_dim)),
        }
    }

    fn eval(&self, operands: &[&HostTensor], state: &mut KvState) -> Result<Vec<HostTensor>, String> {
        let tokens = Tokens::new(operands[2], operands[3], operands[4]);
        let head_dim = self.head_dim as usize;
        let block_tokens = state.group(self.group)?.block_tokens;
        let heads_per_kv = operands[0].width() / (head_dim * self.kv_heads as usize);
        let mut out = Vec::with_capacity(operands[0].floats().len());
        for (token, row) in operands[0].rows().enumerate() {
            let Some(sequence) = tokens.sequence(token) else {
                out.resize(out.len() + row.len(), 0.0);
                continue;
            };
            let mut slots = Vec::new();
            for position in 0..=tokens.position(token) {
                let block = tokens.block(sequence, position, block_tokens)?;
                slots.push((block, position % block_tokens as usize));
            }
            for (head, q) in row.chunks_exact(head_dim).enumerate() {
                let head = head / heads_per_kv;
                let slot = |&(block, token)| Slot { group: self.group, layer: self.layer, block, token, head };
                let mut scores = Vec::with_capacity(slots.len());
                for at in &slots {
                    let (key, _) = state.load(slot(at))?;
                    scores.push(self.scale * q.iter().zip(key).map(|(a, b)| a * b).sum::<f32>());
                }
                let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
                let sum: f32 = scores.iter().sum();
                let mut mixed = vec![0.0; head_dim];
                for (at, score) in slots.iter().zip(&scores) {
                    let (_, value) = state.load(slot(at))?;
                    mixed.iter_mut().zip(value).for_each(|(out, value)| *out += score / sum * value);
                }
                out.extend(mixed);
            }
        }
        Ok(vec![HostTensor::f32(operands[0].shape.clone(), out)])
    }

    fn kv_access(&self, _: &[&Type]) -> Option<KvAccess> {
        Some(KvAccess::of_heads(self.group, self.layer, self.kv_heads, self.head_dim))
    }

    fn on_layer(&self, group: u32, layer: u32) -> Option<Op> {
        Some(Op::new(PagedAttention { group, layer, ..self.clone() }))
    }
}
