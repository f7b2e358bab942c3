//! libFuzzer on the target `bundle_json`; see the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rankcore_fuzz::run("bundle_json", data));
