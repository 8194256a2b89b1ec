//! Views of stored tensors: unpacked, transposed, row-major, one range at a time.

use std::ops::Range;

use plan::DType;

use crate::tensors::{Tensors, check_range};

/// How viewed elements are computed from stored ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    /// Same elements, same order.
    Stored,
    /// One element, repeated.
    Spread,
    /// Transposed.
    Transposed,
    /// Several packed into a word.
    Packed(Packed),
}

/// Quantized values packed into words of 32 bits, lowest bits first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Packed {
    /// Bits per value, 4 or 8.
    pub bits: u32,
    /// Whether the matrix is stored transposed.
    pub transposed: bool,
    /// The axis of the stored matrix along which values are packed.
    pub axis: usize,
    /// Position in a word of the first, second … of them.
    pub lanes: [u8; 8],
    /// What is added to a word before it is unpacked: versions of a format differ by it.
    pub add: u32,
}

/// Packed in order.
pub(crate) const IN_ORDER: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// A viewed matrix.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct View {
    pub dtype: DType,
    pub shape: [u64; 2],
    pub form: Form,
    /// Whether E8M0 bytes are stored, which mean powers of two in f32.
    pub exponents: bool,
}

/// The E8M0 code of NaN.
pub(crate) const E8M0_NAN: u8 = 255;

/// The value of an E8M0 byte: 2 to the power of the byte minus 127.
fn power_of_two(code: u8) -> f32 {
    match code {
        // below the least exponent that f32 has
        0 => f32::MIN_POSITIVE / 2.0,
        E8M0_NAN => f32::NAN,
        code => f32::from_bits(u32::from(code) << 23),
    }
}

impl Packed {
    /// Values per word.
    pub fn per_word(self) -> u64 {
        u64::from(32 / self.bits)
    }
}

impl View {
    /// Copies elements of the tensor of this name.
    pub fn read(&self, name: &str, tensors: &Tensors, elements: Range<u64>, out: &mut [u8]) -> Result<(), String> {
        let size = self.dtype.bytes();
        check_range(name, &elements, self.shape.iter().product(), size, out.len())?;
        let bytes = tensors.bytes(name).ok_or_else(|| format!("there is no tensor `{name}`"))?;
        if self.exponents {
            let mut codes = vec![0; (elements.end - elements.start) as usize];
            self.place(bytes, 1, elements, &mut codes);
            DType::F32.encode(codes.into_iter().map(power_of_two), out);
        } else {
            self.place(bytes, size, elements, out);
        }
        Ok(())
    }

    /// Writes stored elements of this size, of a range in bounds, to their place in the view.
    fn place(&self, bytes: &[u8], size: u64, elements: Range<u64>, out: &mut [u8]) {
        match self.form {
            Form::Stored => {
                out.copy_from_slice(&bytes[(elements.start * size) as usize..(elements.end * size) as usize])
            }
            Form::Spread => out.chunks_exact_mut(size as usize).for_each(|cell| cell.copy_from_slice(bytes)),
            Form::Transposed => {
                let [rows, cols] = self.shape;
                for (element, cell) in elements.zip(out.chunks_exact_mut(size as usize)) {
                    let at = ((element % cols * rows + element / cols) * size) as usize;
                    cell.copy_from_slice(&bytes[at..at + size as usize]);
                }
            }
            Form::Packed(packed) => self.unpack(packed, bytes.as_chunks().0, elements, out),
        }
    }

    /// Unpacks a range and subtracts half of the number of values: 0 to 15 become -8 to 7.
    fn unpack(&self, packed: Packed, words: &[[u8; 4]], elements: Range<u64>, out: &mut [u8]) {
        let per_word = packed.per_word();
        let (mask, half) = ((1 << packed.bits) - 1, 1 << (packed.bits - 1));
        let stored_cols = self.stored_cols(packed);
        let code = |row: u64, col: u64| {
            let mut at = if packed.transposed { [col, row] } else { [row, col] };
            let lane = packed.lanes[(at[packed.axis] % per_word) as usize];
            at[packed.axis] /= per_word;
            let word = u32::from_le_bytes(words[(at[0] * stored_cols + at[1]) as usize]).wrapping_add(packed.add);
            ((word >> (u32::from(lane) * packed.bits) & mask) as i32 - half) as u8
        };
        let mut out = out;
        for Rectangle { rows, cols } in rectangles(elements, self.shape[1]) {
            let width = (cols.end - cols.start) as usize;
            let (part, rest) = out.split_at_mut((rows.end - rows.start) as usize * width);
            let mut put = |row: u64, col: u64| {
                part[(row - rows.start) as usize * width + (col - cols.start) as usize] = code(row, col);
            };
            // in storage order
            match packed.transposed {
                true => cols.clone().for_each(|col| rows.clone().for_each(|row| put(row, col))),
                false => rows.clone().for_each(|row| cols.clone().for_each(|col| put(row, col))),
            }
            out = rest;
        }
    }

    /// Words per stored row.
    fn stored_cols(&self, packed: Packed) -> u64 {
        let cols = if packed.transposed { self.shape[0] } else { self.shape[1] };
        if packed.axis == 1 { cols.div_ceil(packed.per_word()) } else { cols }
    }

    /// Whether all elements of a matrix of quantized values are zero.
    pub fn is_zero(&self, name: &str, tensors: &Tensors) -> bool {
        let elements: u64 = self.shape.iter().product();
        let mut codes = vec![0; elements as usize];
        self.read(name, tensors, 0..elements, &mut codes).is_ok() && codes.iter().all(|code| *code == 0)
    }
}

/// Some columns of some rows.
struct Rectangle {
    rows: Range<u64>,
    cols: Range<u64>,
}

/// A range of elements as at most three rectangles, in order: the end of a row, whole rows, the start of one.
fn rectangles(elements: Range<u64>, width: u64) -> impl Iterator<Item = Rectangle> {
    let (first, last) = (elements.start.div_ceil(width), elements.end / width);
    let part = |start: u64, end: u64| {
        let row = start / width;
        Rectangle { rows: row..row + 1, cols: start - row * width..end - row * width }
    };
    let parts = match first <= last {
        true => vec![
            part(elements.start, first * width),
            Rectangle { rows: first..last, cols: 0..width },
            part(last * width, elements.end),
        ],
        // within one row
        false => vec![part(elements.start, elements.end)],
    };
    parts.into_iter().filter(|part| !part.rows.is_empty() && !part.cols.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_e8m0_are_powers_of_two() {
        let cases =
            [(0, 2f32.powi(-127)), (1, 2f32.powi(-126)), (126, 0.5), (127, 1.0), (130, 8.0), (254, 2f32.powi(127))];
        cases.into_iter().for_each(|(code, expected)| assert_eq!(power_of_two(code), expected, "{code}"));
        assert!(power_of_two(E8M0_NAN).is_nan());
    }

    #[test]
    fn rectangles_cover_a_range_in_order() {
        for (start, end) in (0..=12).flat_map(|end| (0..=end).map(move |start| (start, end))) {
            let covered: Vec<u64> = rectangles(start..end, 4)
                .flat_map(|Rectangle { rows, cols }| {
                    rows.flat_map(move |row| cols.clone().map(move |col| row * 4 + col))
                })
                .collect();
            assert_eq!(covered, (start..end).collect::<Vec<_>>(), "{start}..{end}");
        }
    }
}
