//! What an open log counts as it goes.

use crate::sync::primitive::atomic::{AtomicU64, Ordering};

/// Counted since the log was opened. Each number by itself: together they are not of one moment.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) begun: Count,
    pub(crate) sealed: Count,
    /// Segments that were let go of.
    pub(crate) let_go: Count,
    pub(crate) events_let_go: Count,
    pub(crate) bytes_let_go: Count,
    /// How often files went or were cut, so that there may be room where there was none.
    pub(crate) changed: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
