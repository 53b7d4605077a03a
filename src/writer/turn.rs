//! The writer's turn: one group commit. A plain function of its state, run by whoever holds it: the writer's thread, or
//! a caller that waits anyway.

use std::collections::HashSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::clock::Clock;
use crate::error::{Error, Result, panic_text};
use crate::format::control::Control;
use crate::format::frame::{self, Place, Staged as StagedFrame, flag};
use crate::id::{Position, Revision, Timestamp};
use crate::log::Log;
use crate::log::grow::Manner;
use crate::log::recover::Opened;
use crate::segment::{Pen, Segment};
use crate::writer::Settings;
use crate::writer::check::Unwritten;
use crate::writer::commit::Conditions;
use crate::writer::durability::Durability;
use crate::writer::housekeeping::Orders;
use crate::writer::limit::Limit;
use crate::writer::staging::{Pending, Staged, Staging};
use crate::writer::streams::Streams;
use crate::writer::ticket::{Outcome, Receipt};

/// A store that is closed with more than this in its newest segment begins a new one, so that opening it again reads
/// little.
const CLOSE_ROLLS_ABOVE: u64 = 4 << 20;

/// The state of the writer.
pub(crate) struct Turn {
    pub(super) pen: Pen,
    /// When the newest segment was begun, or opened.
    pub(super) begun: Instant,
    pub(super) next: Position,
    pub(super) last_crc: u32,
    pub(super) last_time: Timestamp,
    pub(super) streams: Streams,
    pub(super) manner: Manner,
    pub(super) durability: Durability,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) orders: Orders,
    pub(super) limit: Option<Limit>,
    /// Bytes of log before the newest segment, to choose the size of the next.
    pub(super) log_bytes: u64,
    /// Segments behind the newest that may not be on the disk yet.
    pub(super) unsynced: Vec<Arc<Segment>>,
    /// Whether everything written is on the disk.
    pub(super) all_durable: bool,
    /// Whether a segment got its name without the directory being synced.
    pub(super) names_unsynced: bool,
    /// Whether the segment after the newest is being made ready.
    pub(super) spare_is_ordered: bool,
    /// Whether the store was closed in good order before, and nothing was written since.
    pub(super) untouched: bool,
    /// Why nothing is written any more.
    pub(super) stopped: Option<String>,
    /// The buffers of the last turn. `None` during a turn.
    pub(super) staged: Option<Staged>,
    pub(super) spent: Vec<Conditions>,
}

/// Frames of the group that are finished and not written yet: the bytes of commits that follow each other.
#[derive(Default)]
struct Run {
    bytes: Range<usize>,
    /// Their commits, by their place in the group.
    commits: Range<usize>,
    /// What to go back to when they cannot be written.
    next: Position,
    last_crc: u32,
    records: Vec<Control>,
    /// The idempotency keys among them.
    keys: HashSet<String>,
}

/// What has to be synced for everything written so far to last.
#[derive(Debug)]
pub(crate) struct Unsynced {
    segments: Vec<Arc<Segment>>,
    newest: Arc<Segment>,
    end: u64,
    names: bool,
    pub(crate) head: Position,
}

/// What to do with a commit.
enum Verdict {
    Write,
    Written(Receipt),
}

impl Turn {
    pub(crate) fn new(opened: Opened, settings: &Settings, orders: Orders) -> Self {
        // Each segment is as large as everything before it, up to the largest.
        let log_bytes = opened.pen.segment().header.previous.map_or(0, |previous| previous.end);
        Self {
            pen: opened.pen,
            begun: Instant::now(),
            next: opened.next,
            last_crc: opened.last_crc,
            last_time: opened.last_time,
            streams: Streams::new(opened.next),
            manner: settings.manner,
            durability: settings.durability,
            clock: settings.clock.clone(),
            limit: settings.limit.map(Limit::new),
            orders,
            log_bytes,
            unsynced: Vec::new(),
            all_durable: true,
            names_unsynced: false,
            spare_is_ordered: false,
            untouched: opened.recovery.clean && !opened.recovery.created,
            stopped: None,
            staged: None,
            spent: Vec::new(),
        }
    }

    /// Takes what is staged and does one turn. `false`: nothing was staged.
    pub(crate) fn take(&mut self, staging: &Staging, log: &Arc<Log>) -> bool {
        let mut staged = self.staged.take().unwrap_or_default();
        let some = staging.take(&mut staged);
        if some {
            // A panic here is a bug, or the caller's clock. Nobody may wait for an answer that never comes.
            let answers = catch_unwind(AssertUnwindSafe(|| self.turn(&mut staged, log))).unwrap_or_else(|panic| {
                let why = format!("the writer's turn panicked: {}", panic_text(&*panic));
                let why = self.stopped.get_or_insert(why).clone();
                staged.commits.iter().map(|_| Err(Box::new(Error::Stopped { why: why.clone() }))).collect()
            });
            self.spent
                .extend(staged.commits.drain(..).filter_map(|commit| commit.conditions.map(|conditions| *conditions)));
            staged.group.answer(answers);
        }
        self.staged = Some(staged);
        some
    }

    /// The conditions of commits that were answered. A rule may hold whatever its caller put into it, the last handle of
    /// the store even, so they are to be dropped only after this turn was let go of.
    pub(crate) fn spent(&mut self) -> Vec<Conditions> {
        std::mem::take(&mut self.spent)
    }

    /// One turn is one group commit. Readers see nothing before step 4; the callers are answered with what this returns.
    fn turn(&mut self, staged: &mut Staged, log: &Arc<Log>) -> Vec<Outcome> {
        self.take_in_failures();
        let mut is_good = self.stopped.is_none();
        self.last_time = self.last_time.max(self.clock.now());
        let answers = std::mem::take(&mut staged.answers);
        let mut group = Group { bytes: &mut staged.bytes, answers, run: Run::default() };
        group.answers.reserve(staged.commits.len());
        let mut has_events = false;
        for commit in &staged.commits {
            let answer = self.admit(commit, &mut group, log).and_then(|verdict| match verdict {
                Verdict::Written(receipt) => Ok(receipt),
                Verdict::Write => self.finish(commit, &mut group, log), // 1. check, 2. assign
            });
            has_events |= answer.is_ok() && commit.events > 0;
            group.answers.push(answer.map_err(Box::new));
        }
        self.write(&mut group, log);
        if has_events && self.durability == Durability::Sync {
            is_good &= self.sync_group(&mut group, log); // 3. make it last
        }
        // Also when the writer has stopped on the way: what was written before that is acknowledged, so it is to be seen.
        if is_good {
            log.publish(self.pen.segment(), self.pen.end(), self.next.previous()); // 4. let readers see it, and wake them
        }
        group.answers
    }

    /// Decides whether a commit may be written, and sees to it that there is room for it.
    fn admit(&mut self, commit: &Pending, group: &mut Group<'_>, log: &Arc<Log>) -> Result<Verdict> {
        if let Some(conditions) = &commit.conditions {
            if conditions.look_at_the_log(&group.run.keys) {
                self.write(group, log);
            }
            self.check_running()?;
            let proposed = &group.bytes[commit.bytes.clone()];
            if let Some(receipt) = self.check(conditions, proposed, group.unwritten(self.next), log)? {
                return Ok(Verdict::Written(receipt));
            }
        }
        self.check_limit(&group.bytes[commit.bytes.clone()], log)?;
        if group.run.bytes.end != commit.bytes.start
            || !self.pen.has_room_for(group.run.bytes.len() + commit.bytes.len())
        {
            self.write(group, log);
            if !self.pen.has_room_for(commit.bytes.len()) {
                self.check_running()?;
                self.roll(&group.bytes[commit.bytes.clone()], log)?;
            }
        }
        self.check_running()?;
        Ok(Verdict::Write)
    }

    /// Gives the frames of a commit their places. When a stream cannot be looked up, what was finished before is
    /// written, and the commit is refused.
    fn finish(&mut self, commit: &Pending, group: &mut Group<'_>, log: &Arc<Log>) -> Result<Receipt> {
        let at = group.answers.len();
        if group.run.commits.is_empty() {
            let start = commit.bytes.start;
            group.run = Run {
                bytes: start..start,
                commits: at..at,
                next: self.next,
                last_crc: self.last_crc,
                records: Vec::new(),
                keys: HashSet::new(),
            };
        }
        let (next, last_crc) = (self.next, self.last_crc);
        let (before, rest) = group.bytes.split_at_mut(commit.bytes.start);
        let unwritten = Unwritten { from: group.run.next, frames: [&before[group.run.bytes.clone()], &[]] };
        match self.assign(&mut rest[..commit.bytes.len()], unwritten, &mut group.run.records, log) {
            Ok(receipt) => {
                group.run.bytes.end = commit.bytes.end;
                group.run.commits.end = at + 1;
                group.run.keys.extend(commit.conditions.as_ref().and_then(|conditions| conditions.key.clone()));
                Ok(receipt)
            }
            Err(error) => {
                (self.next, self.last_crc) = (next, last_crc);
                self.write(group, log);
                self.streams.clear(self.next);
                Err(error)
            }
        }
    }

    /// `unwritten` is what was finished before this commit.
    fn assign(
        &mut self,
        commit: &mut [u8],
        unwritten: Unwritten<'_>,
        records: &mut Vec<Control>,
        log: &Log,
    ) -> Result<Receipt> {
        let nonce = self.pen.segment().header.nonce;
        let mut receipt = Receipt {
            first: self.next,
            last: self.next,
            revision: Revision::ABSENT,
            time: self.last_time,
            duplicate: false,
        };
        let mut at = 0;
        while at < commit.len() {
            let staged = StagedFrame::at(commit, at);
            let (len, stride, frame) = (staged.len(), staged.stride(), staged.frame());
            let mut flags = if at + stride < commit.len() { flag::MORE } else { 0 };
            if std::mem::take(&mut self.all_durable) {
                flags |= flag::SYNCED;
            }
            let position = self.next;
            let revision = if frame.is_control() {
                // What could not be read back would keep the store from being opened again.
                let record = Control::decode(frame.payload());
                records.push(record.ok_or_else(|| Error::invalid("control record", "", "it does not read back"))?);
                Revision::ABSENT
            } else {
                let (term, name) = (staged.stream_term(), frame.stream_bytes());
                let revision = match self.streams.advance(term, name, position) {
                    Some(revision) => revision,
                    None => {
                        let unwritten = Unwritten { frames: [unwritten.frames[0], &commit[..at]], ..unwritten };
                        let revision = self.look_up(term, frame.stream(), unwritten, log)?.next();
                        self.streams.advance(term, name, position).unwrap_or(revision)
                    }
                };
                (receipt.last, receipt.revision) = (position, revision);
                self.next = position.next();
                revision
            };
            let place = Place { position, revision, time: self.last_time, flags };
            self.last_crc = frame::finish(&mut commit[at..at + len], place, nonce);
            at += stride;
        }
        Ok(receipt)
    }

    /// Writes what is finished. When that fails its commits are refused, and the writer goes back to before them.
    fn write(&mut self, group: &mut Group<'_>, log: &Log) {
        let run = std::mem::take(&mut group.run);
        if run.commits.is_empty() {
            return;
        }
        match self.pen.write(&group.bytes[run.bytes]) {
            Ok(()) => {
                self.untouched = false;
                self.pen.segment().set_last(self.next.previous());
                self.pen.segment().set_written(self.pen.end());
                self.order_spare(log);
                if !run.records.is_empty() {
                    if run.records.iter().any(|record| matches!(record, Control::Dropped { .. })) {
                        // Some of these streams may not stand any more where they stood.
                        self.streams.clear(self.next);
                    }
                    log.apply(run.records);
                }
            }
            Err(error) => {
                (self.next, self.last_crc) = (run.next, run.last_crc);
                self.streams.clear(self.next);
                // A part may stand in the file: what follows must not be written around it.
                let error = self.stop(&error);
                for answer in &mut group.answers[run.commits] {
                    *answer = Err(Box::new(error.clone()));
                }
            }
        }
    }

    /// Makes the group last, or stops for good and tells all of it. Says whether it lasts.
    fn sync_group(&mut self, group: &mut Group<'_>, log: &Log) -> bool {
        let unsynced = self.unsynced_now();
        match unsynced.sync(log) {
            Ok(()) => {
                self.synced(&unsynced);
                log.set_durable(unsynced.head);
                true
            }
            Err(error) => {
                let error = self.stop(&error);
                for answer in group.answers.iter_mut().filter(|answer| answer.is_ok()) {
                    *answer = Err(Box::new(error.clone()));
                }
                false
            }
        }
    }

    /// Where the written frames end in the newest segment.
    pub(crate) fn end(&self) -> u64 {
        self.pen.end()
    }

    /// What has to be synced for everything written so far to last.
    pub(crate) fn unsynced(&mut self) -> Result<Unsynced> {
        self.take_in_failures();
        self.check_running()?;
        Ok(self.unsynced_now())
    }

    fn unsynced_now(&self) -> Unsynced {
        Unsynced {
            segments: self.unsynced.clone(),
            newest: self.pen.segment().clone(),
            end: self.pen.end(),
            names: self.names_unsynced,
            head: self.next.previous(),
        }
    }

    /// Remembers what was synced.
    pub(crate) fn synced(&mut self, unsynced: &Unsynced) {
        unsynced.segments.iter().for_each(|segment| segment.set_durable());
        self.let_go_of_durable();
        if Arc::ptr_eq(&unsynced.newest, self.pen.segment()) {
            self.names_unsynced = false;
            self.all_durable = self.unsynced.is_empty() && unsynced.end == self.pen.end();
        }
    }

    /// Forgets segments that are on the disk.
    pub(super) fn let_go_of_durable(&mut self) {
        if !self.unsynced.is_empty() {
            self.orders.let_go(self.unsynced.extract_if(.., |segment| segment.is_durable()));
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Stops the writer for good.
    pub(crate) fn stop(&mut self, error: &Error) -> Error {
        let why = self.stopped.get_or_insert_with(|| in_full(error));
        Error::Stopped { why: why.clone() }
    }

    /// Writes the closing record, with everything before it on the disk.
    pub(crate) fn close(&mut self, log: &Arc<Log>) -> Result<()> {
        self.take_in_failures();
        self.check_running()?;
        if self.untouched {
            return Ok(());
        }
        if self.pen.end() > CLOSE_ROLLS_ABOVE && self.next > self.pen.segment().first() {
            // Where there is no room for another one, opening reads more next time.
            match self.roll_small(log) {
                Ok(()) | Err(Error::DiskFull { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.sync_all(log)?;
        let mut bytes = Vec::new();
        frame::stage_control(&mut bytes, &Control::Closed.encode());
        if !self.pen.has_room_for(bytes.len()) {
            self.roll_small(log)?;
            self.sync_all(log)?;
        }
        let mut records = Vec::new();
        let unwritten = Unwritten { from: self.next, frames: [&[], &[]] };
        self.assign(&mut bytes, unwritten, &mut records, log)?;
        self.pen.write(&bytes).map_err(|error| self.stop(&error))?;
        self.pen.segment().set_written(self.pen.end());
        self.sync_all(log)?;
        log.publish(self.pen.segment(), self.pen.end(), self.next.previous());
        Ok(())
    }

    fn sync_all(&mut self, log: &Log) -> Result<()> {
        let unsynced = self.unsynced_now();
        unsynced.sync(log).map_err(|error| self.stop(&error))?;
        self.synced(&unsynced);
        log.set_durable(unsynced.head);
        Ok(())
    }

    pub(super) fn check_running(&self) -> Result<()> {
        match &self.stopped {
            Some(why) => Err(Error::Stopped { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// A sealed segment that could not be synced stops the writer as surely as its own sync.
    pub(super) fn take_in_failures(&mut self) {
        if let Some(error) = self.orders.failure() {
            self.stop(&error);
        }
    }
}

/// A group while its turn runs.
struct Group<'a> {
    bytes: &'a mut [u8],
    answers: Vec<Outcome>,
    run: Run,
}

impl Group<'_> {
    /// What was finished and not written yet; `next` is the position that comes next.
    fn unwritten(&self, next: Position) -> Unwritten<'_> {
        let from = if self.run.commits.is_empty() { next } else { self.run.next };
        Unwritten { from, frames: [&self.bytes[self.run.bytes.clone()], &[]] }
    }
}

impl Unsynced {
    /// Syncs. The caller tells the turn.
    pub(crate) fn sync(&self, log: &Log) -> Result<()> {
        for segment in self.segments.iter().chain([&self.newest]) {
            segment.sync()?;
        }
        if self.names { log.directory.sync() } else { Ok(()) }
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn").field("next", &self.next).field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

/// An error and what lies under it, in one sentence.
fn in_full(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
