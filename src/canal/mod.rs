//! Canals: anything that batches of events can be pulled from, with progress that is settled.

pub(crate) mod cursor;

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::control::Control;
use crate::format::{limits, names};
use crate::id::{Position, Timestamp};
use crate::log::event::Event;
use crate::segment::Segment;
use crate::store::Store;
use crate::sync::guard;
use crate::writer::commit::Commit;
use crate::writer::staging::Patience;
use crate::writer::ticket::Ticket;

/// One contract for all consumers: pull a batch, handle it, settle it.
///
/// An empty batch means that nothing came within the patience, never that the end was reached: a log has none. A closed
/// canal first hands out what it has, and then says [`Error::Closed`].
pub trait Canal {
    /// The next events, up to `max` of them, waiting up to `patience` for the first. A `max` of 0 counts as 1. A batch ends where
    /// a segment does, so it may be smaller though more is there.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a damaged stretch; the next call goes on behind it. [`Error::Closed`] after the last event
    /// of a store that was closed.
    fn pull_batch(&mut self, max: usize, patience: Duration) -> Result<Batch>;

    /// Says what became of a delivery. Where [`Promises::cumulative`] holds, of everything before it too.
    ///
    /// # Errors
    /// [`Error::NotDelivered`] for what was never handed out. For a cursor with a name, what an append can fail with, of
    /// this acknowledgement or the last one: [`Error::Closed`], [`Error::Stopped`].
    fn settle(&mut self, token: Token, settlement: Settlement) -> Result<()>;

    /// What this canal can be relied on for.
    fn promises(&self) -> Promises;
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settlement {
    /// It was handled and need not come again.
    Done,
    /// It was not handled: hand it out again, and what follows it.
    Release,
}

/// What a canal can be relied on for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Promises {
    /// Events come in the order of the log, without gaps.
    pub ordered: bool,
    /// Settling one settles everything before it.
    pub cumulative: bool,
    /// What was settled survives a crash of the process.
    pub remembered: bool,
}

/// Names a delivery to the canal that made it. What is inside is the canal's own business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(crate) u64);

/// Events that were pulled together. They stay readable for as long as the batch lives.
#[derive(Debug, Default)]
pub struct Batch {
    segment: Option<Arc<Segment>>,
    frames: Vec<(u64, u32)>,
    last: Option<Token>,
}

impl Batch {
    /// How many events it has.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing came.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The events, in the order of the canal.
    pub fn iter(&self) -> Events<'_> {
        Events { batch: self, frames: self.frames.iter() }
    }

    /// Names the last delivery, to settle all of it at once where that is possible.
    pub fn last(&self) -> Option<Token> {
        self.last
    }

    /// Names the delivery of one of its events.
    pub fn token(&self, event: &Event<'_>) -> Token {
        Token(event.position().get())
    }

    fn push(&mut self, segment: &Arc<Segment>, offset: u64, len: u32, token: Token) {
        self.segment.get_or_insert_with(|| segment.clone());
        self.frames.push((offset, len));
        self.last = Some(token);
    }

    /// Whether an event of this segment can join: a batch keeps one segment alive.
    fn takes(&self, segment: &Arc<Segment>) -> bool {
        self.segment.as_ref().is_none_or(|own| Arc::ptr_eq(own, segment))
    }
}

/// The events of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Events<'a> {
    batch: &'a Batch,
    frames: std::slice::Iter<'a, (u64, u32)>,
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let (offset, len) = *self.frames.next()?;
        self.batch.segment.as_ref().map(|segment| Event::borrowed(segment, offset, len))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.frames.size_hint()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = Event<'a>;
    type IntoIter = Events<'a>;

    fn into_iter(self) -> Events<'a> {
        self.iter()
    }
}

/// Where a consumer begins when it has no checkpoint yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event that is kept.
    #[default]
    Beginning,
    /// Behind the last event there is now.
    End,
    /// With the event at this position.
    At(Position),
    /// With the first event recorded at this time or later.
    Time(Timestamp),
}

/// A consumer that the store remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// What it is: `cursor`.
    pub kind: &'static str,
    /// The next position that it reads.
    pub position: Position,
    /// How many positions lie between that and the head, events of every kind counted.
    pub lag: u64,
}

impl Store {
    /// The consumers whose checkpoints the store keeps, by name. On a store that was opened read-only this reads the newest
    /// segment.
    ///
    /// # Errors
    /// When what a writer in another process has published since cannot be read.
    pub fn consumers(&self) -> Result<Vec<Consumer>> {
        let state = self.inner.log.state()?;
        let next = self.head().next().get();
        let consumer = |(name, position): (String, Position)| Consumer {
            name,
            kind: "cursor",
            position,
            lag: next.saturating_sub(position.get()),
        };
        Ok(state.checkpoints.into_iter().map(consumer).collect())
    }

    /// Sets where the consumer of this name goes on, forward or back. A cursor that is open under this name notices.
    ///
    /// # Errors
    /// [`Error::NotDelivered`] for a position behind the one after the head, and what an append can fail with.
    pub fn seek(&self, consumer: &str, position: Position) -> Result<()> {
        names::check_users("consumer name", consumer)?;
        let head = self.head();
        if position > head.next() {
            return Err(Error::NotDelivered { name: consumer.to_owned(), asked: position, last: head });
        }
        let position = position.max(Position::new(1));
        self.set_checkpoint(consumer, position)?.wait()?;
        self.inner.owners.tell(consumer, position.get());
        // It may be waiting for events.
        self.inner.log.head.wake();
        Ok(())
    }

    /// Writes a checkpoint. Nothing waits for a sync on its account: after a power cut it may be an older one.
    pub(crate) fn set_checkpoint(&self, name: &str, next: Position) -> Result<Ticket> {
        let known = {
            let state = guard(&self.inner.log.state);
            state.checkpoints.contains_key(name) || state.checkpoints.len() < limits::CONSUMERS
        };
        if !known {
            let limit = limits::CONSUMERS as u64;
            return Err(Error::TooLarge { what: "store's consumers", size: limit + 1, limit });
        }
        let mut commit = Commit::new();
        commit.control(&Control::Checkpoint { name: name.to_owned(), next });
        self.writer()?.submit(&commit, Patience::Wait)
    }
}
