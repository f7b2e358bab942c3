//! What this machine computes networks with: AVX-512 VNNI, AVX2, or the portable loops. All give the same bits.

use super::attention::{self, Heads, Scratch};
use super::gemm;
use super::lanes::Portable;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::linear::{self, Activations, Linear, Then};
use super::rows::{self, Norm, Scale};

/// Instructions that the kernels are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// AVX-512 with VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain loops: slower than ONNX Runtime, for tests.
    Portable,
}

impl Instructions {
    /// The best that this machine has.
    pub fn best() -> Instructions {
        Instructions::all()
            .into_iter()
            .next()
            .unwrap_or(Instructions::Portable)
    }

    /// All that this machine has, best first.
    pub fn all() -> Vec<Instructions> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Instructions::Avx512Vnni);
            }
            if avx2 {
                all.push(Instructions::Avx2);
            }
        }
        all.push(Instructions::Portable);
        all
    }

    /// Name in statuses and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => "avx2",
            Instructions::Portable => "portable",
        }
    }
}

/// The parts of a network that are compiled for one set of instructions.
///
/// # Safety
/// All functions: the machine has the instructions; what else is asked is said where the function stands.
pub(crate) trait Kernels {
    /// See [`linear::run`].
    unsafe fn linear(layer: &Linear, input: Activations<'_>, then: Then<'_>, stride: usize);
    /// See [`attention::attend`].
    unsafe fn attend(heads: Heads, scratch: &mut Scratch, out: *mut f32, out_stride: usize);
    /// Word `values`, int8 times `scale`, plus `position` plus `kind`, into `out`: `width` values each, a multiple
    /// of 16.
    unsafe fn embed(
        values: *const i8,
        scale: f32,
        position: *const f32,
        kind: *const f32,
        width: usize,
        out: *mut f32,
    );
    /// See [`rows::normalise`].
    unsafe fn normalise(row: *mut f32, norm: &Norm, out: *mut u8) -> Scale;
    /// See [`rows::quantise`].
    unsafe fn quantise(row: *const f32, width: usize, out: *mut u8) -> Scale;
    /// See [`rows::quantise_gelu`].
    unsafe fn quantise_gelu(row: *const f32, width: usize, greatest: f32, out: *mut u8) -> Scale;
    /// See [`rows::unit`].
    unsafe fn unit(row: *mut f32, width: usize);
    /// See [`rows::mean`].
    unsafe fn mean(rows: *const f32, count: usize, stride: usize, width: usize, out: *mut f32);
    /// See [`rows::dot`].
    unsafe fn dot(left: *const f32, right: *const f32, width: usize) -> f32;
}

macro_rules! kernels {
    ($name:ident, $lanes:ty, $tile:path, $most:expr, $($features:literal)?) => {
        pub(crate) struct $name;

        // Each body is inlined here and so compiled for the features; each `unsafe` block passes the caller's
        // promise on.
        impl Kernels for $name {
            $(#[target_feature(enable = $features)])?
            unsafe fn linear(layer: &Linear, input: Activations<'_>, then: Then<'_>, stride: usize) {
                // One body for each end, so that none asks which it is.
                // SAFETY: see above.
                unsafe {
                    match then {
                        Then::Store(out) => {
                            linear::run::<$lanes>(layer, input, Then::Store(out), stride, $tile, $most);
                        }
                        Then::Add(out) => {
                            linear::run::<$lanes>(layer, input, Then::Add(out), stride, $tile, $most);
                        }
                        Then::Gelu(out, greatest) => {
                            let then = Then::Gelu(out, greatest);
                            linear::run::<$lanes>(layer, input, then, stride, $tile, $most);
                        }
                    }
                }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn attend(heads: Heads, scratch: &mut Scratch, out: *mut f32, out_stride: usize) {
                // SAFETY: see above.
                unsafe { attention::attend::<$lanes>(heads, scratch, out, out_stride) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn embed(
                values: *const i8,
                scale: f32,
                position: *const f32,
                kind: *const f32,
                width: usize,
                out: *mut f32,
            ) {
                // SAFETY: see above.
                unsafe { rows::embed::<$lanes>(values, scale, position, kind, width, out) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn normalise(row: *mut f32, norm: &Norm, out: *mut u8) -> Scale {
                // SAFETY: see above.
                unsafe { rows::normalise::<$lanes>(row, norm, out) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn quantise(row: *const f32, width: usize, out: *mut u8) -> Scale {
                // SAFETY: see above.
                unsafe { rows::quantise::<$lanes>(row, width, out) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn quantise_gelu(row: *const f32, width: usize, greatest: f32, out: *mut u8) -> Scale {
                // SAFETY: see above.
                unsafe { rows::quantise_gelu::<$lanes>(row, width, greatest, out) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn unit(row: *mut f32, width: usize) {
                // SAFETY: see above.
                unsafe { rows::unit::<$lanes>(row, width) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn mean(rows: *const f32, count: usize, stride: usize, width: usize, out: *mut f32) {
                // SAFETY: see above.
                unsafe { rows::mean::<$lanes>(rows, count, stride, width, out) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn dot(left: *const f32, right: *const f32, width: usize) -> f32 {
                // SAFETY: see above.
                unsafe { rows::dot::<$lanes>(left, right, width) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels!(
    Vnni,
    Avx512,
    gemm::vnni_tile,
    gemm::VNNI_ROWS,
    "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"
);
#[cfg(target_arch = "x86_64")]
kernels!(Avx2Fma, Avx2, gemm::avx2_tile, gemm::AVX2_ROWS, "avx2,fma");
kernels!(Plain, Portable, gemm::portable_tile, gemm::PORTABLE_ROWS,);
