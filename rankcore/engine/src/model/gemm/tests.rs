use super::*;

/// A small generator, so that failures repeat.
fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as u8
        })
        .collect()
}

fn weights(inputs: usize, outputs: usize, narrow: bool, seed: u64) -> Vec<i8> {
    bytes(inputs * outputs, seed)
        .into_iter()
        .map(|byte| {
            if narrow {
                (i16::from(byte % 129) - 64) as i8
            } else {
                byte as i8
            }
        })
        .collect()
}

fn exact(activations: &[u8], weights: &[i8], inputs: usize, outputs: usize) -> Vec<i64> {
    let mut sums = Vec::new();
    for row in activations.chunks_exact(inputs) {
        for output in 0..outputs {
            sums.push(
                row.iter()
                    .enumerate()
                    .map(|(input, value)| {
                        i64::from(*value) * i64::from(weights[input * outputs + output])
                    })
                    .sum(),
            );
        }
    }
    sums
}

type Kernel = unsafe fn(Tile<'_>, &mut Sums);

/// Every kernel this machine can run: its name, its most rows, itself.
fn kernels() -> Vec<(&'static str, usize, Kernel)> {
    let mut kernels: Vec<(&'static str, usize, Kernel)> =
        vec![("portable", portable::ROWS, portable::tile)];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            kernels.push(("avx2", avx2::ROWS, avx2::tile));
        } else {
            println!("skipped: this CPU has no AVX2");
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            kernels.push(("vnni", vnni::ROWS, vnni::tile));
        } else {
            println!("skipped: this CPU has no AVX-512 VNNI");
        }
    }
    kernels
}

fn product(kernel: Kernel, most: usize, activations: &[u8], packed: &Packed) -> Vec<i64> {
    let rows = activations.len() / packed.inputs;
    let mut out = vec![0; rows * packed.outputs];
    for panel in 0..packed.panels() {
        for (first, size) in split(rows, most) {
            let mut sums = Sums::new();
            let tile = Tile {
                activations: activations[first * packed.inputs..].as_ptr(),
                stride: packed.inputs,
                rows: size,
                panel: packed.panel(panel),
                narrow: packed.narrow,
            };
            // SAFETY: the features were detected; `size` rows of `inputs` bytes follow `first`.
            unsafe { kernel(tile, &mut sums) };
            for row in 0..size {
                for at in 0..PANEL {
                    out[(first + row) * packed.outputs + panel * PANEL + at] =
                        i64::from(sums.0[row * PANEL + at]);
                }
            }
        }
    }
    out
}

#[test]
fn every_kernel_is_exact_at_every_shape() {
    // The larger shapes take hours under Miri, and touch memory in no other way.
    let shapes: &[_] = if cfg!(miri) {
        &[(4, 1), (16, 64), (32, 65)]
    } else {
        &[
            (4, 1),
            (16, 64),
            (32, 65),
            (200, 130),
            (384, 64),
            (1024, 128),
        ]
    };
    for &(inputs, outputs) in shapes {
        for rows in [1, 2, 3, 5, 6, 7, 13] {
            for narrow in [true, false] {
                let seed = (inputs * 1000 + outputs * 10 + rows) as u64;
                let values = weights(inputs, outputs, narrow, seed);
                let activations = bytes(rows * inputs, seed + 1);
                let packed = Packed::new(&values, inputs, outputs);
                assert!(packed.narrow || !narrow);
                let expected = exact(&activations, &values, inputs, outputs);
                for (name, most, kernel) in kernels() {
                    let found = product(kernel, most, &activations, &packed);
                    for (row, sums) in found.chunks_exact(packed.outputs).enumerate() {
                        assert_eq!(
                            sums[..outputs],
                            expected[row * outputs..][..outputs],
                            "{name}: {inputs} x {outputs}, row {row} of {rows}"
                        );
                        assert!(
                            sums[outputs..].iter().all(|sum| *sum == 0),
                            "{name}: padding"
                        );
                    }
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "arithmetic, and slow under Miri")]
fn the_largest_products_do_not_wrap() {
    for extreme in [-128_i8, 127, -64, 64] {
        let inputs = INPUTS_MAX;
        let packed = Packed::new(&vec![extreme; inputs], inputs, 1);
        let activations = vec![255_u8; inputs];
        let expected = 255 * i64::from(extreme) * inputs as i64;
        for (name, most, kernel) in kernels() {
            assert_eq!(
                product(kernel, most, &activations, &packed)[0],
                expected,
                "{name}"
            );
        }
    }
}

#[test]
fn column_sums_are_those_of_the_weights() {
    let values = weights(7, 70, false, 3);
    let packed = Packed::new(&values, 7, 70);
    assert_eq!((packed.inputs, packed.outputs), (8, 128));
    for output in 0..70 {
        let sum: i32 = (0..7)
            .map(|input| i32::from(values[input * 70 + output]))
            .sum();
        assert_eq!(packed.sums[output], sum);
    }
    assert!(packed.sums[70..].iter().all(|sum| *sum == 0));
}

#[test]
fn rows_are_split_into_equal_tiles_without_gaps() {
    for rows in 0..50 {
        let mut next = 0;
        let mut sizes = Vec::new();
        for (first, size) in split(rows, 6) {
            assert_eq!(first, next);
            next += size;
            sizes.push(size);
        }
        assert_eq!(next, rows);
        assert_eq!(sizes.len(), rows.div_ceil(6));
        let (least, most) = (sizes.iter().min(), sizes.iter().max());
        assert!(most.unwrap_or(&0) - least.unwrap_or(&0) <= 1);
    }
}
