//! What is done to one token's row between two matrix products.

use super::lanes::{LANES, Lanes};

/// Least value of GELU, rounded down: with it the range of a row is known once its greatest value is.
const GELU_LEAST: f32 = -0.17;

/// Beyond this the normal distribution function is taken as constant.
const GELU_REACH: f32 = 4.2;

/// The odd part of the normal distribution function, highest power first, as a polynomial of the square: fitted so that
/// the greatest error of GELU over ±8 is 7e-5, far below the step of the 8 bits that follow.
const GELU: [f32; 9] = [
    4.923_733_6e-11,
    -4.795_6e-9,
    2.072_457_6e-7,
    -5.289_534_3e-6,
    8.983_567e-5,
    -1.086_457_5e-3,
    9.740_936e-3,
    -6.622_207e-2,
    3.988_346e-1,
];

/// A row's scale: value = (byte - zero point) x scale.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Scale {
    pub(crate) step: f32,
    pub(crate) zero: i32,
}

/// `x` times the normal distribution function of `x` (Hendrycks & Gimpel 2016, arXiv:1606.08415).
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
pub(crate) unsafe fn gelu<L: Lanes>(x: L) -> L {
    // SAFETY: no pointers; the features are the caller's promise.
    unsafe {
        let near = x.max(L::splat(-GELU_REACH)).min(L::splat(GELU_REACH));
        let square = near.mul(near);
        let mut sum = L::splat(GELU[0]);
        for coefficient in &GELU[1..] {
            sum = sum.fma(square, L::splat(*coefficient));
        }
        x.mul(sum.fma(near, L::splat(0.5)))
    }
}

/// Sum of vector expressions over a row of `$width` values, a multiple of 16, in one order for all processors. A macro,
/// because closures are not compiled for the features of the function around them.
macro_rules! total {
    ($lanes:ty, $width:expr, $at:ident => $vector:expr) => {{
        // Four sums, so that an addition need not wait for the one before.
        let mut sums = [<$lanes>::splat(0.0); 4];
        let mut $at = 0;
        while $at + 4 * LANES <= $width {
            for sum in &mut sums {
                *sum = sum.add($vector);
                $at += LANES;
            }
        }
        while $at < $width {
            sums[0] = sums[0].add($vector);
            $at += LANES;
        }
        sums[0].add(sums[1]).add(sums[2].add(sums[3])).sum()
    }};
}

/// Sum of the products of two rows of `width` values, a multiple of 16.
///
/// # Safety
/// As for [`Lanes`]; both are good for `width` values.
#[inline(always)]
pub(crate) unsafe fn dot<L: Lanes>(left: *const f32, right: *const f32, width: usize) -> f32 {
    // SAFETY: `at` is a multiple of 16 below `width`.
    unsafe { total!(L, width, at => L::load(left.add(at)).mul(L::load(right.add(at)))) }
}

/// Quantises a row of `width` values, a multiple of 16, that lie between `least` and `greatest`, over all 256 steps.
///
/// # Safety
/// As for [`Lanes`]; `row` and `out` are good for `width` values.
#[inline(always)]
unsafe fn quantise_between<L: Lanes>(
    row: *const f32,
    width: usize,
    least: f32,
    greatest: f32,
    out: *mut u8,
) -> Scale {
    // 0 is one of the steps, so that it stays exactly what it is.
    let (least, greatest) = (least.min(0.0), greatest.max(0.0));
    let span = greatest - least;
    let factor = if span > 0.0 { 255.0 / span } else { 0.0 };
    let zero = (-least * factor).round_ties_even() as i32;
    // SAFETY: as promised by the caller.
    unsafe {
        let by = L::splat(factor);
        for at in (0..width).step_by(LANES) {
            L::load(row.add(at)).mul(by).store_u8(zero, out.add(at));
        }
    }
    Scale {
        step: span / 255.0,
        zero,
    }
}

/// Quantises a row of `width` values, a multiple of 16, by its least and greatest value.
///
/// # Safety
/// As for [`Lanes`]; `row` and `out` are good for `width` values.
#[inline(always)]
pub(crate) unsafe fn quantise<L: Lanes>(row: *const f32, width: usize, out: *mut u8) -> Scale {
    // SAFETY: as promised by the caller.
    unsafe {
        let (mut least, mut most) = (L::splat(0.0), L::splat(0.0));
        for at in (0..width).step_by(LANES) {
            let value = L::load(row.add(at));
            least = least.min(value);
            most = most.max(value);
        }
        quantise_between::<L>(row, width, least.least(), most.greatest(), out)
    }
}

/// Quantises a row of GELU's values, the greatest of which is `greatest`, over all 256 steps.
///
/// # Safety
/// As for [`Lanes`]; `row` and `out` are good for `width` values.
#[inline(always)]
pub(crate) unsafe fn quantise_gelu<L: Lanes>(
    row: *const f32,
    width: usize,
    greatest: f32,
    out: *mut u8,
) -> Scale {
    // SAFETY: as promised by the caller.
    unsafe { quantise_between::<L>(row, width, GELU_LEAST, greatest, out) }
}

/// Gain, shift and epsilon of a layer normalisation over rows of `gain.len()` values.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) gain: Vec<f32>,
    pub(crate) shift: Vec<f32>,
    pub(crate) epsilon: f32,
}

/// Normalises a row in place (Ba et al. 2016, arXiv:1607.06450) and quantises it into `out`.
///
/// # Safety
/// As for [`Lanes`]; `row` and `out` are good for `norm.gain.len()` values, a multiple of 16.
#[inline(always)]
pub(crate) unsafe fn normalise<L: Lanes>(row: *mut f32, norm: &Norm, out: *mut u8) -> Scale {
    let width = norm.gain.len();
    let (gain, shift) = (norm.gain.as_ptr(), norm.shift.as_ptr());
    // SAFETY: as promised by the caller; gain and shift are as long as each other.
    unsafe {
        let mean = total!(L, width, at => L::load(row.add(at))) / width as f32;
        let mean = L::splat(mean);
        let spread = total!(L, width, at => {
            let gap = L::load(row.add(at)).sub(mean);
            gap.mul(gap)
        });
        let by = L::splat(1.0 / (spread / width as f32 + norm.epsilon).sqrt());
        let (mut least, mut most) = (L::splat(0.0), L::splat(0.0));
        for at in (0..width).step_by(LANES) {
            let value = L::load(row.add(at)).sub(mean).mul(by);
            let value = value.fma(L::load(gain.add(at)), L::load(shift.add(at)));
            value.store(row.add(at));
            least = least.min(value);
            most = most.max(value);
        }
        quantise_between::<L>(row, width, least.least(), most.greatest(), out)
    }
}

/// A word's `values`, int8 times `scale`, plus `position` plus `kind`: `width` values each, a multiple of 16.
///
/// # Safety
/// As for [`Lanes`]; the pointers are good for `width` values.
#[inline(always)]
pub(crate) unsafe fn embed<L: Lanes>(
    values: *const i8,
    scale: f32,
    position: *const f32,
    kind: *const f32,
    width: usize,
    out: *mut f32,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let scale = L::splat(scale);
        for at in (0..width).step_by(LANES) {
            let word = L::load_i8(values.add(at)).mul(scale);
            let word = word.add(L::load(position.add(at)));
            word.add(L::load(kind.add(at))).store(out.add(at));
        }
    }
}

/// Scales a row of `width` values, a multiple of 16, to length 1; zero stays zero. As `unit` in training.
///
/// # Safety
/// As for [`Lanes`]; `row` is good for `width` values.
#[inline(always)]
pub(crate) unsafe fn unit<L: Lanes>(row: *mut f32, width: usize) {
    // SAFETY: as promised by the caller.
    unsafe {
        let by = L::splat(1.0 / (dot::<L>(row, row, width) + 1e-12).sqrt());
        for at in (0..width).step_by(LANES) {
            L::load(row.add(at)).mul(by).store(row.add(at));
        }
    }
}

/// Mean of rows `[count][stride]`, their first `width` values each, a multiple of 16; the sum where there are none.
///
/// # Safety
/// As for [`Lanes`]; `rows` is good for all of them, `out` for `width` values.
#[inline(always)]
pub(crate) unsafe fn mean<L: Lanes>(
    rows: *const f32,
    count: usize,
    stride: usize,
    width: usize,
    out: *mut f32,
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let by = L::splat(1.0 / count.max(1) as f32);
        for at in (0..width).step_by(LANES) {
            let mut sum = L::splat(0.0);
            for row in 0..count {
                sum = sum.add(L::load(rows.add(row * stride + at)));
            }
            sum.mul(by).store(out.add(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lanes::Portable;

    /// The error function by its series; enough terms for ±6.
    fn gelu_exact(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for number in 1..400 {
            term *= x * x / f64::from(2 * number + 1);
            sum += term;
        }
        x * (0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
    }

    #[test]
    #[cfg_attr(miri, ignore = "arithmetic, and slow under Miri")]
    fn gelu_is_right_to_a_fraction_of_the_steps_that_follow() {
        let mut x = -8.0_f32;
        while x <= 8.0 {
            let mut found = [0.0_f32; LANES];
            // SAFETY: lane by lane needs no features; the array holds sixteen values.
            unsafe { gelu(Portable::splat(x)).store(found.as_mut_ptr()) };
            let expected = gelu_exact(f64::from(x));
            assert!(
                (f64::from(found[0]) - expected).abs() < 8e-5,
                "{x}: {} for {expected}",
                found[0]
            );
            assert!(found[0] > GELU_LEAST, "{x}");
            x += 0.0123;
        }
    }

    #[test]
    fn quantised_rows_are_within_half_a_step() {
        let row: Vec<f32> = (0..64)
            .map(|at| ((at * 37 % 64) as f32 - 31.0) / 7.0)
            .collect();
        let mut bytes = [0_u8; 64];
        // SAFETY: lane by lane needs no features; both hold 64 values.
        let scale = unsafe { quantise::<Portable>(row.as_ptr(), 64, bytes.as_mut_ptr()) };
        for (value, byte) in row.iter().zip(bytes) {
            let back = (f32::from(byte) - scale.zero as f32) * scale.step;
            assert!(
                (back - value).abs() <= scale.step * 0.501,
                "{back} for {value}"
            );
        }
        let wide: Vec<f32> = row
            .iter()
            .map(|value| gelu_exact(f64::from(*value)) as f32)
            .collect();
        let most = wide.iter().fold(0.0_f32, |most, value| most.max(*value));
        // SAFETY: as above.
        let scale =
            unsafe { quantise_gelu::<Portable>(wide.as_ptr(), 64, most, bytes.as_mut_ptr()) };
        assert!(scale.step < most / 200.0);
        for (value, byte) in wide.iter().zip(bytes) {
            let back = (f32::from(byte) - scale.zero as f32) * scale.step;
            assert!(
                (back - value).abs() <= scale.step * 0.501 + 1e-6,
                "{back} for {value}"
            );
        }
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let mut bytes = [9_u8; 16];
        // SAFETY: lane by lane needs no features; both hold 16 values.
        let scale = unsafe { quantise::<Portable>([0.0; 16].as_ptr(), 16, bytes.as_mut_ptr()) };
        assert_eq!(scale.step, 0.0);
        assert!(bytes.iter().all(|byte| i32::from(*byte) == scale.zero));
    }
}
