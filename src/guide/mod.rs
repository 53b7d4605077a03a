//! The guide.

pub mod format;
