//! See `heads_file` in `src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| towpath::fuzzing::heads_file(input));
