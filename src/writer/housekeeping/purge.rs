//! Taking removed events out of sealed segments, between the other work of the thread that seals.

use crate::error::{Error, Result};
use crate::format::control::Control;
use crate::id::Position;
use crate::log::purge::{Pass, Purge, Purged};
use crate::sync::guard;
use crate::sync::primitive::PoisonError;
use crate::writer::Shared;
use crate::writer::commit::Commit;
use crate::writer::housekeeping::{Desk, Orders, Work};
use crate::writer::staging::Patience;

/// Passes that were asked for, counted, and what came of the last one.
#[derive(Debug, Default)]
pub(super) struct Passes {
    wanted: u64,
    done: u64,
    outcome: Option<Result<Purged>>,
    /// What all of them took out.
    sum: Purged,
}

/// A pass that has begun, and how many of those that were asked for it answers.
#[derive(Debug)]
pub(super) struct Purging {
    pass: Purge,
    serves: u64,
}

impl Passes {
    pub(super) fn are_due(&self) -> bool {
        self.wanted > self.done
    }
}

impl Purging {
    /// Gives up. What is left of it is removed when the store is opened again.
    pub(super) fn abandon(self) {
        let _left = self.pass.abandon();
    }
}

impl Orders {
    /// What was taken out so far.
    pub(crate) fn purged(&self) -> Purged {
        guard(&self.0.jobs).passes.sum
    }

    /// Has everything that is pending and stands in sealed segments taken out, and waits for it, if a thread does it.
    pub(crate) fn purge(&self) -> Result<Purged> {
        let mut jobs = guard(&self.0.jobs);
        jobs.passes.wanted += 1;
        let mine = jobs.passes.wanted;
        self.0.changed.notify_all();
        if self.0.work == Work::Steps {
            // Whoever takes the steps is the one that would wait.
            return Ok(Purged::default());
        }
        while jobs.passes.done < mine && !jobs.ending {
            jobs = self.0.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
        if jobs.passes.done < mine {
            return Err(Error::Closed);
        }
        jobs.passes.outcome.clone().unwrap_or(Ok(Purged::default()))
    }
}

impl Desk {
    /// Whatever was removed before a segment was sealed stands in sealed segments now.
    pub(super) fn order_purge(&self) {
        if self.log.removals().is_some() {
            guard(&self.jobs).passes.wanted += 1;
        }
    }

    /// Begins a pass, if there is anything to do. The segment that begins at `finished` is the latest that is on the disk for
    /// being sealed.
    pub(super) fn begin_purge(&self, finished: Option<Position>) -> Option<Purging> {
        let serves = guard(&self.jobs).passes.wanted;
        let Some(removals) = self.log.removals() else { return self.end_pass(serves, Ok(Purged::default())) };
        // Where half of a removal can be seen, the other half must not be lost with the record that told of it: that is in the
        // newest segment by now, and stands for as long as every one before it does.
        let failure = guard(&self.jobs).failure.clone();
        if let Some(error) = failure {
            return self.end_pass(serves, Err(error));
        }
        let newest = self.log.parts.newest().segment.clone();
        let before = self.log.parts.firsts().into_iter().rfind(|first| *first < newest.first());
        if before.is_some_and(|before| before >= self.began && finished < Some(before)) {
            // It was sealed meanwhile, and comes first.
            return None;
        }
        if let Err(error) = newest.sync() {
            guard(&self.jobs).failure.get_or_insert(error.clone());
            return self.end_pass(serves, Err(error));
        }
        match Purge::begin(self.log.clone(), removals) {
            Ok(pass) => Some(Purging { pass, serves }),
            Err(error) => self.end_pass(serves, Err(error)),
        }
    }

    /// Does a piece of a pass. `None` when it is over.
    pub(super) fn go_on_purging(&self, mut purging: Purging) -> Option<Purging> {
        self.let_others_work();
        let writer = self.writer.get().and_then(|writer| writer.upgrade());
        // What a retention found out before a removal would be wrong behind the record that the removal is done. This thread
        // must not wait for it: it may wait for the writer, and the writer for this thread.
        let alone = writer
            .as_ref()
            .filter(|_| purging.pass.is_at_the_end())
            .and_then(|writer| writer.retaining.try_lock().ok());
        match purging.pass.go_on(&mut || self.let_others_work()) {
            Ok(Pass::Partly) => Some(purging),
            Ok(Pass::Done { purged, records, failure }) => {
                let told = alone.and(writer.as_ref()).map_or(Ok(()), |writer| tell_purged(writer, &records));
                self.end_pass(purging.serves, failure.map_or(told, Err).map(|()| purged))
            }
            Err(error) => self.end_pass(purging.serves, Err(error)),
        }
    }

    fn end_pass(&self, serves: u64, outcome: Result<Purged>) -> Option<Purging> {
        let mut jobs = guard(&self.jobs);
        jobs.passes.done = serves;
        if let Ok(purged) = &outcome {
            let sum = &mut jobs.passes.sum;
            sum.segments += purged.segments;
            sum.events += purged.events;
            sum.bytes += purged.bytes;
        }
        jobs.passes.outcome = Some(outcome);
        self.changed.notify_all();
        None
    }
}

/// Has it written down that nothing is left of these. It must not wait for the writer, who may wait for this thread. What is
/// not written now is found out again by the next pass.
fn tell_purged(writer: &Shared, records: &[Control]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let mut commit = Commit::new();
    records.iter().for_each(|record| {
        commit.control(record);
    });
    match writer.stage(&commit, Patience::Refuse, true) {
        Err(error) if !matches!(error, Error::Busy | Error::Closed) => Err(error),
        _ => Ok(()),
    }
}
