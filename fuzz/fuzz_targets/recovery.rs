//! A store's whole directory, damaged. See `fuzz/recovery/mod.rs`.
#![no_main]

#[path = "../recovery/mod.rs"]
mod recovery;

libfuzzer_sys::fuzz_target!(|input: &[u8]| recovery::run(input));
