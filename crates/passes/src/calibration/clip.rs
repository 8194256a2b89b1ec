//! Clipping: from a histogram of magnitudes to the one that maps to the largest quantized value.

use std::fmt;
use std::str::FromStr;

use ir::DType;

use super::Histogram;

/// The clipping method of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClipMethod {
    /// At the largest magnitude: nothing is clipped.
    MinMax,
    /// At this percentile of the magnitudes.
    Percentile(f64),
    /// At the minimum KL divergence of the quantized distribution from the original one.
    Entropy,
    /// At the minimum mean square error of rounding and clipping.
    Mse,
}

impl Default for ClipMethod {
    fn default() -> ClipMethod {
        ClipMethod::Percentile(99.99)
    }
}

impl ClipMethod {
    /// One of each, with the usual parameters.
    pub const ALL: [ClipMethod; 4] =
        [ClipMethod::MinMax, ClipMethod::Percentile(99.99), ClipMethod::Entropy, ClipMethod::Mse];
}

impl fmt::Display for ClipMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClipMethod::MinMax => write!(f, "minmax"),
            ClipMethod::Percentile(percent) => write!(f, "percentile:{percent}"),
            ClipMethod::Entropy => write!(f, "entropy"),
            ClipMethod::Mse => write!(f, "mse"),
        }
    }
}

impl FromStr for ClipMethod {
    type Err = String;

    fn from_str(text: &str) -> Result<ClipMethod, String> {
        let unknown = || format!("expected minmax, percentile, percentile:99.9, entropy or mse, found `{text}`");
        Ok(match text {
            "minmax" => ClipMethod::MinMax,
            "percentile" => ClipMethod::default(),
            "entropy" => ClipMethod::Entropy,
            "mse" => ClipMethod::Mse,
            _ => {
                let percent = text.strip_prefix("percentile:").ok_or_else(unknown)?;
                let percent: f64 = percent.parse().map_err(|_| unknown())?;
                if !(percent > 0.0 && percent <= 100.0) {
                    return Err(format!("expected a percentile above 0 and at most 100, found {percent}"));
                }
                ClipMethod::Percentile(percent)
            }
        })
    }
}

/// The largest quantized value.
fn largest(to: DType) -> f64 {
    f64::from(to.largest_code().unwrap_or(1.0))
}

/// The nearest quantized value of a magnitude, ties to even; saturates.
fn nearest(magnitude: f64, to: DType) -> f64 {
    let magnitude = magnitude.min(largest(to));
    let step = match to {
        // 3 bits after the leading one; below 2^-6 the step is constant
        DType::F8E4M3 => (magnitude.max(2_f64.powi(-6)).log2().floor() - 3.0).exp2(),
        _ => 1.0,
    };
    (magnitude / step).round_ties_even() * step
}

/// A magnitude after quantization and dequantization.
fn rounded(magnitude: f64, clip: f64, to: DType) -> f64 {
    let scale = clip / largest(to);
    nearest(magnitude / scale, to) * scale
}

/// The searches try a clip every this many bins: of a range that is at least half used, 8 of 2048 are under 1 %.
const STRIDE: usize = 8;
/// The smallest clip that they try, in bins: with fewer than there are quantized magnitudes, a histogram does not
/// resolve rounding.
const LEAST: usize = 128;

/// The clip of magnitudes with this histogram, the largest of which is `absmax`.
pub(super) fn clip(histogram: &Histogram, absmax: f32, method: ClipMethod, to: DType) -> f32 {
    match method {
        ClipMethod::MinMax => absmax,
        ClipMethod::Percentile(percent) => percentile(histogram, percent).min(f64::from(absmax)) as f32,
        ClipMethod::Entropy => least(histogram, absmax, |bins, clip| divergence(histogram, bins, clip, to)),
        ClipMethod::Mse => least(histogram, absmax, |_, clip| mean_square_error(histogram, clip, to)),
    }
}

/// The upper edge of the first bin at which this share of the magnitudes is reached.
fn percentile(histogram: &Histogram, percent: f64) -> f64 {
    // every value is above the lower edge of its bin, so 100 % is the last bin's
    let wanted = (percent / 100.0 * histogram.total() as f64).ceil();
    let mut seen = 0_u64;
    let reached = |count: &u64| {
        seen += count;
        seen as f64 >= wanted
    };
    let bin = histogram.bins().iter().position(reached).unwrap_or(histogram.used().saturating_sub(1));
    (bin + 1) as f64 * histogram.width()
}

/// The clip of minimum cost, the largest of equals; the largest magnitude is a candidate.
fn least(histogram: &Histogram, absmax: f32, cost: impl Fn(usize, f64) -> f64) -> f32 {
    let used = histogram.used();
    let mut best = (cost(used, f64::from(absmax)), f64::from(absmax));
    let mut bins = used.saturating_sub(1);
    while bins >= LEAST {
        let clip = bins as f64 * histogram.width();
        let found = cost(bins, clip);
        if found < best.0 {
            best = (found, clip);
        }
        bins = bins.saturating_sub(STRIDE);
    }
    best.1 as f32
}

/// The center of a bin.
fn centre(histogram: &Histogram, bin: usize) -> f64 {
    (bin as f64 + 0.5) * histogram.width()
}

/// The mean square error of quantization, with each magnitude at the center of its bin.
pub(super) fn mean_square_error(histogram: &Histogram, clip: f64, to: DType) -> f64 {
    if clip <= 0.0 {
        return 0.0;
    }
    let counted = histogram.bins().iter().enumerate().filter(|(_, count)| **count > 0);
    let sum: f64 = counted
        .map(|(bin, count)| {
            let magnitude = centre(histogram, bin);
            *count as f64 * (magnitude - rounded(magnitude, clip, to)).powi(2)
        })
        .sum();
    sum / histogram.total().max(1) as f64
}

/// The KL divergence of the quantized distribution from the original one, as in TensorRT's calibrator: the reference is
/// the first `bins` bins with everything above added to the last; it is compared with the same bins without the values
/// above, each quantized count spread evenly over its non-empty bins.
fn divergence(histogram: &Histogram, bins: usize, clip: f64, to: DType) -> f64 {
    if bins == 0 || clip <= 0.0 {
        return 0.0;
    }
    let inside = &histogram.bins()[..bins];
    let above: u64 = histogram.bins()[bins..].iter().sum();
    let reference = |bin: usize| (inside[bin] + if bin == bins - 1 { above } else { 0 }) as f64;
    let (total, kept) = (histogram.total() as f64, inside.iter().sum::<u64>() as f64);
    let scale = clip / largest(to);
    let code = |bin: usize| nearest(centre(histogram, bin) / scale, to);
    let (mut divergence, mut start) = (0.0, 0);
    while start < bins {
        let first = code(start);
        let end = (start + 1..bins).find(|bin| code(*bin) != first).unwrap_or(bins);
        let group = start..end;
        let nonzero = group.clone().filter(|bin| reference(*bin) > 0.0).count() as f64;
        let spread = inside[group.clone()].iter().sum::<u64>() as f64 / nonzero;
        for bin in group.filter(|bin| reference(*bin) > 0.0) {
            let (p, q) = (reference(bin) / total, spread / kept);
            // q is 0 if only clipped values are in the last bin: then no quantized value covers it
            divergence += if q > 0.0 { p * (p / q).ln() } else { f64::INFINITY };
        }
        start = end;
    }
    divergence
}
