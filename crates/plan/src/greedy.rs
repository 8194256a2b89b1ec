//! Greedy sampling, as in the interpreter and on the CPU; `kernels/sampling/argmax.cuh` does the same.

/// The index of the largest logit of a row, the smallest such index on a tie. The result is -1 for a row with a NaN or
/// positive infinity, or without a finite logit; negative infinity excludes its token.
pub fn most_likely(logits: &[f32]) -> i32 {
    let (mut best, mut token) = (f32::NEG_INFINITY, -1);
    for (index, logit) in logits.iter().enumerate() {
        if logit.is_nan() || *logit == f32::INFINITY {
            return -1;
        }
        if *logit > best {
            (best, token) = (*logit, index as i32);
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_or_nothing() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let cases: &[(&[f32], i32)] = &[
            (&[1.0, 3.0, 3.0, 2.0], 1),
            (&[-2.0, -1.0], 1),
            (&[0.0, -0.0], 0),
            (&[-inf, -5.0, -inf], 1),
            (&[f32::MAX, f32::MIN], 0),
            (&[-inf, -inf], -1),
            (&[], -1),
            (&[nan, 1.0], -1),
            (&[1.0, -nan], -1),
            (&[1.0, inf, 2.0], -1),
            (&[inf, nan], -1),
        ];
        for (logits, token) in cases {
            assert_eq!(most_likely(logits), *token, "{logits:?}");
        }
    }
}
