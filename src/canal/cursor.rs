//! The ordered consumer: every event in the order of the log, once, with a checkpoint by name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::canal;
use crate::canal::batch::Batch;
use crate::canal::feed::{self, Feed};
use crate::canal::{Canal, Promises, Settlement, Start, Token, Transact, set_aside};
use crate::error::{Error, Result};
use crate::event::query::Query;
use crate::format::control::Control;
use crate::format::names;
use crate::id::Position;
use crate::log::walk::lookup;
use crate::store::Store;
use crate::sync::guard;
use crate::sync::owners::{Owned, Told};
use crate::writer::commit::Commit;
use crate::writer::ticket::{Receipt, Ticket};

/// How a cursor is opened: [`Store::cursor`] and [`Store::follow`] begin it.
#[derive(Clone, Debug)]
#[must_use = "a cursor is opened by `open`"]
pub struct CursorBuilder {
    store: Store,
    name: Option<String>,
    start: Start,
    filter: Query,
}

/// Hands out events in the order of the log, from a checkpoint on, without a gap, and then waits for new ones.
///
/// Acknowledging is cumulative and moves the checkpoint forward, never back; after a crash the cursor goes on at the
/// checkpoint, so what was handed out and not acknowledged comes again. The checkpoint lies in the log itself: it can
/// never point past what survived. Dropping a cursor waits until its last acknowledgement stands there, so whoever opens
/// the name next goes on behind it.
#[derive(Debug)]
pub struct Cursor {
    store: Store,
    owned: Option<Owned>,
    /// What the owner had been told of seeks when the cursor last looked.
    told: Told,
    feed: Feed,
    /// The last position that was handed out since the cursor was opened or moved.
    handed_out: Position,
    /// The next position to read, as acknowledged.
    checkpoint: Position,
    /// The last checkpoint's way into the log.
    unanswered: Option<Ticket>,
    /// Whether the checkpoint could not be written. Whoever flushes was told, and the next flush tries again.
    unwritten: bool,
    /// How far the last pull looked, if it found nothing.
    looked: Option<Position>,
    /// Nothing is handed out before: a delivery is to be tried again then.
    not_before: Option<Instant>,
    /// The name, for deliveries.
    name: Option<Arc<str>>,
    /// Its number, for its tokens.
    number: u64,
}

impl Store {
    /// Begins a cursor whose checkpoint is kept under a name, for the one owner of that name.
    pub fn cursor(&self, name: impl Into<String>) -> CursorBuilder {
        self.cursor_builder(Some(name.into()))
    }

    /// Begins a cursor without a name: it keeps no checkpoint and begins where [`start`](CursorBuilder::start) says.
    /// Works on a store that was opened read-only, where it follows a writer in another process, and the one that comes after it. It
    /// never passes over anything in silence: [`Error::Expired`] tells what was let go of, [`Error::Withdrawn`] what a crash took away.
    pub fn follow(&self) -> CursorBuilder {
        self.cursor_builder(None)
    }

    fn cursor_builder(&self, name: Option<String>) -> CursorBuilder {
        CursorBuilder { store: self.clone(), name, start: Start::default(), filter: Query::new() }
    }
}

impl CursorBuilder {
    /// Where to begin when there is no checkpoint. Otherwise it is the checkpoint that counts.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// Only events that the query means. The filter is not kept with the checkpoint: with another one, what lies before the
    /// checkpoint is not looked at again.
    pub fn filter(mut self, query: Query) -> Self {
        self.filter = query;
        self
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`Error::ConsumerBusy`] when a consumer of this name is open, [`Error::ConsumerDiffers`] when it is a group's,
    /// [`Error::ReadOnly`] for a name on a store that was opened read-only, [`Error::Expired`] when it was to begin
    /// before the oldest event that is kept, [`Error::Invalid`] and [`Error::TooLarge`] for a name that cannot be used.
    pub fn open(self) -> Result<Cursor> {
        let owned = match &self.name {
            None => None,
            Some(name) => {
                names::check_users("consumer name", name)?;
                self.store.writer()?;
                let taken = self.store.inner.owners.take(name);
                Some(taken.ok_or_else(|| Error::ConsumerBusy { name: name.clone() })?)
            }
        };
        if let Some(name) =
            self.name.as_ref().filter(|name| guard(&self.store.inner.log.state).groups.contains_key(*name))
        {
            return Err(Error::ConsumerDiffers { name: name.clone(), what: "members: it is a group".to_owned() });
        }
        let kept = self.name.as_ref().and_then(|name| checkpoint(&self.store, name));
        let next = match kept {
            Some(next) => next,
            None => resolve(&self.store, self.start)?,
        };
        if let Some(owned) = owned.as_ref().filter(|_| kept.is_none()) {
            // It needs what it has not read, though nothing is acknowledged yet.
            guard(&self.store.inner.log.begun).insert(owned.name().to_owned(), next);
        }
        let oldest = self.store.oldest();
        if next < oldest {
            owned.iter().for_each(|owned| _ = guard(&self.store.inner.log.begun).remove(owned.name()));
            return Err(Error::Expired { asked: next, oldest });
        }
        Ok(Cursor {
            feed: Feed::new(&self.store.inner.log, self.filter, next)?,
            told: Told::default(),
            store: self.store,
            owned,
            handed_out: next.previous(),
            checkpoint: next,
            unanswered: None,
            unwritten: false,
            looked: None,
            not_before: None,
            name: self.name.map(Into::into),
            number: canal::number(),
        })
    }
}

impl Cursor {
    /// The next position to read after a crash: behind what was acknowledged.
    pub fn checkpoint(&self) -> Position {
        self.checkpoint
    }

    /// Everything up to this position is handled, inclusive. An older position than was acknowledged before changes
    /// nothing. The checkpoint is on its way into the log when this returns; it waits for no sync of its own.
    ///
    /// # Errors
    /// [`Error::NotDelivered`] for a position that was never handed out; the checkpoint stays. What an append can fail
    /// with, of this or the last acknowledgement.
    pub fn acknowledge(&mut self, position: Position) -> Result<()> {
        self.notice_seek()?;
        if position > self.handed_out {
            return Err(Error::NotDelivered { name: self.name(), asked: position, last: self.handed_out });
        }
        if position < self.checkpoint {
            return Ok(());
        }
        self.keep(position.next())
    }

    /// Goes on at another position, forward or back, and keeps that as the checkpoint.
    ///
    /// # Errors
    /// As [`Store::seek`].
    pub fn seek(&mut self, position: Position) -> Result<()> {
        let oldest = self.store.oldest();
        let position = position.max(Position::new(1));
        if position < oldest {
            return Err(Error::Expired { asked: position, oldest });
        }
        let head = self.store.head();
        if position > head.next() {
            return Err(Error::NotDelivered { name: self.name(), asked: position, last: head });
        }
        if let Some(owned) = &self.owned {
            // The last of what is on its way counts, and this one is refused when old events went just now.
            let _told_by_the_next = self.unanswered.take();
            self.store.seek_to(&Control::Checkpoint { name: owned.name().to_owned(), next: position }, position)?;
            self.unwritten = false;
        }
        self.go_to(position)
    }

    fn name(&self) -> String {
        self.name.as_deref().unwrap_or("(unnamed)").to_owned()
    }

    fn keep(&mut self, next: Position) -> Result<()> {
        if let Some(owned) = &self.owned {
            if let Some(Err(error)) = self.unanswered.as_ref().and_then(Ticket::poll) {
                (self.unanswered, self.unwritten) = (None, true);
                return Err(error);
            }
            self.unanswered = Some(self.store.set_checkpoint(owned.name(), next)?);
            self.unwritten = false;
        }
        self.checkpoint = next;
        Ok(())
    }

    fn not_promised(&self, what: &'static str) -> Error {
        Error::NotPromised { canal: "cursor", what }
    }

    /// Positions of other canals mean nothing here.
    fn check_own(&self, tokens: &[Token]) -> Result<()> {
        match tokens.iter().find(|token| token.canal != self.number) {
            None => Ok(()),
            Some(token) => {
                let (position, why) = (Position::new(token.place), "another canal handed it out");
                Err(Error::NotHeld { name: self.name(), position, why })
            }
        }
    }

    fn go_to(&mut self, next: Position) -> Result<()> {
        self.feed.go_to(&self.store.inner.log, next)?;
        self.handed_out = next.previous();
        self.checkpoint = next;
        self.not_before = None;
        self.looked = None;
        Ok(())
    }

    /// Somebody may have moved the checkpoint by [`Store::seek`].
    fn notice_seek(&mut self) -> Result<()> {
        let Some(owned) = &self.owned else { return Ok(()) };
        let told = owned.told();
        if told == self.told {
            return Ok(());
        }
        self.told = told;
        let next = Position::new(told.number);
        // An acknowledgement may have come into the log after the seek that it did not know of: the seek counts.
        let kept = self.keep(next);
        self.go_to(next)?;
        match kept {
            Err(Error::Closed | Error::Stopped { .. }) => Ok(()),
            kept => kept,
        }
    }

    /// What is there now, without waiting.
    fn take(&mut self, max: usize) -> Result<Batch> {
        let mut batch = Batch::new(self.name.clone(), self.number, 0);
        let until = self.store.inner.log.head();
        self.looked = None;
        match self.feed.take(&self.store.inner.log, until, max, &mut batch)? {
            Some(last) => self.handed_out = last,
            None => self.looked = Some(until),
        }
        Ok(batch)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // An error here has nobody to be told to; whoever wants to know calls `flush`.
        let _unheard = self.flush();
        if let Some(owned) = &self.owned {
            guard(&self.store.inner.log.begun).remove(owned.name());
        }
    }
}

impl Canal for Cursor {
    fn pull_batch(&mut self, max: usize, patience: Duration) -> Result<Batch> {
        let until = Instant::now().checked_add(patience);
        loop {
            self.notice_seek()?;
            let log = &self.store.inner.log;
            log.refresh()?;
            // Closed is asked before the log is looked at, so nothing can have come behind what is found.
            let closed = log.is_closed();
            let seen = log.head.get();
            let held = self.not_before.map_or(Duration::ZERO, |time| time.saturating_duration_since(Instant::now()));
            let batch = if held.is_zero() { self.take(max.max(1))? } else { Batch::default() };
            if !batch.is_empty() {
                self.not_before = None;
                return Ok(batch);
            }
            if closed && held.is_zero() {
                return Err(Error::Closed);
            }
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(batch);
            }
            let left = if held.is_zero() { left } else { left.min(held) };
            let moved = || self.owned.as_ref().is_some_and(|owned| owned.told() != self.told);
            feed::wait(&self.store, seen, left, moved);
        }
    }

    /// `Done` acknowledges everything up to this delivery; `Release` and `Retry` hand out this one and what follows it
    /// again, `Retry` not before its time. Attempts are not counted, and nothing becomes a dead letter.
    fn settle(&mut self, token: Token, settlement: Settlement) -> Result<()> {
        let position = Position::new(token.place);
        self.check_own(&[token])?;
        if let Settlement::Done = settlement {
            return self.acknowledge(position);
        }
        self.notice_seek()?;
        if position > self.handed_out {
            return Err(Error::NotDelivered { name: self.name(), asked: position, last: self.handed_out });
        }
        let after = match settlement {
            Settlement::Reject { .. } => return Err(self.not_promised("rejecting deliveries")),
            Settlement::Retry { after, .. } => after,
            Settlement::Done | Settlement::Release => None,
        };
        let checkpoint = self.checkpoint;
        self.go_to(position)?;
        self.checkpoint = checkpoint;
        self.not_before = after.and_then(|after| Instant::now().checked_add(after));
        Ok(())
    }

    fn settle_all(&mut self, tokens: &[Token]) -> Result<Vec<Error>> {
        let mut refused = Vec::new();
        let last = tokens.iter().map(|token| token.place).max();
        let acknowledged =
            self.check_own(tokens).and_then(|()| last.map_or(Ok(()), |last| self.acknowledge(Position::new(last))));
        set_aside(acknowledged, &mut refused).map(|()| refused)
    }

    fn extend(&mut self, _token: Token, _lease: Duration) -> Result<()> {
        Err(self.not_promised("leases"))
    }

    fn flush(&mut self) -> Result<()> {
        if self.unwritten && self.unanswered.is_none() {
            self.keep(self.checkpoint)?;
        }
        let written = self.unanswered.take().map_or(Ok(()), |ticket| ticket.wait().map(drop));
        self.unwritten |= written.is_err();
        written
    }

    /// Moves the checkpoint once it lies in another segment than the newest, which never goes: a few bytes a segment.
    fn idle(&mut self) -> Result<()> {
        let is_settled = self.handed_out < self.checkpoint && self.not_before.is_none();
        let is_sought = self.owned.as_ref().is_none_or(|owned| owned.told() != self.told);
        let Some(looked) = self.looked.filter(|_| is_settled && !is_sought) else { return Ok(()) };
        let newest = self.store.inner.log.parts.newest().segment.first();
        if self.checkpoint < newest && looked >= self.checkpoint { self.keep(looked.next()) } else { Ok(()) }
    }

    fn promises(&self) -> Promises {
        Promises {
            ordered: true,
            lossless: true,
            cumulative: true,
            remembered: self.owned.is_some(),
            counted: false,
            leased: false,
            rejects: false,
            parks: false,
        }
    }
}

impl Transact for Cursor {
    fn commit_and_settle(&mut self, commit: &mut Commit, done: &[Token]) -> Result<Receipt> {
        self.notice_seek()?;
        self.check_own(done)?;
        let Some(owned) = &self.owned else { return Err(self.not_promised("progress that is kept")) };
        let position = done.iter().map(|token| Position::new(token.place)).max().unwrap_or(self.checkpoint.previous());
        if position > self.handed_out {
            return Err(Error::NotDelivered { name: self.name(), asked: position, last: self.handed_out });
        }
        let next = position.next().max(self.checkpoint);
        let record = Control::Checkpoint { name: owned.name().to_owned(), next };
        let receipt = self.store.commit_with(commit, &[record])?;
        (self.checkpoint, self.unwritten) = (next, false);
        Ok(receipt)
    }
}

fn checkpoint(store: &Store, name: &str) -> Option<Position> {
    guard(&store.inner.log.state).checkpoints.get(name).copied()
}

pub(super) fn resolve(store: &Store, start: Start) -> Result<Position> {
    let head = store.head();
    Ok(match start {
        Start::Beginning => store.oldest(),
        Start::End => head.next(),
        Start::At(position) => position.max(Position::new(1)),
        Start::Time(time) => lookup::at_time(&store.inner.log, time)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::draft::NewEvent;

    /// The two halves of a seek from outside, with an acknowledgement of the cursor between them.
    #[test]
    fn a_seek_counts_though_the_cursor_acknowledged_before_it_noticed() {
        let path = std::env::temp_dir().join(format!("towpath-cursor-{}", std::process::id()));
        let store = Store::open(&path).unwrap();
        for _ in 0..3 {
            store.append("cart-1", NewEvent::new("opened", "")).unwrap();
        }
        let mut cursor = store.cursor("mail").open().unwrap();
        cursor.pull_batch(3, Duration::ZERO).unwrap();

        store.set_checkpoint("mail", Position::new(1)).unwrap().wait().unwrap();
        cursor.acknowledge(Position::new(3)).unwrap();
        store.inner.owners.tell("mail", 1);

        assert_eq!(cursor.pull_batch(3, Duration::ZERO).unwrap().len(), 3);
        cursor.flush().unwrap();
        assert_eq!((cursor.checkpoint(), checkpoint(&store, "mail").unwrap().get()), (Position::new(1), 1));
        drop(cursor);
        store.close().unwrap();
        std::fs::remove_dir_all(path).unwrap();
    }
}
