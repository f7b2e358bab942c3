//! AVX2: pairs of products in 16 bits, which never saturate, then pairs of those in 32.

use std::arch::x86_64::*;

use super::{PANEL, Sums, Tile};

/// Most rows of a tile: eight sums, two lines of weights and what is in between fit the 16 registers.
pub(crate) const ROWS: usize = 4;

/// Multiplies the rows of `tile` by its panel.
///
/// # Safety
/// The CPU must have AVX2; the pointers of `tile` are good for what it says they hold, and it has at most
/// [`ROWS`] rows.
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn tile(tile: Tile<'_>, sums: &mut Sums) {
    // SAFETY: as promised by the caller.
    unsafe {
        match (tile.rows, tile.narrow) {
            (1, true) => rows::<1, true>(tile, sums),
            (2, true) => rows::<2, true>(tile, sums),
            (3, true) => rows::<3, true>(tile, sums),
            (_, true) => rows::<4, true>(tile, sums),
            (1, false) => rows::<1, false>(tile, sums),
            (2, false) => rows::<2, false>(tile, sums),
            (3, false) => rows::<3, false>(tile, sums),
            (_, false) => rows::<4, false>(tile, sums),
        }
    }
}

/// # Safety
/// As for [`tile`], which has `R` rows; `NARROW` is its `narrow`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn rows<const R: usize, const NARROW: bool>(tile: Tile<'_>, sums: &mut Sums) {
    let ones = _mm256_set1_epi16(1);
    let low_bits = _mm256_set1_epi8(1);
    let high_bits = _mm256_set1_epi8(0x7f);
    // Sixteen outputs at a time.
    for block in 0..PANEL / 16 {
        let mut found = [[_mm256_setzero_si256(); 2]; R];
        let mut activations = tile.activations;
        for lines in tile.panel.chunks_exact(PANEL * 4) {
            // SAFETY: `lines` has 256 bytes; each row is good for four bytes a step.
            unsafe {
                let line = lines.as_ptr().add(block * 64);
                let weights = [
                    _mm256_loadu_si256(line.cast()),
                    _mm256_loadu_si256(line.add(32).cast()),
                ];
                for (row, found) in found.iter_mut().enumerate() {
                    let four = activations.add(row * tile.stride).cast::<i32>();
                    let four = _mm256_set1_epi32(four.read_unaligned());
                    for (found, weights) in found.iter_mut().zip(weights) {
                        let products = if NARROW {
                            // 255 x 64 x 2 = 32,640 fits 16 bits.
                            _mm256_madd_epi16(_mm256_maddubs_epi16(four, weights), ones)
                        } else {
                            // The activation as twice its upper seven bits plus its lowest: 127 x 128 x 2 = 32,512.
                            let upper = _mm256_and_si256(_mm256_srli_epi16::<1>(four), high_bits);
                            let lowest = _mm256_and_si256(four, low_bits);
                            let upper =
                                _mm256_madd_epi16(_mm256_maddubs_epi16(upper, weights), ones);
                            let lowest =
                                _mm256_madd_epi16(_mm256_maddubs_epi16(lowest, weights), ones);
                            _mm256_add_epi32(_mm256_add_epi32(upper, upper), lowest)
                        };
                        *found = _mm256_add_epi32(*found, products);
                    }
                }
                activations = activations.add(4);
            }
        }
        for (row, found) in found.iter().enumerate() {
            for (at, found) in found.iter().enumerate() {
                // SAFETY: a tile holds at least `R` rows of 64 sums.
                unsafe {
                    let to = sums.0.as_mut_ptr().add(row * PANEL + block * 16 + at * 8);
                    _mm256_storeu_si256(to.cast(), *found);
                }
            }
        }
    }
}
