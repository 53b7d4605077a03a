//! What an open store has done so far, in numbers.

use crate::store::Store;

/// What a store has done since it was opened, by this handle and its clones. They only grow; each is read by itself, so two
/// of them need not be of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Segments that the writer went on in because the one before had no room for the next commit ("rolls").
    pub segments_begun: u64,
    /// Segments behind them that were finished: cut to their length, synced and, where that worked, indexed.
    pub segments_sealed: u64,
}

impl Store {
    /// What this store has done since it was opened. Costs a few loads.
    pub fn counters(&self) -> Counters {
        let counts = &self.inner.log.counts;
        Counters { segments_begun: counts.begun.get(), segments_sealed: counts.sealed.get() }
    }
}
