//! Cholesky factorization `A = L L^T`, in f64 and multi-threaded.

use rayon::prelude::*;

/// Columns that are finished together: a row's values fill a few cache lines.
const PANEL: usize = 64;

/// Replaces the lower triangle of a symmetric matrix, row by row in `a`, by `L`. `None` if it is not positive definite.
pub(crate) fn cholesky(a: &mut [f64], size: usize) -> Option<()> {
    for start in (0..size).step_by(PANEL) {
        let end = (start + PANEL).min(size);
        let (above, below) = a.split_at_mut(end * size);
        for row in start..end {
            let (done, rest) = above.split_at_mut(row * size);
            solve(&mut rest[..size], done, size, start..row);
            let pivot = rest[row] - square(&rest[start..row]);
            // NaN is not above 0 either
            if pivot.is_nan() || pivot <= 0.0 {
                return None;
            }
            rest[row] = pivot.sqrt();
        }
        below.par_chunks_mut(size).for_each(|row| solve(row, above, size, start..end));
        let panel: Vec<f64> = below.chunks(size).flat_map(|row| &row[start..end]).copied().collect();
        let panel: Vec<&[f64]> = panel.chunks(end - start).collect();
        below.par_chunks_mut(size).enumerate().for_each(|(index, row)| {
            for (value, other) in row[end..=end + index].iter_mut().zip(&panel) {
                *value -= dot(panel[index], other);
            }
        });
    }
    Some(())
}

/// The columns of a row of `L`, after the earlier columns have been subtracted.
fn solve(row: &mut [f64], above: &[f64], size: usize, columns: std::ops::Range<usize>) {
    for column in columns.clone() {
        let other = &above[column * size..][..size];
        let known = columns.start..column;
        row[column] = (row[column] - dot(&row[known.clone()], &other[known])) / other[column];
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn square(values: &[f64]) -> f64 {
    dot(values, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_multiply_to_the_matrix() {
        // more than two panels, the last one not full
        let size = 2 * PANEL + 5;
        let value = |row: usize, col: usize| ((row * 7 + col * 3) % 11) as f64 - 5.0;
        let mut a = vec![0.0; size * size];
        for row in 0..size {
            for col in 0..size {
                let sum: f64 = (0..size).map(|k| value(row, k) * value(col, k)).sum();
                a[row * size + col] = sum + if row == col { 1.0 } else { 0.0 };
            }
        }
        let mut l = a.clone();
        cholesky(&mut l, size).unwrap();
        for row in 0..size {
            for col in 0..=row {
                let product = dot(&l[row * size..][..=col], &l[col * size..][..=col]);
                assert!((product - a[row * size + col]).abs() < 1e-8, "{row}, {col}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_has_no_factor() {
        assert_eq!(cholesky(&mut [1.0, 2.0, 2.0, 1.0], 2), None);
        assert_eq!(cholesky(&mut [f64::NAN], 1), None);
    }
}
