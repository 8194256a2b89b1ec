//! Which blocks of the KV cache are free.

/// The free blocks of a pool.
#[derive(Clone, Debug)]
pub struct BlockPool {
    /// Ascending from the end, so that the lowest is taken first.
    free: Vec<u32>,
}

impl BlockPool {
    /// A pool of this many blocks, all free.
    pub fn new(blocks: u32) -> BlockPool {
        BlockPool { free: (0..blocks).rev().collect() }
    }

    /// Takes this many blocks, or none if there are fewer.
    pub fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        let rest = self.free.len().checked_sub(count)?;
        Some(self.free.split_off(rest).into_iter().rev().collect())
    }

    /// Returns blocks to the pool.
    pub fn give_back(&mut self, blocks: Vec<u32>) {
        self.free.extend(blocks);
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Free blocks.
    pub fn free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_all_or_nothing_and_the_lowest_first() {
        let mut pool = BlockPool::new(4);
        let first = pool.take(3).unwrap();
        assert_eq!(first, [0, 1, 2]);
        assert_eq!(pool.take(2), None);
        assert_eq!(pool.free(), 1);
        pool.give_back(first);
        assert_eq!(pool.take(4), Some(vec![0, 1, 2, 3]));
    }
}
