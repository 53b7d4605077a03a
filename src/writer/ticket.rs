//! The answer to a submitted commit, and the group that answers come in.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::id::{Position, Revision, Timestamp};
use crate::sync::gate::Gate;
use crate::writer::Shared;

/// Where a commit was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) first: Position,
    pub(crate) last: Position,
    pub(crate) revision: Revision,
    pub(crate) time: Timestamp,
    pub(crate) duplicate: bool,
}

impl Receipt {
    /// The position of its first event.
    pub fn first(&self) -> Position {
        self.first
    }

    /// The position of its last event.
    pub fn last(&self) -> Position {
        self.last
    }

    /// The revision of its last event in that event's stream.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// When the log recorded it.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// Whether it was written before, under the same idempotency key, and not again now.
    pub fn is_duplicate(&self) -> bool {
        self.duplicate
    }
}

/// The answer to one commit.
pub(crate) type Outcome = Result<Receipt, Box<Error>>;

/// The commits that one turn takes together, and their answers: one allocation and one wake for all of them.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Here and not in each ticket, so that a ticket costs one reference count. Gone only when all is answered.
    shared: Weak<Shared>,
    answers: OnceLock<Vec<Outcome>>,
    answered: Gate,
}

impl Group {
    pub(crate) fn new(shared: Weak<Shared>) -> Self {
        Self { shared, ..Self::default() }
    }

    /// Makes it a group that was not answered, and gives back the room for its answers. `None`: it was never answered.
    pub(crate) fn reuse(&mut self) -> Option<Vec<Outcome>> {
        let mut answers = self.answers.take()?;
        self.answered = Gate::new(0);
        answers.clear();
        Some(answers)
    }

    /// Gives the answers, in the order of the commits.
    pub(crate) fn answer(&self, answers: Vec<Outcome>) {
        let _only_once = self.answers.set(answers);
        self.answered.raise(1);
    }

    fn is_answered(&self) -> bool {
        self.answered.get() > 0
    }
}

/// A commit on its way. Dropping it changes nothing: the commit is written all the same.
#[derive(Debug)]
pub struct Ticket {
    group: Arc<Group>,
    at: u32,
}

impl Ticket {
    pub(crate) fn new(group: Arc<Group>, at: u32) -> Self {
        Self { group, at }
    }

    /// Waits until the commit is written as the store's durability asks, or refused.
    ///
    /// # Errors
    /// Why it was refused; nothing of it was written then. [`Error::Stopped`] when writing or syncing failed: what
    /// became of the commit shows when the store is opened again. [`Error::ReadOnly`] within a rule, and in a forked child
    /// when the answer was not there yet: that says nothing of the commit.
    pub fn wait(self) -> Result<Receipt> {
        while !self.group.is_answered() {
            let Some(shared) = self.group.shared.upgrade() else { break };
            shared.check_process()?;
            shared.check_may_wait()?;
            if shared.lead(|| self.group.is_answered()) {
                break;
            }
            // Whoever has the turn takes this commit as a rule, or sees to it, before a thread could be woken; unless it
            // syncs, which takes longer than anybody should keep a core for.
            if !shared.syncs() && self.group.answered.spin(0) {
                break;
            }
            shared.wake_writer();
            self.group.answered.park(0, Duration::MAX, || false);
        }
        self.poll().unwrap_or(Err(Error::Closed))
    }

    /// The answer, if it is there already.
    ///
    /// # Errors
    /// As [`wait`](Ticket::wait).
    pub fn poll(&self) -> Option<Result<Receipt>> {
        let answer = self.group.answers.get()?.get(self.at as usize)?;
        Some(answer.clone().map_err(|error| *error))
    }
}
