//! The loop between a canal and a handler, on the caller's own thread or one of its own.

mod care;
pub(crate) mod failure;
mod hand;
pub(crate) mod handler;
pub(crate) mod notice;
mod once;
pub(crate) mod spawned;
pub(crate) mod stop;

use std::sync::Arc;
use std::time::Duration;

use crate::canal::batch::Delivery;
use crate::canal::breaker::Breaker;
use crate::canal::retry::Retry;
use crate::canal::{Canal, Transact};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::reactor::care::Care;
use crate::reactor::failure::Failure;
use crate::reactor::hand::Hand;
use crate::reactor::handler::{Batches, Each, Handler};
use crate::reactor::notice::{Notice, Turn};
use crate::reactor::once::{Once, OnceBatches};
use crate::reactor::stop::Stop;
use crate::writer::commit::Commit;

/// How long a running reactor waits for events before it looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// Pulls batches from a canal, hands what is in them to a handler, and settles it.
///
/// | made by | the handler gets | what it leads to |
/// | --- | --- | --- |
/// | [`new`](Reactor::new) | one delivery | anything; after a crash it may be handled again |
/// | [`batches`](Reactor::batches) | a whole batch | the same |
/// | [`exactly_once`](Reactor::exactly_once) | one delivery and a [`Commit`] | events that are written in one commit with the settlement: exactly once |
/// | [`exactly_once_batches`](Reactor::exactly_once_batches) | a whole batch and a [`Commit`] | the same |
///
/// # When the handler fails
///
/// An error that it returns, and a panic, is a failed attempt; what its [`Failure`] asks for counts.
///
/// | the canal | a failed attempt | a rejection |
/// | --- | --- | --- |
/// | counts attempts: a group | comes again as its [`Retry`] says, or that of [`retry`](Reactor::retry); the last one makes a dead letter | makes a dead letter |
/// | does not: a cursor | is tried again as [`retry`](Reactor::retry) says, everything behind it waiting; after the last attempt, or at once without that, the turn ends with [`Error::Handler`] | ends the turn at once |
///
/// A subscription hands nothing out again: the first failure ends the turn, and what it had pulled is lost.
///
/// What is behind a failed delivery in the batch under the same [order key](Delivery::order_key) is released without being
/// handled; the others go on. A turn that ended with an error has settled what was handled, and released the rest:
/// the next one begins there.
///
/// A handler that panicked is called again, so what it shares must bear that. With `panic = "abort"` in the profile
/// nothing can be caught: the process ends, and a group counts that as an attempt, too.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-reactor-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// # let store = towpath::Store::open(&dir)?;
/// # store.append("cart-1", towpath::NewEvent::new("opened", ""))?;
/// use std::time::Duration;
/// use towpath::{Delivery, Failure, Reactor};
///
/// let mut seen = 0;
/// let mut reactor = Reactor::new(store.cursor("counter").open()?, |_: &Delivery<'_>| {
///     seen += 1;
///     Ok::<(), Failure>(())
/// });
/// assert_eq!(reactor.turn(Duration::ZERO)?.done, 1);
/// # drop(reactor);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
#[derive(Debug)]
pub struct Reactor<C, H> {
    canal: C,
    handler: H,
    care: Care,
}

impl<C, H, E> Reactor<C, Each<H>>
where
    C: Canal,
    H: FnMut(&Delivery<'_>) -> Result<(), E>,
    E: Into<Failure>,
{
    /// Handles one delivery at a time. What was handled is settled together at the end of the batch, and every tenth of a
    /// second.
    pub fn new(canal: C, handler: H) -> Self {
        Self::of(canal, Each(handler))
    }
}

impl<C, H, E> Reactor<C, Batches<H>>
where
    C: Canal,
    H: FnMut(&[Delivery<'_>]) -> Result<(), E>,
    E: Into<Failure>,
{
    /// Handles whole batches. One that fails is split in halves, each of which is handled, in order, until what fails is a
    /// single delivery: only that is a failed attempt. So a delivery may be seen several times in one turn, though
    /// nothing is wrong with it; it is settled once.
    pub fn batches(canal: C, handler: H) -> Self {
        Self::of(canal, Batches(handler))
    }
}

impl<C, H, E> Reactor<C, Once<H>>
where
    C: Transact,
    H: FnMut(&Delivery<'_>, &mut Commit) -> Result<(), E>,
    E: Into<Failure>,
{
    /// Handles one delivery at a time, and writes what it adds to the commit together with its settlement. One commit for the
    /// whole batch, unless that grows beyond 4 MiB; what a failing delivery has added is left out, and comes with its
    /// next attempt.
    ///
    /// The commit is empty at each call. What those before it in the batch have added is not in the store yet, unless
    /// the handler sets conditions on its commit ([`expect`](Commit::expect), [`condition`](Commit::condition),
    /// [`rule`](Commit::rule)): then each delivery is a commit of its own, and once, when that shows for the first time,
    /// the handler is called for a delivery again. A commit that is refused is a failed attempt. An idempotency key is
    /// refused: the settlement is one.
    pub fn exactly_once(canal: C, handler: H) -> Self {
        Self::of(canal, Once::new(handler))
    }
}

impl<C, H, E> Reactor<C, OnceBatches<H>>
where
    C: Transact,
    H: FnMut(&[Delivery<'_>], &mut Commit) -> Result<(), E>,
    E: Into<Failure>,
{
    /// Handles whole batches, and writes what is added to the commit together with the settlements. A batch that fails, or
    /// whose commit is refused, is split as [`batches`](Reactor::batches) does, and each half is a commit of its own.
    pub fn exactly_once_batches(canal: C, handler: H) -> Self {
        Self::of(canal, OnceBatches::new(handler))
    }
}

impl<C, H> Reactor<C, H> {
    fn of(canal: C, handler: H) -> Self {
        Self { canal, handler, care: Care::default() }
    }

    /// How many events are pulled, handled and settled together, at least 1; 256 unless set.
    #[must_use]
    pub fn batch(mut self, events: usize) -> Self {
        self.care.batch = events.max(1);
        self
    }

    /// How often a failing delivery is tried, and how long to wait in between. For a canal that counts attempts this replaces
    /// its own waits, and its own attempts where they are more.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.care.retry = Some(retry);
        self
    }

    /// Stops pulling for a while when too many attempts fail. The rest of the batch is released, and when the pause is over one
    /// delivery decides whether it goes on. Rejections say nothing about how things go, and are not counted.
    #[must_use]
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        self.care.breaker = Some(breaker);
        self
    }

    /// Keeps what is not settled of a batch, by extending it by so long whenever half of that has passed since it was pulled,
    /// between two calls of the handler. Give the lease of the group. For canals that lease deliveries; the others need
    /// none.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.care.lease = Some(lease);
        self
    }

    /// Tells what happens, as it does, on the reactor's thread. With this, damaged stretches of the log are told and passed
    /// over; without, they are errors.
    #[must_use]
    pub fn watch(mut self, watcher: impl FnMut(Notice<'_>) + Send + 'static) -> Self {
        self.care.watcher = Some(Box::new(watcher));
        self
    }

    /// What the breaker and the leases go by; the system's clock unless set.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.care.clock = clock;
        self
    }

    /// Gives the canal back.
    pub fn into_canal(self) -> C {
        self.canal
    }
}

impl<C: Canal, H: Handler<C>> Reactor<C, H> {
    /// Pulls one batch, waiting up to `patience` for it, and handles it. While the circuit is open it waits, and pulls
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Handler`] for a failure that the canal cannot take (see above). [`Error::Closed`] when the store was closed and
    /// everything in it handled. [`Error::Damaged`], when nobody watches: the next turn goes on behind it. What
    /// [`Canal::pull_batch`], [`Canal::settle`] and [`Transact::commit_and_settle`] can fail with.
    pub fn turn(&mut self, patience: Duration) -> Result<Turn> {
        self.step(patience, &Stop::new())?.ok_or(Error::Closed)
    }

    /// Takes turns on this thread until it is asked to stop, or until the store is closed and everything in it handled.
    /// Says what came of all turns together.
    ///
    /// # Errors
    /// As [`turn`](Reactor::turn): the first error ends it. Running again goes on where it ended. [`Error::Closed`] when
    /// the store was closed before a batch that was handled could be settled: it will come again.
    pub fn run(&mut self, stop: &Stop) -> Result<Turn> {
        let mut total = Turn { circuit: self.care.circuit(), ..Turn::default() };
        while !stop.is_stopped() {
            match self.step(PATIENCE, stop) {
                Ok(Some(turn)) => total.add(turn),
                Ok(None) => break,
                Err(error) => {
                    self.care.tell(Notice::Ended(&error));
                    return Err(error);
                }
            }
        }
        Ok(total)
    }

    /// One turn; `None` when the canal is closed.
    fn step(&mut self, patience: Duration, stop: &Stop) -> Result<Option<Turn>> {
        let mut turn = Turn::default();
        let max = self.care.may_pull(patience, stop);
        if max > 0 {
            match self.canal.pull_batch(max, patience) {
                Ok(batch) => {
                    turn.pulled = batch.len() as u64;
                    let deliveries: Vec<Delivery<'_>> = batch.iter().collect();
                    let mut hand = Hand::new(&mut self.canal, &mut self.care, stop, &deliveries, &mut turn);
                    let handled = self.handler.handle(&mut hand);
                    hand.finish(handled)?;
                    if deliveries.is_empty() {
                        // What a failure means for the checkpoint is told by the next settlement or flush.
                        let _told_later = self.canal.idle();
                    }
                }
                Err(Error::Damaged(damage)) if self.care.watcher.is_some() => {
                    self.care.tell(Notice::Damaged(&damage));
                    turn.damaged = 1;
                }
                Err(Error::Closed) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        turn.circuit = self.care.circuit();
        Ok(Some(turn))
    }
}
