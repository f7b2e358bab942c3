//! A BERT-family network over ragged rows: no padding, no masks, the same bits whatever is run beside a row.

use std::cell::RefCell;
use std::sync::Arc;

use super::attention::{Heads, Scratch};
use super::gemm::PANEL;
#[cfg(target_arch = "x86_64")]
use super::kernels::{Avx2Fma, Vnni};
use super::kernels::{Instructions, Kernels, Plain};
use super::linear::{Activations, Linear, Then};
use super::rows::{Norm, Scale};
use super::{Outputs, Row};
use crate::error::{Error, Result};

/// Tokens that go through all layers together: their states stay in the second-level cache, and each layer's weights
/// are read once for all of them.
const BATCH_TOKENS: usize = 512;

/// Tokens of the whole texts that go through one layer together.
const GROUP_TOKENS: usize = 96;

/// Tokens that go through the feed-forward pair together, so that the wide rows between stay in cache.
const INNER_TOKENS: usize = 48;

/// Word vectors, int8 `[words][width]` with a scale a word.
#[derive(Debug, PartialEq)]
pub(crate) struct Words {
    pub(crate) values: Vec<i8>,
    pub(crate) scales: Vec<f32>,
}

/// One layer, post-norm.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Its scales and bias hold the factor of the scores too.
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) mix: Linear,
    pub(crate) mix_norm: Norm,
    pub(crate) widen: Linear,
    pub(crate) narrow: Linear,
    pub(crate) norm: Norm,
    pub(crate) heads: usize,
    pub(crate) head_width: usize,
}

/// What is made of the last layer's states.
#[derive(Debug)]
pub(crate) enum Head {
    /// `dense`: their mean; `tokens`: their projections; all of length 1.
    Encoder {
        project: Linear,
        token_dimension: usize,
    },
    /// `score`: late interaction and the cosine of the means of both texts, mixed, and a layer over `[CLS]`.
    Cross {
        late: f32,
        whole: f32,
        weights: Vec<f32>,
        bias: f32,
    },
}

/// Weights of a network, ready to run. All widths of states and heads are multiples of 16.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) width: usize,
    pub(crate) words: Arc<Words>,
    /// f32 `[positions][width]`.
    pub(crate) positions: Vec<f32>,
    /// f32 `[width]`, the same for both texts.
    pub(crate) kind: Vec<f32>,
    pub(crate) norm: Norm,
    pub(crate) layers: Vec<Layer>,
    /// In so many layers, from below, the two texts of a row are read apart, and the second begins at position 1.
    pub(crate) apart: usize,
    pub(crate) head: Head,
}

/// Everything a run writes to. Grows to the largest run of its thread, and is kept.
#[derive(Default)]
struct Workspace {
    /// f32 `[tokens][stride]`.
    states: Vec<f32>,
    /// The same, quantised.
    bytes: Vec<u8>,
    scales: Vec<Scale>,
    /// Queries, keys and values of a group, f32, one after the other.
    attended: Vec<f32>,
    context: Vec<f32>,
    context_bytes: Vec<u8>,
    inner: Vec<f32>,
    inner_bytes: Vec<u8>,
    inner_greatest: Vec<f32>,
    /// Of the context, and of the inner rows.
    inner_scales: Vec<Scale>,
    scratch: Scratch,
    /// Outputs of one row: dense or score, then tokens.
    first: Vec<f32>,
    second: Vec<f32>,
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// At least `count` values to write to.
fn room<T: Clone + Default>(buffer: &mut Vec<T>, count: usize) -> &mut [T] {
    if buffer.len() < count {
        buffer.resize(count, T::default());
    }
    &mut buffer[..count]
}

/// Normalises the rows of `states` and quantises them into `bytes`, a scale for each.
///
/// # Safety
/// The machine has the instructions of `K`; `states` and `bytes` hold `stride` values for each of `scales`.
unsafe fn normalise<K: Kernels>(
    states: &mut [f32],
    norm: &Norm,
    stride: usize,
    bytes: &mut [u8],
    scales: &mut [Scale],
) {
    for (token, scale) in scales.iter_mut().enumerate() {
        let (state, out) = (&mut states[token * stride..], &mut bytes[token * stride..]);
        // SAFETY: as promised by the caller.
        *scale = unsafe { K::normalise(state.as_mut_ptr(), norm, out.as_mut_ptr()) };
    }
}

impl Network {
    /// Runs `rows` and gives each one's outputs to `take`, with its place in `rows`.
    ///
    /// instructions: which this machine must have. Errors: a row that the network cannot read, or `take`'s.
    pub(crate) fn run(
        &self,
        instructions: Instructions,
        rows: &[Row<'_>],
        mut take: impl FnMut(usize, &Outputs) -> Result<()>,
    ) -> Result<()> {
        for row in rows {
            self.check(row)?;
        }
        // Taken out while it is used: `take` may run another network.
        let mut workspace = WORKSPACE.take();
        let mut first = 0;
        let mut done = Ok(());
        while first < rows.len() && done.is_ok() {
            let mut tokens = rows[first].ids.len();
            let mut end = first + 1;
            while end < rows.len() && tokens + rows[end].ids.len() <= BATCH_TOKENS {
                tokens += rows[end].ids.len();
                end += 1;
            }
            let batch = &rows[first..end];
            let each = |at: usize, outputs: &Outputs| take(first + at, outputs);
            // SAFETY: a model only keeps instructions that were detected; the rows were checked.
            done = unsafe {
                match instructions {
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx512Vnni => self.batch::<Vnni>(batch, &mut workspace, each),
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx2 => self.batch::<Avx2Fma>(batch, &mut workspace, each),
                    Instructions::Portable => self.batch::<Plain>(batch, &mut workspace, each),
                }
            };
            first = end;
        }
        WORKSPACE.set(workspace);
        done
    }

    /// Multiplications and additions of 8-bit numbers that one token takes in all layers.
    pub(crate) fn operations_per_token(&self) -> usize {
        self.layers
            .iter()
            .flat_map(|layer| {
                let (mix, pair) = (&layer.mix, [&layer.widen, &layer.narrow]);
                [
                    &layer.query,
                    &layer.key,
                    &layer.value,
                    mix,
                    pair[0],
                    pair[1],
                ]
            })
            .map(|linear| 2 * linear.weights.inputs * linear.weights.outputs)
            .sum()
    }

    fn check(&self, row: &Row<'_>) -> Result<()> {
        let positions = self.positions.len() / self.width;
        if row.ids.is_empty() || row.second > row.ids.len() {
            return Err(Error::Internal("a model's row has no tokens".into()));
        }
        let needed = if self.apart > 0 {
            row.second.max(row.ids.len() - row.second + 1)
        } else {
            row.ids.len()
        };
        if needed > positions {
            return Err(Error::Internal(format!(
                "a text of {needed} tokens, but the model has {positions} positions"
            )));
        }
        let words = self.words.scales.len();
        if let Some(id) = row
            .ids
            .iter()
            .find(|id| usize::try_from(**id).map_or(true, |id| id >= words))
        {
            return Err(Error::Internal(format!(
                "token {id}, but the model has {words} words"
            )));
        }
        Ok(())
    }

    /// From one row of states to the next.
    fn stride(&self) -> usize {
        self.width.next_multiple_of(PANEL)
    }

    /// # Safety
    /// The machine has `K`'s instructions, and `rows` passed [`Network::check`].
    unsafe fn batch<K: Kernels>(
        &self,
        rows: &[Row<'_>],
        workspace: &mut Workspace,
        mut each: impl FnMut(usize, &Outputs) -> Result<()>,
    ) -> Result<()> {
        let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
        let stride = self.stride();
        room(&mut workspace.states, tokens * stride);
        room(&mut workspace.bytes, tokens * stride);
        room(&mut workspace.scales, tokens);
        // SAFETY: the caller's promise.
        unsafe {
            self.embed::<K>(rows, workspace);
            for (number, layer) in self.layers.iter().enumerate() {
                let (mut row, mut first) = (0, 0);
                while row < rows.len() {
                    let mut end = row + 1;
                    let mut count = rows[row].ids.len();
                    while end < rows.len() && count + rows[end].ids.len() <= GROUP_TOKENS {
                        count += rows[end].ids.len();
                        end += 1;
                    }
                    let group = &rows[row..end];
                    self.attend::<K>(layer, number < self.apart, group, first, count, workspace);
                    self.feed_forward::<K>(layer, first, count, workspace);
                    first += count;
                    row = end;
                }
            }
            let mut first = 0;
            for (at, row) in rows.iter().enumerate() {
                self.finish::<K>(row, first, workspace);
                let tensors = match &self.head {
                    Head::Encoder {
                        token_dimension, ..
                    } => [
                        &workspace.first[..self.width],
                        &workspace.second[..row.ids.len() * token_dimension],
                    ],
                    Head::Cross { .. } => [&workspace.first[..1], &[]],
                };
                each(at, &Outputs { tensors })?;
                first += row.ids.len();
            }
        }
        Ok(())
    }

    /// # Safety
    /// As for [`Network::batch`], which made room.
    unsafe fn embed<K: Kernels>(&self, rows: &[Row<'_>], workspace: &mut Workspace) {
        let (width, stride) = (self.width, self.stride());
        let mut token = 0;
        for row in rows {
            for (at, id) in row.ids.iter().enumerate() {
                let id = *id as usize;
                let position = if self.apart > 0 && at >= row.second {
                    at - row.second + 1
                } else {
                    at
                };
                // Slices, so that what was checked is checked where it is used.
                let word = &self.words.values[id * width..][..width];
                let position = &self.positions[position * width..][..width];
                let state = &mut workspace.states[token * stride..][..width];
                let bytes = &mut workspace.bytes[token * stride..][..width];
                // SAFETY: all are `width` long.
                unsafe {
                    K::embed(
                        word.as_ptr(),
                        self.words.scales[id],
                        position.as_ptr(),
                        self.kind.as_ptr(),
                        width,
                        state.as_mut_ptr(),
                    );
                    workspace.scales[token] =
                        K::normalise(state.as_mut_ptr(), &self.norm, bytes.as_mut_ptr());
                }
                token += 1;
            }
        }
    }

    /// Attention of the texts of `group`, whose `count` tokens begin at `first`, and the first normalisation.
    ///
    /// # Safety
    /// As for [`Network::batch`].
    unsafe fn attend<K: Kernels>(
        &self,
        layer: &Layer,
        apart: bool,
        group: &[Row<'_>],
        first: usize,
        count: usize,
        workspace: &mut Workspace,
    ) {
        let stride = self.stride();
        let wide = layer.query.weights.outputs;
        let whole = count * wide;
        let attended = room(&mut workspace.attended, 3 * whole);
        let context = room(&mut workspace.context, whole);
        let context_bytes = room(&mut workspace.context_bytes, whole);
        let scales = room(&mut workspace.inner_scales, count);
        let states = &mut workspace.states[first * stride..][..count * stride];
        let input = Activations {
            values: &workspace.bytes[first * stride..][..count * stride],
            stride,
            scales: &workspace.scales[first..][..count],
        };
        // SAFETY: the machine has the instructions; all pointers are into slices of `count` rows.
        unsafe {
            for (at, linear) in [&layer.query, &layer.key, &layer.value]
                .into_iter()
                .enumerate()
            {
                let out = &mut attended[at * whole..][..whole];
                K::linear(linear, input, Then::Store(out), wide);
            }
            let mut token = 0;
            for row in group {
                let length = row.ids.len();
                let texts = if apart && row.second > 0 && row.second < length {
                    [row.second, length - row.second]
                } else {
                    [length, 0]
                };
                for length in texts {
                    if length == 0 {
                        continue;
                    }
                    let heads = Heads {
                        queries: attended.as_ptr().add(token * wide),
                        apart: whole,
                        stride: wide,
                        length,
                        heads: layer.heads,
                        width: layer.head_width,
                    };
                    let out = context.as_mut_ptr().add(token * wide);
                    K::attend(heads, &mut workspace.scratch, out, wide);
                    token += length;
                }
            }
            let used = layer.heads * layer.head_width;
            for (token, scale) in scales.iter_mut().enumerate() {
                *scale = K::quantise(
                    context.as_ptr().add(token * wide),
                    used,
                    context_bytes.as_mut_ptr().add(token * wide),
                );
            }
            let input = Activations {
                values: context_bytes,
                stride: wide,
                scales,
            };
            K::linear(&layer.mix, input, Then::Add(states), stride);
            let bytes = &mut workspace.bytes[first * stride..];
            let scales = &mut workspace.scales[first..][..count];
            normalise::<K>(states, &layer.mix_norm, stride, bytes, scales);
        }
    }

    /// The feed-forward pair of the `count` tokens from `first` on, and the second normalisation.
    ///
    /// # Safety
    /// As for [`Network::batch`].
    unsafe fn feed_forward<K: Kernels>(
        &self,
        layer: &Layer,
        first: usize,
        count: usize,
        workspace: &mut Workspace,
    ) {
        let stride = self.stride();
        let wide = layer.widen.weights.outputs;
        let blocks = count.div_ceil(INNER_TOKENS);
        let mut first = first;
        let end = first + count;
        for block in 0..blocks {
            let count = (end - first).div_ceil(blocks - block);
            let inner = room(&mut workspace.inner, count * wide);
            let bytes = room(&mut workspace.inner_bytes, count * wide);
            let greatest = room(&mut workspace.inner_greatest, count);
            let scales = room(&mut workspace.inner_scales, count);
            greatest.fill(0.0);
            let states = &mut workspace.states[first * stride..][..count * stride];
            let input = Activations {
                values: &workspace.bytes[first * stride..][..count * stride],
                stride,
                scales: &workspace.scales[first..][..count],
            };
            // SAFETY: the machine has the instructions; all pointers are into slices of `count` rows.
            unsafe {
                K::linear(&layer.widen, input, Then::Gelu(inner, greatest), wide);
                for (token, scale) in scales.iter_mut().enumerate() {
                    *scale = K::quantise_gelu(
                        inner.as_ptr().add(token * wide),
                        wide,
                        greatest[token],
                        bytes.as_mut_ptr().add(token * wide),
                    );
                }
                let input = Activations {
                    values: bytes,
                    stride: wide,
                    scales,
                };
                K::linear(&layer.narrow, input, Then::Add(states), stride);
                let bytes = &mut workspace.bytes[first * stride..];
                let scales = &mut workspace.scales[first..][..count];
                normalise::<K>(states, &layer.norm, stride, bytes, scales);
            }
            first += count;
        }
    }

    /// The outputs of one row, whose tokens begin at `first`.
    ///
    /// # Safety
    /// As for [`Network::batch`].
    unsafe fn finish<K: Kernels>(&self, row: &Row<'_>, first: usize, workspace: &mut Workspace) {
        let (width, stride) = (self.width, self.stride());
        let length = row.ids.len();
        let states = &mut workspace.states[first * stride..][..length * stride];
        match &self.head {
            Head::Encoder {
                project,
                token_dimension,
            } => {
                let dense = room(&mut workspace.first, width);
                let wide = project.weights.outputs;
                let tokens = room(&mut workspace.second, length * wide);
                let input = Activations {
                    values: &workspace.bytes[first * stride..][..length * stride],
                    stride,
                    scales: &workspace.scales[first..][..length],
                };
                // SAFETY: the machine has the instructions; the pointers are into slices of `length` rows.
                unsafe {
                    K::mean(states.as_ptr(), length, stride, width, dense.as_mut_ptr());
                    K::unit(dense.as_mut_ptr(), width);
                    K::linear(project, input, Then::Store(tokens), wide);
                    for token in 0..length {
                        K::unit(tokens.as_mut_ptr().add(token * wide), *token_dimension);
                        tokens.copy_within(
                            token * wide..token * wide + token_dimension,
                            token * token_dimension,
                        );
                    }
                }
            }
            Head::Cross {
                late,
                whole,
                weights,
                bias,
            } => {
                // [CLS] and the separators belong to neither text.
                let query = 1..row.second.saturating_sub(1).max(1);
                let product = row.second..(length - 1).max(row.second);
                // SAFETY: as above; both ranges lie within the row.
                let score = unsafe {
                    let (met, alike) = meet::<K>(
                        states,
                        stride,
                        width,
                        length,
                        &query,
                        &product,
                        &mut workspace.first,
                    );
                    late * met
                        + whole * alike
                        + (K::dot(states.as_ptr(), weights.as_ptr(), width) + bias)
                };
                room(&mut workspace.first, 1)[0] = score;
            }
        }
    }
}

/// Late interaction of two texts read together, and the cosine of their means. As `meeting_score` in training.
///
/// states: f32 `[length][stride]`, changed. query, product: which rows belong to either. room: to work in.
///
/// # Safety
/// The machine has the instructions; the ranges lie within `length`.
unsafe fn meet<K: Kernels>(
    states: &[f32],
    stride: usize,
    width: usize,
    length: usize,
    query: &std::ops::Range<usize>,
    product: &std::ops::Range<usize>,
    space: &mut Vec<f32>,
) -> (f32, f32) {
    let state = |token: usize| states[token * stride..][..width].as_ptr();
    let space = room(space, 2 * width + length);
    let (means, shares) = space.split_at_mut(2 * width);
    // SAFETY: as promised by the caller; `state` is good for `width` values.
    unsafe {
        for (token, share) in shares.iter_mut().enumerate() {
            *share = 1.0 / (K::dot(state(token), state(token), width) + 1e-12).sqrt();
        }
        // Without product tokens the best is that among all tokens, 4 below its cosine.
        let (among, less) = if product.is_empty() {
            (0..length, 4.0)
        } else {
            (product.clone(), 0.0)
        };
        let mut sum = 0.0;
        for token in query.clone() {
            let mut best = f32::MIN;
            for other in among.clone() {
                let cosine =
                    K::dot(state(token), state(other), width) * shares[token] * shares[other];
                best = best.max(cosine - less);
            }
            sum += best;
        }
        let met = sum / query.len().max(1) as f32;
        let (left, right) = means.split_at_mut(width);
        for (mean, range) in [(&mut *left, query), (&mut *right, product)] {
            let start = states.as_ptr().add(range.start.min(length - 1) * stride);
            K::mean(start, range.len(), stride, width, mean.as_mut_ptr());
            K::unit(mean.as_mut_ptr(), width);
        }
        (met, K::dot(left.as_ptr(), right.as_ptr(), width))
    }
}

#[cfg(test)]
mod tests;
