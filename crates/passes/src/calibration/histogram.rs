//! Histograms of magnitudes whose range is a power of two: the result depends only on the values, not on their order,
//! and two histograms merge without loss.

/// Bins of a histogram.
pub const BINS: usize = 2048;
/// All magnitudes below this power of two are one: 2^-64 is far below the resolution of any 8-bit format.
const MIN_EXPONENT: i32 = -64;
/// Every finite value of f32 is below 2^128.
const MAX_EXPONENT: i32 = 128;

/// Maximum number of values in a text: sums of many such stay in range.
const MOST: u64 = 1 << 53;

/// Counts of magnitudes in [`BINS`] bins of equal width that cover `0..2^exponent`, the smallest such range that
/// holds them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    exponent: i32,
    bins: Vec<u64>,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { exponent: MIN_EXPONENT, bins: vec![0; BINS] }
    }
}

impl Histogram {
    /// A histogram from its parts; `bins` may omit zeros at the end.
    pub(super) fn from_parts(exponent: i32, mut bins: Vec<u64>) -> Result<Histogram, String> {
        if !(MIN_EXPONENT..=MAX_EXPONENT).contains(&exponent) {
            return Err(format!("expected an exponent in {MIN_EXPONENT}..{MAX_EXPONENT}, found {exponent}"));
        }
        if bins.len() > BINS {
            return Err(format!("expected at most {BINS} bins, found {}", bins.len()));
        }
        let total = bins.iter().try_fold(0_u64, |sum, count| sum.checked_add(*count));
        if total.is_none_or(|total| total > MOST) {
            return Err(format!("expected at most {MOST} values"));
        }
        bins.resize(BINS, 0);
        if exponent > MIN_EXPONENT && bins[BINS / 2..].iter().all(|count| *count == 0) {
            return Err("expected a count in the upper half of the range".to_owned());
        }
        Ok(Histogram { exponent, bins })
    }

    /// The range is `0..2^exponent`.
    pub fn exponent(&self) -> i32 {
        self.exponent
    }

    /// Counts, from 0 upwards.
    pub fn bins(&self) -> &[u64] {
        &self.bins
    }

    /// The width of a bin.
    pub fn width(&self) -> f64 {
        f64::from(self.exponent).exp2() / BINS as f64
    }

    /// The number of counted values.
    pub fn total(&self) -> u64 {
        self.bins.iter().sum()
    }

    /// Bins up to the last one with a count.
    pub fn used(&self) -> usize {
        self.bins.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1)
    }

    /// Counts a finite value by its magnitude.
    pub fn add(&mut self, value: f32) {
        self.add_all(&[value], value);
    }

    /// Counts many finite values, none of which is larger in magnitude than `largest`.
    pub fn add_all(&mut self, values: &[f32], largest: f32) {
        self.widen(exponent_above(f64::from(largest.abs())));
        // a power of two that f32 has, so that the product is exact; rounded down, it is the bin
        let per_width = (1.0 / self.width()) as f32;
        for value in values {
            self.bins[(value.abs() * per_width) as usize] += 1;
        }
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        self.widen(other.exponent);
        let mut other = other.clone();
        other.widen(self.exponent);
        for (count, more) in self.bins.iter_mut().zip(&other.bins) {
            *count += more;
        }
    }

    /// Doubles the range until it is at least `2^exponent`.
    fn widen(&mut self, exponent: i32) {
        while self.exponent < exponent {
            if self.used() == 0 {
                self.exponent = exponent;
                return;
            }
            for bin in 0..BINS / 2 {
                self.bins[bin] = self.bins[2 * bin] + self.bins[2 * bin + 1];
            }
            self.bins[BINS / 2..].fill(0);
            self.exponent += 1;
        }
    }
}

/// The smallest exponent whose power of two is above a magnitude.
fn exponent_above(magnitude: f64) -> i32 {
    if magnitude < f64::from(MIN_EXPONENT).exp2() {
        return MIN_EXPONENT;
    }
    // the exponent field plus one: exact for powers of two, too
    ((magnitude.to_bits() >> 52) & 0x7ff) as i32 - 1023 + 1
}
