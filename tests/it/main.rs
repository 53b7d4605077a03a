//! All integration tests, in one binary.

mod smoke;
mod support;
