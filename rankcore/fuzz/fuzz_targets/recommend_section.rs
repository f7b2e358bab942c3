//! libFuzzer on the target `recommend_section`; see the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rankcore_fuzz::run("recommend_section", data));
