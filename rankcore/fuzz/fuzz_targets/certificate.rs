//! libFuzzer on the target `certificate`; see the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rankcore_fuzz::run("certificate", data));
