//! The thread that finishes sealed segments, and merges their indexes when there is nothing to finish.

use crate::format::header;
use crate::id::Position;
use crate::log::parts::Part;
use crate::log::tiers::FAN_IN;
use crate::log::tiers::merge::{Merge, Merged};
use crate::sync::guard;
use crate::sync::primitive::{Arc, thread};
use crate::writer::housekeeping::purge::Purging;
use crate::writer::housekeeping::{Desk, Jobs};

/// With fewer sealed segments waiting, this thread keeps in step with the writer, and has time to let others work.
const SEALED_IN_STEP: usize = 3;

/// Pages of a tier that are made at a time, in some hundred microseconds.
const MERGED_AT_ONCE: u32 = 16;

/// A merge of so many segments is finished before the store is closed: it takes a few hundred milliseconds at most. Larger
/// ones are given up, and begun again by the next who opens the store.
const FINISHED_AT_CLOSE: usize = FAN_IN;

/// How much this thread stands back (a nice value): an index file can wait, an append should not.
const STAND_BACK: i32 = 10;

/// How far the sealing has come.
#[derive(Debug)]
pub(super) struct Sealing {
    all_kept: bool,
    /// Everything before this position has its index file.
    indexed: Position,
    /// The latest that was sealed and is on the disk begins here.
    finished: Option<Position>,
    merging: Option<Merge>,
    purging: Option<Purging>,
}

/// What is to be done next.
enum Job {
    Seal(Arc<Part>),
    BeginPurge,
    Purge,
    Merge,
}

impl Desk {
    /// Cuts, syncs and indexes what was sealed, in its order, and merges indexes when there is nothing to seal.
    pub(super) fn finish_sealed(&self) {
        stand_back();
        let mut sealing = self.begin_sealing();
        while let Some(job) = self.next(|jobs| sealing.job(jobs), false) {
            self.go_on_sealing(&mut sealing, job);
        }
        self.give_up(sealing);
    }

    pub(super) fn begin_sealing(&self) -> Sealing {
        // There may be something to merge that was left when the store was closed.
        Sealing {
            all_kept: true,
            indexed: self.began,
            finished: None,
            merging: self.begin_merge(self.began),
            purging: None,
        }
    }

    /// One piece of it, without a thread. `false`: there is nothing to do.
    pub(super) fn step_sealing(&self, sealing: &mut Sealing) -> bool {
        let job = sealing.job(&mut guard(&self.jobs));
        job.map(|job| self.go_on_sealing(sealing, job)).is_some()
    }

    /// Finishes what was sealed, without a thread, as the thread does at the end.
    pub(super) fn end_sealing(&self, mut sealing: Sealing) {
        while self.step_sealing(&mut sealing) {}
        self.give_up(sealing);
    }

    fn give_up(&self, sealing: Sealing) {
        sealing.purging.into_iter().for_each(Purging::abandon);
        sealing.merging.into_iter().for_each(|merge| self.end_merge(merge));
    }

    fn go_on_sealing(&self, sealing: &mut Sealing, job: Job) {
        match job {
            Job::Seal(part) => {
                self.changed.notify_all();
                sealing.all_kept &= self.finish(&part, sealing.all_kept);
                sealing.finished = Some(part.segment.first());
                self.order_purge();
                sealing.indexed = part.segment.last().map_or(sealing.indexed, Position::next);
                sealing.merging = sealing.merging.take().or_else(|| self.begin_merge(sealing.indexed));
            }
            Job::BeginPurge => sealing.purging = self.begin_purge(sealing.finished),
            Job::Purge => sealing.purging = sealing.purging.take().and_then(|purging| self.go_on_purging(purging)),
            Job::Merge => {
                let indexed = sealing.indexed;
                sealing.merging = sealing.merging.take().and_then(|merge| self.go_on_merging(merge, indexed));
            }
        }
    }

    /// Cuts, syncs and indexes a segment. Says whether it is kept.
    fn finish(&self, part: &Part, all_kept: bool) -> bool {
        let segment = &part.segment;
        let kept = segment.file().truncate(segment.written()).and_then(|()| segment.sync());
        match kept.and_then(|()| self.log.directory.sync()) {
            Ok(()) => segment.set_durable(),
            Err(error) => {
                guard(&self.jobs).failure.get_or_insert(error);
                return false;
            }
        }
        if all_kept && let Some(last) = segment.last() {
            // They come here in their order, so everything before is on the disk too, and opening after a crash need not
            // read it.
            self.log.set_durable(last);
        }
        // Without the file answers are the same, only slower, and the next open tries again.
        let _unwritten = part.index.write_file(&*self.log.directory, &mut || self.let_others_work());
        if segment.first() < self.log.oldest() {
            // It was let go of meanwhile.
            let _left = self.log.directory.remove(&header::index_name(segment.first()));
        }
        self.log.counts.sealed.add(1);
        self.log.counts.changed.add(1);
        self.retain();
        true
    }

    /// Lets whoever waits for this core have it, unless sealed segments have begun to wait for this thread.
    pub(super) fn let_others_work(&self) {
        if guard(&self.jobs).sealed.len() < SEALED_IN_STEP {
            thread::yield_now();
        }
    }

    /// Begins the next merge of what lies before `indexed`, if there is enough. Without it answers are the same, only
    /// slower, so an error ends it and nothing else.
    fn begin_merge(&self, indexed: Position) -> Option<Merge> {
        let parts = &self.log.parts;
        loop {
            let mut firsts = parts.firsts();
            firsts.retain(|first| *first < indexed);
            let covers = parts.tiers.next_merge(&firsts)?;
            match Merge::begin(parts, self.log.directory.clone(), &covers) {
                Ok(Some(merge)) => return Some(merge),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
    }

    /// Makes some pages more, or begins the next merge when this one is over.
    fn go_on_merging(&self, mut merge: Merge, indexed: Position) -> Option<Merge> {
        self.let_others_work();
        match merge.go_on(&self.log.parts, MERGED_AT_ONCE) {
            Ok(Merged::Partly) => return Some(merge),
            Ok(Merged::Done) => {}
            Ok(Merged::Unsound) => {
                let _left = merge.abandon();
            }
            // Not again at once: a disk may be full.
            Err(_) => {
                let _left = merge.abandon();
                self.log.counts.changed.add(1);
                return None;
            }
        }
        self.log.counts.changed.add(1);
        self.begin_merge(indexed)
    }

    /// Finishes a small merge or gives up a large one, because the store is being closed. It begins no other: in a store
    /// that has no tiers yet hundreds may be due.
    fn end_merge(&self, mut merge: Merge) {
        while merge.segments() <= FINISHED_AT_CLOSE {
            match merge.go_on(&self.log.parts, MERGED_AT_ONCE) {
                Ok(Merged::Partly) => {}
                Ok(Merged::Done) => return,
                Ok(Merged::Unsound) | Err(_) => break,
            }
        }
        // What is left of it is removed when the store is opened again.
        let _left = merge.abandon();
    }
}

impl Sealing {
    /// The next sealed segment; or a piece of what there is to purge, or to merge, when there is none and time for it.
    fn job(&self, jobs: &mut Jobs) -> Option<Job> {
        if let Some(sealed) = jobs.sealed.pop_front() {
            return Some(Job::Seal(sealed));
        }
        match (&self.purging, &self.merging) {
            _ if jobs.ending => None,
            (None, _) if jobs.passes.are_due() => Some(Job::BeginPurge),
            (Some(_), _) => Some(Job::Purge),
            (None, Some(_)) => Some(Job::Merge),
            (None, None) => None,
        }
    }
}

/// Lowers the priority of this thread. Where that is not allowed, it works as before.
pub(crate) fn stand_back() {
    #[cfg(target_os = "linux")]
    if !cfg!(all(test, shuttle)) {
        // There all threads are one.
        let _unchanged = rustix::process::setpriority_process(Some(rustix::thread::gettid()), STAND_BACK);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use crate::sync::primitive::{Condvar, Mutex};

    use super::*;
    use crate::clock::SystemClock;
    use crate::event::draft::NewEvent;
    use crate::format::limits;
    use crate::log::grow::Manner;
    use crate::log::recover::{Opened, open_writer};
    use crate::segment::disk::{Prepared, RealDisk};
    use crate::writer::commit::Commit;
    use crate::writer::durability::Durability;
    use crate::writer::housekeeping::Work;
    use crate::writer::{Settings, Writer};

    const MANNER: Manner = Manner { prepared: Prepared::Allocated, synced: false, largest: 64 << 10 };

    #[test]
    fn closing_finishes_the_merge_that_was_begun_and_begins_no_other() {
        let path = std::env::temp_dir().join(format!("towpath-close-{}", std::process::id()));
        let open = || -> Opened { open_writer(&RealDisk, &path, true, MANNER, &SystemClock).unwrap() };
        let settings = Settings {
            manner: MANNER,
            durability: Durability::Os,
            staging_bytes: limits::STAGING,
            clock: Arc::new(SystemClock),
            limit: None,
            retention: None,
            work: Work::Threads,
        };
        let writer = Writer::start(open(), settings).unwrap();
        let mut commit = Commit::new();
        commit.event("cart-1", NewEvent::new("large", &[0; 60 << 10]));
        for _ in 0..3 * FAN_IN {
            writer.commit(&commit).unwrap();
        }
        writer.close().unwrap();

        let log = open().log;
        log.parts.tiers.all().iter().for_each(|(tier, _)| log.parts.forget(tier));
        let began = log.parts.newest().segment.first();
        let jobs = Mutex::new(Jobs { ending: true, ..Jobs::default() });
        let (work, changed, writer) = (Work::Threads, Condvar::new(), OnceLock::new());
        let desk = Desk { log, manner: MANNER, began, work, jobs, changed, writer };
        desk.finish_sealed();
        assert_eq!(desk.log.parts.tiers.all().len(), 1);
        assert!(desk.begin_merge(began).is_some(), "control: another one was due");
        drop(desk);
        std::fs::remove_dir_all(&path).unwrap();
    }
}
