use proptest::prelude::*;

use super::*;
use crate::model::gemm::Packed;

/// A small generator, so that failures repeat.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn floats(&mut self, count: usize, spread: f32) -> Vec<f32> {
        (0..count)
            .map(|_| (self.bits() % 20_001) as f32 / 10_000.0 * spread - spread)
            .collect()
    }
}

/// A network's weights before they are packed, for the reference.
struct Plain {
    weights: Vec<i8>,
    inputs: usize,
    outputs: usize,
}

struct Made {
    network: Network,
    /// Per layer query, key, value, mix, widen, narrow; then the projection of an encoder.
    plain: Vec<Plain>,
}

const WORDS: usize = 50;
const POSITIONS: usize = 40;
const HEAD_WIDTH: usize = 16;

/// A network of random weights. narrow: within ±64. Sizes are no multiples of a panel.
fn network(cross: bool, apart: usize, narrow: bool) -> Made {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (width, layers, heads, inner) = (48, 2, [2, 3], [70, 130]);
    let mut plain = Vec::new();
    let mut linear = |random: &mut Random, inputs: usize, outputs: usize, factor: f32| {
        let weights: Vec<i8> = (0..inputs * outputs)
            .map(|_| {
                if narrow {
                    ((random.bits() % 129) as i16 - 64) as i8
                } else {
                    (random.bits() % 255) as u8 as i8
                }
            })
            .collect();
        let packed = Packed::new(&weights, inputs, outputs);
        let mut scales: Vec<f32> = random.floats(outputs, 0.001);
        let mut bias = random.floats(outputs, 0.1);
        for value in scales.iter_mut().chain(&mut bias) {
            *value *= factor;
        }
        scales.resize(packed.outputs, 0.0);
        bias.resize(packed.outputs, 0.0);
        plain.push(Plain {
            weights,
            inputs,
            outputs,
        });
        Linear {
            weights: packed,
            scales,
            bias,
        }
    };
    let norm = |random: &mut Random| Norm {
        gain: random
            .floats(width, 0.5)
            .iter()
            .map(|gain| 1.0 + gain)
            .collect(),
        shift: random.floats(width, 0.2),
        epsilon: 1e-12,
    };
    let layers = (0..layers)
        .map(|at| {
            let attended = heads[at] * HEAD_WIDTH;
            Layer {
                query: linear(&mut random, width, attended, 0.25),
                key: linear(&mut random, width, attended, 1.0),
                value: linear(&mut random, width, attended, 1.0),
                mix: linear(&mut random, attended, width, 1.0),
                mix_norm: norm(&mut random),
                widen: linear(&mut random, width, inner[at], 3.0),
                narrow: linear(&mut random, inner[at], width, 1.0),
                norm: norm(&mut random),
                heads: heads[at],
                head_width: HEAD_WIDTH,
            }
        })
        .collect();
    let head = if cross {
        Head::Cross {
            late: 3.0,
            whole: 1.5,
            weights: random.floats(width, 0.1),
            bias: 0.25,
        }
    } else {
        Head::Encoder {
            project: linear(&mut random, width, 32, 1.0),
            token_dimension: 32,
        }
    };
    let network = Network {
        width,
        words: Arc::new(Words {
            values: (0..WORDS * width)
                .map(|_| random.bits() as u8 as i8)
                .collect(),
            scales: random.floats(WORDS, 0.01),
        }),
        positions: random.floats(POSITIONS * width, 0.3),
        kind: random.floats(width, 0.1),
        norm: norm(&mut random),
        layers,
        apart,
        head,
    };
    Made { network, plain }
}

/// A row of random words. Its memory is never given back: a test makes few.
fn row(length: usize, second: usize, seed: u64) -> Row<'static> {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
    let ids: Vec<i64> = (0..length)
        .map(|_| (random.bits() % WORDS as u64) as i64)
        .collect();
    Row {
        ids: ids.leak(),
        second,
    }
}

/// The bits of all outputs of each row.
fn bits(network: &Network, instructions: Instructions, rows: &[Row<'_>]) -> Vec<Vec<u32>> {
    let mut found = Vec::new();
    network
        .run(instructions, rows, |at, outputs| {
            assert_eq!(at, found.len());
            found.push(
                outputs
                    .tensors
                    .concat()
                    .iter()
                    .map(|value| value.to_bits())
                    .collect(),
            );
            Ok(())
        })
        .unwrap();
    found
}

/// The same network in f64 without rounding, written from the formulas.
fn exact(made: &Made, row: &Row<'_>) -> Vec<f64> {
    let network = &made.network;
    let width = network.width;
    let length = row.ids.len();
    let apart = |layer: usize| layer < network.apart && row.second < length;
    let mut states: Vec<Vec<f64>> = row
        .ids
        .iter()
        .enumerate()
        .map(|(at, id)| {
            let place = if network.apart > 0 && at >= row.second {
                at - row.second + 1
            } else {
                at
            };
            (0..width)
                .map(|dim| {
                    f64::from(network.words.values[*id as usize * width + dim])
                        * f64::from(network.words.scales[*id as usize])
                        + f64::from(network.positions[place * width + dim])
                        + f64::from(network.kind[dim])
                })
                .collect()
        })
        .collect();
    let norm = |state: &mut Vec<f64>, norm: &Norm| {
        let mean = state.iter().sum::<f64>() / width as f64;
        let spread = state.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / width as f64;
        for (dim, value) in state.iter_mut().enumerate() {
            *value = (*value - mean) / (spread + f64::from(norm.epsilon)).sqrt()
                * f64::from(norm.gain[dim])
                + f64::from(norm.shift[dim]);
        }
    };
    let linear = |number: usize, linear: &Linear, state: &[f64]| -> Vec<f64> {
        let plain = &made.plain[number];
        (0..plain.outputs)
            .map(|output| {
                let sum: f64 = (0..plain.inputs)
                    .map(|input| {
                        state[input] * f64::from(plain.weights[input * plain.outputs + output])
                    })
                    .sum();
                sum * f64::from(linear.scales[output]) + f64::from(linear.bias[output])
            })
            .collect()
    };
    for state in &mut states {
        norm(state, &network.norm);
    }
    for (number, layer) in network.layers.iter().enumerate() {
        let part = |at: usize, which: &Linear| -> Vec<Vec<f64>> {
            states
                .iter()
                .map(|state| linear(6 * number + at, which, state))
                .collect()
        };
        let (queries, keys, values) = (
            part(0, &layer.query),
            part(1, &layer.key),
            part(2, &layer.value),
        );
        let mut next = states.clone();
        for (token, state) in next.iter_mut().enumerate() {
            let same =
                |other: usize| !apart(number) || (token < row.second) == (other < row.second);
            let mut context = Vec::new();
            for head in 0..layer.heads {
                let dims = head * HEAD_WIDTH..(head + 1) * HEAD_WIDTH;
                let weights: Vec<f64> = (0..length)
                    .map(|other| {
                        let score: f64 = dims
                            .clone()
                            .map(|dim| queries[token][dim] * keys[other][dim])
                            .sum();
                        if same(other) { score.exp() } else { 0.0 }
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                context.extend(dims.map(|dim| {
                    (0..length)
                        .map(|other| weights[other] * values[other][dim])
                        .sum::<f64>()
                        / total
                }));
            }
            for (value, added) in state
                .iter_mut()
                .zip(linear(6 * number + 3, &layer.mix, &context))
            {
                *value += added;
            }
            norm(state, &layer.mix_norm);
            let wide: Vec<f64> = linear(6 * number + 4, &layer.widen, state)
                .iter()
                .map(|x| x * normal(*x))
                .collect();
            for (value, added) in state
                .iter_mut()
                .zip(linear(6 * number + 5, &layer.narrow, &wide))
            {
                *value += added;
            }
            norm(state, &layer.norm);
        }
        states = next;
    }
    let unit = |vector: &[f64]| -> Vec<f64> {
        let length = (vector.iter().map(|one| one * one).sum::<f64>() + 1e-12).sqrt();
        vector.iter().map(|one| one / length).collect()
    };
    let mean = |tokens: std::ops::Range<usize>| -> Vec<f64> {
        let count = tokens.len().max(1) as f64;
        (0..width)
            .map(|dim| tokens.clone().map(|token| states[token][dim]).sum::<f64>() / count)
            .collect()
    };
    let dot = |left: &[f64], right: &[f64]| {
        left.iter()
            .zip(right)
            .map(|(one, other)| one * other)
            .sum::<f64>()
    };
    match &network.head {
        Head::Encoder { project, .. } => {
            let mut outputs = unit(&mean(0..length));
            let number = made.plain.len() - 1;
            for state in &states {
                outputs.extend(unit(&linear(number, project, state)));
            }
            outputs
        }
        Head::Cross {
            late,
            whole,
            weights,
            bias,
        } => {
            let query = 1..(row.second - 1).max(1);
            let product = row.second..(length - 1).max(row.second);
            let units: Vec<Vec<f64>> = states.iter().map(|state| unit(state)).collect();
            let best = |token: usize| -> f64 {
                let among = if product.is_empty() {
                    0..length
                } else {
                    product.clone()
                };
                let less = if product.is_empty() { 4.0 } else { 0.0 };
                among
                    .map(|other| dot(&units[token], &units[other]) - less)
                    .fold(f64::MIN, f64::max)
            };
            let met = query.clone().map(best).sum::<f64>() / query.len().max(1) as f64;
            let alike = dot(&unit(&mean(query)), &unit(&mean(product)));
            let head: f64 = weights
                .iter()
                .zip(&states[0])
                .map(|(one, other)| f64::from(*one) * other)
                .sum();
            vec![f64::from(*late) * met + f64::from(*whole) * alike + head + f64::from(*bias)]
        }
    }
}

/// The normal distribution function, by its series (Abramowitz & Stegun 26.2.11); enough terms for ±8.
fn normal(x: f64) -> f64 {
    if x.abs() > 8.0 {
        return f64::from(u8::from(x > 0.0));
    }
    let (mut term, mut sum) = (x, x);
    for number in 1..200 {
        term *= x * x / f64::from(2 * number + 1);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[test]
fn outputs_are_near_those_of_the_formulas_without_rounding() {
    for narrow in [true, false] {
        for (cross, apart) in [(false, 0), (true, 0), (true, 1), (true, 2)] {
            let made = network(cross, apart, narrow);
            for length in [3, 4, 15, 16, 17, 33, 40] {
                let second = if cross { (length / 3).max(2) } else { length };
                let row = row(length, second, length as u64);
                let expected = exact(&made, &row);
                let mut found = Vec::new();
                made.network
                    .run(
                        Instructions::best(),
                        std::slice::from_ref(&row),
                        |_, outputs| {
                            found = outputs.tensors.concat();
                            Ok(())
                        },
                    )
                    .unwrap();
                assert_eq!(found.len(), expected.len());
                // Eight bits an activation, through two layers: a tenth of a unit vector's or score's reach.
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(
                        (f64::from(*found) - expected).abs() < 0.05,
                        "{found} for {expected}, cross {cross}, apart {apart}, {length} tokens"
                    );
                }
            }
        }
    }
}

#[test]
fn a_pair_without_query_or_product_tokens_has_a_finite_score() {
    let made = network(true, 1, true);
    for (length, second) in [(3, 2), (4, 3), (6, 5), (6, 2)] {
        let row = row(length, second, 7);
        let expected = exact(&made, &row)[0];
        let found = f32::from_bits(bits(&made.network, Instructions::best(), &[row])[0][0]);
        assert!(
            (f64::from(found) - expected).abs() < 0.05,
            "{found} for {expected}"
        );
    }
}

#[test]
fn rows_that_the_network_cannot_read_are_refused_with_a_reason() {
    let made = network(false, 0, true);
    let apart = network(true, 1, true);
    let of = |ids: &'static [i64]| Row { ids, second: 3 };
    let unknown = of(&[1, WORDS as i64, 2]);
    let negative = of(&[1, 2, -1]);
    for (network, row, reason) in [
        (&made, row(POSITIONS + 1, POSITIONS + 1, 1), "positions"),
        (&made, unknown, "words"),
        (&made, negative, "words"),
        (&made, row(0, 0, 1), "no tokens"),
        (&apart, row(POSITIONS + 3, 3, 1), "positions"),
    ] {
        let refused = network
            .network
            .run(Instructions::best(), &[row], |_, _| Ok(()));
        assert!(
            refused.unwrap_err().to_string().contains(reason),
            "{reason}"
        );
    }
    // Read apart, the second text has positions of its own.
    let long = row(POSITIONS + 2, 4, 1);
    assert_eq!(bits(&apart.network, Instructions::best(), &[long]).len(), 1);
}

#[test]
fn threads_do_not_change_a_bit() {
    let made = network(true, 1, true);
    let rows: Vec<Row<'_>> = (0..24).map(|at| row(6 + at, 3, at as u64)).collect();
    let expected = bits(&made.network, Instructions::best(), &rows);
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (made, rows, expected) = (&made, &rows, &expected);
            scope.spawn(move || {
                for _ in 0..5 {
                    let found = bits(&made.network, Instructions::best(), &rows[first * 6..][..6]);
                    assert_eq!(found, expected[first * 6..][..6]);
                }
            });
        }
    });
}

#[test]
fn steady_work_grows_no_buffer() {
    let made = network(false, 0, true);
    let rows: Vec<Row<'_>> = (0..40)
        .map(|at| row(5 + at % 30, 5 + at % 30, at as u64))
        .collect();
    bits(&made.network, Instructions::best(), &rows);
    let sizes = || {
        WORKSPACE.with_borrow(|space| {
            [
                space.states.capacity(),
                space.bytes.capacity(),
                space.attended.capacity(),
                space.inner.capacity(),
                space.second.capacity(),
            ]
        })
    };
    let before = sizes();
    assert!(before.iter().all(|size| *size > 0));
    bits(&made.network, Instructions::best(), &rows);
    assert_eq!(before, sizes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn instructions_chunks_and_neighbours_do_not_change_a_bit(
        lengths in prop::collection::vec(2_usize..=POSITIONS, 1..30),
        cut in 0_usize..30,
        cross: bool,
        apart in 0_usize..=2,
        narrow: bool,
    ) {
        let made = network(cross, if cross { apart } else { 0 }, narrow);
        let rows: Vec<Row<'_>> = lengths
            .iter()
            .enumerate()
            .map(|(at, length)| row(*length, if cross { (length / 2).max(1) } else { *length }, at as u64))
            .collect();
        let expected = bits(&made.network, Instructions::Portable, &rows);
        for instructions in Instructions::all() {
            prop_assert_eq!(&bits(&made.network, instructions, &rows), &expected);
            let cut = cut.min(rows.len());
            let mut parts = bits(&made.network, instructions, &rows[..cut]);
            parts.extend(bits(&made.network, instructions, &rows[cut..]));
            prop_assert_eq!(&parts, &expected);
            let mut turned = rows.clone();
            turned.reverse();
            let mut found = bits(&made.network, instructions, &turned);
            found.reverse();
            prop_assert_eq!(&found, &expected);
            let alone: Vec<Vec<u32>> = rows
                .iter()
                .flat_map(|row| bits(&made.network, instructions, std::slice::from_ref(row)))
                .collect();
            prop_assert_eq!(&alone, &expected);
        }
    }
}
