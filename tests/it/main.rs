//! All integration tests, in one binary.

mod flights;
mod layering;
mod recovery;
mod replaced;
mod smoke;
mod support;
