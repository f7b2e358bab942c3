//! The plain loop: for other processors, and the reference of the fast kernels.

use super::{PANEL, Sums, Tile};

/// Most rows of a tile.
pub(crate) const ROWS: usize = 4;

/// Multiplies the rows of `tile` by its panel.
///
/// # Safety
/// The pointers of `tile` are good for what it says they hold, and it has at most [`super::ROWS_MAX`] rows.
pub(crate) unsafe fn tile(tile: Tile<'_>, sums: &mut Sums) {
    let inputs = tile.panel.len() / PANEL;
    for row in 0..tile.rows {
        // SAFETY: each row is good for one byte an input.
        let activations =
            unsafe { std::slice::from_raw_parts(tile.activations.add(row * tile.stride), inputs) };
        let sums = &mut sums.0[row * PANEL..][..PANEL];
        sums.fill(0);
        for (four, lines) in activations
            .chunks_exact(4)
            .zip(tile.panel.chunks_exact(PANEL * 4))
        {
            for (sum, weights) in sums.iter_mut().zip(lines.chunks_exact(4)) {
                for (activation, weight) in four.iter().zip(weights) {
                    *sum += i32::from(*activation) * i32::from(*weight);
                }
            }
        }
    }
}
