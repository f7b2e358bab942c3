//! libFuzzer on the target `generation_files`; see the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rankcore_fuzz::run("generation_files", data));
