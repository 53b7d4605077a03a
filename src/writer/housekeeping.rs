//! What other threads do for the writer: make the next segment ready, and finish sealed ones.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::id::Position;
use crate::log::Log;
use crate::log::grow::{Manner, SPARE_NAME, Spare};
use crate::log::parts::Part;
use crate::log::tiers::FAN_IN;
use crate::log::tiers::merge::{Merge, Merged};
use crate::segment::Segment;
use crate::segment::disk::File;
use crate::sync::guard;

/// So many sealed segments may wait for their index file; then the writer waits. Each keeps a file open.
const SEALED_WAITING: usize = 64;

/// With fewer sealed segments waiting, the sealing thread keeps in step with the writer, and has time to let others work.
const SEALED_IN_STEP: usize = 3;

/// Pages of a tier that are made at a time, in some hundred microseconds.
const MERGED_AT_ONCE: u32 = 16;
/// A merge of so many segments is finished before the store is closed: it takes a few hundred milliseconds at most. Larger
/// ones are given up, and begun again by the next who opens the store.
const FINISHED_AT_CLOSE: usize = FAN_IN;

/// How much the sealing thread stands back (a nice value): an index file can wait, an append should not.
const STAND_BACK: i32 = 10;

/// Bytes of a spare whose pages are made in one go: some 50 µs.
const WARMED: u64 = 128 << 10;

/// The two threads.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    desk: Arc<Desk>,
    threads: Vec<JoinHandle<()>>,
}

/// Where the writer leaves its orders.
#[derive(Clone, Debug)]
pub(crate) struct Orders(Arc<Desk>);

#[derive(Debug)]
struct Desk {
    log: Arc<Log>,
    manner: Manner,
    jobs: Mutex<Jobs>,
    changed: Condvar,
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
    failure: Option<Error>,
    ending: bool,
}

impl Housekeeping {
    pub(crate) fn start(log: Arc<Log>, manner: Manner) -> Result<Self> {
        let path = log.directory.path().to_owned();
        let desk = Arc::new(Desk { log, manner, jobs: Mutex::default(), changed: Condvar::new() });
        let spawn = |name: &str, work: fn(&Desk)| {
            let desk = desk.clone();
            let thread = std::thread::Builder::new().name(format!("towpath-{name}"));
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
        Ok(Self { desk, threads: vec![prepare, seal] })
    }

    pub(crate) fn orders(&self) -> Orders {
        Orders(self.desk.clone())
    }

    /// Finishes what was ordered, and ends.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.desk.end();
        for thread in std::mem::take(&mut self.threads) {
            let _panicked = thread.join();
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
        while jobs.sealed.len() >= SEALED_WAITING && !jobs.ending {
            jobs = self.0.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
        jobs.sealed.push_back(part);
        self.0.changed.notify_all();
    }

    /// What failed in a way that the writer must not go on after.
    pub(crate) fn failure(&self) -> Option<Error> {
        guard(&self.0.jobs).failure.clone()
    }
}

impl Desk {
    fn end(&self) {
        guard(&self.jobs).ending = true;
        self.changed.notify_all();
    }

    /// Makes a spare when one is ordered. A failure is not told here: the writer tries for itself and tells its caller.
    /// Lets go of what was left, too.
    fn prepare_spares(&self) {
        let take = |jobs: &mut Jobs| {
            let left = std::mem::take(&mut jobs.left);
            let ordered = jobs.prepare.take();
            jobs.preparing = ordered.is_some();
            (ordered.is_some() || !left.is_empty()).then_some((ordered, left))
        };
        while let Some((ordered, _left)) = self.next(take, true) {
            let Some(Ordered { size, warm }) = ordered else { continue };
            let spare = Spare::prepare(&*self.log.directory, size, self.manner).ok();
            let file = spare.as_ref().filter(|_| warm).map(|spare| spare.file().clone());
            {
                let mut jobs = guard(&self.jobs);
                jobs.preparing = false;
                jobs.spare = spare;
                self.changed.notify_all();
            }
            if let Some(file) = file {
                self.warm(&*file, size);
            }
        }
    }

    /// Has the kernel make the pages of a spare, which are zeroes, while the segment before is still being filled.
    fn warm(&self, file: &dyn File, size: u64) {
        for at in (0..size).step_by(WARMED as usize) {
            if guard(&self.jobs).ending {
                return;
            }
            file.warm(at, WARMED.min(size - at));
            // Whoever appends or reads on this core goes first.
            std::thread::yield_now();
        }
    }

    /// Cuts, syncs and indexes what was sealed, in its order, and merges indexes when there is nothing to seal.
    fn finish_sealed(&self) {
        stand_back();
        let mut all_kept = true;
        // There may be something to merge that was left when the store was closed.
        let mut indexed = self.log.parts.newest().segment.first();
        let mut merging = self.begin_merge(indexed);
        loop {
            let idle = merging.is_none();
            let job =
                self.next(|jobs| jobs.sealed.pop_front().map(Some).or((!idle && !jobs.ending).then_some(None)), false);
            match job {
                Some(Some(part)) => {
                    self.changed.notify_all();
                    all_kept &= self.finish(&part, all_kept);
                    indexed = part.segment.last().map_or(indexed, Position::next);
                    merging = merging.or_else(|| self.begin_merge(indexed));
                }
                Some(None) => merging = merging.and_then(|merge| self.go_on_merging(merge, indexed)),
                None => break,
            }
        }
        while let Some(merge) = merging {
            if merge.segments() > FINISHED_AT_CLOSE {
                // What is left of it is removed when the store is opened again.
                let _left = merge.abandon();
                return;
            }
            merging = self.go_on_merging(merge, indexed);
        }
    }

    /// Cuts, syncs and indexes a segment. Says whether it is kept.
    fn finish(&self, part: &Part, all_kept: bool) -> bool {
        let segment = &part.segment;
        let kept = segment.file().truncate(segment.written()).and_then(|()| segment.file().sync());
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
        self.log.counts.sealed.add(1);
        true
    }

    /// Lets whoever waits for this core have it, unless sealed segments have begun to wait for this thread.
    fn let_others_work(&self) {
        if guard(&self.jobs).sealed.len() < SEALED_IN_STEP {
            std::thread::yield_now();
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
                return None;
            }
        }
        self.begin_merge(indexed)
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

/// Lowers the priority of this thread. Where that is not allowed, it works as before.
fn stand_back() {
    #[cfg(target_os = "linux")]
    let _unchanged = rustix::process::setpriority_process(Some(rustix::thread::gettid()), STAND_BACK);
}
