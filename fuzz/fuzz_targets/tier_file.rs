//! See `tier_file` in `src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| towpath::fuzzing::tier_file(input));
