//! What other threads do for the writer: make the next segment ready, and finish sealed ones.

mod prepare;
mod purge;
pub(crate) mod seal;

use std::collections::VecDeque;
use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::id::Position;
use crate::log::Log;
use crate::log::grow::{Manner, SPARE_NAME, Spare};
use crate::log::parts::Part;
use crate::segment::Segment;
use crate::sync::guard;
use crate::sync::primitive::thread;
use crate::sync::primitive::thread::JoinHandle;
use crate::sync::primitive::{Arc, Condvar, Mutex, PoisonError, Weak};
use crate::writer::Shared;
use crate::writer::housekeeping::purge::Passes;
use crate::writer::housekeeping::seal::Sealing;

/// So many sealed segments may wait for their index file; then the writer waits. Each keeps a file open.
const SEALED_WAITING: usize = 64;

/// The two threads: one in `prepare`, one in `seal`. Or the work that they would do, piece by piece.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    desk: Arc<Desk>,
    threads: Vec<JoinHandle<()>>,
    /// Without threads: how far the sealing has come.
    sealing: Option<Sealing>,
}

/// Who does the work that no caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Threads of the store's own.
    Threads,
    /// Whoever takes steps, so that a simulation decides what happens when.
    Steps,
}

/// Where the writer leaves its orders.
#[derive(Clone, Debug)]
pub(crate) struct Orders(Arc<Desk>);

#[derive(Debug)]
struct Desk {
    log: Arc<Log>,
    manner: Manner,
    /// Where the newest segment began when the threads did: what lies before it was sealed by an earlier writer.
    began: Position,
    work: Work,
    jobs: Mutex<Jobs>,
    changed: Condvar,
    /// To have written down what was done.
    writer: OnceLock<Weak<Shared>>,
}

/// A spare to be made ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ordered {
    pub(crate) size: u64,
    /// Whether its pages are to be made, too.
    pub(crate) warm: bool,
}

#[derive(Debug, Default)]
struct Jobs {
    prepare: Option<Ordered>,
    preparing: bool,
    spare: Option<Spare>,
    /// Segments that the writer is done with.
    left: Vec<Arc<Segment>>,
    sealed: VecDeque<Arc<Part>>,
    passes: Passes,
    failure: Option<Error>,
    retention: Retaining,
    ending: bool,
}

/// Whether it is time to let go of old segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Retaining {
    #[default]
    NotNow,
    Due,
    NoMore,
}

impl Housekeeping {
    pub(crate) fn start(log: Arc<Log>, manner: Manner, work: Work) -> Result<Self> {
        let path = log.directory.path().to_owned();
        let began = log.parts.newest().segment.first();
        let (jobs, changed, writer) = (Mutex::default(), Condvar::new(), OnceLock::new());
        let desk = Arc::new(Desk { log, manner, began, work, jobs, changed, writer });
        if work == Work::Steps {
            let sealing = Some(desk.begin_sealing());
            return Ok(Self { desk, threads: Vec::new(), sealing });
        }
        let spawn = |name: &str, work: fn(&Desk)| {
            let desk = desk.clone();
            let thread = thread::Builder::new().name(format!("towpath-{name}"));
            thread.spawn(move || work(&desk)).map_err(|error| Error::io("start a thread for", &path, error))
        };
        let prepare = spawn("prepare", Desk::prepare_spares)?;
        let seal = match spawn("seal", Desk::finish_sealed) {
            Ok(seal) => seal,
            Err(error) => {
                desk.end();
                return Err(error);
            }
        };
        Ok(Self { desk, threads: vec![prepare, seal], sealing: None })
    }

    /// Says who writes.
    pub(crate) fn set_writer(&self, writer: Weak<Shared>) {
        let _once = self.desk.writer.set(writer);
    }

    pub(crate) fn orders(&self) -> Orders {
        Orders(self.desk.clone())
    }

    /// Does one piece of what threads would do. `false`: there is none.
    #[cfg(feature = "simulation")]
    pub(crate) fn step(&mut self) -> bool {
        let prepared = self.desk.prepare_spare();
        let sealing = self.sealing.as_mut().filter(|_| !prepared);
        prepared || sealing.is_some_and(|sealing| self.desk.step_sealing(sealing))
    }

    /// Finishes what was ordered, and ends.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.desk.end();
        for thread in std::mem::take(&mut self.threads) {
            let _panicked = thread.join();
        }
        if let Some(sealing) = self.sealing.take() {
            self.desk.end_sealing(sealing);
        }
        let mut jobs = guard(&self.desk.jobs);
        jobs.left.clear();
        if jobs.spare.take().is_some() {
            self.desk.log.directory.remove(SPARE_NAME)?;
        }
        jobs.failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for Housekeeping {
    /// When the store could not be opened after all.
    fn drop(&mut self) {
        self.desk.end();
    }
}

impl Orders {
    /// Orders a spare.
    pub(crate) fn prepare(&self, ordered: Ordered) {
        guard(&self.0.jobs).prepare = Some(ordered);
        self.0.changed.notify_all();
    }

    /// The spare that was ordered, if it has room for so much behind a header. Waits when it is being made.
    pub(crate) fn spare(&self, needed: u64) -> Option<Spare> {
        let mut jobs = guard(&self.0.jobs);
        jobs.prepare = None;
        while jobs.preparing {
            jobs = self.0.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
        jobs.spare.take().filter(|spare| spare.size() >= needed + crate::format::PAGE as u64)
    }

    /// Leaves segments to be let go of: to unmap one takes milliseconds when all of it was read.
    pub(crate) fn let_go(&self, segments: impl Iterator<Item = Arc<Segment>>) {
        let mut jobs = guard(&self.0.jobs);
        jobs.left.extend(segments);
        if !jobs.left.is_empty() {
            self.0.changed.notify_all();
        }
    }

    /// Leaves a sealed segment to be cut, synced and indexed. Waits when too many wait already.
    pub(crate) fn seal(&self, part: Arc<Part>) {
        let mut jobs = guard(&self.0.jobs);
        while jobs.sealed.len() >= SEALED_WAITING && !jobs.ending && self.0.work == Work::Threads {
            jobs = self.0.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
        jobs.sealed.push_back(part);
        self.0.changed.notify_all();
    }

    /// Has old segments let go of, if the store keeps to a retention.
    pub(crate) fn retain(&self) {
        self.0.retain();
    }

    /// Nothing more is to be let go of.
    pub(crate) fn end_retention(&self) {
        guard(&self.0.jobs).retention = Retaining::NoMore;
        self.0.changed.notify_all();
    }

    /// Waits until it is time to let go of old segments. `false`: it will not be.
    pub(crate) fn retention_is_due(&self) -> bool {
        let due = |jobs: &mut Jobs| match jobs.retention {
            Retaining::NotNow => None,
            Retaining::Due => {
                jobs.retention = Retaining::NotNow;
                Some(true)
            }
            Retaining::NoMore => Some(false),
        };
        self.0.next(due, true).unwrap_or(false)
    }

    /// The same, without waiting.
    #[cfg(feature = "simulation")]
    pub(crate) fn take_due_retention(&self) -> bool {
        let mut jobs = guard(&self.0.jobs);
        let due = jobs.retention == Retaining::Due;
        if due {
            jobs.retention = Retaining::NotNow;
        }
        due
    }

    /// What failed in a way that the writer must not go on after.
    pub(crate) fn failure(&self) -> Option<Error> {
        guard(&self.0.jobs).failure.clone()
    }
}

impl Desk {
    fn retain(&self) {
        let mut jobs = guard(&self.jobs);
        if jobs.retention == Retaining::NotNow {
            jobs.retention = Retaining::Due;
            self.changed.notify_all();
        }
    }

    fn end(&self) {
        guard(&self.jobs).ending = true;
        self.changed.notify_all();
    }

    /// Waits for a job. `None` at the end, which comes at once or after the last job.
    fn next<T>(&self, mut take: impl FnMut(&mut Jobs) -> Option<T>, at_once: bool) -> Option<T> {
        let mut jobs = guard(&self.jobs);
        loop {
            if jobs.ending && at_once {
                return None;
            }
            if let Some(job) = take(&mut jobs) {
                return Some(job);
            }
            if jobs.ending {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
