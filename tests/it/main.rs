//! All integration tests, in one binary.

mod clock;
mod flights;
mod layering;
mod recovery;
mod replaced;
mod smoke;
mod support;
