//! All integration tests, in one binary.

mod canal_contract;
mod clock;
mod cursor;
mod damage;
mod flights;
mod fuzz_regressions;
mod layering;
mod reactor;
mod recovery;
mod replaced;
mod smoke;
mod support;
mod writing;
