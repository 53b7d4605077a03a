//! Where callers put their commits and the writer's turn takes them from: two buffers, one filled while the other is
//! written. Bounded; a full one makes callers wait.

use std::ops::Range;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::format::{frame, limits};
use crate::sync::guard;
use crate::sync::primitive::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::primitive::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use crate::writer::Shared;
use crate::writer::commit::{Commit, Conditions};
use crate::writer::ticket::{Group, Outcome};

/// How often the writer's thread looks for work before it parks.
const SPINS: u32 = if cfg!(all(test, shuttle)) { 1 } else { 1_000 };

/// While commits come in faster than one in a look, the writer's thread lets this many gather, for so many looks: a turn
/// costs about as much for a hundred as for one. Whoever waits for an answer takes the turn instead of waiting for this.
const GATHERED: usize = 256;
const GATHER_LOOKS: u32 = 8;
const GATHER_PAUSE: u32 = 256;

/// What a caller does when there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    Refuse,
}

/// The commits of one group.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    pub(crate) bytes: Vec<u8>,
    pub(crate) commits: Vec<Pending>,
    pub(crate) group: Arc<Group>,
    /// Room for the group's answers.
    pub(crate) answers: Vec<Outcome>,
}

/// One commit in a group.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) bytes: Range<usize>,
    pub(crate) events: u32,
    pub(crate) conditions: Option<Box<Conditions>>,
}

/// The staging buffer.
#[derive(Debug)]
pub(crate) struct Staging {
    inner: Mutex<Inner>,
    /// Commits staged, for looking without the lock.
    staged: AtomicUsize,
    work: Condvar,
    room: Condvar,
    limit: usize,
    /// For the groups' tickets.
    shared: Weak<Shared>,
}

#[derive(Debug, Default)]
struct Inner {
    staged: Staged,
    closed: bool,
    writer_parks: bool,
    /// Somebody wants the writer's thread to look, whether there is work or not.
    poked: bool,
    callers_wait: usize,
}

impl Staging {
    /// A buffer that holds up to `limit` bytes, or one commit that is larger.
    pub(crate) fn new(limit: usize, shared: Weak<Shared>) -> Self {
        let group = Arc::new(Group::new(shared.clone()));
        let inner = Inner { staged: Staged { group, ..Staged::default() }, ..Inner::default() };
        Self {
            inner: Mutex::new(inner),
            staged: AtomicUsize::new(0),
            work: Condvar::new(),
            room: Condvar::new(),
            limit,
            shared,
        }
    }

    /// Adds a commit, and tells its group and its place there. `wake` the writer's thread, if nobody else will.
    pub(crate) fn stage(&self, commit: &Commit, patience: Patience, wake: bool) -> Result<(Arc<Group>, u32)> {
        let mut inner = guard(&self.inner);
        loop {
            if inner.closed {
                return Err(Error::Closed);
            }
            let used = inner.staged.bytes.len();
            if used == 0 || used + commit.frames.len() <= self.limit {
                break;
            }
            if patience == Patience::Refuse {
                return Err(Error::Busy);
            }
            self.wake(&mut inner);
            inner.callers_wait += 1;
            inner = self.room.wait(inner).unwrap_or_else(PoisonError::into_inner);
            inner.callers_wait -= 1;
        }
        let staged = &mut inner.staged;
        let start = staged.bytes.len();
        match &commit.conditions.key {
            None => staged.bytes.extend_from_slice(&commit.frames),
            Some(key) => {
                let mut frames = commit.frames.clone();
                frame::stage_key(&mut frames, key);
                staged.bytes.extend_from_slice(&frames);
            }
        }
        let conditions = (!commit.conditions.is_empty()).then(|| Box::new(commit.conditions.clone()));
        let at = staged.commits.len();
        staged.commits.push(Pending { bytes: start..staged.bytes.len(), events: commit.events, conditions });
        let group = staged.group.clone();
        self.staged.store(at + 1, Ordering::Release);
        if wake {
            self.wake(&mut inner);
        }
        Ok((group, at as u32))
    }

    /// Takes everything staged into `taken`, whose buffers are used for what is staged next. `false`: nothing was staged.
    pub(crate) fn take(&self, taken: &mut Staged) -> bool {
        if !self.has_work() {
            return false;
        }
        taken.bytes.clear();
        taken.bytes.shrink_to(self.limit.max(limits::STAGING));
        taken.commits.clear();
        // Nobody holds a ticket of it any more, as a rule: then it is used again.
        let answers = Arc::get_mut(&mut taken.group).and_then(Group::reuse).unwrap_or_else(|| {
            taken.group = Arc::new(Group::new(self.shared.clone()));
            Vec::new()
        });
        let mut inner = guard(&self.inner);
        std::mem::swap(taken, &mut inner.staged);
        taken.answers = answers;
        self.staged.store(0, Ordering::Release);
        if inner.callers_wait > 0 {
            self.room.notify_all();
        }
        !taken.commits.is_empty()
    }

    pub(crate) fn has_work(&self) -> bool {
        self.staged.load(Ordering::Acquire) > 0
    }

    /// Refuses commits from now on.
    pub(crate) fn close(&self) {
        guard(&self.inner).closed = true;
        self.room.notify_all();
    }

    /// Has the writer's thread look.
    pub(crate) fn wake_writer(&self) {
        let mut inner = guard(&self.inner);
        inner.poked = true;
        self.wake(&mut inner);
    }

    /// Lets commits gather for a moment, as long as more keep coming.
    pub(crate) fn gather(&self) {
        let mut before = self.staged.load(Ordering::Relaxed);
        for _ in 0..GATHER_LOOKS {
            if before == 0 || before >= GATHERED {
                return;
            }
            (0..GATHER_PAUSE).for_each(|_| std::hint::spin_loop());
            let now = self.staged.load(Ordering::Relaxed);
            if now <= before {
                return;
            }
            before = now;
        }
    }

    /// Waits until there may be work: something staged, a poke, or the patience over.
    pub(crate) fn wait_for_work(&self, patience: Option<Duration>, stopping: &AtomicBool) {
        for _ in 0..SPINS {
            if self.has_work() {
                return;
            }
            std::hint::spin_loop();
        }
        let mut inner = guard(&self.inner);
        if inner.staged.commits.is_empty() && !inner.poked && !stopping.load(Ordering::Acquire) {
            inner.writer_parks = true;
            inner = match patience {
                Some(patience) => self.work.wait_timeout(inner, patience).unwrap_or_else(PoisonError::into_inner).0,
                None => self.work.wait(inner).unwrap_or_else(PoisonError::into_inner),
            };
            inner.writer_parks = false;
        }
        inner.poked = false;
    }

    fn wake(&self, inner: &mut MutexGuard<'_, Inner>) {
        if inner.writer_parks {
            inner.writer_parks = false;
            self.work.notify_one();
        }
    }
}
