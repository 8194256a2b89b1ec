//! The blocks of the KV cache: owned, cached for prompts with the same beginning, or free.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

const NONE: u32 = u32::MAX;

/// A cached block at one time: blocks are taken for other tokens when there are no free ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cached {
    block: u32,
    generation: u32,
}

impl Cached {
    /// What comes before the first block of a sequence.
    pub const START: Cached = Cached { block: NONE, generation: 0 };
}

/// A hash of all tokens up to the end of a block, different in each process.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixHash(RandomState);

impl PrefixHash {
    /// The hash at the end of a block of these tokens after blocks with the hash `before`.
    pub fn after(&self, before: u64, tokens: &[u32]) -> u64 {
        self.0.hash_one((before, tokens))
    }
}

#[derive(Clone, Debug)]
struct Block {
    owners: u32,
    /// Rises when the block is taken from the cache.
    generation: u32,
    /// In the prefix index: after which block, under which hash.
    cached: Option<(Cached, u64)>,
    /// Neighbours in the list of cached blocks without owners.
    older: u32,
    newer: u32,
}

/// All blocks of a pool. A block is free, cached without owners, or has owners; a cached one may have any number of them.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    block_tokens: usize,
    caching: bool,
    blocks: Vec<Block>,
    /// The tokens of cached blocks, by block.
    tokens: Vec<u32>,
    free: Vec<u32>,
    by_hash: HashMap<u64, u32>,
    /// Ends of the list of cached blocks without owners, and its length.
    oldest: u32,
    newest: u32,
    unowned: usize,
}

impl Pool {
    /// A pool of free blocks; without `caching` none is kept for its tokens.
    pub fn new(blocks: u32, block_tokens: usize, caching: bool) -> Pool {
        let block = Block { owners: 0, generation: 0, cached: None, older: NONE, newer: NONE };
        Pool {
            block_tokens,
            caching,
            blocks: vec![block; blocks as usize],
            tokens: vec![0; if caching { blocks as usize * block_tokens } else { 0 }],
            free: (0..blocks).rev().collect(),
            by_hash: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            unowned: 0,
        }
    }

    /// All blocks.
    pub fn all(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that can be taken: free ones, and cached ones without owners.
    pub fn available(&self) -> usize {
        self.free.len() + self.unowned
    }

    /// Cached blocks without owners.
    pub fn cached(&self) -> usize {
        self.unowned
    }

    /// Takes a block: a free one, or the one that was cached for the longest time without an owner.
    pub fn take(&mut self) -> Option<u32> {
        if self.free.is_empty() && self.oldest != NONE {
            self.forget(self.oldest);
        }
        let block = self.free.pop()?;
        self.blocks[block as usize].owners = 1;
        Some(block)
    }

    /// Adds an owner to a cached block.
    pub fn share(&mut self, block: u32) {
        if self.blocks[block as usize].owners == 0 {
            self.unlink(block);
        }
        self.blocks[block as usize].owners += 1;
    }

    /// Removes an owner.
    pub fn release(&mut self, block: u32) {
        let state = &mut self.blocks[block as usize];
        state.owners -= 1;
        if state.owners > 0 {
            return;
        }
        match state.cached {
            None => self.free.push(block),
            Some(_) => {
                (state.older, state.newer) = (self.newest, NONE);
                match self.newest {
                    NONE => self.oldest = block,
                    newest => self.blocks[newest as usize].newer = block,
                }
                self.newest = block;
                self.unowned += 1;
            }
        }
    }

    /// Whether a block may be written: it has one owner and is not cached.
    pub fn is_private(&self, block: u32) -> bool {
        let block = &self.blocks[block as usize];
        block.owners == 1 && block.cached.is_none()
    }

    /// Whether a block has no owner.
    pub fn is_unowned(&self, block: u32) -> bool {
        self.blocks[block as usize].owners == 0
    }

    /// The cached blocks with the first tokens of a sequence, whose blocks have these hashes, and the last of them.
    pub fn find(&self, tokens: &[u32], hashes: &[u64], found: &mut Vec<u32>) -> Cached {
        let mut before = Cached::START;
        found.clear();
        for (hash, tokens) in hashes.iter().zip(tokens.chunks_exact(self.block_tokens)) {
            let Some(&block) = self.by_hash.get(hash) else { break };
            if !self.holds(block, before, tokens) {
                break;
            }
            before = Cached { block, generation: self.blocks[block as usize].generation };
            found.push(block);
        }
        before
    }

    /// Caches a full block after another one. Where its tokens are cached already, that block is returned, and this one
    /// stays its owner's; `None` if the block before is not cached any more.
    pub fn cache(&mut self, before: Cached, tokens: &[u32], hash: u64, block: u32) -> Option<Cached> {
        if !self.caching || !self.is_there(before) {
            return None;
        }
        if let Some(&known) = self.by_hash.get(&hash) {
            if self.holds(known, before, tokens) {
                return Some(Cached { block: known, generation: self.blocks[known as usize].generation });
            }
            // after a block that is not there any more, or with other tokens of the same hash
            self.forget(known);
        }
        let start = block as usize * self.block_tokens;
        self.tokens[start..start + self.block_tokens].copy_from_slice(tokens);
        self.blocks[block as usize].cached = Some((before, hash));
        self.by_hash.insert(hash, block);
        Some(Cached { block, generation: self.blocks[block as usize].generation })
    }

    fn is_there(&self, cached: Cached) -> bool {
        let there = |block: &Block| block.cached.is_some() && block.generation == cached.generation;
        cached == Cached::START || self.blocks.get(cached.block as usize).is_some_and(there)
    }

    fn holds(&self, block: u32, before: Cached, tokens: &[u32]) -> bool {
        let start = block as usize * self.block_tokens;
        let after = self.blocks[block as usize].cached.is_some_and(|(found, _)| found == before);
        after && self.tokens[start..start + self.block_tokens] == *tokens
    }

    /// Takes a block out of the prefix index.
    fn forget(&mut self, block: u32) {
        let state = &mut self.blocks[block as usize];
        let Some((_, hash)) = state.cached.take() else { return };
        state.generation = state.generation.wrapping_add(1);
        self.by_hash.remove(&hash);
        if state.owners == 0 {
            self.unlink(block);
            self.free.push(block);
        }
    }

    fn unlink(&mut self, block: u32) {
        let Block { older, newer, .. } = self.blocks[block as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.blocks[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.blocks[newer as usize].older = older,
        }
        (self.blocks[block as usize].older, self.blocks[block as usize].newer) = (NONE, NONE);
        self.unowned -= 1;
    }

    /// Owners of a block.
    #[cfg(test)]
    pub fn owners(&self, block: u32) -> u32 {
        self.blocks[block as usize].owners
    }

    /// Whether lists and counts agree.
    #[cfg(test)]
    pub fn check(&self) {
        let owned = self.blocks.iter().filter(|block| block.owners > 0).count();
        assert_eq!(self.free.len() + self.unowned + owned, self.blocks.len(), "free, cached and owned are all");
        let (mut listed, mut at, mut before) = (0, self.oldest, NONE);
        while at != NONE {
            let block = &self.blocks[at as usize];
            assert!(block.owners == 0 && block.cached.is_some() && block.older == before);
            (listed, before, at) = (listed + 1, at, block.newer);
        }
        assert_eq!((listed, before), (self.unowned, self.newest));
        let cached = self.blocks.iter().filter(|block| block.cached.is_some()).count();
        assert_eq!(cached, self.by_hash.len());
        assert!(self.free.iter().all(|block| self.blocks[*block as usize].cached.is_none()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool of blocks of two tokens, and hashes of the blocks of a text.
    fn pool(blocks: u32) -> (Pool, impl Fn(&[u32]) -> Vec<u64>) {
        let hash = PrefixHash::default();
        let hashes = move |tokens: &[u32]| {
            let chain = |before: &mut u64, block: &[u32]| {
                *before = hash.after(*before, block);
                Some(*before)
            };
            tokens.chunks_exact(2).scan(0, chain).collect()
        };
        (Pool::new(blocks, 2, true), hashes)
    }

    /// Takes and caches the blocks of a text.
    fn write(pool: &mut Pool, tokens: &[u32], hashes: &[u64]) -> Vec<u32> {
        let mut before = Cached::START;
        let mut blocks = Vec::new();
        for (tokens, hash) in tokens.chunks_exact(2).zip(hashes) {
            let block = pool.take().unwrap();
            before = pool.cache(before, tokens, *hash, block).unwrap();
            blocks.push(block);
        }
        pool.check();
        blocks
    }

    #[test]
    fn a_text_with_the_same_beginning_finds_its_blocks() {
        let (mut pool, hashes) = pool(4);
        let text = [1, 2, 3, 4, 5, 6];
        let blocks = write(&mut pool, &text, &hashes(&text));
        blocks.iter().rev().for_each(|block| pool.release(*block));
        let mut found = Vec::new();
        pool.find(&text, &hashes(&text), &mut found);
        assert_eq!(found, blocks);
        let other = [1, 2, 3, 4, 7, 8];
        pool.find(&other, &hashes(&other), &mut found);
        assert_eq!(found, blocks[..2]);
        pool.find(&[3, 4], &hashes(&[3, 4]), &mut found);
        assert!(found.is_empty(), "the same block after others is another one");
        pool.find(&[9, 9], &hashes(&text), &mut found);
        assert!(found.is_empty(), "tokens decide, not hashes");
        pool.check();
    }

    #[test]
    fn the_last_blocks_of_a_text_are_taken_first_and_shared_ones_are_not() {
        let (mut pool, hashes) = pool(3);
        let text = [1, 2, 3, 4, 5, 6];
        let blocks = write(&mut pool, &text, &hashes(&text));
        blocks.iter().rev().for_each(|block| pool.release(*block));
        assert_eq!((pool.available(), pool.cached()), (3, 3));
        pool.share(blocks[0]);
        assert_eq!(pool.take(), Some(blocks[2]));
        assert_eq!(pool.take(), Some(blocks[1]));
        assert_eq!(pool.take(), None);
        pool.check();
        let mut found = Vec::new();
        pool.find(&text, &hashes(&text), &mut found);
        assert_eq!(found, blocks[..1]);
    }

    #[test]
    fn a_block_after_one_that_was_taken_is_replaced() {
        let (mut pool, hashes) = pool(3);
        let text = [1, 2, 3, 4];
        let blocks = write(&mut pool, &text, &hashes(&text));
        // the first goes before the second, and is taken
        blocks.iter().for_each(|block| pool.release(*block));
        let taken = [pool.take().unwrap(), pool.take().unwrap()];
        assert_eq!(taken[1], blocks[0]);
        let mut found = Vec::new();
        pool.find(&text, &hashes(&text), &mut found);
        assert!(found.is_empty());
        taken.iter().for_each(|block| pool.release(*block));
        let again = write(&mut pool, &text, &hashes(&text));
        pool.find(&text, &hashes(&text), &mut found);
        assert_eq!(found, again);
        pool.check();
    }

    #[test]
    fn of_two_equal_blocks_one_is_cached() {
        let (mut pool, hashes) = pool(3);
        let hash = hashes(&[1, 2])[0];
        let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
        let cached = pool.cache(Cached::START, &[1, 2], hash, first);
        assert_eq!(pool.cache(Cached::START, &[1, 2], hash, second), cached);
        assert!(pool.is_private(second) && !pool.is_private(first));
        pool.release(second);
        pool.release(first);
        assert_eq!((pool.available(), pool.cached()), (3, 1));
        pool.check();
    }
}
