//! What the store remembers of its consumers, and what can be done to them by name.

use crate::canal::group::letter::STREAMS;
use crate::error::{Error, Result};
use crate::format::control::Control;
use crate::format::{limits, names};
use crate::id::{Position, Timestamp};
use crate::log::state::State;
use crate::log::walk::latest;
use crate::store::Store;
use crate::sync::guard;
use crate::writer::commit::Commit;
use crate::writer::staging::Patience;
use crate::writer::ticket::Ticket;

/// A consumer that the store remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consumer {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ConsumerKind,
    /// The next position that it looks at. A group may have unsettled deliveries before it.
    pub position: Position,
    /// How many positions lie between that and the head, events of every kind counted, and for a group its unsettled
    /// deliveries on top.
    pub lag: u64,
    /// Deliveries that were handed out and are not settled. Always 0 for a cursor. After a crash they are those that come
    /// again.
    pub in_flight: u64,
    /// Deliveries that were passed on the way, or came back, and wait to be handed out. Always 0 for a cursor.
    pub waiting: u64,
    /// Dead letters that were neither dropped nor redriven with success, as far as they are whole: those behind the last
    /// whole one are not counted. Always 0 for a cursor.
    pub dead: u64,
    /// Whether it hands out nothing until it is resumed.
    pub paused: bool,
}

/// What a consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConsumerKind {
    /// A cursor: a checkpoint, cumulative.
    Cursor,
    /// A group: each delivery is settled by itself.
    Group,
}

impl ConsumerKind {
    /// As it is shown: `cursor` or `group`.
    pub fn as_str(self) -> &'static str {
        match self {
            ConsumerKind::Cursor => "cursor",
            ConsumerKind::Group => "group",
        }
    }
}

impl std::fmt::Display for ConsumerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A delivery of a group that is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unsettled {
    /// The event.
    pub position: Position,
    /// How often it was handed out.
    pub attempts: u32,
    /// Whether it is in somebody's hands, or was when the process ended.
    pub in_flight: bool,
    /// When it was handed out for the first time, if it ever was.
    pub first_handed_out: Option<Timestamp>,
    /// When an attempt failed for the first time, if any did.
    pub first_failed: Option<Timestamp>,
    /// When an attempt failed for the last time, if any did.
    pub last_failed: Option<Timestamp>,
    /// Before when it does not come again, if it waits for that.
    pub not_before: Option<Timestamp>,
    /// What the last failed attempt failed of; empty when none did.
    pub why: String,
}

impl Store {
    /// The consumers that the store knows, by name. On a store that was opened read-only this reads the newest segment.
    ///
    /// # Errors
    /// When what a writer in another process has published since cannot be read.
    pub fn consumers(&self) -> Result<Vec<Consumer>> {
        let state = self.inner.log.state()?;
        let next = self.head().next().get();
        let cursor = |(name, position): (&String, &Position)| Consumer {
            name: name.clone(),
            kind: ConsumerKind::Cursor,
            position: *position,
            lag: next.saturating_sub(position.get()),
            in_flight: 0,
            waiting: 0,
            dead: 0,
            paused: false,
        };
        let mut consumers: Vec<Consumer> = state.checkpoints.iter().map(cursor).collect();
        for (name, ledger) in &state.groups {
            let log = &self.inner.log;
            let letters = log.costs.of(|| latest::standing_seen(log, &format!("{STREAMS}{name}"), self.head()))?;
            let letters = letters.revision.get();
            let ledger = guard(ledger);
            let in_flight = ledger.rows.iter().filter(|row| row.claim > 0).count() as u64;
            let unsettled = ledger.rows.len() as u64;
            consumers.push(Consumer {
                name: name.clone(),
                kind: ConsumerKind::Group,
                position: ledger.scanned.next(),
                lag: next.saturating_sub(ledger.scanned.next().get()) + unsettled,
                in_flight,
                waiting: unsettled - in_flight,
                dead: letters.saturating_sub(ledger.gone.count()),
                paused: ledger.paused,
            });
        }
        consumers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(consumers)
    }

    /// The deliveries of a group that are not settled, in the order of the log, as the log knows them: what was settled
    /// a moment ago may be among them still.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`] when there is no such group. As [`consumers`](Store::consumers).
    pub fn unsettled(&self, group: &str) -> Result<Vec<Unsettled>> {
        let state = self.inner.log.state()?;
        let ledger = state.groups.get(group).ok_or_else(|| unknown(group))?;
        let ledger = guard(ledger);
        let some = |time: Timestamp| Some(time).filter(|time| *time > Timestamp::default());
        let unsettled = ledger.rows.iter().map(|row| {
            let history = ledger.histories.get(&row.position);
            Unsettled {
                position: Position::new(row.position),
                attempts: row.attempts,
                in_flight: row.claim > 0,
                first_handed_out: ledger.handed_out(row),
                first_failed: history.and_then(|history| some(history.first_failed)),
                last_failed: history.and_then(|history| some(history.last_failed)),
                not_before: history.and_then(|history| some(history.not_before)).filter(|_| row.claim == 0),
                why: history.map(|history| history.why.clone()).unwrap_or_default(),
            }
        });
        Ok(unsettled.collect())
    }

    /// Sets where the consumer of this name goes on, forward or back. A cursor or group that is open under this name notices.
    /// A group forgets what it had not settled, and its members can no longer settle what they hold. A name that the
    /// store does not know becomes a cursor's.
    ///
    /// # Errors
    /// [`Error::NotDelivered`] for a position behind the one after the head, [`Error::Expired`] for one before the oldest event
    /// that is kept, and what an append can fail with.
    pub fn seek(&self, consumer: &str, position: Position) -> Result<()> {
        names::check_users("consumer name", consumer)?;
        let head = self.head();
        if position > head.next() {
            return Err(Error::NotDelivered { name: consumer.to_owned(), asked: position, last: head });
        }
        let position = position.max(Position::new(1));
        let oldest = self.oldest();
        if position < oldest {
            return Err(Error::Expired { asked: position, oldest });
        }
        if self.knows(|state| state.groups.contains_key(consumer)) {
            let scanned = position.previous();
            return self.with_group(consumer, |group| match group {
                Some(group) => group.seek(scanned),
                None => self.seek_to(&Control::Reset { group: consumer.to_owned(), scanned }, position),
            });
        }
        self.check_has_room_for(consumer)?;
        self.seek_to(&Control::Checkpoint { name: consumer.to_owned(), next: position }, position)?;
        self.inner.owners.tell(consumer, position.get());
        // It may be waiting for events.
        self.inner.log.head.wake();
        Ok(())
    }

    /// Forgets a consumer: its checkpoint, or its group with what it had not settled. Its dead letters stay in the log, as
    /// events of a stream of the store's own, and a group of the same name has them again.
    ///
    /// # Errors
    /// [`Error::ConsumerBusy`] when it is open in this process, [`Error::UnknownConsumer`] when there is none, and what an
    /// append can fail with.
    pub fn remove_consumer(&self, consumer: &str) -> Result<()> {
        self.writer()?.check_may_wait()?;
        self.check_known(consumer)?;
        let busy = || Error::ConsumerBusy { name: consumer.to_owned() };
        let _ours_until_it_is_gone = self.inner.owners.take(consumer).ok_or_else(busy)?;
        self.write_record(&Control::Removed { name: consumer.to_owned() })
    }

    /// Has a group hand out nothing until [`resume_consumer`](Store::resume_consumer), also after the store was closed and
    /// opened again. What is in hand can be settled.
    ///
    /// # Errors
    /// [`Error::UnknownConsumer`] when there is no consumer of this name, [`Error::NotPromised`] for a cursor, and what an
    /// append can fail with.
    pub fn pause_consumer(&self, group: &str) -> Result<()> {
        self.set_paused(group, true)
    }

    /// Has a group hand out deliveries again. One that is not paused stays as it is.
    ///
    /// # Errors
    /// As [`pause_consumer`](Store::pause_consumer).
    pub fn resume_consumer(&self, group: &str) -> Result<()> {
        self.set_paused(group, false)
    }

    fn set_paused(&self, group: &str, paused: bool) -> Result<()> {
        self.writer()?.check_may_wait()?;
        self.check_known(group)?;
        if !self.knows(|state| state.groups.contains_key(group)) {
            return Err(Error::NotPromised { canal: "cursor", what: "pausing" });
        }
        self.write_record(&Control::Paused { group: group.to_owned(), paused })?;
        if let Some(group) = self.open_group(group) {
            group.tell();
        }
        Ok(())
    }

    /// Writes a checkpoint. Nothing waits for a sync on its account: after a power cut it may be an older one.
    pub(crate) fn set_checkpoint(&self, name: &str, next: Position) -> Result<Ticket> {
        self.check_has_room_for(name)?;
        let mut commit = Commit::new();
        commit.control(&Control::Checkpoint { name: name.to_owned(), next });
        self.writer()?.submit(&commit, Patience::Wait)
    }

    /// Writes the record that has a consumer go on at a position, unless what stands there went meanwhile.
    pub(crate) fn seek_to(&self, record: &Control, position: Position) -> Result<()> {
        let mut commit = Commit::new();
        commit.control(record);
        let log = self.inner.log.clone();
        commit.rule(move |_, _| {
            let is_kept = position >= guard(&log.state).oldest();
            if is_kept { Ok(()) } else { Err("it is not kept any more".to_owned()) }
        });
        match self.writer()?.commit(&commit) {
            Err(Error::Refused { .. }) => {
                let oldest = self.knows(|state| state.oldest());
                Err(Error::Expired { asked: position, oldest })
            }
            written => written.map(drop),
        }
    }

    fn check_has_room_for(&self, consumer: &str) -> Result<()> {
        if self.knows(|state| state.checkpoints.contains_key(consumer) || state.consumers() < limits::CONSUMERS) {
            return Ok(());
        }
        let limit = limits::CONSUMERS as u64;
        Err(Error::TooLarge { what: "store's consumers", size: limit + 1, limit })
    }

    /// Writes down that dead letters are handed out again.
    pub(crate) fn write_redriven(&self, group: &str, redriven: Vec<(u64, Position)>) -> Result<()> {
        if redriven.is_empty() {
            return Ok(());
        }
        self.write_record(&Control::Letters { group: group.to_owned(), redriven, dropped: Vec::new() })
    }

    /// Writes one control record and waits until it is written.
    pub(crate) fn write_record(&self, record: &Control) -> Result<()> {
        let mut commit = Commit::new();
        commit.control(record);
        self.writer()?.commit(&commit).map(drop)
    }

    fn knows<T>(&self, what: impl FnOnce(&State) -> T) -> T {
        what(&guard(&self.inner.log.state))
    }

    fn check_known(&self, consumer: &str) -> Result<()> {
        let is_known = |state: &State| state.groups.contains_key(consumer) || state.checkpoints.contains_key(consumer);
        if self.knows(is_known) { Ok(()) } else { Err(unknown(consumer)) }
    }
}

pub(crate) fn unknown(consumer: &str) -> Error {
    Error::UnknownConsumer { name: consumer.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::draft::NewEvent;

    /// Written, it would keep the store from ever being opened again.
    #[test]
    fn a_record_that_does_not_read_back_is_refused() {
        let path = std::env::temp_dir().join(format!("towpath-consumers-{}", std::process::id()));
        let _none_yet = std::fs::remove_dir_all(&path);
        let store = Store::open(&path).unwrap();
        store.append("cart-1", NewEvent::new("opened", "")).unwrap();
        let unsound = Control::Removed { name: "\n".to_owned() };
        assert!(matches!(store.write_record(&unsound), Err(Error::Invalid { what: "control record", .. })));
        store.append("cart-1", NewEvent::new("closed", "")).unwrap();
        store.close().unwrap();
        assert_eq!(Store::open(&path).unwrap().head().get(), 2);
        std::fs::remove_dir_all(path).unwrap();
    }
}
