//! Random numbers that are the same in every run.

use plan::RandomPart;

/// A stream of integers, seeded by a name.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// An independent stream per name.
    pub fn named(name: &str) -> Random {
        Random { state: RandomPart::named(name, 0, 0.0, 1.0).seed }
    }

    /// The next number below `limit`, which must not be zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        // splitmix64
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % limit
    }

    /// The same items, shuffled.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index as u64 + 1) as usize);
        }
    }
}
