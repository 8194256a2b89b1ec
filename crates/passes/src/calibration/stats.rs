//! Statistics of one tensor: of all values, per channel, per token.

use ir::DType;

use super::{CalibrationError, ClipMethod, Histogram, clip};

/// Statistics of a tensor over all tokens of a run. A row is a token; a channel is an index in it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorStats {
    /// Number of rows.
    pub tokens: u64,
    /// The smallest value; infinite if there were none.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// The largest magnitude in each channel.
    pub channel_absmax: Vec<f32>,
    /// The mean of squares in each channel.
    pub channel_mean_square: Vec<f32>,
    /// Magnitudes of all values.
    pub histogram: Histogram,
    /// The largest magnitude of each row.
    pub token_absmax: Histogram,
    /// Number of values that are not finite: everywhere else they count as 0.
    pub nan: u64,
}

impl TensorStats {
    /// Statistics of a tensor without rows.
    pub fn new(channels: usize) -> TensorStats {
        TensorStats {
            tokens: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            channel_absmax: vec![0.0; channels],
            channel_mean_square: vec![0.0; channels],
            histogram: Histogram::default(),
            token_absmax: Histogram::default(),
            nan: 0,
        }
    }

    /// Statistics of these rows.
    pub fn of(channels: usize, values: &[f32]) -> TensorStats {
        let mut stats = TensorStats::new(channels);
        let mut squares = vec![0.0_f64; channels];
        let mut finite = Vec::new();
        for row in values.chunks_exact(channels.max(1)) {
            let row = if row.iter().all(|value| value.is_finite()) {
                row
            } else {
                stats.nan += row.iter().filter(|value| !value.is_finite()).count() as u64;
                finite.clear();
                finite.extend(row.iter().map(|value| if value.is_finite() { *value } else { 0.0 }));
                &finite
            };
            let mut largest = 0.0_f32;
            for ((value, absmax), square) in row.iter().zip(&mut stats.channel_absmax).zip(&mut squares) {
                let magnitude = value.abs();
                largest = largest.max(magnitude);
                *absmax = absmax.max(magnitude);
                *square += f64::from(*value) * f64::from(*value);
                stats.min = stats.min.min(*value);
                stats.max = stats.max.max(*value);
            }
            stats.histogram.add_all(row, largest);
            stats.token_absmax.add(largest);
            stats.tokens += 1;
        }
        let tokens = stats.tokens.max(1) as f64;
        stats.channel_mean_square = squares.iter().map(|sum| (sum / tokens).min(f32::MAX.into()) as f32).collect();
        // -0.0 to 0.0, whichever came first
        stats.min += 0.0;
        stats.max += 0.0;
        stats
    }

    /// Values per row.
    pub fn channels(&self) -> usize {
        self.channel_absmax.len()
    }

    /// The largest magnitude.
    pub fn absmax(&self) -> f32 {
        self.channel_absmax.iter().fold(0.0, |largest, value| largest.max(*value))
    }

    /// The clip of a method for quantization to this dtype, with one scale for the whole tensor.
    pub fn clip(&self, method: ClipMethod, to: DType) -> f32 {
        clip::clip(&self.histogram, self.absmax(), method, to)
    }

    /// Adds statistics of the same tensor from elsewhere.
    pub fn merge(&mut self, other: &TensorStats) -> Result<(), CalibrationError> {
        let (ours, theirs) = (self.channels(), other.channels());
        if ours != theirs {
            return Err(CalibrationError::Merge(format!("expected {ours} channels, found {theirs}")));
        }
        let (a, b) = (self.tokens as f64, other.tokens as f64);
        for (mean, more) in self.channel_mean_square.iter_mut().zip(&other.channel_mean_square) {
            if a + b > 0.0 {
                *mean = ((f64::from(*mean) * a + f64::from(*more) * b) / (a + b)) as f32;
            }
        }
        for (absmax, more) in self.channel_absmax.iter_mut().zip(&other.channel_absmax) {
            *absmax = absmax.max(*more);
        }
        self.tokens += other.tokens;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.histogram.merge(&other.histogram);
        self.token_absmax.merge(&other.token_absmax);
        self.nan = self.nan.saturating_add(other.nan);
        Ok(())
    }
}
