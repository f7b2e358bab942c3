//! libFuzzer on the target `http2`; see the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rankcore_fuzz::run("http2", data));
