//! libFuzzer on the target `key_set`; see the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rankcore_fuzz::run("key_set", data));
