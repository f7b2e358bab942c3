//! Sixteen f32 lanes, written once and run by AVX-512, by AVX2 and FMA, or lane by lane.
//!
//! Every implementation gives the same bits: each operation is the exactly rounded one of IEEE 754, a fused
//! multiply-add rounds once everywhere, and sums over lanes are made in one order ([`tree_sum`]).

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Lanes of one vector.
pub(crate) const LANES: usize = 16;

/// Sixteen f32 lanes.
///
/// # Safety
/// All functions: the CPU must have the implementation's features, and pointers must be good for sixteen
/// values of their type. They need no alignment.
pub(crate) trait Lanes: Copy {
    /// Vectors that one row of a small matrix product may keep in registers beside three other rows.
    const WIDE: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    unsafe fn fma(self, factor: Self, addend: Self) -> Self;
    /// `other` where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `other` where either is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// To the nearest integer, ties to even. Within ±2^22.
    unsafe fn round(self) -> Self;
    /// Two to the power of each lane, which must be an integer from -126 to 127.
    unsafe fn power_of_two(self) -> Self;
    /// The first `count` lanes, and `other`'s after them.
    unsafe fn first(self, count: usize, other: Self) -> Self;
    /// Sixteen int8 values.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// `sums - zero * columns` of sixteen int32 values each, rounded to f32.
    unsafe fn centred(sums: *const i32, columns: *const i32, zero: i32) -> Self;
    /// Rounds to the nearest integer, ties to even, adds `zero`, cuts to 0..=255, and stores sixteen bytes. Within
    /// ±2^22.
    unsafe fn store_u8(self, zero: i32, to: *mut u8);
    /// Sum over the lanes in the order of [`tree_sum`].
    unsafe fn sum(self) -> f32;
    /// Least lane.
    unsafe fn least(self) -> f32;
    /// Greatest lane.
    unsafe fn greatest(self) -> f32;
}

/// Sum of sixteen values: halves added, four times over.
pub(crate) fn tree_sum(mut values: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for at in 0..half {
            values[at] += values[at + half];
        }
        half /= 2;
    }
    values[0]
}

/// e to the power of each lane; lanes are cut to -87..=88. Relative error below 3e-7.
///
/// Cephes' `expf`: 2^n times a polynomial over ±ln(2)/2.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: L) -> L {
    // SAFETY: no pointers; the features are the caller's promise.
    unsafe {
        let x = x.max(L::splat(-87.0)).min(L::splat(88.0));
        let n = x.mul(L::splat(std::f32::consts::LOG2_E)).round();
        let rest = n.fma(L::splat(-0.693_359_4), x);
        let rest = n.fma(L::splat(2.121_944_4e-4), rest);
        let mut sum = L::splat(1.987_569_1e-4);
        for coefficient in [
            1.398_199_9e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ] {
            sum = sum.fma(rest, L::splat(coefficient));
        }
        let sum = sum.fma(rest.mul(rest), rest).add(L::splat(1.0));
        sum.mul(n.power_of_two())
    }
}

#[cfg(test)]
mod tests;
