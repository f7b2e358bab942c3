//! AVX-512 VNNI: one instruction multiplies and adds four inputs of sixteen outputs.

use std::arch::x86_64::*;

use super::{PANEL, Sums, Tile};

/// Most rows of a tile: 24 sums, four lines of weights and a broadcast fill the 32 registers, and each line is
/// used six times.
pub(crate) const ROWS: usize = 6;

/// Multiplies the rows of `tile` by its panel.
///
/// # Safety
/// The CPU must have AVX-512 F and VNNI; the pointers of `tile` are good for what it says they hold, and it has at
/// most [`ROWS`] rows.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) unsafe fn tile(tile: Tile<'_>, sums: &mut Sums) {
    // SAFETY: as promised by the caller.
    unsafe {
        match tile.rows {
            1 => rows::<1>(tile, sums),
            2 => rows::<2>(tile, sums),
            3 => rows::<3>(tile, sums),
            4 => rows::<4>(tile, sums),
            5 => rows::<5>(tile, sums),
            _ => rows::<6>(tile, sums),
        }
    }
}

/// # Safety
/// As for [`tile`], which has `R` rows.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
unsafe fn rows<const R: usize>(tile: Tile<'_>, sums: &mut Sums) {
    let mut found = [[_mm512_setzero_si512(); 4]; R];
    let mut activations = tile.activations;
    for lines in tile.panel.chunks_exact(PANEL * 4) {
        // SAFETY: `lines` has four lines of 64 bytes; each row is good for four bytes a step.
        unsafe {
            let lines = lines.as_ptr();
            let weights = [
                _mm512_loadu_si512(lines.cast()),
                _mm512_loadu_si512(lines.add(64).cast()),
                _mm512_loadu_si512(lines.add(128).cast()),
                _mm512_loadu_si512(lines.add(192).cast()),
            ];
            for (row, found) in found.iter_mut().enumerate() {
                let four = activations.add(row * tile.stride).cast::<i32>();
                let four = _mm512_set1_epi32(four.read_unaligned());
                for (found, weights) in found.iter_mut().zip(weights) {
                    *found = _mm512_dpbusd_epi32(*found, four, weights);
                }
            }
            activations = activations.add(4);
        }
    }
    for (row, found) in found.iter().enumerate() {
        for (at, found) in found.iter().enumerate() {
            // SAFETY: a tile holds at least `R` rows of 64 sums.
            unsafe {
                _mm512_storeu_si512(
                    sums.0.as_mut_ptr().add(row * PANEL + at * 16).cast(),
                    *found,
                );
            }
        }
    }
}

/// Multiplications and additions of one round of [`limit_rounds`].
pub(crate) const LIMIT_OPERATIONS: u64 = 24 * 64 * 2;

/// Multiply-adds that keep the unit busy and nothing else: `rounds` times 24 independent sums in registers, each 64
/// multiplications and additions. The measure of what a core can do. Returns a number that depends on all.
///
/// # Safety
/// The CPU must have AVX-512 F and VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) unsafe fn limit_rounds(rounds: usize) -> i32 {
    let mut sums = [_mm512_setzero_si512(); 24];
    let (mut left, right) = (
        _mm512_set1_epi32(0x0102_0304),
        _mm512_set1_epi32(0x0101_0101),
    );
    for round in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, left, right);
        }
        if round % 64 == 0 {
            // Otherwise the loop could be worked out in advance.
            left = std::hint::black_box(left);
        }
    }
    let mut total = _mm512_setzero_si512();
    for sum in sums {
        total = _mm512_add_epi32(total, sum);
    }
    _mm512_reduce_add_epi32(total)
}
