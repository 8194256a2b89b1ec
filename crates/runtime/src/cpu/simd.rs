//! Eight f32 lanes: on x86-64 with AVX2, FMA and F16C in one register, elsewhere as an array. A sum over a row is eight
//! interleaved sums, combined in one fixed order, whatever the number of rows or threads.

use half::{bf16, f16};
use plan::{DType, e4m3};

/// Lanes of a vector.
pub(super) const LANES: usize = 8;

/// An element that widens to f32.
pub(super) trait Element: Copy + Send + Sync + 'static {
    fn widen(self) -> f32;

    /// The nearest element, ties to even.
    fn narrow(value: f32) -> Self;

    /// Writes the element atomically, since other threads may write it at the same time.
    ///
    /// # Safety
    /// `at` must be valid, aligned, and touched by nothing but this meanwhile.
    unsafe fn store_shared(self, at: *mut Self);

    /// Eight elements, widened into a register.
    ///
    /// # Safety
    /// `at` must be valid for eight elements, the CPU must have AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_avx2(at: *const Self) -> std::arch::x86_64::__m256;

    /// The same for elements that are known not to be NaN, which may take fewer instructions.
    ///
    /// # Safety
    /// As [`Element::load_avx2`].
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_finite_avx2(at: *const Self) -> std::arch::x86_64::__m256 {
        // SAFETY: promised by the caller.
        unsafe { Self::load_avx2(at) }
    }
}

/// Eight lanes.
pub(super) trait Lanes: Copy {
    fn splat(value: f32) -> Self;

    /// Eight elements, widened.
    ///
    /// # Safety
    /// `at` must be valid for eight elements.
    unsafe fn load<E: Element>(at: *const E) -> Self;

    /// Eight elements that are not NaN, widened.
    ///
    /// # Safety
    /// `at` must be valid for eight elements.
    #[inline(always)]
    unsafe fn load_finite<E: Element>(at: *const E) -> Self {
        // SAFETY: promised by the caller.
        unsafe { Self::load(at) }
    }

    /// Eight 4-bit values, widened, the low half of each byte first.
    ///
    /// # Safety
    /// `at` must be valid for four bytes.
    unsafe fn load_packed(at: *const u8) -> Self;

    /// # Safety
    /// `at` must be valid for eight elements.
    unsafe fn store(self, at: *mut f32);

    /// `self + a * b`
    fn add_product(self, a: Self, b: Self) -> Self;

    fn times(self, other: Self) -> Self;

    fn minus(self, other: Self) -> Self;

    /// `((l0 + l4) + (l2 + l6)) + ((l1 + l5) + (l3 + l7))`
    fn sum(self) -> f32;
}

/// Lanes as an array, for every CPU.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Lanes for Portable {
    #[inline(always)]
    fn splat(value: f32) -> Portable {
        Portable([value; LANES])
    }

    #[inline(always)]
    unsafe fn load<E: Element>(at: *const E) -> Portable {
        // SAFETY: promised by the caller.
        Portable(std::array::from_fn(|lane| unsafe { at.add(lane).read() }.widen()))
    }

    #[inline(always)]
    unsafe fn load_packed(at: *const u8) -> Portable {
        // SAFETY: promised by the caller.
        let codes = u32::from_le_bytes(unsafe { at.cast::<[u8; 4]>().read() });
        Portable(std::array::from_fn(|lane| ((codes << (28 - 4 * lane)) as i32 >> 28) as f32))
    }

    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: promised by the caller.
        unsafe { at.cast::<[f32; LANES]>().write_unaligned(self.0) };
    }

    #[inline(always)]
    fn add_product(self, a: Portable, b: Portable) -> Portable {
        Portable(std::array::from_fn(|lane| self.0[lane] + a.0[lane] * b.0[lane]))
    }

    #[inline(always)]
    fn times(self, other: Portable) -> Portable {
        Portable(std::array::from_fn(|lane| self.0[lane] * other.0[lane]))
    }

    #[inline(always)]
    fn minus(self, other: Portable) -> Portable {
        Portable(std::array::from_fn(|lane| self.0[lane] - other.0[lane]))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let l = self.0;
        ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
    }
}

/// [`Element::store_shared`] by the atomic type of the element's size.
macro_rules! store_shared {
    ($atomic:ident, $value:ident => $bits:expr) => {
        #[inline(always)]
        unsafe fn store_shared(self, at: *mut Self) {
            let $value = self;
            // SAFETY: promised by the caller; the types have one size.
            let place = unsafe { std::sync::atomic::$atomic::from_ptr(at.cast()) };
            place.store($bits, std::sync::atomic::Ordering::Relaxed);
        }
    };
}

impl Element for f32 {
    store_shared!(AtomicU32, value => value.to_bits());

    #[inline(always)]
    fn narrow(value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_avx2(at: *const f32) -> std::arch::x86_64::__m256 {
        // SAFETY: promised by the caller.
        unsafe { std::arch::x86_64::_mm256_loadu_ps(at) }
    }
}

impl Element for bf16 {
    store_shared!(AtomicU16, value => value.to_bits());

    #[inline(always)]
    fn narrow(value: f32) -> bf16 {
        bf16::from_f32(value)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_avx2(at: *const bf16) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::*;
        // SAFETY: promised by the caller.
        unsafe {
            let halves = _mm_loadu_si128(at.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
        }
    }
}

impl Element for f16 {
    store_shared!(AtomicU16, value => value.to_bits());

    #[inline(always)]
    fn narrow(value: f32) -> f16 {
        f16::from_f32(value)
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_avx2(at: *const f16) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::*;
        // SAFETY: promised by the caller.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
}

impl Element for i8 {
    store_shared!(AtomicI8, value => value);

    #[inline(always)]
    fn narrow(value: f32) -> i8 {
        DType::I8.round(value) as i8
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_avx2(at: *const i8) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::*;
        // SAFETY: promised by the caller.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) }
    }
}

/// A floating-point value of [`DType::F8E4M3`].
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct E4m3(pub u8);

impl Element for E4m3 {
    store_shared!(AtomicU8, value => value.0);

    #[inline(always)]
    fn narrow(value: f32) -> E4m3 {
        E4m3(e4m3::encode(value))
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        e4m3::decode(self.0)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_avx2(at: *const E4m3) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::*;
        // SAFETY: promised by the caller.
        unsafe {
            let values = E4m3::load_finite_avx2(at);
            // NaN becomes 480 there, which is infinite after the product, and 448 is not
            let far = _mm256_mul_ps(values, _mm256_set1_ps(f32::MAX / 460.0));
            _mm256_fmadd_ps(far, _mm256_setzero_ps(), values)
        }
    }

    /// NaN would become 480.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_finite_avx2(at: *const E4m3) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::*;
        // SAFETY: promised by the caller.
        unsafe {
            // the sign moves to the top followed by copies of it, which the mask removes
            let codes = _mm256_slli_epi32::<20>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast())));
            let bits = _mm256_and_si256(codes, _mm256_set1_epi32(0x87f0_0000_u32 as i32));
            // the exponent's bias is larger by 120
            _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(f32::from_bits((127 + 120) << 23)))
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{Element, Lanes};

    /// Lanes in one AVX register. Only for functions compiled for AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub struct Avx2(__m256);

    impl Lanes for Avx2 {
        #[inline(always)]
        fn splat(value: f32) -> Avx2 {
            // SAFETY: this type is used only where AVX2 was found.
            Avx2(unsafe { _mm256_set1_ps(value) })
        }

        #[inline(always)]
        unsafe fn load<E: Element>(at: *const E) -> Avx2 {
            // SAFETY: promised by the caller; this type is used only where AVX2 and F16C were found.
            Avx2(unsafe { E::load_avx2(at) })
        }

        #[inline(always)]
        unsafe fn load_finite<E: Element>(at: *const E) -> Avx2 {
            // SAFETY: promised by the caller; this type is used only where AVX2 and F16C were found.
            Avx2(unsafe { E::load_finite_avx2(at) })
        }

        #[inline(always)]
        unsafe fn load_packed(at: *const u8) -> Avx2 {
            // SAFETY: promised by the caller; this type is used only where AVX2 was found.
            unsafe {
                // each lane has all eight values, and shifts its own to the top
                let codes = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
                let own = _mm256_sllv_epi32(codes, _mm256_setr_epi32(28, 24, 20, 16, 12, 8, 4, 0));
                Avx2(_mm256_cvtepi32_ps(_mm256_srai_epi32::<28>(own)))
            }
        }

        #[inline(always)]
        unsafe fn store(self, at: *mut f32) {
            // SAFETY: promised by the caller.
            unsafe { _mm256_storeu_ps(at, self.0) };
        }

        #[inline(always)]
        fn add_product(self, a: Avx2, b: Avx2) -> Avx2 {
            // SAFETY: this type is used only where FMA was found.
            Avx2(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
        }

        #[inline(always)]
        fn times(self, other: Avx2) -> Avx2 {
            // SAFETY: this type is used only where AVX2 was found.
            Avx2(unsafe { _mm256_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn minus(self, other: Avx2) -> Avx2 {
            // SAFETY: this type is used only where AVX2 was found.
            Avx2(unsafe { _mm256_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: this type is used only where AVX2 was found.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
    }
}

/// Prefetches the cache line at an address, which need not be valid.
#[inline(always)]
pub(super) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has it, and it has no visible effect.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Whether the CPU has the features of [`Avx2`]. The answer is cached by the standard library.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// The vector instructions that kernels use on this machine.
pub fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        return "avx2";
    }
    "portable"
}

/// Runs a function generic over [`Lanes`] with the best instruction set of the CPU.
///
/// `dispatch!(fn name<E: Element>(a: A, b: B) -> R = body)` defines `name`, where `body` is a function `body<L: Lanes,
/// E: Element>(a, b)` marked `#[inline(always)]`. Constants of the body follow it: `= body, true`.
macro_rules! dispatch {
    (
        $(#[$meta:meta])*
        fn $name:ident<$($element:ident: $bound:ident),+>($($arg:ident: $ty:ty),* $(,)?) -> $ret:ty =
            $body:ident $(, $constant:literal)*
    ) => {
        $(#[$meta])*
        fn $name<$($element: $bound),+>($($arg: $ty),*) -> $ret {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn with_avx2<$($element: $bound),+>($($arg: $ty),*) -> $ret {
                    $body::<$crate::cpu::simd::Avx2, $($element),+ $(, $constant)*>($($arg),*)
                }
                if $crate::cpu::simd::has_avx2() {
                    // SAFETY: the features were found.
                    return unsafe { with_avx2::<$($element),+>($($arg),*) };
                }
            }
            $body::<$crate::cpu::simd::Portable, $($element),+ $(, $constant)*>($($arg),*)
        }
    };
}
pub(super) use dispatch;

/// Runs `$body` with `$element` as the type of a tensor's dtype.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            plan::DType::F32 => {
                type $element = f32;
                $body
            }
            plan::DType::F16 => {
                type $element = half::f16;
                $body
            }
            plan::DType::BF16 => {
                type $element = half::bf16;
                $body
            }
            plan::DType::I8 => {
                type $element = i8;
                $body
            }
            plan::DType::F8E4M3 => {
                type $element = $crate::cpu::simd::E4m3;
                $body
            }
            other => Err(format!("expected a floating-point or 8-bit quantized type, found {other}")),
        }
    };
}
pub(super) use with_element;

#[cfg(test)]
mod tests {
    use super::*;

    dispatch!(fn row_sum<E: Element>(row: &[E]) -> f32 = row_sum_body);

    #[inline(always)]
    fn row_sum_body<L: Lanes, E: Element>(row: &[E]) -> f32 {
        let mut sum = L::splat(0.0);
        for chunk in row.chunks_exact(LANES) {
            // SAFETY: a chunk has eight elements.
            sum = sum.add_product(unsafe { L::load(chunk.as_ptr()) }, L::splat(1.0));
        }
        sum.sum()
    }

    #[test]
    fn every_path_widens_and_sums_alike() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 29) as f32 - 14.0) / 8.0).collect();
        let expected: f32 = row_sum_body::<Portable, f32>(&values);
        assert_eq!(row_sum(&values), expected);
        let narrow: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
        assert_eq!(row_sum(&narrow), row_sum_body::<Portable, bf16>(&narrow));
        let narrow: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        assert_eq!(row_sum(&narrow), row_sum_body::<Portable, f16>(&narrow));
        let codes: Vec<i8> = (0..=u8::MAX).map(|code| code as i8).collect();
        assert_eq!(row_sum(&codes), row_sum_body::<Portable, i8>(&codes));
        let codes: Vec<E4m3> = (0..=u8::MAX).filter(|code| code & 0x7f != 0x7f).map(E4m3).collect();
        assert_eq!(row_sum(&codes[..248]), row_sum_body::<Portable, E4m3>(&codes[..248]));
        // NaN in any lane, alone and next to the largest values
        for (nan, lane) in [0x7f, 0xff].into_iter().flat_map(|nan| (0..LANES).map(move |lane| (nan, lane))) {
            let mut codes = [E4m3(0x7e); 2 * LANES];
            assert_eq!(row_sum(&codes), 448.0 * 16.0);
            codes[LANES + lane] = E4m3(nan);
            assert!(row_sum(&codes).is_nan(), "{nan:#x} in lane {lane}");
        }
    }
}
