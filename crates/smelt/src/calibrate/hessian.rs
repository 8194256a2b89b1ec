//! Sums of `x x^T` over rows, on all threads. Each sum has one order, whatever the number of threads.

use rayon::prelude::*;

/// Rows of the sum that a thread works on at a time: they stay in its cache while all rows of `x` are added.
const STRIP: usize = 16;

/// The sum of `x x^T` over the rows of a tensor.
pub(super) struct Hessian {
    channels: usize,
    /// The upper triangle, row by row; the rest is zero.
    sums: Vec<f32>,
}

impl Hessian {
    /// An empty sum.
    pub fn new(channels: usize) -> Hessian {
        Hessian { channels, sums: vec![0.0; channels * channels] }
    }

    /// Adds rows.
    pub fn add(&mut self, values: &[f32]) {
        let channels = self.channels;
        self.sums.par_chunks_mut(STRIP * channels).enumerate().for_each(|(strip, sums)| {
            for row in values.chunks_exact(channels) {
                for (place, sums) in sums.chunks_exact_mut(channels).enumerate() {
                    let from = strip * STRIP + place;
                    let factor = row[from];
                    sums[from..].iter_mut().zip(&row[from..]).for_each(|(sum, value)| *sum += factor * value);
                }
            }
        });
    }

    /// The mean over this many rows, as a full symmetric matrix.
    pub fn mean(mut self, rows: u64) -> Vec<f32> {
        let (channels, rows) = (self.channels, rows.max(1) as f32);
        self.sums.par_iter_mut().for_each(|sum| *sum /= rows);
        for row in 0..channels {
            for column in row + 1..channels {
                self.sums[column * channels + row] = self.sums[row * channels + column];
            }
        }
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rows_by_hand() {
        let mut hessian = Hessian::new(2);
        hessian.add(&[1.0, 2.0]);
        hessian.add(&[3.0, -1.0]);
        // ([1 2; 2 4] + [9 -3; -3 1]) / 2
        assert_eq!(hessian.mean(2), [5.0, -0.5, -0.5, 2.5]);
    }
}
