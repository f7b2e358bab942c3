//! One register of AVX-512, or two of AVX2 with FMA.

use std::arch::x86_64::*;

use super::{LANES, Lanes};

/// Sixteen lanes in one register. Needs AVX-512 F, BW, VL and DQ.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

/// Sixteen lanes in two registers. Needs AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

// Every function is inlined into one that enables the features, hence the attribute; each `unsafe` block holds
// intrinsics of those features, which the caller promised, on pointers good for sixteen values.

impl Lanes for Avx512 {
    const WIDE: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
        })
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let power = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(power))
        })
    }

    #[inline(always)]
    unsafe fn first(self, count: usize, other: Self) -> Self {
        let lanes = if count >= LANES {
            !0
        } else {
            (1_u16 << count) - 1
        };
        // SAFETY: see above.
        Self(unsafe { _mm512_mask_mov_ps(other.0, lanes, self.0) })
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn centred(sums: *const i32, columns: *const i32, zero: i32) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let offset =
                _mm512_mullo_epi32(_mm512_set1_epi32(zero), _mm512_loadu_si512(columns.cast()));
            _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(sums.cast()), offset))
        })
    }

    #[inline(always)]
    unsafe fn store_u8(self, zero: i32, to: *mut u8) {
        // SAFETY: see above.
        unsafe {
            let values = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(zero));
            let values = _mm512_max_epi32(values, _mm512_setzero_si512());
            _mm_storeu_si128(to.cast(), _mm512_cvtusepi32_epi8(values));
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let halves = _mm256_add_ps(
                _mm512_castps512_ps256(self.0),
                _mm512_extractf32x8_ps::<1>(self.0),
            );
            sum_of_eight(halves)
        }
    }

    #[inline(always)]
    unsafe fn least(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_min_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        // SAFETY: see above.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
}

/// Halves added, three times over.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn sum_of_eight(values: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let four = _mm_add_ps(
            _mm256_castps256_ps128(values),
            _mm256_extractf128_ps::<1>(values),
        );
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

impl Avx2 {
    /// # Safety
    /// The CPU must have AVX2.
    #[inline(always)]
    unsafe fn rounded(self) -> (__m256i, __m256i) {
        // SAFETY: see above.
        unsafe { (_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1)) }
    }
}

impl Lanes for Avx2 {
    const WIDE: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        let half = unsafe { _mm256_set1_ps(value) };
        Self(half, half)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see above.
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_add_ps(self.0, other.0),
                _mm256_add_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_sub_ps(self.0, other.0),
                _mm256_sub_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_mul_ps(self.0, other.0),
                _mm256_mul_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_fmadd_ps(self.0, factor.0, addend.0),
                _mm256_fmadd_ps(self.1, factor.1, addend.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_max_ps(self.0, other.0),
                _mm256_max_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_min_ps(self.0, other.0),
                _mm256_min_ps(self.1, other.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: see above.
        unsafe {
            Self(
                _mm256_round_ps::<NEAREST>(self.0),
                _mm256_round_ps::<NEAREST>(self.1),
            )
        }
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let (low, high) = self.rounded();
            let bias = _mm256_set1_epi32(127);
            Self(
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(low, bias))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(high, bias))),
            )
        }
    }

    #[inline(always)]
    unsafe fn first(self, count: usize, other: Self) -> Self {
        // SAFETY: see above.
        unsafe {
            let count = _mm256_set1_epi32(count.min(LANES) as i32);
            let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
            let low = _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, low));
            let high = _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, high));
            Self(
                _mm256_blendv_ps(other.0, self.0, low),
                _mm256_blendv_ps(other.1, self.1, high),
            )
        }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: see above.
        unsafe {
            let bytes = _mm_loadu_si128(from.cast());
            let low = _mm256_cvtepi8_epi32(bytes);
            let high = _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes));
            Self(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn centred(sums: *const i32, columns: *const i32, zero: i32) -> Self {
        // SAFETY: see above.
        unsafe {
            let zero = _mm256_set1_epi32(zero);
            let low = _mm256_mullo_epi32(zero, _mm256_loadu_si256(columns.cast()));
            let high = _mm256_mullo_epi32(zero, _mm256_loadu_si256(columns.add(8).cast()));
            let low = _mm256_sub_epi32(_mm256_loadu_si256(sums.cast()), low);
            let high = _mm256_sub_epi32(_mm256_loadu_si256(sums.add(8).cast()), high);
            Self(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    #[inline(always)]
    unsafe fn store_u8(self, zero: i32, to: *mut u8) {
        // SAFETY: see above.
        unsafe {
            let (low, high) = self.rounded();
            let zero = _mm256_set1_epi32(zero);
            // Both packings saturate, and both work within halves of a register: the permutation undoes that.
            let words =
                _mm256_packs_epi32(_mm256_add_epi32(low, zero), _mm256_add_epi32(high, zero));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packus_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(to.cast(), bytes);
        }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see above.
        unsafe { sum_of_eight(_mm256_add_ps(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn least(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let eight = _mm256_min_ps(self.0, self.1);
            let four = _mm_min_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn greatest(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let eight = _mm256_max_ps(self.0, self.1);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}
