//! Random numbers by seed and index. (`tests::Random` is similar, but would make these commands wait for a build of the
//! compiler.)

/// A stream of integers: splitmix64.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of one mutant.
    pub fn of(seed: u64, index: u64) -> Random {
        let mut random = Random { state: seed };
        random.state = random.next() ^ index;
        random.state = random.next();
        random
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// The next number below `limit`, which must not be zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of these, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// One of these words.
    pub fn word<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    /// One of these items, with probability proportional to its weight.
    pub fn weighted<'a, T>(&mut self, items: &'a [T], weight: impl Fn(&T) -> usize) -> &'a T {
        let mut left = self.below(items.iter().map(&weight).sum());
        let chosen = items.iter().find(|item| {
            let reached = left < weight(item);
            left = left.saturating_sub(weight(item));
            reached
        });
        chosen.unwrap_or(&items[0])
    }
}
