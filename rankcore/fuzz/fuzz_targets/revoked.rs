//! libFuzzer on the target `revoked`; see the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rankcore_fuzz::run("revoked", data));
