//! Conversion to and from floating point in 8 bits: sign, 4 bits of exponent with a bias of 7, 3 of mantissa. All ones is
//! NaN, there is no infinity. (OCP 8-bit Floating Point Specification 1.0, E4M3.)

/// The largest finite number.
pub const MAX: f32 = 448.0;
const NAN: u8 = 0x7f;

/// The number of a code.
#[inline]
pub fn decode(code: u8) -> f32 {
    if code & NAN == NAN {
        return f32::NAN;
    }
    // the same bits with the exponent of binary32, whose bias is larger by 120; subnormals come out right, too
    let magnitude = f32::from_bits(u32::from(code & NAN) << 20) * 2f32.powi(120);
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The nearest code, ties to even; what is larger than [`MAX`] becomes that.
#[inline]
pub fn encode(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    if value.is_nan() {
        return sign | NAN;
    }
    let magnitude = value.abs().min(MAX);
    if magnitude < 2f32.powi(-6) {
        // subnormal: multiples of 2^-9; eight of them are the smallest normal number, whose code is 8
        return sign | (magnitude * 512.0).round_ties_even() as u8;
    }
    let bits = magnitude.to_bits();
    // half of what is cut off, less one where the bit that stays is even
    let rounded = bits + 0x7_ffff + ((bits >> 20) & 1);
    sign | ((rounded >> 20) - (120 << 3)) as u8
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
