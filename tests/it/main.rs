//! All integration tests, in one binary.

mod layering;
mod recovery;
mod smoke;
mod support;
