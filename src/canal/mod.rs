//! Canals: anything that batches of events can be pulled from, with progress that is settled.

pub(crate) mod batch;
pub(crate) mod breaker;
pub(crate) mod consumers;
pub(crate) mod cursor;
pub(crate) mod dead;
pub(crate) mod feed;
pub(crate) mod group;
pub(crate) mod retry;
pub(crate) mod subscription;

use std::time::Duration;

use crate::canal::batch::Batch;
use crate::error::{Error, Result};
use crate::format::control::Control;
use crate::id::{Position, Timestamp};
use crate::store::Store;
use crate::sync::primitive::atomic::{AtomicU64, Ordering};
use crate::writer::commit::Commit;
use crate::writer::ticket::Receipt;

/// One contract for all consumers: pull a batch, handle it, settle it.
///
/// An empty batch means that nothing came within the patience, never that the end was reached: a log has none. A closed
/// canal first hands out what it has, and then says [`Error::Closed`]; one that counts attempts says so at once, because it
/// cannot write them down any more. What a canal does not promise it refuses with
/// [`Error::NotPromised`], and changes nothing.
pub trait Canal {
    /// The next events, up to `max` of them, waiting up to `patience` for the first. A `max` of 0 counts as 1. A batch may be
    /// smaller though more is there.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a damaged stretch; the next call goes on behind it. [`Error::Closed`] after the last event
    /// of a store that was closed. What writing down who has them can fail with; they come again then.
    fn pull_batch(&mut self, max: usize, patience: Duration) -> Result<Batch>;

    /// Says what became of a delivery. Where [`Promises::cumulative`] holds, of everything before it too. What is said
    /// is on its way with the last of its batch, and with the next pull at the latest; [`flush`](Canal::flush) waits for it.
    /// Until then a process that is killed has not said it.
    ///
    /// # Errors
    /// [`Error::NotDelivered`] and [`Error::NotHeld`] for what was never handed out, is settled already, or was taken away
    /// since; nothing has changed then. For a consumer with a name, what an append can fail with, of this settlement or
    /// an earlier one: [`Error::Closed`], [`Error::Stopped`], [`Error::DiskFull`].
    fn settle(&mut self, token: Token, settlement: Settlement) -> Result<()>;

    /// Settles deliveries as done. Where some are not this consumer's to settle, the others are, and each of those gives a
    /// [`Error::NotHeld`] or [`Error::NotDelivered`] in what is returned.
    ///
    /// # Errors
    /// As [`settle`](Canal::settle), for everything else that can go wrong: the first.
    fn settle_all(&mut self, tokens: &[Token]) -> Result<Vec<Error>> {
        let (mut refused, mut told) = (Vec::new(), Ok(()));
        for token in tokens {
            let settled = self.settle(*token, Settlement::Done);
            told = told.and(set_aside(settled, &mut refused));
        }
        told.map(|()| refused)
    }

    /// Keeps a delivery for so long from now on, before it is given to somebody else. Never shortens what it has already.
    ///
    /// # Errors
    /// As [`settle`](Canal::settle). [`Error::NotPromised`] where deliveries are not leased, and need no extension.
    fn extend(&mut self, token: Token, lease: Duration) -> Result<()>;

    /// Waits until everything that was settled stands where the canal keeps it.
    ///
    /// # Errors
    /// Why it does not.
    fn flush(&mut self) -> Result<()>;

    /// To be called when a pull came back empty and everything that was handed out is settled: a canal that remembers one place may
    /// then move it behind what the pull passed over, so that a rare filter does not keep back old events. A
    /// [`Reactor`](crate::Reactor) and a [`Forwarder`](crate::Forwarder) call it. Changes nothing where there is something left to
    /// settle, and nothing about what is handed out next.
    ///
    /// # Errors
    /// As [`settle`](Canal::settle).
    fn idle(&mut self) -> Result<()> {
        Ok(())
    }

    /// What this canal can be relied on for.
    fn promises(&self) -> Promises;
}

/// Puts what a single delivery was refused for beside, and lets everything else through.
pub(crate) fn set_aside(settled: Result<()>, refused: &mut Vec<Error>) -> Result<()> {
    match settled {
        Err(error @ (Error::NotHeld { .. } | Error::NotDelivered { .. })) => {
            refused.push(error);
            Ok(())
        }
        settled => settled,
    }
}

/// A canal whose progress lies in a store, so that it can move in one commit with events that are appended there.
pub trait Transact: Canal {
    /// Writes a commit and settles deliveries as done, all or nothing, and waits as the store's durability says. The commit may be
    /// empty. Where [`Promises::cumulative`] holds, the last token stands for everything before it.
    ///
    /// # Errors
    /// As [`Store::commit`] and [`Canal::settle`]; nothing is written or settled then. [`Error::Invalid`] for a commit with an
    /// idempotency key: what is settled is written once without it. [`Error::NotPromised`] for a canal without a name.
    fn commit_and_settle(&mut self, commit: &mut Commit, done: &[Token]) -> Result<Receipt>;
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settlement {
    /// It was handled and need not come again.
    Done,
    /// It failed: hand it out again. The attempt counts, where the canal counts them; after the last one it becomes a dead letter.
    Retry {
        /// Not before so long from now. `None`: as the canal's own policy has it, at once where it has none.
        after: Option<Duration>,
        /// What failed.
        why: String,
    },
    /// It will never succeed: make it a dead letter now.
    Reject {
        /// What kind of failure it is.
        reason: Reason,
        /// What failed.
        why: String,
    },
    /// It was not handled: hand it out again, and what follows it. The attempt does not count.
    Release,
}

/// Why a delivery became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The last attempt failed, whatever it failed of: an error, a panic, a lease that ran out, a process that ended.
    Attempts,
    /// The handler refused it for good.
    Rejected,
    /// Its payload does not decode.
    Undecodable,
    /// It is larger than its handler can take.
    TooLarge,
    /// It waited for longer than the group allows.
    Expired,
    /// Its bytes are damaged; the dead letter says which positions are lost.
    Damaged,
    /// It follows a dead letter that it must not overtake.
    Parked,
}

impl Reason {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Attempts => "attempts",
            Reason::Rejected => "rejected",
            Reason::Undecodable => "undecodable",
            Reason::TooLarge => "too large",
            Reason::Expired => "expired",
            Reason::Damaged => "damaged",
            Reason::Parked => "parked",
        }
    }

    /// What was written.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        use Reason::{Attempts, Damaged, Expired, Parked, Rejected, TooLarge, Undecodable};
        [Attempts, Rejected, Undecodable, TooLarge, Expired, Damaged, Parked]
            .into_iter()
            .find(|one| one.as_str() == text)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a canal can be relied on for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Promises {
    /// Events come in the order of the log; without gaps where nothing is passed over.
    pub ordered: bool,
    /// Every event comes; nothing is passed over.
    pub lossless: bool,
    /// Settling one settles everything before it.
    pub cumulative: bool,
    /// What was settled survives a crash of the process.
    pub remembered: bool,
    /// Attempts are counted, also those that ended the process, and the last one makes a dead letter.
    pub counted: bool,
    /// Deliveries are leased: [`Canal::extend`] works, and what is not settled in time is given to somebody else.
    pub leased: bool,
    /// [`Settlement::Reject`] makes a dead letter.
    pub rejects: bool,
    /// A dead letter stops what follows under its order key: that becomes dead letters, too.
    pub parks: bool,
}

/// Names a delivery to the canal that made it. What is inside is the canal's own business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Which canal made it: a number of its own in this process.
    pub(crate) canal: u64,
    /// Which hand-out it was: the fencing token of its claim.
    pub(crate) claim: u64,
    pub(crate) place: u64,
}

/// A number for a canal, by which it knows its tokens.
pub(crate) fn number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
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

impl Store {
    /// Writes a commit together with control records, and leaves the commit as it was.
    pub(crate) fn commit_with(&self, commit: &mut Commit, records: &[Control]) -> Result<Receipt> {
        if commit.conditions.key.is_some() {
            return Err(Error::invalid(
                "commit",
                "",
                "it has an idempotency key, and what is settled with it is written once",
            ));
        }
        let kept = commit.frames.len();
        for record in records {
            commit.control(record);
        }
        let written = self.commit(commit);
        commit.frames.truncate(kept);
        written
    }
}
