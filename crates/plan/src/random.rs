//! Seeded random weights, defined on integers so that every device generates the same bits.

use serde::{Deserialize, Serialize};

/// A run of random values. Element `i` is `mean + std * z(seed, i)`, computed in f32, where `z` adds the four 16-bit
/// quarters of `splitmix64(seed + i * gamma)`: an Irwin-Hall variable of order four, centred and scaled to unit
/// variance. Its bell ends at 3.46 deviations; integer arithmetic makes it equal on every machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RandomPart {
    /// Seed of this run: depends on the tensor's name alone.
    pub seed: u64,
    /// Values in the run.
    pub elements: u64,
    /// Mean.
    pub mean: f32,
    /// Standard deviation.
    pub std: f32,
}

/// The increment of splitmix64, 2^64 over the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
/// Four uniform variables on 0..=65535 have mean 2 * 65535 and variance (65536^2 - 1) / 3.
const CENTRE: i32 = 2 * 65535;
const UNIT: f32 = 1.0 / 37837.227;

impl RandomPart {
    /// The largest deviation from the mean, in standard deviations, rounded down.
    pub const BOUND: f32 = 3.46;

    /// A run whose seed is a hash of `name`.
    pub fn named(name: &str, elements: u64, mean: f32, std: f32) -> RandomPart {
        let hash = blake3::hash(name.as_bytes());
        let mut seed = [0; 8];
        seed.copy_from_slice(&hash.as_bytes()[..8]);
        RandomPart { seed: u64::from_le_bytes(seed), elements, mean, std }
    }

    /// The value of element `index`.
    #[inline]
    pub fn value(&self, index: u64) -> f32 {
        let mut bits = self.seed.wrapping_add(index.wrapping_mul(GAMMA));
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let sum = (bits & 0xffff) + ((bits >> 16) & 0xffff) + ((bits >> 32) & 0xffff) + (bits >> 48);
        self.mean + self.std * ((sum as i32 - CENTRE) as f32 * UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_moments_they_claim() {
        let part = RandomPart::named("model.layers.0.mlp.up_proj.weight", 1 << 18, 1.0, 0.02);
        let values: Vec<f64> = (0..part.elements).map(|i| f64::from(part.value(i))).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert!((mean - 1.0).abs() < 2e-4, "{mean}");
        assert!((variance.sqrt() - 0.02).abs() < 2e-4, "{}", variance.sqrt());
    }

    #[test]
    fn names_give_different_runs() {
        let a = RandomPart::named("a", 8, 0.0, 1.0);
        let b = RandomPart::named("b", 8, 0.0, 1.0);
        assert_ne!(a.value(0), b.value(0));
        assert_ne!(a.value(0), a.value(1));
    }
}
