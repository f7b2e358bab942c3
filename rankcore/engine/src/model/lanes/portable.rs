//! Lane by lane: for other processors, and the reference that the fast ones must equal.

use super::{LANES, Lanes, tree_sum};

/// Sixteen lanes in an array.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

impl Portable {
    fn with(self, other: Self, operation: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|at| operation(self.0[at], other.0[at])))
    }
}

impl Lanes for Portable {
    const WIDE: usize = 1;

    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: good for sixteen values by the trait's contract.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    unsafe fn add(self, other: Self) -> Self {
        self.with(other, |one, other| one + other)
    }

    unsafe fn sub(self, other: Self) -> Self {
        self.with(other, |one, other| one - other)
    }

    unsafe fn mul(self, other: Self) -> Self {
        self.with(other, |one, other| one * other)
    }

    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|at| {
            self.0[at].mul_add(factor.0[at], addend.0[at])
        }))
    }

    unsafe fn max(self, other: Self) -> Self {
        self.with(other, |one, other| if one > other { one } else { other })
    }

    unsafe fn min(self, other: Self) -> Self {
        self.with(other, |one, other| if one < other { one } else { other })
    }

    unsafe fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }

    unsafe fn power_of_two(self) -> Self {
        Self(
            self.0
                .map(|power| f32::from_bits(((power as i32 + 127) << 23) as u32)),
        )
    }

    unsafe fn first(self, count: usize, other: Self) -> Self {
        Self(std::array::from_fn(|at| {
            if at < count { self.0[at] } else { other.0[at] }
        }))
    }

    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: good for sixteen values by the trait's contract.
        Self(unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from))
    }

    unsafe fn centred(sums: *const i32, columns: *const i32, zero: i32) -> Self {
        // SAFETY: good for sixteen values each by the trait's contract.
        let (sums, columns) = unsafe {
            (
                sums.cast::<[i32; LANES]>().read_unaligned(),
                columns.cast::<[i32; LANES]>().read_unaligned(),
            )
        };
        Self(std::array::from_fn(|at| {
            sums[at].wrapping_sub(zero.wrapping_mul(columns[at])) as f32
        }))
    }

    unsafe fn store_u8(self, zero: i32, to: *mut u8) {
        let bytes = self
            .0
            .map(|value| (value.round_ties_even() as i32 + zero).clamp(0, 255) as u8);
        // SAFETY: good for sixteen bytes by the trait's contract.
        unsafe { to.cast::<[u8; LANES]>().write_unaligned(bytes) }
    }

    unsafe fn sum(self) -> f32 {
        tree_sum(self.0)
    }

    unsafe fn least(self) -> f32 {
        self.0
            .into_iter()
            .reduce(|one, other| if one < other { one } else { other })
            .unwrap_or(f32::MAX)
    }

    unsafe fn greatest(self) -> f32 {
        self.0
            .into_iter()
            .reduce(|one, other| if one > other { one } else { other })
            .unwrap_or(f32::MIN)
    }
}
