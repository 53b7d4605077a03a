//! The live consumer: events from now on, as fast as it can, and a number for what it could not keep up with.

use std::time::{Duration, Instant};

use crate::canal;
use crate::canal::batch::Batch;
use crate::canal::feed::{self, Feed};
use crate::canal::{Canal, Promises, Settlement, Token};
use crate::error::{Error, Result};
use crate::event::query::Query;
use crate::format::limits;
use crate::id::Position;
use crate::store::Store;
use crate::sync::gate::InCrowd;

/// How far a subscription may fall behind unless set otherwise.
const CAPACITY: u64 = 1 << 16;

/// How long a subscription that looked for nothing pauses, for each other one that waits. Waking up and looking costs about
/// 10 µs, so all of them together take about a twentieth of a core, however many there are.
const PAUSE: Duration = Duration::from_micros(200);

/// The same for each event that it had to look at without an index.
const PAUSE_PER_EVENT: Duration = Duration::from_nanos(100);

/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How a subscription is opened: [`Store::subscribe`] begins it.
#[derive(Clone, Debug)]
#[must_use = "a subscription is opened by `open`"]
pub struct SubscriptionBuilder {
    store: Store,
    filter: Query,
    capacity: u64,
}

/// Hands out the events that come from now on, in the order of the log, and passes over some rather than fall far behind.
///
/// It keeps no progress, and nothing is queued for it: it reads the log itself, so a subscription that is slow, or not
/// pulled from at all, costs the writer nothing. One that finds itself further behind the head than its capacity skips
/// ahead to half its capacity behind the head, which may be in the middle of a commit; [`Batch::skipped`] of the next batch
/// says how many positions it passed over, those of events that its filter does not mean among them. That is told at once:
/// when no event follows that the filter means, the batch is empty.
///
/// However many subscriptions wait, the writer wakes one of them for a group commit, and that one the others. One that was
/// woken for nothing, because its filter means none of the new events, looks again after a pause of 200 µs for each
/// other subscription of the store that waits (and 100 ns more for each event that it had to look at because no index
/// finds what its filter means, up to a second). So one alone gets an event within microseconds, always, and one of a
/// thousand within 0.2 s if others came just before. A subscription whose filter needs no index skips in such a pause
/// as well when more comes than its capacity; where the index helps, waiting never skips.
///
/// There is nothing to settle. [`Settlement::Done`] of what was handed out is accepted and does nothing; the rest is not
/// promised. A closed store first hands out what the subscription has not seen yet, as far as its capacity goes.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-subscription-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// use std::time::Duration;
/// use towpath::{Canal, NewEvent, Query, Store};
///
/// let store = Store::open(&dir)?;
/// store.append("room.kitchen.light", NewEvent::new("on", ""))?;
/// let mut lights = store.subscribe().filter(Query::new().subject("room.*.light")).open()?;
/// store.append("room.hall.light", NewEvent::new("on", ""))?;
///
/// let batch = lights.pull_batch(64, Duration::from_secs(1))?;
/// assert_eq!(batch.skipped(), 0);
/// assert_eq!(batch.iter().map(|event| event.stream().to_owned()).collect::<Vec<_>>(), ["room.hall.light"]);
/// # drop((batch, lights));
/// store.close()?;
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
#[derive(Debug)]
pub struct Subscription {
    store: Store,
    feed: Feed,
    capacity: u64,
    /// Everything before this position was handed out, is not meant, or was skipped.
    next: Position,
    /// The last position that was handed out; before the first, the one that the subscription began behind.
    handed_out: Position,
    /// Where the head was at the last look.
    seen: Position,
    /// Positions that were passed over and not told yet.
    skipped: u64,
    /// Its number, for its tokens.
    number: u64,
}

impl Store {
    /// Begins a subscription, which gets the events that come after it was opened. Works on a store that was opened
    /// read-only, where it follows a writer in another process.
    pub fn subscribe(&self) -> SubscriptionBuilder {
        SubscriptionBuilder { store: self.clone(), filter: Query::new(), capacity: CAPACITY }
    }
}

impl SubscriptionBuilder {
    /// Only events that the query means.
    pub fn filter(mut self, query: Query) -> Self {
        self.filter = query;
        self
    }

    /// How many positions it may fall behind the head before it skips: 65,536 unless set, at most
    /// [`limits::SUBSCRIPTION`]. 0 counts as 1. It costs no memory.
    pub fn capacity(mut self, positions: u64) -> Self {
        self.capacity = positions.max(1);
        self
    }

    /// Opens it. It gets what is published from now on.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a capacity over the limit. What reading can fail with.
    pub fn open(self) -> Result<Subscription> {
        let (capacity, limit) = (self.capacity, limits::SUBSCRIPTION);
        if capacity > limit {
            return Err(Error::TooLarge { what: "subscription's capacity", size: capacity, limit });
        }
        let log = &self.store.inner.log;
        log.refresh()?;
        let head = log.head();
        Ok(Subscription {
            feed: Feed::new(log, self.filter, head.next())?,
            store: self.store,
            capacity,
            next: head.next(),
            handed_out: head,
            seen: head,
            skipped: 0,
            number: canal::number(),
        })
    }
}

impl Subscription {
    /// Passes over what is too far behind the head.
    fn skip(&mut self, head: Position) -> Result<()> {
        let behind = head.next().get().saturating_sub(self.next.get());
        if behind > self.capacity {
            let skipped = behind - self.capacity.div_ceil(2);
            let next = Position::new(self.next.get() + skipped);
            self.feed.go_to(&self.store.inner.log, next)?;
            self.next = next;
            self.skipped += skipped;
        }
        Ok(())
    }

    /// Passes over what was let go of before it came there.
    fn skip_expired(&mut self, asked: Position, oldest: Position) -> Result<()> {
        self.feed.go_to(&self.store.inner.log, oldest)?;
        self.skipped += oldest.get() - asked.get();
        self.next = oldest;
        Ok(())
    }

    /// What is there up to the head, without waiting.
    fn take(&mut self, head: Position, max: usize) -> Result<Batch> {
        let mut batch = Batch::new(None, self.number, 0);
        let last = self.feed.take(&self.store.inner.log, head, max, &mut batch)?;
        self.handed_out = last.unwrap_or(self.handed_out);
        self.next = if batch.len() < max && !self.feed.has_pending() {
            head.next()
        } else {
            last.map_or(self.next, Position::next)
        };
        batch.set_skipped(std::mem::take(&mut self.skipped));
        Ok(batch)
    }

    /// Waits for the head to move on from where it was seen.
    fn wait(&self, patience: Duration) {
        let (store, seen) = (&self.store, self.seen.get());
        let log = &store.inner.log;
        let until = Instant::now().checked_add(patience);
        let left = || until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        store.inner.crowd.wait(
            &log.head,
            seen,
            patience,
            || log.is_closed(),
            || {
                // On a store that was opened read-only the one who leads looks for all of them.
                while !left().is_zero() && log.refresh().is_ok() && log.head.get() <= seen && !log.is_closed() {
                    feed::wait(store, seen, left(), || false);
                }
            },
        );
    }

    fn not_promised(what: &'static str) -> Error {
        Error::NotPromised { canal: "subscription", what }
    }
}

/// How long to wait before looking again after a look for nothing.
fn pause(waiting: &InCrowd<'_>, looked_at: u64) -> Duration {
    let each = PAUSE.saturating_add(PAUSE_PER_EVENT.saturating_mul(looked_at.try_into().unwrap_or(u32::MAX)));
    each.saturating_mul(waiting.others()).min(PAUSE_MAX)
}

impl Canal for Subscription {
    fn pull_batch(&mut self, max: usize, patience: Duration) -> Result<Batch> {
        let until = Instant::now().checked_add(patience);
        let store = self.store.clone();
        let log = &store.inner.log;
        let mut waiting = None;
        loop {
            log.refresh()?;
            // Closed is asked before the log is looked at, so nothing can have come behind what is found.
            let closed = log.is_closed();
            let head = log.head();
            // Who waits here is not behind by its own fault: it passes over nothing that the index finds for it.
            if waiting.is_none() || !self.feed.is_picking() {
                self.skip(head)?;
            }
            let (before, was_seen) = (self.next, std::mem::replace(&mut self.seen, head));
            let batch = match self.take(head, max.max(1)) {
                Err(Error::Expired { asked, oldest }) => {
                    self.skip_expired(asked, oldest)?;
                    continue;
                }
                batch => batch?,
            };
            if !batch.is_empty() || batch.skipped() > 0 {
                return Ok(batch);
            }
            if closed {
                return Err(Error::Closed);
            }
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(batch);
            }
            let waiting = waiting.get_or_insert_with(|| store.inner.crowd.join());
            let looked_at = if self.feed.is_picking() { 0 } else { self.next.get() - before.get() };
            let pause = if head > was_seen { pause(waiting, looked_at) } else { Duration::ZERO };
            if pause.is_zero() {
                self.wait(left);
            } else {
                // Nobody needs to wake it: it will look before it waits again.
                log.end.park(0, pause.min(left), || false);
            }
        }
    }

    /// `Done` of what was handed out is accepted and does nothing.
    fn settle(&mut self, token: Token, settlement: Settlement) -> Result<()> {
        let asked = Position::new(token.place);
        if token.canal != self.number {
            let (name, why) = ("(subscription)".to_owned(), "another canal handed it out");
            return Err(Error::NotHeld { name, position: asked, why });
        }
        if asked > self.handed_out {
            return Err(Error::NotDelivered { name: "(subscription)".to_owned(), asked, last: self.handed_out });
        }
        match settlement {
            Settlement::Done => Ok(()),
            Settlement::Retry { .. } | Settlement::Release => Err(Self::not_promised("handing out again")),
            Settlement::Reject { .. } => Err(Self::not_promised("rejecting deliveries")),
        }
    }

    fn extend(&mut self, _token: Token, _lease: Duration) -> Result<()> {
        Err(Self::not_promised("leases"))
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn promises(&self) -> Promises {
        Promises {
            ordered: true,
            lossless: false,
            cumulative: false,
            remembered: false,
            counted: false,
            leased: false,
            rejects: false,
            parks: false,
        }
    }
}
