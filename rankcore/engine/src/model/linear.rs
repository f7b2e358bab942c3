//! A linear layer: an integer matrix product and what turns its sums into f32.

use super::gemm::{self, PANEL, Packed, Sums, Tile};
use super::lanes::{LANES, Lanes};
use super::rows::{Scale, gelu};

/// Weights of a linear layer, int8 with a scale for each output.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weights: Packed,
    /// Per output, padded as the weights.
    pub(crate) scales: Vec<f32>,
    /// Per output, padded as the weights.
    pub(crate) bias: Vec<f32>,
}

/// Rows of quantised activations.
#[derive(Clone, Copy)]
pub(crate) struct Activations<'a> {
    pub(crate) values: &'a [u8],
    /// Values from one row to the next.
    pub(crate) stride: usize,
    /// One a row.
    pub(crate) scales: &'a [Scale],
}

/// What becomes of the outputs of a layer, f32 `[rows][stride]`.
pub(crate) enum Then<'a> {
    /// They are stored.
    Store(&'a mut [f32]),
    /// They are added to what is there.
    Add(&'a mut [f32]),
    /// GELU of them is stored; the greatest value of each row beside it, which starts at 0.
    Gelu(&'a mut [f32], &'a mut [f32]),
}

type Kernel = unsafe fn(Tile<'_>, &mut Sums);

/// Runs a layer on all rows of `input`; `stride` is from one row of the output to the next.
///
/// # Safety
/// The CPU must have the features of `L` and `kernel`, which takes up to `most` rows.
#[inline(always)]
pub(crate) unsafe fn run<L: Lanes>(
    layer: &Linear,
    input: Activations<'_>,
    mut then: Then<'_>,
    stride: usize,
    kernel: Kernel,
    most: usize,
) {
    let count = input.scales.len();
    if count == 0 {
        return;
    }
    let weights = &layer.weights;
    let room = match &then {
        Then::Store(out) | Then::Add(out) => out.len(),
        Then::Gelu(out, greatest) => {
            assert!(greatest.len() >= count);
            out.len()
        }
    };
    assert!(
        stride >= weights.outputs
            && room >= count * stride
            && input.stride >= weights.inputs
            && input.values.len() >= (count - 1) * input.stride + weights.inputs
            && layer.scales.len() == weights.outputs
            && layer.bias.len() == weights.outputs
    );
    let mut sums = Sums::new();
    for panel in 0..weights.panels() {
        let first_output = panel * PANEL;
        for (first, size) in gemm::split(count, most) {
            // SAFETY: the assertions above: `size` rows of `inputs` bytes follow, and as many of `outputs` values.
            unsafe {
                let tile = Tile {
                    activations: input.values.as_ptr().add(first * input.stride),
                    stride: input.stride,
                    rows: size,
                    panel: weights.panel(panel),
                    narrow: weights.narrow,
                };
                kernel(tile, &mut sums);
                for row in 0..size {
                    let scale = *input.scales.get_unchecked(first + row);
                    let step = L::splat(scale.step);
                    let place = (first + row) * stride + first_output;
                    let mut most = L::splat(0.0);
                    for at in (0..PANEL).step_by(LANES) {
                        let sum = L::centred(
                            sums.0.as_ptr().add(row * PANEL + at),
                            weights.sums.as_ptr().add(first_output + at),
                            scale.zero,
                        );
                        let by = L::load(layer.scales.as_ptr().add(first_output + at)).mul(step);
                        let bias = L::load(layer.bias.as_ptr().add(first_output + at));
                        let value = sum.fma(by, bias);
                        match &mut then {
                            Then::Store(out) => value.store(out.as_mut_ptr().add(place + at)),
                            Then::Add(out) => {
                                let to = out.as_mut_ptr().add(place + at);
                                L::load(to).add(value).store(to);
                            }
                            Then::Gelu(out, _) => {
                                let value = gelu(value);
                                most = most.max(value);
                                value.store(out.as_mut_ptr().add(place + at));
                            }
                        }
                    }
                    if let Then::Gelu(_, greatest) = &mut then {
                        let known = greatest.get_unchecked_mut(first + row);
                        *known = known.max(most.greatest());
                    }
                }
            }
        }
    }
}
