//! Late interaction (MaxSim): the mean over query tokens of the best cosine among the product's tokens.
//!
//! Everything between the two quantisations is integer arithmetic, so every kernel gives the same bits.
//!
//! **Products** are int8 with scale 1/127, packed as `[n / 16][dim / 4][16][4]`: one 64-byte line holds
//! four dimensions of sixteen tokens, what one AVX-512 instruction (or two of AVX2) consumes. The lines of the
//! last group are as long as it has tokens, for padding would be a fifth of a generation's memory; kernels load
//! them under a mask.
//!
//! **Queries** are int8 within ±64, with one scale for all tokens of a query, chosen as large as the
//! values allow. Then the AVX2 kernel needs no sign handling: a product byte becomes unsigned by flipping its
//! top bit (+128), `maddubs` cannot saturate (255 x 64 x 2 = 32,640), 16-bit sums may wrap, and the true sum
//! comes out exactly because it fits 16 bits: |q| x |p| <= [`QUERY_NORM_MAX`] x [`PRODUCT_NORM_MAX`] by
//! Cauchy-Schwarz. The +128 is taken back by the start value of each sum.

/// Tokens of one packed group.
pub const GROUP: usize = 16;

/// Largest number of dimensions of a token vector; together with the quantisation it bounds the norms below.
pub const DIMENSION_MAX: usize = 256;

/// Largest Euclidean norm of a packed product token: 127 for the vector, 8 for rounding 256 values, 1 spare.
const PRODUCT_NORM_MAX: f32 = 136.0;

/// Largest Euclidean norm of a quantised query token.
const QUERY_NORM_MAX: f32 = 240.0;

/// Largest magnitude of a quantised query value.
const QUERY_VALUE_MAX: f32 = 64.0;

const PRODUCT_SCALE: f32 = 127.0;

// The bound on which the wrapping 16-bit sums of the AVX2 kernel rest.
const _: () = assert!(PRODUCT_NORM_MAX * QUERY_NORM_MAX <= 32_767.0);

/// The token vectors of one query, quantised, ready for [`maxsim`].
#[derive(Debug, Clone, PartialEq)]
pub struct QueryTokens {
    dimension: usize,
    count: usize,
    /// `[count][dimension]`, each within ±64.
    values: Vec<i8>,
    /// Per token -128 x the sum of its values: takes back the offset that makes product bytes unsigned.
    offsets: Vec<i32>,
    /// Multiplies a sum of integer maxima into the mean cosine.
    scale: f64,
}

impl QueryTokens {
    /// Quantises `tokens`, f32 `[n][dimension]`, each L2-normalised, `dimension` a multiple of 4 up to 256.
    ///
    /// Panics if the length is not a multiple of `dimension`, or the dimension is not accepted.
    pub fn new(tokens: &[f32], dimension: usize) -> QueryTokens {
        check_dimension(dimension);
        assert_eq!(tokens.len() % dimension, 0, "tokens must be [n][dimension]");
        let count = tokens.len() / dimension;
        let mut unit = Vec::with_capacity(tokens.len());
        for token in tokens.chunks_exact(dimension) {
            let factor = shrink(token);
            unit.extend(token.iter().map(|value| finite(*value) * factor));
        }
        let largest = unit
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        // Rounding adds at most half a unit per value, that is sqrt(dimension) / 2 to a norm.
        let by_norm = QUERY_NORM_MAX - (dimension as f32).sqrt() / 2.0 - 1.0;
        let scale = if largest > 0.0 {
            by_norm.min(QUERY_VALUE_MAX / largest)
        } else {
            by_norm
        };
        let values: Vec<i8> = unit
            .iter()
            .map(|value| {
                (value * scale)
                    .round()
                    .clamp(-QUERY_VALUE_MAX, QUERY_VALUE_MAX) as i8
            })
            .collect();
        let offsets = values
            .chunks_exact(dimension)
            .map(|token| -128 * token.iter().map(|value| i32::from(*value)).sum::<i32>())
            .collect();
        QueryTokens {
            dimension,
            count,
            values,
            offsets,
            scale: 1.0 / (f64::from(scale) * f64::from(PRODUCT_SCALE) * count.max(1) as f64),
        }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True: no tokens; every score is 0.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Dimensions of each token.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The four values of dimensions `4 * step ..` of a token as one little-endian word.
    #[inline]
    fn word(&self, token: usize, step: usize) -> i32 {
        let at = token * self.dimension + 4 * step;
        let four = &self.values[at..at + 4];
        i32::from_le_bytes([four[0] as u8, four[1] as u8, four[2] as u8, four[3] as u8])
    }

    fn score(&self, total: i64) -> f32 {
        (total as f64 * self.scale) as f32
    }
}

/// Bytes of `token_count` packed tokens of `dimension` dimensions.
pub const fn packed_len(token_count: usize, dimension: usize) -> usize {
    token_count * dimension
}

/// Packs product tokens, f32 `[n][dimension]`, each L2-normalised (longer ones are shortened to 1; values
/// that are not finite become 0), for [`maxsim`]. The caller keeps `n`.
///
/// Panics if the length is not a multiple of `dimension`, or `dimension` is no multiple of 4 up to 256.
pub fn pack(tokens: &[f32], dimension: usize) -> Vec<i8> {
    check_dimension(dimension);
    assert_eq!(tokens.len() % dimension, 0, "tokens must be [n][dimension]");
    let count = tokens.len() / dimension;
    let mut packed = vec![0_i8; packed_len(count, dimension)];
    for (token, values) in tokens.chunks_exact(dimension).enumerate() {
        let factor = shrink(values) * PRODUCT_SCALE;
        for (at, value) in values.iter().enumerate() {
            packed[place(token, at, count, dimension)] =
                (finite(*value) * factor).round().clamp(-127.0, 127.0) as i8;
        }
    }
    packed
}

/// The int8 values of one of `count` packed tokens, in the order of the dimensions.
pub fn unpack(packed: &[i8], token: usize, count: usize, dimension: usize) -> Vec<i8> {
    (0..dimension)
        .map(|at| packed[place(token, at, count, dimension)])
        .collect()
}

/// Tokens of a group: the length of its lines.
fn group_tokens(group: usize, count: usize) -> usize {
    (count - group * GROUP).min(GROUP)
}

fn place(token: usize, at: usize, count: usize, dimension: usize) -> usize {
    let group = token / GROUP;
    let tokens = group_tokens(group, count);
    group * GROUP * dimension + (at / 4) * tokens * 4 + (token % GROUP) * 4 + at % 4
}

fn finite(value: f32) -> f32 {
    if value.is_finite() { value } else { 0.0 }
}

/// Factor that brings a vector's norm down to 1; 1 for those that are there already.
fn shrink(values: &[f32]) -> f32 {
    let norm = values
        .iter()
        .map(|value| f64::from(finite(*value)).powi(2))
        .sum::<f64>()
        .sqrt();
    if norm > 1.0 { (1.0 / norm) as f32 } else { 1.0 }
}

fn check_dimension(dimension: usize) {
    assert!(
        dimension >= 4 && dimension.is_multiple_of(4) && dimension <= DIMENSION_MAX,
        "a token dimension must be a multiple of 4 from 4 to {DIMENSION_MAX}, not {dimension}"
    );
}

/// Late-interaction score of one product, -1 to 1: mean over query tokens of the greatest cosine.
///
/// `packed` comes from [`pack`]; `token_count` is its number of tokens. No tokens on either side: 0.
/// Panics if `packed` is shorter than [`packed_len`].
pub fn maxsim(query: &QueryTokens, packed: &[i8], token_count: usize) -> f32 {
    let Some(packed) = checked(query, packed, token_count) else {
        return 0.0;
    };
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
        {
            // SAFETY: the features were just detected; `checked` made the slice hold every token.
            return query.score(unsafe { x86::avx512vnni(query, packed, token_count) });
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just detected; `checked` made the slice hold every token.
            return query.score(unsafe { x86::avx2(query, packed, token_count) });
        }
    }
    query.score(portable(query, packed, token_count))
}

/// What [`maxsim`] computes, written for reading: integer dot products, maxima, one sum, one scale.
pub fn maxsim_reference(query: &QueryTokens, packed: &[i8], token_count: usize) -> f32 {
    let Some(packed) = checked(query, packed, token_count) else {
        return 0.0;
    };
    let dimension = query.dimension;
    let mut total = 0_i64;
    for token in query.values.chunks_exact(dimension) {
        let best = (0..token_count)
            .map(|other| {
                (0..dimension)
                    .map(|at| {
                        i32::from(token[at])
                            * i32::from(packed[place(other, at, token_count, dimension)])
                    })
                    .sum::<i32>()
            })
            .max()
            .unwrap_or(0);
        total += i64::from(best);
    }
    query.score(total)
}

/// Name of the kernel that [`maxsim`] uses on this machine.
pub fn kernel() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
        {
            return "avx512vnni";
        }
        if is_x86_feature_detected!("avx2") {
            return "avx2";
        }
    }
    "portable"
}

/// The groups in use, or `None` where one side has no tokens.
fn checked<'a>(query: &QueryTokens, packed: &'a [i8], token_count: usize) -> Option<&'a [i8]> {
    let needed = packed_len(token_count, query.dimension);
    assert!(
        packed.len() >= needed,
        "{token_count} packed tokens take {needed} bytes, not {}",
        packed.len()
    );
    (token_count > 0 && query.count > 0).then(|| &packed[..needed])
}

/// Sum of maxima for machines without the instructions below.
fn portable(query: &QueryTokens, packed: &[i8], token_count: usize) -> i64 {
    let steps = query.dimension / 4;
    let mut total = 0_i64;
    for token in query.values.chunks_exact(query.dimension) {
        let mut best = i32::MIN;
        for (group, lines) in packed.chunks(GROUP * query.dimension).enumerate() {
            let tokens = group_tokens(group, token_count);
            let mut sums = [0_i32; GROUP];
            for step in 0..steps {
                let four = &token[4 * step..4 * step + 4];
                let line = &lines[step * tokens * 4..(step + 1) * tokens * 4];
                for (sum, product) in sums.iter_mut().zip(line.chunks_exact(4)) {
                    for (left, right) in four.iter().zip(product) {
                        *sum += i32::from(*left) * i32::from(*right);
                    }
                }
            }
            best = sums[..tokens].iter().copied().fold(best, i32::max);
        }
        total += i64::from(best);
    }
    total
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{GROUP, QueryTokens, group_tokens};

    /// Query tokens whose sums are in registers at once: 6 x 2 sums, two halves of a line, one product, one query
    /// word make the sixteen registers of AVX2.
    const BLOCK: usize = 6;

    /// Sum over query tokens of the greatest dot product.
    ///
    /// # Safety
    /// The CPU must have AVX2; `packed` must hold `token_count` packed tokens, at least one.
    #[target_feature(enable = "avx2")]
    pub unsafe fn avx2(query: &QueryTokens, packed: &[i8], token_count: usize) -> i64 {
        let blocks = query.count.div_ceil(BLOCK);
        let mut total = 0;
        let mut first = 0;
        for block in 0..blocks {
            // Even shares: 16 tokens go as 6 + 5 + 5, not as 6 + 6 + 4.
            let size = (query.count - first).div_ceil(blocks - block);
            // SAFETY: as promised by the caller; `first + size <= query.count`.
            total += unsafe {
                match size {
                    1 => avx2_block::<1>(query, first, packed, token_count),
                    2 => avx2_block::<2>(query, first, packed, token_count),
                    3 => avx2_block::<3>(query, first, packed, token_count),
                    4 => avx2_block::<4>(query, first, packed, token_count),
                    5 => avx2_block::<5>(query, first, packed, token_count),
                    _ => avx2_block::<6>(query, first, packed, token_count),
                }
            };
            first += size;
        }
        total
    }

    /// As [`avx2`], for the `N` query tokens from `first`.
    ///
    /// # Safety
    /// As for [`avx2`], and `first + N <= query.count`.
    #[target_feature(enable = "avx2")]
    unsafe fn avx2_block<const N: usize>(
        query: &QueryTokens,
        first: usize,
        packed: &[i8],
        token_count: usize,
    ) -> i64 {
        let steps = query.dimension / 4;
        let flip = _mm256_set1_epi8(i8::MIN);
        let lowest = _mm256_set1_epi16(i16::MIN);
        let mut best = [lowest; N];
        // The correction sits in the even 16-bit lane of each token; pairs of lanes are added at the end.
        // Truncation is meant: all 16-bit sums are modulo 2^16.
        let start: [__m256i; N] =
            std::array::from_fn(|at| _mm256_set1_epi32(query.offsets[first + at] & 0xffff));
        let words: [*const i8; N] = std::array::from_fn(|at| {
            query.values[(first + at) * query.dimension..][..query.dimension].as_ptr()
        });
        let groups = token_count.div_ceil(GROUP);
        for group in 0..groups {
            let tokens = group_tokens(group, token_count);
            let lines =
                packed[group * GROUP * query.dimension..][..tokens * query.dimension].as_ptr();
            let (left_lanes, right_lanes) = (first_lanes(tokens), first_lanes(tokens.max(8) - 8));
            let (mut low, mut high) = (start, start);
            for step in 0..steps {
                // SAFETY: a group holds `steps` lines of 4 bytes a token, of which no lane beyond is loaded; a query
                // token holds `steps` words of 4.
                unsafe {
                    let line = lines.add(step * tokens * 4);
                    let (left, right) = if tokens == GROUP {
                        (
                            _mm256_loadu_si256(line.cast()),
                            _mm256_loadu_si256(line.add(32).cast()),
                        )
                    } else {
                        (
                            _mm256_maskload_epi32(line.cast(), left_lanes),
                            _mm256_maskload_epi32(line.wrapping_add(32).cast(), right_lanes),
                        )
                    };
                    let left = _mm256_xor_si256(left, flip);
                    let right = _mm256_xor_si256(right, flip);
                    for at in 0..N {
                        let word = _mm256_set1_epi32(
                            words[at].add(step * 4).cast::<i32>().read_unaligned(),
                        );
                        low[at] = _mm256_add_epi16(low[at], _mm256_maddubs_epi16(left, word));
                        high[at] = _mm256_add_epi16(high[at], _mm256_maddubs_epi16(right, word));
                    }
                }
            }
            for at in 0..N {
                let sums = _mm256_hadd_epi16(low[at], high[at]);
                let sums = if tokens == GROUP {
                    sums
                } else {
                    _mm256_blendv_epi8(lowest, sums, used_lanes(tokens))
                };
                best[at] = _mm256_max_epi16(best[at], sums);
            }
        }
        best.iter().map(|lanes| i64::from(greatest(*lanes))).sum()
    }

    /// All ones in the first `count` lanes of 32 bits.
    #[target_feature(enable = "avx2")]
    fn first_lanes(count: usize) -> __m256i {
        let order = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), order)
    }

    /// All ones in the lanes of the first `used` tokens, in the order in which `hadd` leaves them.
    #[target_feature(enable = "avx2")]
    fn used_lanes(used: usize) -> __m256i {
        let order = _mm256_setr_epi16(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
        _mm256_cmpgt_epi16(_mm256_set1_epi16(used as i16), order)
    }

    /// The greatest of sixteen signed 16-bit lanes.
    #[target_feature(enable = "avx2")]
    fn greatest(lanes: __m256i) -> i16 {
        let half = _mm_max_epi16(
            _mm256_castsi256_si128(lanes),
            _mm256_extracti128_si256::<1>(lanes),
        );
        // `minpos` finds the least unsigned lane; this flip turns signed descending into unsigned ascending.
        let flip = _mm_set1_epi16(0x7fff);
        let least = _mm_minpos_epu16(_mm_xor_si128(half, flip));
        (_mm_extract_epi16::<0>(least) as i16) ^ 0x7fff
    }

    /// Sum over query tokens of the greatest dot product.
    ///
    /// # Safety
    /// The CPU must have AVX-512 F, BW and VNNI; `packed` as for [`avx2`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn avx512vnni(query: &QueryTokens, packed: &[i8], token_count: usize) -> i64 {
        const BLOCK: usize = 8;
        let mut total = 0;
        let mut first = 0;
        while first < query.count {
            let size = (query.count - first).min(BLOCK);
            // SAFETY: as promised by the caller; `first + size <= query.count`.
            total += unsafe {
                match size {
                    8 => avx512vnni_block::<8>(query, first, packed, token_count),
                    4..8 => avx512vnni_block::<4>(query, first, packed, token_count),
                    2..4 => avx512vnni_block::<2>(query, first, packed, token_count),
                    _ => avx512vnni_block::<1>(query, first, packed, token_count),
                }
            };
            first += match size {
                8 => 8,
                4..8 => 4,
                2..4 => 2,
                _ => 1,
            };
        }
        total
    }

    /// As [`avx512vnni`], for the `N` query tokens from `first`.
    ///
    /// # Safety
    /// As for [`avx512vnni`], and `first + N <= query.count`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn avx512vnni_block<const N: usize>(
        query: &QueryTokens,
        first: usize,
        packed: &[i8],
        token_count: usize,
    ) -> i64 {
        let steps = query.dimension / 4;
        let flip = _mm512_set1_epi8(i8::MIN);
        let lowest = _mm512_set1_epi32(i32::MIN);
        let mut best = [lowest; N];
        let start: [__m512i; N] =
            std::array::from_fn(|at| _mm512_set1_epi32(query.offsets[first + at]));
        for group in 0..token_count.div_ceil(GROUP) {
            let tokens = group_tokens(group, token_count);
            let lines =
                packed[group * GROUP * query.dimension..][..tokens * query.dimension].as_ptr();
            let lanes: __mmask16 = if tokens == GROUP {
                !0
            } else {
                (1 << tokens) - 1
            };
            let mut sums = start;
            for step in 0..steps {
                // SAFETY: a group holds `steps` lines of 4 bytes a token, of which no lane beyond is loaded.
                let line =
                    unsafe { _mm512_maskz_loadu_epi32(lanes, lines.add(step * tokens * 4).cast()) };
                let line = _mm512_xor_si512(line, flip);
                for (at, sum) in sums.iter_mut().enumerate() {
                    let word = _mm512_set1_epi32(query.word(first + at, step));
                    *sum = _mm512_dpbusd_epi32(*sum, line, word);
                }
            }
            for (best, sum) in best.iter_mut().zip(sums) {
                *best = _mm512_mask_max_epi32(*best, lanes, *best, sum);
            }
        }
        best.iter()
            .map(|lanes| i64::from(_mm512_reduce_max_epi32(*lanes)))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Unit vectors from a small generator, so that failures repeat.
    fn unit_tokens(count: usize, dimension: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut tokens = Vec::with_capacity(count * dimension);
        for _ in 0..count {
            let token: Vec<f32> = (0..dimension).map(|_| draw() + draw() + draw()).collect();
            let norm = token.iter().map(|value| value * value).sum::<f32>().sqrt();
            tokens.extend(token.iter().map(|value| value / norm));
        }
        tokens
    }

    fn exact(query: &[f32], product: &[f32], dimension: usize) -> f64 {
        let total: f64 = query
            .chunks_exact(dimension)
            .map(|left| {
                product
                    .chunks_exact(dimension)
                    .map(|right| {
                        left.iter()
                            .zip(right)
                            .map(|(one, other)| f64::from(*one) * f64::from(*other))
                            .sum::<f64>()
                    })
                    .fold(f64::MIN, f64::max)
            })
            .sum();
        total / (query.len() / dimension) as f64
    }

    /// Every kernel this machine can run, by name.
    fn kernels(query: &QueryTokens, packed: &[i8], count: usize) -> Vec<(&'static str, f32)> {
        let mut scores = vec![
            ("dispatched", maxsim(query, packed, count)),
            ("portable", query.score(portable(query, packed, count))),
        ];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the feature was just detected; `packed` comes from `pack`.
                scores.push((
                    "avx2",
                    query.score(unsafe { x86::avx2(query, packed, count) }),
                ));
            } else {
                println!("skipped: this CPU has no AVX2");
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                // SAFETY: the features were just detected; `packed` comes from `pack`.
                let total = unsafe { x86::avx512vnni(query, packed, count) };
                scores.push(("avx512vnni", query.score(total)));
            } else {
                println!("skipped: this CPU has no AVX-512 VNNI");
            }
        }
        scores
    }

    fn assert_all_equal(query: &QueryTokens, packed: &[i8], count: usize) {
        let expected = maxsim_reference(query, packed, count);
        for (name, score) in kernels(query, packed, count) {
            assert_eq!(
                score.to_bits(),
                expected.to_bits(),
                "{name}: {score} against {expected} at {} x {count} x {}",
                query.len(),
                query.dimension()
            );
        }
    }

    #[test]
    fn every_kernel_gives_the_bits_of_the_reference_at_every_shape() {
        // Miri takes a minute for what else is a moment: one shape of each kind has to do.
        let (dimensions, query_counts, counts): (&[usize], Vec<usize>, &[usize]) = if cfg!(miri) {
            (&[4, 8], vec![1, 5, 6, 13], &[1, 16, 17, 33])
        } else {
            (
                &[4, 8, 32, 64, 128, 256],
                (1..=14).chain([16, 32, 33]).collect(),
                &[1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 47, 48, 49],
            )
        };
        for &dimension in dimensions {
            for &query_count in &query_counts {
                for &count in counts {
                    let seed = (dimension * 10_000 + query_count * 100 + count) as u64;
                    let query =
                        QueryTokens::new(&unit_tokens(query_count, dimension, seed), dimension);
                    let packed = pack(&unit_tokens(count, dimension, seed + 1), dimension);
                    assert_all_equal(&query, &packed, count);
                }
            }
        }
    }

    #[test]
    fn the_largest_sums_do_not_wrap() {
        // Equal and opposite vectors reach the bound of Cauchy-Schwarz; few large values and many small ones
        // are the two ends of what rounding can add to a norm.
        for dimension in [4, 64, 256] {
            for spread in [1, 2, 3, dimension / 2, dimension] {
                for sign in [1.0_f32, -1.0] {
                    let mut token = vec![0.0; dimension];
                    token[..spread].fill((spread as f32).sqrt().recip());
                    let opposite: Vec<f32> = token.iter().map(|value| value * sign).collect();
                    let query = QueryTokens::new(&token, dimension);
                    let packed = pack(&opposite, dimension);
                    assert_all_equal(&query, &packed, 1);
                    let score = maxsim(&query, &packed, 1);
                    assert!(
                        (score - sign).abs() < 0.05,
                        "{score} for {sign} spread over {spread}"
                    );
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic, and slow under Miri")]
    fn quantisation_costs_little() {
        for seed in 0..20 {
            let (query, product) = (unit_tokens(12, 64, seed), unit_tokens(40, 64, seed + 100));
            let got = maxsim(&QueryTokens::new(&query, 64), &pack(&product, 64), 40);
            let expected = exact(&query, &product, 64);
            assert!(
                (f64::from(got) - expected).abs() < 0.005,
                "{got} against {expected}, seed {seed}"
            );
        }
    }

    #[test]
    fn missing_tokens_never_win() {
        // All true cosines are negative, so a zero of the padding would be the maximum if it counted.
        let mut query = vec![0.0; 64];
        query[0] = 1.0;
        let mut product = vec![0.0; 3 * 64];
        for token in product.chunks_exact_mut(64) {
            token[0] = -1.0;
        }
        let (query, packed) = (QueryTokens::new(&query, 64), pack(&product, 64));
        assert_all_equal(&query, &packed, 3);
        assert!(maxsim(&query, &packed, 3) < -0.95);
    }

    #[test]
    fn no_tokens_on_either_side_score_0() {
        let some = unit_tokens(2, 64, 1);
        assert_eq!(maxsim(&QueryTokens::new(&[], 64), &pack(&some, 64), 2), 0.0);
        assert_eq!(maxsim(&QueryTokens::new(&some, 64), &[], 0), 0.0);
    }

    #[test]
    fn vectors_that_are_too_long_or_not_finite_are_tamed() {
        let mut wild: Vec<f32> = unit_tokens(3, 64, 5)
            .iter()
            .map(|value| value * 50.0)
            .collect();
        wild[7] = f32::NAN;
        wild[70] = f32::INFINITY;
        let (query, packed) = (QueryTokens::new(&wild, 64), pack(&wild, 64));
        assert_all_equal(&query, &packed, 3);
        assert!((maxsim(&query, &packed, 3) - 1.0).abs() < 0.02);
    }

    #[test]
    fn packing_keeps_every_value_within_half_a_step() {
        let tokens = unit_tokens(19, 64, 9);
        let packed = pack(&tokens, 64);
        assert_eq!(packed.len(), packed_len(19, 64));
        for (token, values) in tokens.chunks_exact(64).enumerate() {
            for (value, quantised) in values.iter().zip(unpack(&packed, token, 19, 64)) {
                assert!((value * 127.0 - f32::from(quantised)).abs() <= 0.501);
            }
        }
    }

    #[test]
    #[should_panic(expected = "packed tokens take")]
    fn a_slice_that_is_too_short_is_refused() {
        let query = QueryTokens::new(&unit_tokens(1, 64, 1), 64);
        maxsim(&query, &[0; 64], 17);
    }

    proptest! {
        #[test]
        fn any_vectors_give_the_same_bits_in_every_kernel(
            query in prop::collection::vec(-1.0_f32..1.0, 16..20 * 16),
            product in prop::collection::vec(-1.0_f32..1.0, 16..50 * 16),
        ) {
            let query = &query[..query.len() / 16 * 16];
            let product = &product[..product.len() / 16 * 16];
            let packed = pack(product, 16);
            assert_all_equal(&QueryTokens::new(query, 16), &packed, product.len() / 16);
        }
    }
}
