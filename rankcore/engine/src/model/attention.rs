//! Softmax attention of one text, in f32, head by head.

use super::lanes::{LANES, Lanes, exp};

/// Query rows worked on together: each vector of keys or values is used as often.
const ROWS: usize = 4;

/// Room for one head of one text. Grows, and is kept.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Keys `[head width][length, rounded up to 16]`.
    keys: Vec<f32>,
    /// Scores, then weights, `[ROWS][length, rounded up to 16]`.
    scores: Vec<f32>,
}

/// Queries, keys and values of one text, f32, row-major.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    /// First value of the first query; the queries are scaled already.
    pub(crate) queries: *const f32,
    /// From a query to its key, and from a key to its value.
    pub(crate) apart: usize,
    /// From one token to the next.
    pub(crate) stride: usize,
    /// Tokens, at least 1.
    pub(crate) length: usize,
    /// Heads, side by side.
    pub(crate) heads: usize,
    /// Values of a head, a multiple of 16.
    pub(crate) width: usize,
}

/// Writes for each token and head the mean of the values, weighted by how well the keys answer the query.
///
/// out: f32 `[length][out_stride]`. Vaswani et al. 2017, arXiv:1706.03762, without masks: a text has no padding.
///
/// # Safety
/// As for [`Lanes`]; the pointers are good for what is said of them.
#[inline(always)]
pub(crate) unsafe fn attend<L: Lanes>(
    all: Heads,
    scratch: &mut Scratch,
    out: *mut f32,
    out_stride: usize,
) {
    let wide = all.length.next_multiple_of(LANES);
    scratch
        .keys
        .resize((all.width * wide).max(scratch.keys.len()), 0.0);
    scratch
        .scores
        .resize((ROWS * wide).max(scratch.scores.len()), 0.0);
    let (keys, scores) = (scratch.keys.as_mut_ptr(), scratch.scores.as_mut_ptr());
    for head in 0..all.heads {
        // SAFETY: as promised by the caller; both scratches were made large enough.
        unsafe {
            let queries = all.queries.add(head * all.width);
            turn(queries.add(all.apart), all, wide, keys);
            let values = queries.add(2 * all.apart);
            let out = out.add(head * all.width);
            if all.length < ROWS {
                for row in 0..all.length {
                    let place = Rows {
                        all,
                        wide,
                        keys,
                        scores,
                        values,
                    };
                    some_rows::<L, 1>(
                        place,
                        queries.add(row * all.stride),
                        out.add(row * out_stride),
                        out_stride,
                    );
                }
                continue;
            }
            let mut first = 0;
            loop {
                let place = Rows {
                    all,
                    wide,
                    keys,
                    scores,
                    values,
                };
                some_rows::<L, ROWS>(
                    place,
                    queries.add(first * all.stride),
                    out.add(first * out_stride),
                    out_stride,
                );
                if first + ROWS == all.length {
                    break;
                }
                // The last rows may be done twice, to the same end.
                first = (first + ROWS).min(all.length - ROWS);
            }
        }
    }
}

/// Keys `[length][stride]` to `[width][wide]`, zeros after the last token.
///
/// # Safety
/// The pointers are good for what is said of them.
#[inline(always)]
unsafe fn turn(from: *const f32, all: Heads, wide: usize, keys: *mut f32) {
    // SAFETY: as promised by the caller.
    unsafe {
        for token in 0..all.length {
            let key = from.add(token * all.stride);
            for at in 0..all.width {
                *keys.add(at * wide + token) = *key.add(at);
            }
        }
        for at in 0..all.width {
            for token in all.length..wide {
                *keys.add(at * wide + token) = 0.0;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Rows {
    all: Heads,
    wide: usize,
    keys: *const f32,
    scores: *mut f32,
    values: *const f32,
}

/// `R` queries from `queries` on.
///
/// # Safety
/// As for [`attend`].
#[inline(always)]
unsafe fn some_rows<L: Lanes, const R: usize>(
    place: Rows,
    queries: *const f32,
    out: *mut f32,
    out_stride: usize,
) {
    let Rows {
        all,
        wide,
        keys,
        scores,
        values,
    } = place;
    // SAFETY: as promised by the caller: all offsets stay inside what the pointers are good for.
    unsafe {
        let answers = Product {
            left: queries,
            left_stride: all.stride,
            right: keys,
            right_stride: wide,
            inner: all.width,
            out: scores,
            out_stride: wide,
        };
        answers.all::<L, R>(wide);
        let mut shares = [0.0_f32; R];
        for (row, share) in shares.iter_mut().enumerate() {
            *share = 1.0 / weigh::<L>(scores.add(row * wide), all.length, wide);
        }
        let means = Product {
            left: scores,
            left_stride: wide,
            right: values,
            right_stride: all.stride,
            inner: all.length,
            out,
            out_stride,
        };
        means.all::<L, R>(all.width);
        for (row, share) in shares.iter().enumerate() {
            let share = L::splat(*share);
            for at in (0..all.width).step_by(LANES) {
                let to = out.add(row * out_stride + at);
                L::load(to).mul(share).store(to);
            }
        }
    }
}

/// `left [R][inner]` times `right [inner][columns]`; strides are from one row to the next.
#[derive(Clone, Copy)]
struct Product {
    left: *const f32,
    left_stride: usize,
    right: *const f32,
    right_stride: usize,
    inner: usize,
    out: *mut f32,
    out_stride: usize,
}

impl Product {
    /// All columns, a multiple of 16, of `R` rows.
    ///
    /// # Safety
    /// As for [`Lanes`]; the pointers are good for so many rows and columns.
    #[inline(always)]
    unsafe fn all<L: Lanes, const R: usize>(self, columns: usize) {
        let mut at = 0;
        while at < columns {
            let left = (columns - at) / LANES;
            // SAFETY: as promised by the caller. Sums of several vectors at a time, as many as the registers hold.
            let done = unsafe {
                if L::WIDE >= 4 && left >= 4 {
                    self.some::<L, R, 4>(at)
                } else if L::WIDE >= 3 && left >= 3 {
                    self.some::<L, R, 3>(at)
                } else if L::WIDE >= 2 && left >= 2 {
                    self.some::<L, R, 2>(at)
                } else {
                    self.some::<L, R, 1>(at)
                }
            };
            at += done * LANES;
        }
    }

    /// `C` vectors of columns from the column `first` on. Returns: `C`.
    ///
    /// # Safety
    /// As for [`Product::all`].
    #[inline(always)]
    unsafe fn some<L: Lanes, const R: usize, const C: usize>(self, first: usize) -> usize {
        // SAFETY: as promised by the caller.
        unsafe {
            let (right, out) = (self.right.add(first), self.out.add(first));
            let mut sums = [[L::splat(0.0); C]; R];
            for step in 0..self.inner {
                let mut vectors = [L::splat(0.0); C];
                for (at, vector) in vectors.iter_mut().enumerate() {
                    *vector = L::load(right.add(step * self.right_stride + at * LANES));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let factor = L::splat(*self.left.add(row * self.left_stride + step));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = factor.fma(vector, *sum);
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (at, sum) in sums.iter().enumerate() {
                    sum.store(out.add(row * self.out_stride + at * LANES));
                }
            }
        }
        C
    }
}

/// Scores to e to the power of what they lack to the greatest. Returns: the sum over the first `length`.
///
/// # Safety
/// As for [`Lanes`]; `scores` is good for `wide` values, the first `length` of which count.
#[inline(always)]
unsafe fn weigh<L: Lanes>(scores: *mut f32, length: usize, wide: usize) -> f32 {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut most = L::splat(f32::MIN);
        for at in (0..wide).step_by(LANES) {
            let known = L::load(scores.add(at)).first(length - at.min(length), L::splat(f32::MIN));
            most = most.max(known);
        }
        let most = L::splat(most.greatest());
        let mut sum = L::splat(0.0);
        for at in (0..wide).step_by(LANES) {
            let weight = exp(L::load(scores.add(at)).sub(most));
            let weight = weight.first(length - at.min(length), L::splat(0.0));
            weight.store(scores.add(at));
            sum = sum.add(weight);
        }
        sum.sum()
    }
}
