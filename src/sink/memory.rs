//! A sink for tests: keeps what it takes, and fails as it is told.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::canal::batch::Delivery;
use crate::sink::{Refusal, Sink};

/// Keeps records in memory, for tests. Clones are the same sink, so that one of them can be looked at, and told to fail,
/// while another one is being written to.
///
/// ```
/// use towpath::{MemorySink, Sink};
///
/// let sink = MemorySink::new("memory");
/// let mut written = sink.clone();
/// sink.fail_flushes(1, "no disk");
/// assert!(written.flush().is_err());
/// assert!(written.flush().is_ok());
/// assert!(sink.flushed().is_empty());
/// ```
#[derive(Clone)]
pub struct MemorySink {
    name: Arc<str>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    let_go: Condvar,
}

#[derive(Default)]
struct State {
    flushed: Vec<Delivery<'static>>,
    /// Written, and not flushed yet.
    written: Vec<Delivery<'static>>,
    fail_writes: Orders,
    fail_flushes: Orders,
    refuse: Option<Box<Rule>>,
    held: bool,
    writes: u64,
    waiting: u64,
}

/// Decides about a record.
type Rule = dyn FnMut(&Delivery<'_>) -> Result<(), Refusal> + Send;

/// How often to fail yet, and what to say.
#[derive(Default)]
struct Orders(u64, String);

impl Orders {
    fn obey(&mut self) -> Result<(), Refusal> {
        if self.0 == 0 {
            return Ok(());
        }
        self.0 -= 1;
        Err(Refusal::again(0, self.1.clone()))
    }
}

impl MemorySink {
    /// One that takes everything.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), shared: Arc::default() }
    }

    /// What was taken and flushed, in the order it was written.
    pub fn flushed(&self) -> Vec<Delivery<'static>> {
        self.state().flushed.clone()
    }

    /// How many records were taken and not flushed yet.
    pub fn unflushed(&self) -> usize {
        self.state().written.len()
    }

    /// How many times it was asked to write.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Fails the next so many writes, of any length, with nothing taken.
    pub fn fail_writes(&self, times: u64, why: &str) {
        self.state().fail_writes = Orders(times, why.to_owned());
    }

    /// Fails the next so many flushes. What was written since the last one is forgotten.
    pub fn fail_flushes(&self, times: u64, why: &str) {
        self.state().fail_flushes = Orders(times, why.to_owned());
    }

    /// Has a function decide about every record from now on; how many its refusal says were taken is overlooked. It must
    /// not use this sink.
    pub fn decide(&self, rule: impl FnMut(&Delivery<'_>) -> Result<(), Refusal> + Send + 'static) {
        self.state().refuse = Some(Box::new(rule));
    }

    /// Has every write wait until [`let_go`](MemorySink::let_go).
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Ends [`hold`](MemorySink::hold).
    pub fn let_go(&self) {
        self.state().held = false;
        self.shared.let_go.notify_all();
    }

    /// Waits until somebody waits in a write, because of [`hold`](MemorySink::hold).
    pub fn await_held(&self) {
        let mut state = self.state();
        while state.waiting == 0 {
            state = self.shared.let_go.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Deciding may panic; what was kept is whole all the same.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for MemorySink {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        let mut state = self.state();
        state.writes += 1;
        state.waiting += 1;
        if state.held {
            self.shared.let_go.notify_all();
        }
        while state.held {
            state = self.shared.let_go.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        state.fail_writes.obey()?;
        for (taken, record) in records.iter().enumerate() {
            if let Some(rule) = &mut state.refuse {
                rule(record).map_err(|refusal| refusal.at(taken))?;
            }
            state.written.push(record.clone().into_owned());
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        let state = &mut *self.state();
        match state.fail_flushes.obey() {
            Ok(()) => state.flushed.append(&mut state.written),
            Err(refusal) => {
                state.written.clear();
                return Err(refusal);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        let (flushed, unflushed) = (state.flushed.len(), state.written.len());
        f.debug_struct("MemorySink")
            .field("name", &self.name)
            .field("flushed", &flushed)
            .field("unflushed", &unflushed)
            .finish()
    }
}
