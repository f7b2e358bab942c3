//! Dense vectors: the seam to the approximate index, and exact scores from int8 rows.

use crate::error::Result;

use super::Row;

/// Finds the rows whose vectors are nearest to a query's.
pub trait DenseSearch: Send + Sync {
    /// The `k` best rows, best first, with their cosines; fewer where there are not so many.
    ///
    /// query: L2-normalised, `[dimension]`. eligible: bit `i % 8` of byte `i / 8` tells whether row `i`
    /// may be returned; absent: any row.
    fn search(&self, query: &[f32], k: usize, eligible: Option<&[u8]>) -> Result<Vec<(Row, f32)>>;
}

/// Quantises a vector to int8; returns the scale that brings it back: `value = scale * int8`.
pub fn quantise(vector: &[f32], into: &mut Vec<i8>) -> f32 {
    let greatest = vector
        .iter()
        .filter(|value| value.is_finite())
        .fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    let scale = if greatest > 0.0 {
        greatest / 127.0
    } else {
        1.0
    };
    into.extend(vector.iter().map(|value| (value / scale).round() as i8));
    scale
}

const LANES: usize = 16;

/// Dot product of an f32 vector with int8 values, before scaling; the same bits on every machine.
pub fn dot(query: &[f32], row: &[i8]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2, checked on the line above.
        return unsafe { dot_avx2(query, row) };
    }
    dot_in_lanes(query, row)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(query: &[f32], row: &[i8]) -> f32 {
    dot_in_lanes(query, row)
}

#[inline(always)]
fn dot_in_lanes(query: &[f32], row: &[i8]) -> f32 {
    let length = query.len().min(row.len());
    let whole = length - length % LANES;
    let mut sums = [0.0_f32; LANES];
    for (query, row) in query[..whole]
        .chunks_exact(LANES)
        .zip(row[..whole].chunks_exact(LANES))
    {
        for lane in 0..LANES {
            sums[lane] += query[lane] * f32::from(row[lane]);
        }
    }
    for at in whole..length {
        sums[at - whole] += query[at] * f32::from(row[at]);
    }
    let mut span = LANES / 2;
    while span > 0 {
        for lane in 0..span {
            sums[lane] += sums[lane + span];
        }
        span /= 2;
    }
    sums[0]
}

/// Keeps the `width` best of `scored`, best first, ties by row.
pub fn best(mut scored: Vec<(Row, f32)>, width: usize) -> Vec<(Row, f32)> {
    let order = |left: &(Row, f32), right: &(Row, f32)| {
        right.1.total_cmp(&left.1).then(left.0.cmp(&right.0))
    };
    if width == 0 {
        return Vec::new();
    }
    if scored.len() > width {
        scored.select_nth_unstable_by(width - 1, order);
        scored.truncate(width);
    }
    scored.sort_unstable_by(order);
    scored
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quantised_vector_is_off_by_half_a_step_at_most(vector in prop::collection::vec(-1.0_f32..1.0, 1..80)) {
            let mut values = Vec::new();
            let scale = quantise(&vector, &mut values);
            for (original, value) in vector.iter().zip(&values) {
                prop_assert!((original - scale * f32::from(*value)).abs() <= 0.501 * scale);
            }
        }

        #[test]
        fn the_kernels_agree_to_the_last_bit(
            pairs in prop::collection::vec((-1.0_f32..1.0, any::<i8>()), 0..200)
        ) {
            let (query, row): (Vec<f32>, Vec<i8>) = pairs.into_iter().unzip();
            prop_assert_eq!(dot(&query, &row).to_bits(), dot_in_lanes(&query, &row).to_bits());
            let exact: f64 = query.iter().zip(&row).map(|(q, r)| f64::from(*q) * f64::from(*r)).sum();
            prop_assert!((f64::from(dot(&query, &row)) - exact).abs() < 0.05);
        }

        #[test]
        fn the_best_are_those_of_a_full_sort(
            scored in prop::collection::vec((any::<u32>(), (0..50).prop_map(|score| score as f32)), 0..100),
            width in 0_usize..60,
        ) {
            let mut expected = scored.clone();
            expected.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
            expected.truncate(width);
            prop_assert_eq!(best(scored, width), expected);
        }
    }

    #[test]
    fn a_zero_vector_stays_zero() {
        let mut values = Vec::new();
        assert!(quantise(&[0.0; 4], &mut values).is_finite());
        assert_eq!(values, [0; 4]);
    }
}
