//! The whole store beside a model of it. See `tests/it/model.rs`: an input is the randomness that its steps are chosen with.
#![no_main]
#![expect(dead_code, reason = "the integration tests use the rest of these modules")]

#[path = "../../tests/it/model.rs"]
mod model;
#[path = "../../tests/it/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|input: &[u8]| model::run(input));
