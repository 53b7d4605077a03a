//! What an open store has done so far, in numbers.

use crate::log::cost::ReadCost;
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
    /// Segments that were let go of, by [`Store::retain`] and because of [`Options::retain`](crate::Options::retain).
    pub segments_let_go: u64,
    /// Events that went with them, those of the store's own streams counted.
    pub events_let_go: u64,
    /// Bytes that went with them, their index files counted.
    pub bytes_let_go: u64,
    /// What reading has cost: readers, consumers, single look-ups, and what the writer looks up for conditions, expected
    /// revisions and idempotency keys. A reader or consumer adds what it has cost when it goes on to the next segment and
    /// when it is dropped.
    pub read: ReadCost,
}

impl Store {
    /// What this store has done since it was opened. Costs a few loads.
    pub fn counters(&self) -> Counters {
        let log = &self.inner.log;
        Counters {
            segments_begun: log.counts.begun.get(),
            segments_sealed: log.counts.sealed.get(),
            segments_let_go: log.counts.let_go.get(),
            events_let_go: log.counts.events_let_go.get(),
            bytes_let_go: log.counts.bytes_let_go.get(),
            read: log.costs.sum(),
        }
    }
}
