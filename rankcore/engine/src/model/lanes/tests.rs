use super::*;

/// Values of every kind that a row may hold.
fn values(seed: u64) -> [f32; LANES] {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let size = [1e-6, 0.1, 1.0, 30.0, 1000.0][(state >> 60) as usize % 5];
        ((state >> 20) % 20_001) as f32 / 10_000.0 * size - size
    })
}

/// Bits of everything that a vector can do.
///
/// # Safety
/// As for [`Lanes`].
unsafe fn everything<L: Lanes>(one: &[f32; LANES], other: &[f32; LANES]) -> Vec<u32> {
    let mut found = Vec::new();
    // SAFETY: the arrays hold sixteen values.
    unsafe {
        let (left, right) = (L::load(one.as_ptr()), L::load(other.as_ptr()));
        let mut out = [0.0_f32; LANES];
        let mut keep = |value: L| {
            value.store(out.as_mut_ptr());
            found.extend(out.iter().map(|lane| lane.to_bits()));
        };
        keep(left.add(right));
        keep(left.sub(right));
        keep(left.mul(right));
        keep(left.fma(right, L::splat(0.3)));
        keep(left.max(right));
        keep(left.min(right));
        keep(left.round());
        keep(exp(left));
        keep(crate::model::rows::gelu(left));
        for count in [0, 1, 7, 8, 9, 15, 16, 20] {
            keep(left.first(count, right));
        }
        let integers: [i32; LANES] = one.map(|value| value as i32 * 1000);
        let columns: [i32; LANES] = other.map(|value| value as i32);
        keep(L::centred(integers.as_ptr(), columns.as_ptr(), 77));
        let bytes: [i8; LANES] = one.map(|value| value as i8);
        keep(L::load_i8(bytes.as_ptr()));
        keep(
            L::load_i8(bytes.as_ptr())
                .min(L::splat(127.0))
                .max(L::splat(-126.0))
                .power_of_two(),
        );
        let mut cut = [0_u8; LANES];
        for zero in [0, 12, 128, 255] {
            left.store_u8(zero, cut.as_mut_ptr());
            found.extend(cut.iter().map(|byte| u32::from(*byte)));
        }
        found.push(left.sum().to_bits());
        found.push(left.greatest().to_bits());
        found.push(left.least().to_bits());
    }
    found
}

#[test]
fn every_implementation_gives_the_same_bits() {
    for seed in 1..if cfg!(miri) { 4 } else { 200 } {
        let (one, other) = (values(seed), values(seed + 1000));
        // SAFETY: lane by lane needs no features.
        let expected = unsafe { everything::<Portable>(&one, &other) };
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the features were detected.
                let found = unsafe { everything::<Avx2>(&one, &other) };
                assert_eq!(found, expected, "AVX2");
            } else {
                println!("skipped: this CPU has no AVX2");
            }
            if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq") {
                // SAFETY: the features were detected.
                let found = unsafe { everything::<Avx512>(&one, &other) };
                assert_eq!(found, expected, "AVX-512");
            } else {
                println!("skipped: this CPU has no AVX-512");
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "arithmetic, and slow under Miri")]
fn the_exponential_is_right_to_seven_digits() {
    let mut x = -87.0_f32;
    while x < 88.0 {
        let mut found = [0.0_f32; LANES];
        // SAFETY: lane by lane needs no features; the array holds sixteen values.
        unsafe { exp(Portable::splat(x)).store(found.as_mut_ptr()) };
        let expected = f64::from(x).exp();
        let error = (f64::from(found[0]) / expected - 1.0).abs();
        assert!(error < 3e-7, "e^{x}: {} for {expected}", found[0]);
        x += 0.0371;
    }
}
