//! Gathers rows into commits and keeps a bounded number of them on their way.

use std::collections::VecDeque;

use towpath::{Commit, Error, NewEvent, Store, Ticket};

use crate::failure::{Failure, Result};

/// Commits on their way at once.
const WINDOW: usize = 64;
/// Payload bytes that end a commit before it has all its rows.
const BYTES: usize = 1 << 20;

pub(crate) struct Batches<'a> {
    store: &'a Store,
    rows: u64,
    commit: Commit,
    /// Takes one event at a time, to learn whether it may be written.
    probe: Commit,
    bytes: usize,
    gathered: u64,
    line: u64,
    tickets: VecDeque<Sent>,
    stored: u64,
    stored_line: u64,
    is_stopped: bool,
}

struct Sent {
    ticket: Ticket,
    events: u64,
    /// Of its last row.
    line: u64,
}

impl<'a> Batches<'a> {
    /// Commits of so many rows.
    pub(crate) fn new(store: &'a Store, rows: u64) -> Self {
        Self {
            store,
            rows,
            commit: Commit::new(),
            probe: Commit::new(),
            bytes: 0,
            gathered: 0,
            line: 0,
            tickets: VecDeque::with_capacity(WINDOW),
            stored: 0,
            stored_line: 0,
            is_stopped: false,
        }
    }

    /// Whether the store takes this event at all. A commit cannot give one back, so each is tried on its own first.
    pub(crate) fn check(&mut self, stream: &str, event: NewEvent<'_>) -> Result<(), Error> {
        self.probe.clear().event(stream, event);
        self.probe.error().map_or(Ok(()), |error| Err(error.clone()))
    }

    pub(crate) fn add(&mut self, stream: &str, event: NewEvent<'_>, line: u64) -> Result<()> {
        let bytes = event.payload().len();
        if self.gathered == self.rows || self.bytes + bytes > BYTES {
            self.send()?;
        }
        self.commit.event(stream, event);
        self.bytes += bytes;
        self.gathered += 1;
        self.line = line;
        Ok(())
    }

    /// Sends the rest, waits for everything, and says how many events went in. After a failure nothing more is sent.
    pub(crate) fn finish(mut self) -> Result<u64> {
        if !self.is_stopped {
            self.send()?;
        }
        while !self.is_stopped && !self.tickets.is_empty() {
            self.wait()?;
        }
        Ok(self.stored)
    }

    fn send(&mut self) -> Result<()> {
        if self.gathered == 0 {
            return Ok(());
        }
        if self.tickets.len() == WINDOW {
            self.wait()?;
        }
        let ticket = self.store.submit(&self.commit).map_err(|error| self.stopped(error))?;
        self.tickets.push_back(Sent { ticket, events: self.gathered, line: self.line });
        self.commit.clear();
        (self.bytes, self.gathered) = (0, 0);
        Ok(())
    }

    /// Waits for the oldest.
    fn wait(&mut self) -> Result<()> {
        let Some(sent) = self.tickets.pop_front() else { return Ok(()) };
        sent.ticket.wait().map_err(|error| self.stopped(error))?;
        self.stored += sent.events;
        self.stored_line = sent.line;
        Ok(())
    }

    fn stopped(&mut self, error: Error) -> Failure {
        self.is_stopped = true;
        let line = self.stored_line;
        Failure::from(error).within(format!("the import stopped, the rows up to line {line} at least are stored"))
    }
}
