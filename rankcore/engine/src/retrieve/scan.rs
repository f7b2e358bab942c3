//! The nearest rows by integer dot products over the int8 rows of a generation: over all of them, over those
//! that a filter leaves, or list by list.
//!
//! The query is rounded to ±64, so that no sum of the AVX2 kernel can saturate (255 x 64 x 2 = 32,640), and all
//! kernels give the same sums. Row bytes become unsigned by flipping their top bit (+128); what that adds is
//! the same for every row of a query, so it is taken back once at the end of each sum. Half as many rows again
//! as are wanted are kept by these sums and then scored with the unrounded query: what is returned is exact for
//! the rows as stored, except where rounding the query moved a row by more than the spare places.

use super::Row;
use super::dense::{best, dot};

/// Rows that a kernel takes at a time.
pub const GROUP: usize = 8;
/// Values of a query are padded to a multiple of this.
const STEP: usize = 64;
/// Greatest magnitude of a rounded query value.
const QUERY_MAX: f32 = 64.0;
/// Rows that are fetched into the cache before their turn.
const AHEAD: usize = 2 * GROUP;
const LINE_BYTES: usize = 64;

/// Vectors as a generation stores them: `value = scale of the row x int8`.
#[derive(Debug, Clone, Copy)]
pub struct Int8Rows<'a> {
    /// `[rows][dimension]`.
    pub values: &'a [i8],
    /// `[rows]`.
    pub scales: &'a [f32],
    /// Above 0.
    pub dimension: usize,
}

impl<'a> Int8Rows<'a> {
    fn row(&self, row: Row) -> &'a [i8] {
        let at = row as usize * self.dimension;
        &self.values[at..at + self.dimension]
    }

    /// Exact cosine of a row with an L2-normalised query, `[dimension]`.
    pub fn score(&self, query: &[f32], row: Row) -> f32 {
        self.scales[row as usize] * dot(query, self.row(row))
    }

    #[inline(always)]
    fn fetch(&self, row: Row) {
        #[cfg(target_arch = "x86_64")]
        {
            let row = self.row(row);
            for at in (0..row.len()).step_by(LINE_BYTES) {
                // SAFETY: a prefetch reads nothing, and the address lies within the row.
                unsafe {
                    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                    _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().add(at));
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (row, LINE_BYTES);
    }
}

/// A query rounded to int8.
#[derive(Debug, Clone)]
struct Rounded {
    /// Each within ±64; zeros up to a multiple of [`STEP`].
    values: Vec<i8>,
    dimension: usize,
    /// -128 x the sum of the values: takes back the offset that makes row bytes unsigned.
    offset: i32,
}

impl Rounded {
    fn new(query: &[f32]) -> Self {
        let greatest = query
            .iter()
            .filter(|value| value.is_finite())
            .fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
        let factor = if greatest > 0.0 {
            QUERY_MAX / greatest
        } else {
            0.0
        };
        let mut values: Vec<i8> = query
            .iter()
            .map(|value| (value * factor).round().clamp(-QUERY_MAX, QUERY_MAX) as i8)
            .collect();
        let offset = -128 * values.iter().map(|value| i32::from(*value)).sum::<i32>();
        values.resize(query.len().div_ceil(STEP) * STEP, 0);
        Self {
            values,
            dimension: query.len(),
            offset,
        }
    }
}

/// Dot products of a rounded query with eight rows, each as long as the query.
type Kernel = fn(&Rounded, [&[i8]; GROUP]) -> [i32; GROUP];

/// The fastest kernel of this machine.
fn kernel() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
        {
            // SAFETY: the features were just detected.
            return |query, rows| unsafe { x86::avx512vnni(query, rows) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just detected.
            return |query, rows| unsafe { x86::avx2(query, rows) };
        }
    }
    portable
}

fn portable(query: &Rounded, rows: [&[i8]; GROUP]) -> [i32; GROUP] {
    rows.map(|row| {
        query
            .values
            .iter()
            .zip(row)
            .map(|(left, right)| i32::from(*left) * i32::from(*right))
            .sum()
    })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{GROUP, Rounded, STEP};

    /// # Safety
    /// The CPU must have AVX-512 F, BW and VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub unsafe fn avx512vnni(query: &Rounded, rows: [&[i8]; GROUP]) -> [i32; GROUP] {
        let dimension = query.dimension;
        assert!(rows.iter().all(|row| row.len() == dimension));
        assert!(query.values.len() >= dimension.div_ceil(STEP) * STEP);
        let flip = _mm512_set1_epi8(i8::MIN);
        let mut sums = [_mm512_setzero_si512(); GROUP];
        let whole = dimension / STEP;
        for step in 0..whole {
            // SAFETY: query and rows hold at least `whole` steps, asserted above.
            unsafe {
                let words = _mm512_loadu_si512(query.values.as_ptr().add(step * STEP).cast());
                for at in 0..GROUP {
                    let row = _mm512_loadu_si512(rows[at].as_ptr().add(step * STEP).cast());
                    sums[at] = _mm512_dpbusd_epi32(sums[at], _mm512_xor_si512(row, flip), words);
                }
            }
        }
        if !dimension.is_multiple_of(STEP) {
            let mask = (1_u64 << (dimension % STEP)) - 1;
            // SAFETY: the query is padded to whole steps; of a row only the masked bytes, which it has, are read.
            unsafe {
                let words = _mm512_loadu_si512(query.values.as_ptr().add(whole * STEP).cast());
                for at in 0..GROUP {
                    let row = _mm512_maskz_loadu_epi8(mask, rows[at].as_ptr().add(whole * STEP));
                    sums[at] = _mm512_dpbusd_epi32(sums[at], _mm512_xor_si512(row, flip), words);
                }
            }
        }
        let halves: [__m256i; GROUP] = std::array::from_fn(|at| {
            _mm256_add_epi32(
                _mm512_castsi512_si256(sums[at]),
                _mm512_extracti64x4_epi64::<1>(sums[at]),
            )
        });
        // SAFETY: AVX-512 implies AVX2.
        unsafe { gathered(halves, query.offset) }
    }

    /// # Safety
    /// The CPU must have AVX2.
    #[target_feature(enable = "avx2")]
    pub unsafe fn avx2(query: &Rounded, rows: [&[i8]; GROUP]) -> [i32; GROUP] {
        const HALF: usize = STEP / 2;
        let dimension = query.dimension;
        assert!(rows.iter().all(|row| row.len() == dimension));
        assert!(query.values.len() >= dimension.div_ceil(STEP) * STEP);
        let flip = _mm256_set1_epi8(i8::MIN);
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); GROUP];
        let mut add = |words: __m256i, at: usize, row: __m256i| {
            // Pairs of products fit 16 bits, for query values are within ±64.
            let pairs = _mm256_maddubs_epi16(_mm256_xor_si256(row, flip), words);
            sums[at] = _mm256_add_epi32(sums[at], _mm256_madd_epi16(pairs, ones));
        };
        let whole = dimension / HALF;
        for step in 0..whole {
            // SAFETY: query and rows hold at least `whole` half steps, asserted above.
            unsafe {
                let words = _mm256_loadu_si256(query.values.as_ptr().add(step * HALF).cast());
                for (at, row) in rows.iter().enumerate() {
                    add(
                        words,
                        at,
                        _mm256_loadu_si256(row.as_ptr().add(step * HALF).cast()),
                    );
                }
            }
        }
        if !dimension.is_multiple_of(HALF) {
            // SAFETY: the query is padded to whole steps; the rest of a row is copied before it is read.
            unsafe {
                let words = _mm256_loadu_si256(query.values.as_ptr().add(whole * HALF).cast());
                for (at, row) in rows.iter().enumerate() {
                    let mut rest = [0_i8; HALF];
                    rest[..dimension % HALF].copy_from_slice(&row[whole * HALF..]);
                    add(words, at, _mm256_loadu_si256(rest.as_ptr().cast()));
                }
            }
        }
        // SAFETY: as promised by the caller.
        unsafe { gathered(sums, query.offset) }
    }

    /// The sums of eight vectors of eight lanes, `offset` added to each.
    ///
    /// # Safety
    /// The CPU must have AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn gathered(sums: [__m256i; GROUP], offset: i32) -> [i32; GROUP] {
        let [a, b, c, d, e, f, g, h] = sums;
        let first = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let second = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
        let low = _mm256_permute2x128_si256::<0x20>(first, second);
        let high = _mm256_permute2x128_si256::<0x31>(first, second);
        let total = _mm256_add_epi32(_mm256_add_epi32(low, high), _mm256_set1_epi32(offset));
        let mut out = [0_i32; GROUP];
        // SAFETY: the array holds exactly one vector.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), total) };
        out
    }
}

/// Which rows are looked at.
#[derive(Debug, Clone, Copy)]
pub enum Among<'a> {
    /// All rows.
    All,
    /// Those whose bit is set: bit `i % 8` of byte `i / 8` is row `i`.
    Bits(&'a [u8]),
    /// These rows, each of which must exist.
    Rows(&'a [Row]),
}

/// True: the bit of `row` is set. Rows beyond the end are not.
pub fn has(bits: &[u8], row: Row) -> bool {
    bits.get(row as usize / 8)
        .is_some_and(|byte| byte >> (row % 8) & 1 == 1)
}

/// Finds the nearest rows of one query.
pub struct Scan<'a> {
    rows: Int8Rows<'a>,
    query: &'a [f32],
    rounded: Rounded,
    kernel: Kernel,
    width: usize,
    kept: Vec<(Row, f32)>,
    /// Scores at or below this cannot be among the kept ones.
    least: f32,
    waiting: [Row; GROUP],
    waiting_count: usize,
}

impl<'a> Scan<'a> {
    /// query: L2-normalised, `[dimension]`. k: rows wanted.
    pub fn new(rows: Int8Rows<'a>, query: &'a [f32], k: usize) -> Self {
        Self::with(rows, query, k, kernel())
    }

    fn with(rows: Int8Rows<'a>, query: &'a [f32], k: usize, kernel: Kernel) -> Self {
        assert_eq!(query.len(), rows.dimension, "a query of another dimension");
        let k = k.min(rows.scales.len());
        Self {
            rounded: Rounded::new(query),
            rows,
            query,
            kernel,
            // Rounding the query moves rows by a place here and there: the spare places catch those.
            width: if k == 0 { 0 } else { k + k / 2 + 32 },
            kept: Vec::new(),
            least: f32::NEG_INFINITY,
            waiting: [0; GROUP],
            waiting_count: 0,
        }
    }

    /// Looks at rows. A row that is looked at twice may be returned twice.
    pub fn look(&mut self, among: Among<'_>) {
        if self.width == 0 {
            return;
        }
        let count = self.rows.scales.len() as Row;
        match among {
            Among::All => {
                let whole = count - count % GROUP as Row;
                for first in (0..whole).step_by(GROUP) {
                    let ahead = first + AHEAD as Row;
                    for row in ahead..(ahead + GROUP as Row).min(count) {
                        self.rows.fetch(row);
                    }
                    self.group(std::array::from_fn(|at| first + at as Row));
                }
                for row in whole..count {
                    self.one(row);
                }
            }
            Among::Bits(bits) => {
                for (at, &byte) in bits.iter().enumerate() {
                    let first = (8 * at) as Row;
                    if byte == u8::MAX && self.waiting_count == 0 && first + 8 <= count {
                        self.group(std::array::from_fn(|at| first + at as Row));
                        continue;
                    }
                    let mut left = byte;
                    while left != 0 {
                        let row = first + left.trailing_zeros();
                        left &= left - 1;
                        if row < count {
                            self.rows.fetch(row);
                            self.one(row);
                        }
                    }
                }
            }
            Among::Rows(rows) => {
                for (at, &row) in rows.iter().enumerate() {
                    if let Some(&ahead) = rows.get(at + AHEAD) {
                        self.rows.fetch(ahead);
                    }
                    self.one(row);
                }
            }
        }
    }

    #[inline]
    fn one(&mut self, row: Row) {
        self.waiting[self.waiting_count] = row;
        self.waiting_count += 1;
        if self.waiting_count == GROUP {
            self.waiting_count = 0;
            self.group(self.waiting);
        }
    }

    #[inline]
    fn group(&mut self, rows: [Row; GROUP]) {
        let sums = (self.kernel)(&self.rounded, rows.map(|row| self.rows.row(row)));
        for (row, sum) in rows.into_iter().zip(sums) {
            let score = sum as f32 * self.rows.scales[row as usize];
            if score > self.least {
                self.keep(row, score);
            }
        }
    }

    fn keep(&mut self, row: Row, score: f32) {
        self.kept.push((row, score));
        if self.kept.len() >= 2 * self.width {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.kept
            .select_nth_unstable_by(self.width - 1, |left, right| right.1.total_cmp(&left.1));
        self.least = self.kept[self.width - 1].1;
        self.kept.truncate(self.width);
    }

    /// The `k` best of the rows looked at, best first, with their exact cosines; ties by row.
    pub fn finish(mut self, k: usize) -> Vec<(Row, f32)> {
        if self.waiting_count > 0 {
            // The last group is filled up with its first row, whose further scores are dropped.
            let used = std::mem::take(&mut self.waiting_count);
            let rows: [Row; GROUP] =
                std::array::from_fn(|at| self.waiting[if at < used { at } else { 0 }]);
            let sums = (self.kernel)(&self.rounded, rows.map(|row| self.rows.row(row)));
            for (row, sum) in rows.into_iter().zip(sums).take(used) {
                let score = sum as f32 * self.rows.scales[row as usize];
                if score > self.least {
                    self.keep(row, score);
                }
            }
        }
        if self.kept.len() > self.width {
            self.cut();
        }
        for (row, score) in &mut self.kept {
            *score = self.rows.score(self.query, *row);
        }
        best(self.kept, k)
    }
}

/// The `k` nearest of the rows among which to look, best first, with their cosines.
pub fn nearest(rows: Int8Rows<'_>, query: &[f32], k: usize, among: Among<'_>) -> Vec<(Row, f32)> {
    let mut scan = Scan::new(rows, query, k);
    scan.look(among);
    scan.finish(k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieve::dense::quantise;
    use proptest::prelude::*;

    struct Owned {
        values: Vec<i8>,
        scales: Vec<f32>,
        dimension: usize,
    }

    impl Owned {
        fn rows(&self) -> Int8Rows<'_> {
            Int8Rows {
                values: &self.values,
                scales: &self.scales,
                dimension: self.dimension,
            }
        }
    }

    fn normal(state: &mut u64) -> f32 {
        (0..6)
            .map(|_| {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                (*state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
            })
            .sum()
    }

    fn unit(state: &mut u64, dimension: usize) -> Vec<f32> {
        let vector: Vec<f32> = (0..dimension).map(|_| normal(state)).collect();
        let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        vector
            .into_iter()
            .map(|value| value / norm.max(1e-9))
            .collect()
    }

    fn some(count: usize, dimension: usize, seed: u64) -> (Owned, Vec<f32>) {
        let mut state = seed | 1;
        let mut owned = Owned {
            values: Vec::new(),
            scales: Vec::new(),
            dimension,
        };
        for _ in 0..count {
            let vector = unit(&mut state, dimension);
            owned.scales.push(quantise(&vector, &mut owned.values));
        }
        let query = unit(&mut state, dimension);
        (owned, query)
    }

    fn kernels() -> Vec<Kernel> {
        let mut kernels: Vec<Kernel> = vec![portable, kernel()];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just detected.
            kernels.push(|query, rows| unsafe { x86::avx2(query, rows) });
        }
        kernels
    }

    proptest! {
        #[test]
        fn all_kernels_give_the_sums_of_plain_arithmetic(
            dimension in 1_usize..200,
            seed in any::<u64>(),
            extreme in any::<bool>(),
        ) {
            let (mut owned, query) = some(GROUP, dimension, seed);
            if extreme {
                owned.values.fill(if seed.is_multiple_of(2) { 127 } else { -127 });
            }
            let query = if extreme { vec![1.0; dimension] } else { query };
            let rounded = Rounded::new(&query);
            let rows = owned.rows();
            let group: [&[i8]; GROUP] = std::array::from_fn(|at| rows.row(at as Row));
            let expected = portable(&rounded, group);
            for kernel in kernels() {
                prop_assert_eq!(kernel(&rounded, group), expected);
            }
        }

        #[test]
        fn the_nearest_are_those_of_a_full_sort(
            count in 0_usize..300,
            dimension in prop::sample::select(vec![16_usize, 32, 48, 64, 96, 384]),
            k in 0_usize..40,
            seed in any::<u64>(),
            keep in 1_u64..6,
        ) {
            let (owned, query) = some(count, dimension, seed);
            let rows = owned.rows();
            let eligible: Vec<Row> = (0..count as Row)
                .filter(|row| (u64::from(*row) ^ seed).is_multiple_of(keep))
                .collect();
            let mut bits = vec![0_u8; count.div_ceil(8)];
            for &row in &eligible {
                bits[row as usize / 8] |= 1 << (row % 8);
            }
            let expected = |among: &[Row]| {
                best(among.iter().map(|&row| (row, rows.score(&query, row))).collect(), k)
            };
            let all: Vec<Row> = (0..count as Row).collect();
            prop_assert_eq!(nearest(rows, &query, k, Among::All), expected(&all));
            prop_assert_eq!(nearest(rows, &query, k, Among::Bits(&bits)), expected(&eligible));
            prop_assert_eq!(nearest(rows, &query, k, Among::Rows(&eligible)), expected(&eligible));
            prop_assert!(all.iter().all(|&row| has(&bits, row) == eligible.contains(&row)));
        }
    }

    #[test]
    fn a_query_without_a_direction_ranks_by_row() {
        let (owned, _) = some(20, 32, 7);
        let found = nearest(owned.rows(), &[0.0; 32], 3, Among::All);
        assert_eq!(found, [(0, 0.0), (1, 0.0), (2, 0.0)]);
    }
}
