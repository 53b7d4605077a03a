//! Reactors on threads of their own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::canal::Canal;
use crate::error::{Error, Result};
use crate::id::Position;
use crate::reactor::Reactor;
use crate::reactor::handler::Handler;
use crate::reactor::notice::{Notice, Turn};
use crate::reactor::stop::Stop;

/// How long a handler that is running at the deadline may take to return.
const GRACE: Duration = Duration::from_secs(1);

/// Reactors that run on threads of their own: one, or several over a group. Dropping it asks them to stop, without
/// waiting, and each tells that by [`Notice::HandleDropped`].
#[derive(Debug)]
#[must_use = "dropping it stops the reactors"]
pub struct Handle {
    stop: Stop,
    dropped: Arc<AtomicBool>,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    thread: JoinHandle<()>,
    ended: Receiver<Result<Turn>>,
    /// What its handler was given last.
    in_hand: Arc<AtomicU64>,
}

impl<C, H> Reactor<C, H>
where
    C: Canal + Send + 'static,
    H: Handler<C> + Send + 'static,
{
    /// Runs it on a thread of its own, until it is asked to stop, until the store is closed and everything handled, or until
    /// the first error.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn spawn(self) -> Result<Handle> {
        let mut handle = Handle::new();
        handle.start(self)?;
        Ok(handle)
    }

    /// Runs several of them, each on a thread of its own: workers over one group. `make` is called with the numbers from 0
    /// on. When one ends with an error, the others are stopped.
    ///
    /// # Errors
    /// The first one of `make`, or when there is no thread to be had; those that run already are stopped then.
    pub fn spawn_many(reactors: usize, make: impl FnMut(usize) -> Result<Self>) -> Result<Handle> {
        let made: Vec<Self> = (0..reactors).map(make).collect::<Result<_>>()?;
        let mut handle = Handle::new();
        for reactor in made {
            handle.start(reactor)?;
        }
        Ok(handle)
    }
}

impl Handle {
    fn new() -> Self {
        Self { stop: Stop::new(), dropped: Arc::default(), threads: Vec::new() }
    }

    fn start<C, H>(&mut self, mut reactor: Reactor<C, H>) -> Result<()>
    where
        C: Canal + Send + 'static,
        H: Handler<C> + Send + 'static,
    {
        let (tell, ended) = sync_channel(1);
        let (stop, dropped, in_hand) = (self.stop.clone(), self.dropped.clone(), reactor.care.in_hand.clone());
        let run = move || {
            // A panic here is the canal's or the watcher's.
            let stops = StopsOthers(&stop);
            let result = reactor.run(&stop);
            if result.is_ok() {
                std::mem::forget(stops);
            }
            if dropped.load(Ordering::Acquire) {
                reactor.care.tell(Notice::HandleDropped);
            }
            // Whoever hears of the end may open the canal's name again.
            drop(reactor);
            let _nobody_waits = tell.send(result);
        };
        let thread = std::thread::Builder::new().name("towpath-reactor".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::io("start a thread for", Path::new("a reactor"), error))?;
        self.threads.push(Thread { thread, ended, in_hand });
        Ok(())
    }

    /// Asks the reactors to stop: each finishes the batch in hand.
    pub fn stop(&self) {
        self.stop.stop();
    }

    /// Whether all of them have ended.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(|thread| thread.thread.is_finished())
    }

    /// Waits until they end by themselves, and says what came of all their turns.
    ///
    /// # Errors
    /// The first of [`Reactor::run`].
    ///
    /// # Panics
    /// With the panic of a canal or a watcher, which has ended a reactor. A handler's panic is a failed attempt.
    pub fn join(self) -> Result<Turn> {
        self.wait(None)
    }

    /// Asks the reactors to stop, and waits until they have. What is not handled at the deadline is released. A handler
    /// that is running then has a second more to return; if it does not, it is left behind with its thread, and what is not
    /// settled comes again when its lease runs out, or after a restart.
    ///
    /// # Errors
    /// The first of [`Reactor::run`]. [`Error::Handler`] for a handler that is left behind.
    ///
    /// # Panics
    /// As [`join`](Handle::join).
    pub fn stop_and_join(self, deadline: Duration) -> Result<Turn> {
        self.stop();
        self.wait(Instant::now().checked_add(deadline))
    }

    fn wait(mut self, deadline: Option<Instant>) -> Result<Turn> {
        let mut total = Ok(Turn::default());
        for Thread { thread, ended, in_hand } in std::mem::take(&mut self.threads) {
            let result = match receive(&ended, deadline) {
                Err(RecvTimeoutError::Timeout) => {
                    self.stop.stop_now();
                    receive(&ended, deadline.and_then(|deadline| deadline.checked_add(GRACE)))
                }
                received => received,
            };
            let result = match result {
                Ok(result) => {
                    join(thread);
                    result
                }
                Err(RecvTimeoutError::Disconnected) => {
                    join(thread);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let position = Position::new(in_hand.load(Ordering::Relaxed));
                    let why = "it has not returned since the reactor was asked to stop, and is left behind".to_owned();
                    Err(Error::Handler { position, why })
                }
            };
            total = match (total, result) {
                (Ok(mut total), Ok(turn)) => {
                    total.add(turn);
                    Ok(total)
                }
                (Err(first), _) | (Ok(_), Err(first)) => Err(first),
            };
        }
        total
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.dropped.store(true, Ordering::Release);
            self.stop();
        }
    }
}

/// Stops the others when it is dropped.
struct StopsOthers<'a>(&'a Stop);

impl Drop for StopsOthers<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn receive(ended: &Receiver<Result<Turn>>, until: Option<Instant>) -> Result<Result<Turn>, RecvTimeoutError> {
    match until {
        None => ended.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(until) => ended.recv_timeout(until.saturating_duration_since(Instant::now())),
    }
}

fn join(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
