//! What a reactor tells: of each turn, and as it happens.

use crate::canal::Reason;
use crate::canal::batch::Delivery;
use crate::canal::breaker::Circuit;
use crate::error::{Damage, Error};
use crate::id::{Position, Timestamp};

/// What came of a turn, or of all the turns of a run. The numbers are deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Turn {
    /// Pulled from the canal. Each is one of the six that follow.
    pub pulled: u64,
    /// Handled, and settled so.
    pub done: u64,
    /// Failed, and given back to be tried again. Where the canal counts attempts, the last one makes a dead letter.
    pub retried: u64,
    /// Failed for good: dead letters.
    pub rejected: u64,
    /// Given back without having been tried: they follow a failed one under its order key, or the circuit opened, or
    /// it was time to stop.
    pub released: u64,
    /// Settled too late: their leases ran out, or the consumer was moved back, and they come again. Of those that were settled
    /// together only one is seen; the others are counted as done.
    pub late: u64,
    /// Not handled, and never to come again, because the canal takes nothing back.
    pub lost: u64,
    /// Damaged stretches of the log that were passed over.
    pub damaged: u64,
    /// How the circuit breaker stands; closed if there is none.
    pub circuit: Circuit,
}

impl Turn {
    /// Adds what came of a later turn.
    pub(super) fn add(&mut self, next: Turn) {
        self.pulled += next.pulled;
        self.done += next.done;
        self.retried += next.retried;
        self.rejected += next.rejected;
        self.released += next.released;
        self.late += next.late;
        self.lost += next.lost;
        self.damaged += next.damaged;
        self.circuit = next.circuit;
    }
}

/// Something that whoever watches a reactor is told as it happens.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// An attempt failed.
    Failed {
        /// At what.
        delivery: &'a Delivery<'a>,
        /// Which attempt it was, from 1.
        attempt: u32,
        /// What failed.
        why: &'a str,
        /// Whether the handler panicked.
        panicked: bool,
    },
    /// A delivery was made a dead letter. Those that the canal makes after its last attempt are not told here.
    Rejected {
        /// Which.
        delivery: &'a Delivery<'a>,
        /// Why, in one word.
        reason: Reason,
        /// Why.
        why: &'a str,
    },
    /// A delivery was settled too late: its lease ran out, and somebody else handles it, too; or the consumer was moved back,
    /// and it comes again.
    Late {
        /// Which.
        position: Position,
        /// What the canal said.
        error: &'a Error,
    },
    /// A delivery was not handled and never comes again, because the canal takes nothing back.
    Lost {
        /// Which.
        position: Position,
    },
    /// Too much failed: nothing is pulled for a while.
    CircuitOpened {
        /// Then one delivery is tried.
        until: Timestamp,
    },
    /// One was tried and handled: it goes on.
    CircuitClosed,
    /// A damaged stretch of the log was passed over.
    Damaged(&'a Damage),
    /// A run ended with an error.
    Ended(&'a Error),
    /// The [`Handle`](crate::Handle) of a reactor was dropped, and the reactor has stopped on that account.
    HandleDropped,
}
