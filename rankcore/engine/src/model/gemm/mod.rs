//! Integer matrix products: unsigned 8-bit activations by signed 8-bit weights, summed in 32 bits, exactly.
//!
//! **Weights** are packed once as `[outputs / 64][inputs / 4][64][4]` int8: one 64-byte line holds four inputs
//! of sixteen outputs, what one `vpdpbusd` consumes, and a panel of 64 outputs is read from front to back.
//! Missing inputs and outputs are zeros.
//!
//! **Activations** are u8 with a zero point a row; what the zero point adds to every sum is taken back after
//! the product by the sums of the weights' columns.
//!
//! A kernel multiplies a few rows by one panel into a tile of int32 `[rows][64]`. Sums are exact, so all kernels
//! agree, and how rows are cut into tiles changes nothing.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vnni;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::{ROWS as AVX2_ROWS, tile as avx2_tile};
pub(crate) use portable::{ROWS as PORTABLE_ROWS, tile as portable_tile};
#[cfg(target_arch = "x86_64")]
pub(crate) use vnni::{LIMIT_OPERATIONS, ROWS as VNNI_ROWS, limit_rounds, tile as vnni_tile};

/// Outputs of one panel.
pub(crate) const PANEL: usize = 64;

/// Most rows of one tile, of any kernel.
pub(crate) const ROWS_MAX: usize = 6;

/// Most inputs of a matrix: 255 x 128 x this fits a sum of 32 bits.
pub(crate) const INPUTS_MAX: usize = 1 << 15;

/// Weights of one layer, int8 `[inputs][outputs]`, packed.
#[derive(Debug)]
pub(crate) struct Packed {
    /// Inputs, rounded up to a multiple of 4.
    pub(crate) inputs: usize,
    /// Outputs, rounded up to a multiple of [`PANEL`].
    pub(crate) outputs: usize,
    values: Vec<i8>,
    /// Per output the sum of its weights.
    pub(crate) sums: Vec<i32>,
    /// All weights are within ±64, so that a sum of two products fits 16 bits.
    pub(crate) narrow: bool,
}

impl Packed {
    /// values: `[inputs][outputs]`, row-major. Panics unless there are as many, and no more inputs than
    /// [`INPUTS_MAX`].
    pub(crate) fn new(values: &[i8], inputs: usize, outputs: usize) -> Packed {
        assert!(inputs <= INPUTS_MAX && values.len() == inputs * outputs);
        let (wide, tall) = (outputs.next_multiple_of(PANEL), inputs.next_multiple_of(4));
        let mut packed = vec![0_i8; wide * tall];
        let mut sums = vec![0_i32; wide];
        for (input, row) in values.chunks_exact(outputs.max(1)).enumerate() {
            for (output, weight) in row.iter().enumerate() {
                let panel = output / PANEL * PANEL * tall;
                packed[panel + input / 4 * PANEL * 4 + output % PANEL * 4 + input % 4] = *weight;
                sums[output] += i32::from(*weight);
            }
        }
        Packed {
            inputs: tall,
            outputs: wide,
            values: packed,
            sums,
            narrow: values.iter().all(|weight| (-64..=64).contains(weight)),
        }
    }

    /// Panels of 64 outputs.
    pub(crate) fn panels(&self) -> usize {
        self.outputs / PANEL
    }

    /// The weights of one panel: `[inputs / 4][64][4]`.
    #[inline]
    pub(crate) fn panel(&self, at: usize) -> &[i8] {
        &self.values[at * PANEL * self.inputs..][..PANEL * self.inputs]
    }
}

/// What one call of a kernel reads.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// First of the rows, u8, each `stride` bytes after the one before, each good for `panel.len() / 64` bytes.
    pub(crate) activations: *const u8,
    /// Bytes from one row to the next.
    pub(crate) stride: usize,
    /// Number of rows, 1 to the kernel's most.
    pub(crate) rows: usize,
    /// From [`Packed::panel`].
    pub(crate) panel: &'a [i8],
    /// From [`Packed::narrow`].
    pub(crate) narrow: bool,
}

/// Sums of a tile, `[rows][64]`.
#[repr(align(64))]
pub(crate) struct Sums(pub(crate) [i32; ROWS_MAX * PANEL]);

impl Sums {
    pub(crate) fn new() -> Sums {
        Sums([0; ROWS_MAX * PANEL])
    }
}

/// The tiles that rows are cut into: as few as the kernel's most rows allow, as equal as they can be. Yields the first
/// row and the number of rows of each.
pub(crate) struct Split {
    first: usize,
    rows: usize,
    tiles: usize,
}

/// Cuts `rows` rows into tiles of at most `most`.
#[inline(always)]
pub(crate) fn split(rows: usize, most: usize) -> Split {
    Split {
        first: 0,
        rows,
        tiles: rows.div_ceil(most),
    }
}

impl Iterator for Split {
    type Item = (usize, usize);

    #[inline(always)]
    fn next(&mut self) -> Option<(usize, usize)> {
        if self.tiles == 0 {
            return None;
        }
        let (first, size) = (self.first, (self.rows - self.first).div_ceil(self.tiles));
        self.first += size;
        self.tiles -= 1;
        Some((first, size))
    }
}

#[cfg(test)]
mod tests;
