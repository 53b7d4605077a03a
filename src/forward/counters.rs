//! What a forwarder has done, to be looked at from other threads.

use crate::sync::primitive::{Arc, Mutex};

use crate::canal::breaker::Circuit;
use crate::id::Timestamp;
use crate::sink::tally::{SinkCounts, Tally};
use crate::sync::guard;

/// What a forwarder has done since it was made, and how its sink is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForwardCounters {
    /// Records that the sink has made durable. One that came again counts again.
    pub forwarded: u64,
    /// Records that the sink refused for good, by reason.
    pub refused: Tally,
    /// Records that were given back to the canal, because the sink was not available. One that came again and was given back
    /// again counts again.
    pub released: u64,
    /// Records that were settled too late: somebody else has the delivery by now, or the consumer was moved back. They come
    /// again.
    pub late: u64,
    /// What never came to the sink, by reason: damaged stretches of the store, and positions that the canal passed over.
    pub lost: Tally,
    /// What the sink says of itself: cut, fallen, removed.
    pub sink: SinkCounts,
    /// The last failure of the sink, with its name; it stays after the sink has recovered.
    pub last_error: Option<String>,
    /// Since when the sink has not been available; `None` while it is.
    pub down_since: Option<Timestamp>,
    /// Whether the sink is being left alone.
    pub circuit: Circuit,
}

/// A view of a forwarder's counters, also while it runs on another thread.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Mutex<ForwardCounters>>);

impl Watch {
    /// The counters as they are now.
    pub fn counters(&self) -> ForwardCounters {
        guard(&self.0).clone()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut ForwardCounters)) {
        change(&mut guard(&self.0));
    }
}
