//! Derived weights: constants that passes compute, in addition to those of a checkpoint, such as scales and quantized
//! values.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use plan::{DType, RandomPart};

use crate::WeightSource;

/// A source of weights to which passes add tensors.
pub struct DerivedWeights<'a> {
    source: &'a dyn WeightSource,
    made: RwLock<BTreeMap<String, Made>>,
}

/// An added tensor.
#[derive(PartialEq)]
enum Made {
    /// Its bytes; 4-bit values are packed in pairs.
    Values { dtype: DType, bytes: Vec<u8> },
    /// Rows of another tensor, each multiplied by its own factor.
    Rows { of: String, dtype: DType, width: u64, factors: Vec<f32> },
}

impl Made {
    fn values(dtype: DType, values: &[f32]) -> Made {
        let mut bytes = vec![0; values.len() * dtype.bytes() as usize];
        dtype.encode(values.iter().copied(), &mut bytes);
        if dtype == DType::I4 {
            bytes = bytes.chunks(2).map(|pair| pair[0] & 0xf | pair.get(1).unwrap_or(&0) << 4).collect();
        }
        Made::Values { dtype, bytes }
    }
}

impl<'a> DerivedWeights<'a> {
    /// The tensors of a source, without additions.
    pub fn over(source: &'a dyn WeightSource) -> DerivedWeights<'a> {
        DerivedWeights { source, made: RwLock::default() }
    }

    /// Adds a tensor of these values, each rounded to `dtype`, replacing one of the same key.
    pub fn add(&self, key: &str, dtype: DType, values: &[f32]) {
        self.insert(key, Made::values(dtype, values));
    }

    /// The key for a tensor of these values: `key`, or one derived from it if others have taken that. Several passes
    /// may store tensors for the same value, and none may replace what an op of another reads.
    pub fn keep(&self, key: &str, dtype: DType, values: &[f32]) -> String {
        let made = Made::values(dtype, values);
        let mut known = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let keys = (0..).map(|index| if index == 0 { key.to_owned() } else { format!("{key}.{index}") });
        let free = |key: &String| known.get(key).is_none_or(|found| *found == made);
        let key = keys.into_iter().find(free).expect("some number is free");
        known.insert(key.clone(), made);
        key
    }

    /// Adds a matrix of `dtype` and `width` columns: the rows of `of`, which has that dtype, each multiplied by its
    /// factor. They are computed when they are read.
    pub fn add_scaled_rows(&self, key: &str, of: &str, dtype: DType, width: u64, factors: Vec<f32>) {
        self.insert(key, Made::Rows { of: of.to_owned(), dtype, width, factors });
    }

    /// Whether a tensor of this key was added.
    pub fn made(&self, key: &str) -> bool {
        self.made.read().unwrap_or_else(PoisonError::into_inner).contains_key(key)
    }

    /// The values of an added tensor.
    pub fn values(&self, key: &str) -> Option<Vec<f32>> {
        match self.made.read().unwrap_or_else(PoisonError::into_inner).get(key)? {
            Made::Values { dtype, bytes } if *dtype != DType::I4 => Some(dtype.decode(bytes)),
            _ => None,
        }
    }

    fn insert(&self, key: &str, made: Made) {
        self.made.write().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), made);
    }
}

impl fmt::Debug for DerivedWeights<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_tuple("DerivedWeights").field(&made.keys().collect::<Vec<_>>()).finish()
    }
}

impl WeightSource for DerivedWeights<'_> {
    fn read(&self, key: &str, elements: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        match made.get(key) {
            None => self.source.read(key, elements, out),
            Some(Made::Values { dtype: DType::I4, bytes }) => {
                for (index, cell) in elements.zip(out) {
                    let pair = bytes.get((index / 2) as usize).ok_or_else(|| outside(key))?;
                    // sign-extends four bits to eight
                    *cell = ((pair << if index % 2 == 0 { 4 } else { 0 }) as i8 >> 4) as u8;
                }
                Ok(())
            }
            Some(Made::Values { dtype, bytes }) => {
                let range = (elements.start * dtype.bytes()) as usize..(elements.end * dtype.bytes()) as usize;
                out.copy_from_slice(bytes.get(range).ok_or_else(|| outside(key))?);
                Ok(())
            }
            Some(Made::Rows { of, dtype, width, factors }) => {
                self.source.read(of, elements.clone(), out)?;
                let mut values = dtype.decode(out);
                for (index, value) in elements.zip(&mut values) {
                    *value *= factors.get((index / width) as usize).ok_or_else(|| outside(key))?;
                }
                dtype.encode(values, out);
                Ok(())
            }
        }
    }

    fn random(&self, key: &str) -> Option<RandomPart> {
        if self.made(key) { None } else { self.source.random(key) }
    }
}

fn outside(key: &str) -> String {
    format!("elements outside of `{key}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoWeights;

    #[test]
    fn what_was_added_is_read() {
        let weights = DerivedWeights::over(&NoWeights);
        weights.add("codes", DType::I4, &[-8.0, 7.0, -1.0, 0.0, 3.0]);
        let mut bytes = [0; 4];
        weights.read("codes", 1..5, &mut bytes).unwrap();
        assert_eq!(DType::I4.decode(&bytes), [7.0, -1.0, 0.0, 3.0]);
        weights.add("scales", DType::BF16, &[1.0, -0.5]);
        let mut bytes = [0; 2];
        weights.read("scales", 1..2, &mut bytes).unwrap();
        assert_eq!(DType::BF16.decode(&bytes), [-0.5]);
        assert!(weights.read("scales", 1..3, &mut [0; 4]).unwrap_err().contains("outside of `scales`"));
        assert!(weights.read("other", 0..1, &mut bytes).unwrap_err().contains("no tensor `other`"));
    }

    #[test]
    fn what_is_kept_takes_no_key_of_other_values() {
        let weights = DerivedWeights::over(&NoWeights);
        let keep = |value| weights.keep("by", DType::F32, &[value]);
        assert_eq!([keep(1.0), keep(2.0), keep(1.0), keep(3.0)], ["by", "by.1", "by", "by.2"]);
        assert_eq!(weights.values("by"), Some(vec![1.0]));
    }

    #[test]
    fn rows_are_scaled_as_they_are_read() {
        let source = DerivedWeights::over(&NoWeights);
        source.add("w", DType::F32, &[1.0, 2.0, 3.0, 4.0]);
        let weights = DerivedWeights::over(&source);
        weights.add_scaled_rows("w.rows", "w", DType::F32, 2, vec![2.0, 0.5]);
        let mut bytes = [0; 12];
        weights.read("w.rows", 1..4, &mut bytes).unwrap();
        assert_eq!(DType::F32.decode(&bytes), [4.0, 1.5, 2.0]);
    }
}
