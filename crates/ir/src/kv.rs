//! The KV cache of the interpreter, and the packed tokens of a step.

use plan::DType;

use crate::HostTensor;

/// The part of the KV cache that an op accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvAccess {
    /// KV group.
    pub group: u32,
    /// Layer within the group.
    pub layer: u32,
    /// Width of a row of keys, `kv_heads * head_dim`.
    pub width: u64,
    /// Number and size of the heads of a row; `None` for `append_kv`, which leaves them to the cache.
    pub heads: Option<(u32, u32)>,
}

impl KvAccess {
    /// The access of an op that knows its heads.
    pub fn of_heads(group: u32, layer: u32, kv_heads: u32, head_dim: u32) -> KvAccess {
        let width = u64::from(kv_heads) * u64::from(head_dim);
        KvAccess { group, layer, width, heads: Some((kv_heads, head_dim)) }
    }
}

/// Layers of a graph with one shape of keys and values, which share one pool of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvDecl {
    /// Type of a stored element.
    pub dtype: DType,
    /// Layers of the group.
    pub layers: u32,
    /// Key and value heads per layer.
    pub kv_heads: u32,
    /// Head dimension.
    pub head_dim: u32,
    /// Tokens per block.
    pub block_tokens: u32,
}

/// Keys and values of every group, in the layout of [`plan::KvGroup`].
#[derive(Clone, Debug)]
pub struct KvState {
    groups: Vec<KvDecl>,
    /// For each group and layer, its blocks, concatenated; grows as blocks are written.
    pools: Vec<Vec<Vec<f32>>>,
}

/// One row of the cache.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Group of the layer.
    pub group: u32,
    /// Layer within the group.
    pub layer: u32,
    /// Block of the pool.
    pub block: usize,
    /// Token within the block.
    pub token: usize,
    /// Key and value head.
    pub head: usize,
}

impl KvState {
    /// An empty cache for these groups.
    pub fn new(groups: &[KvDecl]) -> KvState {
        let pools = groups.iter().map(|group| vec![Vec::new(); group.layers as usize]).collect();
        KvState { groups: groups.to_vec(), pools }
    }

    /// The declaration of a group.
    pub fn group(&self, group: u32) -> Result<&KvDecl, String> {
        self.groups.get(group as usize).ok_or_else(|| format!("there is no KV group {group}"))
    }

    /// Stores a key and a value, rounded to the group's dtype.
    pub fn store(&mut self, slot: Slot, key: &[f32], value: &[f32]) -> Result<(), String> {
        let dtype = self.group(slot.group)?.dtype;
        let (key_at, value_at) = self.offsets(slot)?;
        let pool = self.pools[slot.group as usize].get_mut(slot.layer as usize);
        let pool = pool.ok_or_else(|| format!("KV group {} has no layer {}", slot.group, slot.layer))?;
        let end = value_at + value.len();
        if pool.len() < end {
            // Unwritten blocks read as NaN, so that a graph that reads one fails visibly.
            pool.resize(end, f32::NAN);
        }
        for (at, row) in [(key_at, key), (value_at, value)] {
            for (stored, element) in pool[at..at + row.len()].iter_mut().zip(row) {
                *stored = dtype.round(*element);
            }
        }
        Ok(())
    }

    /// The key and the value of a slot.
    pub fn load(&self, slot: Slot) -> Result<(&[f32], &[f32]), String> {
        let head_dim = self.group(slot.group)?.head_dim as usize;
        let (key_at, value_at) = self.offsets(slot)?;
        let pool = &self.pools[slot.group as usize].get(slot.layer as usize);
        let row = |at: usize| pool.and_then(|pool| pool.get(at..at + head_dim));
        row(key_at).zip(row(value_at)).ok_or_else(|| format!("block {} was never written", slot.block))
    }

    fn offsets(&self, slot: Slot) -> Result<(usize, usize), String> {
        let group = self.group(slot.group)?;
        let (tokens, head_dim) = (group.block_tokens as usize, group.head_dim as usize);
        let head = (slot.block * group.kv_heads as usize + slot.head) * 2 * tokens * head_dim;
        let key = head + slot.token * head_dim;
        Ok((key, key + tokens * head_dim))
    }
}

/// The packed tokens of a step: the sequence of each, and its blocks.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    positions: &'a [i32],
    query_starts: &'a [i32],
    block_table: &'a [i32],
    blocks_per_sequence: usize,
}

impl<'a> Tokens<'a> {
    /// From the step inputs `positions` `[T]`, `query_starts` `[B + 1]` and `block_table` `[B, P]`.
    pub fn new(positions: &'a HostTensor, query_starts: &'a HostTensor, block_table: &'a HostTensor) -> Tokens<'a> {
        Tokens {
            positions: positions.ints(),
            query_starts: query_starts.ints(),
            block_table: block_table.ints(),
            blocks_per_sequence: block_table.width(),
        }
    }

    /// The sequence of a token; `None` for padding, which follows the last sequence.
    pub fn sequence(&self, token: usize) -> Option<usize> {
        let token = i32::try_from(token).ok()?;
        self.query_starts.windows(2).position(|pair| pair[0] <= token && token < pair[1])
    }

    /// The position of a token in its sequence.
    pub fn position(&self, token: usize) -> usize {
        self.positions[token].max(0) as usize
    }

    /// The block that holds a position of a sequence.
    pub fn block(&self, sequence: usize, position: usize, block_tokens: u32) -> Result<usize, String> {
        let index = position / block_tokens as usize;
        let entry = (index < self.blocks_per_sequence)
            .then(|| self.block_table.get(sequence * self.blocks_per_sequence + index))
            .flatten();
        let entry = entry.and_then(|block| usize::try_from(*block).ok());
        entry.ok_or_else(|| format!("sequence {sequence} has no block for position {position}"))
    }
}
