//! What every store has to do, and what it says of itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::events::Commit;

/// When an append is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Without any sync: as quickly as the store can.
    Os,
    /// After a sync: a power cut loses nothing acknowledged.
    Sync,
}

/// What a store is opened for.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    pub durability: Durability,
    /// Commits of several events are to come: there is a store that has to be set up otherwise for these.
    pub batches: bool,
}

impl Purpose {
    pub const fn new(durability: Durability, batches: bool) -> Self {
        Self { durability, batches }
    }

    /// Reading, and nothing else.
    pub const READING: Self = Self::new(Durability::Os, false);
}

/// A store under comparison. Used by one thread; producers and tails are for others.
pub trait Store: Sized {
    /// A handle with which another thread appends.
    type Producer: Producer;
    /// What waits for new events in another thread.
    type Tail: Tail;

    const PROFILE: Profile;

    /// Opens what is in the directory, or makes a new store there.
    fn open(dir: &Path, purpose: Purpose) -> Result<Self>;

    /// Appends a commit and waits for the answer.
    fn append(&mut self, commit: &Commit<'_>) -> Result<()>;

    /// Hands a commit over without waiting for the answer.
    fn submit(&mut self, _commit: &Commit<'_>) -> Result<()> {
        bail!("{} has no pipelining", Self::PROFILE.name)
    }

    /// Waits until everything that was submitted is answered.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    /// All events in the order of the log.
    fn replay(&mut self, visitor: &mut impl Visitor) -> Result<()>;

    /// All events of one stream, in its order.
    fn stream(&mut self, name: &str, visitor: &mut impl Visitor) -> Result<()>;

    fn producer(&mut self) -> Result<Self::Producer>;

    /// Waits for events that are appended from now on.
    fn tail(&mut self) -> Result<Self::Tail>;

    fn close(self) -> Result<()>;
}

pub trait Producer: Send {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()>;
}

pub trait Tail: Send {
    /// Waits for the next events and shows the payload of each; returns how many came. None came within `patience` when
    /// it returns 0.
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64>;
}

/// Is shown what a store reads.
pub trait Visitor {
    fn event(&mut self, event: &impl Seen);
}

/// An event as a store gives it back. What is not asked for need not be decoded.
pub trait Seen {
    fn payload(&self) -> &[u8];
    /// None where the store knows no streams.
    fn stream(&self) -> Option<&str>;
    /// Counted from 0. None where the store has no revisions.
    fn revision(&self) -> Option<u64>;
}

/// What a store can do, and how it is used here.
pub struct Profile {
    /// As the command line has it.
    pub key: &'static str,
    pub name: &'static str,
    /// The crate whose version is told.
    pub package: &'static str,
    /// In a few words.
    pub kind: &'static str,
    /// What checks, while reading, that bytes are those written; none when nothing does.
    pub checks: Option<&'static str>,
    /// Commits of several events without a sync.
    pub unsynced_batches: bool,
    /// Commits of one event without a sync.
    pub unsynced_singles: bool,
    /// Commits that are synced before they are answered.
    pub synced: bool,
    pub pipelined: bool,
    /// Several threads append to one open store.
    pub producers: bool,
    pub streams: bool,
    pub revisions: bool,
    /// A second replay through the same open store.
    pub replays_again: bool,
    pub waits: Waits,
    /// How it is set up here, and why: one sentence each.
    pub settings: &'static [&'static str],
}

/// How a consumer learns of a new event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// The store wakes it.
    Woken,
    /// It reads again and again, and lets other threads have the core in between: quick, and a core is busy with it.
    Polls,
    /// It cannot, beside a writer.
    No,
}

/// For stores that have no producers or no tail.
pub enum Never {}

impl Producer for Never {
    fn append(&mut self, _commit: &Commit<'_>) -> Result<()> {
        match *self {}
    }
}

impl Tail for Never {
    fn next(&mut self, _patience: Duration, _payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        match *self {}
    }
}

/// Reads again and again until there is something.
pub fn poll(patience: Duration, mut read: impl FnMut() -> Result<u64>) -> Result<u64> {
    let started = std::time::Instant::now();
    loop {
        let count = read()?;
        if count > 0 || started.elapsed() > patience {
            return Ok(count);
        }
        std::thread::yield_now();
    }
}
