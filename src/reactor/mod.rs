//! The loop between a canal and a handler, on the caller's own thread.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::canal::batch::{Batch, Delivery};
use crate::canal::{Canal, Settlement};
use crate::error::{Error, Result};

/// How many events a turn pulls unless it is told otherwise.
const BATCH: usize = 256;

/// How long a running reactor waits for events before it looks whether it is to stop.
const PATIENCE: Duration = Duration::from_millis(50);

/// Pulls batches from a canal, hands each event to a handler, and settles what was handled.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-reactor-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// # let store = towpath::Store::open(&dir)?;
/// # store.append("cart-1", towpath::NewEvent::new("opened", ""))?;
/// use std::time::Duration;
/// use towpath::{Delivery, Reactor};
///
/// let mut seen = 0;
/// let mut reactor = Reactor::new(store.cursor("counter").open()?, |_: &Delivery<'_>| {
///     seen += 1;
///     Ok::<(), std::convert::Infallible>(())
/// });
/// assert_eq!(reactor.turn(Duration::ZERO)?, 1);
/// # drop(reactor);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
#[derive(Debug)]
pub struct Reactor<C, H> {
    canal: C,
    handler: H,
    batch: usize,
}

/// Asks running reactors to stop. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Not asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks: the batch in hand is finished, and no other begun.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl<C, H, E> Reactor<C, H>
where
    C: Canal,
    H: FnMut(&Delivery<'_>) -> Result<(), E>,
    E: Display,
{
    /// A reactor over a canal.
    pub fn new(canal: C, handler: H) -> Self {
        Self { canal, handler, batch: BATCH }
    }

    /// How many events are pulled, handled and settled together, at least 1; 256 unless set.
    #[must_use]
    pub fn batch(mut self, events: usize) -> Self {
        self.batch = events.max(1);
        self
    }

    /// Pulls one batch, waiting up to `patience` for it, and handles it. Says how many events were handled.
    ///
    /// # Errors
    /// [`Error::Handler`] when the handler refused an event: those before it are settled, and it is released, so the
    /// next turn begins with it. A panic of the handler goes through to the caller with nothing of the batch settled.
    /// What [`Canal::pull_batch`] and [`Canal::settle`] can fail with.
    pub fn turn(&mut self, patience: Duration) -> Result<usize> {
        let batch = self.canal.pull_batch(self.batch, patience)?;
        self.handle(&batch)?;
        Ok(batch.len())
    }

    /// Hands a batch to the handler and settles what was handled.
    fn handle(&mut self, batch: &Batch) -> Result<()> {
        let mut handled = None;
        for event in batch {
            let token = event.token();
            if let Err(why) = (self.handler)(&event) {
                let error = Error::Handler { position: event.position(), why: why.to_string() };
                if let Some(token) = handled {
                    self.canal.settle(token, Settlement::Done)?;
                }
                self.canal.settle(token, Settlement::Release)?;
                return Err(error);
            }
            handled = Some(token);
        }
        handled.map_or(Ok(()), |token| self.canal.settle(token, Settlement::Done))
    }

    /// Takes turns on this thread until it is asked to stop, or until the store is closed and everything in it handled.
    /// Says how many events were handled.
    ///
    /// # Errors
    /// As [`turn`](Reactor::turn): the first error ends it. Running again goes on where it ended. [`Error::Closed`] when
    /// the store was closed before a batch that was handled could be settled: it will come again.
    pub fn run(&mut self, stop: &Stop) -> Result<u64> {
        let mut handled = 0;
        while !stop.is_stopped() {
            let batch = match self.canal.pull_batch(self.batch, PATIENCE) {
                Ok(batch) => batch,
                Err(Error::Closed) => break,
                Err(error) => return Err(error),
            };
            self.handle(&batch)?;
            handled += batch.len() as u64;
        }
        Ok(handled)
    }

    /// Gives the canal back.
    pub fn into_canal(self) -> C {
        self.canal
    }
}
