//! What a reactor does besides calling the handler: its policy, and what it remembers between turns.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::canal::batch::Delivery;
use crate::canal::breaker::{Breaker, Circuit};
use crate::canal::retry::Retry;
use crate::canal::{Promises, Reason, Settlement};
use crate::clock::{Clock, SystemClock};
use crate::error::Error;
use crate::id::{Position, Timestamp};
use crate::reactor::failure::{Failure, Wish};
use crate::reactor::notice::Notice;
use crate::reactor::stop::Stop;

/// How many events a turn pulls unless it is told otherwise.
const BATCH: usize = 256;

/// How many failing deliveries are remembered for a canal that does not count attempts. One that hands out everything in
/// one order has one of them.
const REMEMBERED: usize = 1024;

pub(super) struct Care {
    pub(super) batch: usize,
    pub(super) retry: Option<Retry>,
    pub(super) breaker: Option<Breaker>,
    pub(super) lease: Option<Duration>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) watcher: Option<Box<Watcher>>,
    /// Failed attempts so far, for a canal that does not count them.
    attempts: BTreeMap<Position, u32>,
    /// What the handler was given last.
    pub(super) in_hand: Arc<AtomicU64>,
}

pub(super) type Watcher = dyn FnMut(Notice<'_>) + Send;

/// What is done about a failure.
pub(super) enum Answer {
    Settle(Settlement),
    /// Nothing more can be done: it is released, and the reactor ends.
    End(Error),
}

impl Default for Care {
    fn default() -> Self {
        Self {
            batch: BATCH,
            retry: None,
            breaker: None,
            lease: None,
            clock: Arc::new(SystemClock),
            watcher: None,
            attempts: BTreeMap::new(),
            in_hand: Arc::default(),
        }
    }
}

impl Care {
    pub(super) fn tell(&mut self, notice: Notice<'_>) {
        if let Some(watcher) = &mut self.watcher {
            watcher(notice);
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn circuit(&self) -> Circuit {
        self.breaker.as_ref().map(Breaker::circuit).unwrap_or_default()
    }

    pub(super) fn set_in_hand(&self, position: Position) {
        self.in_hand.store(position.get(), Ordering::Relaxed);
    }

    /// How many deliveries may be pulled. While the circuit is open this waits, and then says none.
    pub(super) fn may_pull(&mut self, patience: Duration, stop: &Stop) -> usize {
        let Some(breaker) = &mut self.breaker else { return self.batch };
        if !breaker.allows(self.clock.now()) {
            if let Circuit::Open { until } = breaker.circuit() {
                stop.wait(patience.min(until.since(self.clock.now())));
            }
            if !breaker.allows(self.clock.now()) {
                return 0;
            }
        }
        if breaker.circuit() == Circuit::Probing { 1 } else { self.batch }
    }

    /// A delivery was handled, or an attempt failed.
    pub(super) fn record(&mut self, ok: bool) {
        let Some(breaker) = &mut self.breaker else { return };
        let before = breaker.circuit();
        match breaker.record(ok, self.clock.now()) {
            Circuit::Open { until } if !matches!(before, Circuit::Open { .. }) => {
                self.tell(Notice::CircuitOpened { until });
            }
            Circuit::Closed if before != Circuit::Closed => self.tell(Notice::CircuitClosed),
            _ => {}
        }
    }

    /// The delivery will not come again.
    pub(super) fn forget(&mut self, position: Position) {
        if !self.attempts.is_empty() {
            self.attempts.remove(&position);
        }
    }

    /// Takes a failure into account: tells of it, and decides what is done about it.
    pub(super) fn answer(&mut self, promises: Promises, delivery: &Delivery<'_>, failure: Failure) -> Answer {
        let position = delivery.position();
        let attempt = match promises.counted {
            true => delivery.attempt(),
            false => self.count(position),
        };
        let Failure { wish, why, panicked } = failure;
        self.tell(Notice::Failed { delivery, attempt, why: &why, panicked });
        // A rejection says something about the event, and nothing about how things go.
        if let Wish::Retry { .. } = wish {
            self.record(false);
        }
        let most = self.retry.as_ref().map(Retry::most_attempts);
        let wish = match wish {
            Wish::Retry { .. } if promises.counted && most.is_some_and(|most| attempt >= most) => {
                Wish::Reject { reason: Reason::Attempts }
            }
            wish => wish,
        };
        match wish {
            Wish::Reject { reason } if promises.rejects => {
                self.tell(Notice::Rejected { delivery, reason, why: &why });
                Answer::Settle(Settlement::Reject { reason, why })
            }
            Wish::Retry { after }
                if promises.counted || promises.lossless && most.is_some_and(|most| attempt < most) =>
            {
                let chance = position.get() ^ u64::from(attempt) << 48 ^ self.now().as_nanos();
                let after = after.or_else(|| self.retry.as_ref().map(|retry| retry.delay(attempt, chance)));
                Answer::Settle(Settlement::Retry { after, why })
            }
            _ => {
                self.forget(position);
                Answer::End(Error::Handler { position, why })
            }
        }
    }

    fn count(&mut self, position: Position) -> u32 {
        if self.attempts.len() >= REMEMBERED && !self.attempts.contains_key(&position) {
            self.attempts.pop_first();
        }
        let count = self.attempts.entry(position).or_default();
        *count = count.saturating_add(1);
        *count
    }
}

impl fmt::Debug for Care {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Care")
            .field("batch", &self.batch)
            .field("retry", &self.retry)
            .field("breaker", &self.breaker)
            .field("lease", &self.lease)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
