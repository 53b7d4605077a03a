//! All integration tests, in one binary.

mod layering;
mod smoke;
mod support;
