//! Conversion to and from floating point in 8 bits: sign, 4 bits of exponent with a bias of 7, 3 of mantissa. All ones
//! is NaN, there is no infinity. (OCP 8-bit Floating Point Specification 1.0, E4M3.)

/// The largest finite number.
pub const MAX: f32 = 448.0;
const NAN: u8 = 0x7f;

/// The value of a byte.
#[inline]
pub fn decode(code: u8) -> f32 {
    if code & NAN == NAN {
        return f32::NAN;
    }
    // the same bits with the exponent of binary32, whose bias is larger by 120; correct for subnormals, too
    let magnitude = f32::from_bits(u32::from(code & NAN) << 20) * 2f32.powi(120);
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The nearest byte, ties to even; values above [`MAX`] saturate.
#[inline]
pub fn encode(value: f32) -> u8 {
    // without branches, so that loops over it become vectors
    let magnitude = value.abs().min(MAX);
    let bits = magnitude.to_bits();
    // half of the dropped part, minus one if the last kept bit is even
    let rounded = bits + 0x7_ffff + ((bits >> 20) & 1);
    let normal = (rounded >> 20).wrapping_sub(120 << 3);
    // multiples of 2^-9, the last place of a sum with 2^14; eight of them are the smallest normal number, byte 8
    let subnormal = (magnitude + 2f32.powi(14)).to_bits();
    let code = if magnitude < 2f32.powi(-6) { subnormal } else { normal };
    let code = if value.is_nan() { u32::from(NAN) } else { code };
    ((value.to_bits() >> 24) & 0x80 | code & 0x7f) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back() {
        for code in 0..=u8::MAX {
            let value = decode(code);
            assert!(value.is_nan() == (code & NAN == NAN), "{code:#x}");
            let again = encode(value);
            assert!(again == code || (value.is_nan() && decode(again).is_nan()), "{value}");
        }
        assert_eq!([decode(0x01), decode(0x08), decode(0x38), decode(0x7e)], [1.0 / 512.0, 1.0 / 64.0, 1.0, MAX]);
    }

    #[test]
    fn what_lies_between_two_codes_goes_to_the_nearer_or_the_even_one() {
        for code in 0..0x7e {
            let (low, high) = (decode(code), decode(code + 1));
            let middle = (low + high) / 2.0;
            let even = if code % 2 == 0 { code } else { code + 1 };
            assert_eq!((encode(middle), encode(-middle)), (even, even | 0x80), "{middle}");
            assert_eq!(encode(f32::from_bits(middle.to_bits() - 1)), code);
            assert_eq!(encode(f32::from_bits(middle.to_bits() + 1)), code + 1);
        }
        assert_eq!(
            (encode(449.0), encode(1e30), encode(f32::INFINITY), encode(f32::NEG_INFINITY)),
            (0x7e, 0x7e, 0x7e, 0xfe)
        );
        assert_eq!((encode(0.0), encode(-0.0), encode(1e-30)), (0, 0x80, 0));
    }
}
