//! All integration tests, in one binary.

mod flights;
mod layering;
mod recovery;
mod smoke;
mod support;
