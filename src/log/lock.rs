//! Who writes a store, and how far: the lock file, seen by its owner and by readers in other processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::frame::Nonce;
use crate::format::lock::{self, Holder, NAME, word};
use crate::id::{Position, Timestamp};
use crate::segment::disk::{Directory, File, Prepared};
use crate::segment::map::{Access, Map};
use crate::sync::primitive::atomic::Ordering;
use crate::sync::primitive::thread;

/// Readers hold the lock of the file for microseconds to see whether it is taken; the writer waits that out.
const PROBES_PASS: Duration = Duration::from_secs(2);

/// How far a writer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The first position of the newest segment.
    pub(crate) segment: Position,
    /// Its nonce.
    pub(crate) nonce: Nonce,
    /// Where its published frames end.
    pub(crate) end: u64,
    pub(crate) head: Position,
    pub(crate) durable: Position,
}

/// What the lock file of a store said when it was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    pub(crate) holder: Holder,
    pub(crate) progress: Progress,
    /// Where the closing record of the newest segment ends, after a close in good order.
    pub(crate) closed: Option<u64>,
}

/// The lock file, held by the writer.
#[derive(Debug)]
pub(crate) struct Held {
    map: Map,
    /// Keeps the file's lock.
    file: Arc<dyn File>,
}

/// The lock file, seen by a reader.
#[derive(Debug)]
pub(crate) struct Seen {
    map: Map,
    writer_lives: bool,
    /// What a writer left that was gone by then: a power cut may have left more or less. Known by when it began.
    stale: Option<u64>,
    /// So many recoveries are taken into account here.
    known: u64,
    /// What the word on removals was when the others were looked at.
    removals: u64,
}

/// Whether there is a lock file, sound or not, among the names of a directory: somebody opened it for writing.
pub(crate) fn is_among(names: &[String]) -> bool {
    names.iter().any(|name| name == NAME)
}

/// What the lock file says, if there is a sound one. Says nothing about whether its process lives.
pub(crate) fn read(directory: &dyn Directory) -> Option<Left> {
    let file = directory.open(NAME, Access::Read).ok()?;
    let mut page = [0; PAGE];
    file.read_at(&mut page, 0).ok().filter(|read| *read == PAGE)?;
    let holder = lock::decode(&page)?;
    let number = |at: usize| crate::format::u64_at(&page, at);
    let progress = Progress {
        segment: Position::new(number(word::SEGMENT)),
        nonce: Nonce(number(word::NONCE) as u32),
        end: number(word::END),
        head: Position::new(number(word::HEAD)),
        durable: Position::new(number(word::DURABLE)),
    };
    Some(Left { holder, progress, closed: Some(number(word::CLOSED)).filter(|end| *end > 0) })
}

impl Held {
    /// Takes the lock file for a writer that has the lock of the directory.
    pub(crate) fn take(directory: &dyn Directory, holder: &Holder) -> Result<Self> {
        let file = match directory.open(NAME, Access::Write) {
            Ok(file) if file.len()? == PAGE as u64 => file,
            Ok(_) => {
                directory.remove(NAME)?;
                make(directory)?
            }
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => make(directory)?,
            Err(error) => return Err(error),
        };
        let started = Instant::now();
        while !file.lock()? {
            if started.elapsed() > PROBES_PASS {
                return Err(Error::Locked { path: directory.path().to_owned(), holder: None });
            }
            thread::sleep(Duration::from_millis(1));
        }
        let map = file.map(PAGE as u64, Access::Write)?;
        let held = Self { map, file };
        held.store(word::END, 0);
        // Readers tell writers apart by this, also when the clock stands still or goes back.
        let before = held.map.word(word::SINCE).load(Ordering::SeqCst);
        let since = Timestamp::from_nanos(holder.since.as_nanos().max(before.saturating_add(1)));
        held.file.write_at(&lock::encode(&Holder { since, ..*holder })[..word::SEGMENT], 0)?;
        held.store(word::CLOSED, 0);
        // Before anything is written: after a power cut an old word must not call the end good that the log had before.
        held.file.sync()?;
        Ok(held)
    }

    /// Takes over, and makes last, what the mark of a backup says, or what a writer before said: how far the log goes.
    pub(crate) fn takes_over(&self, progress: Progress) -> Result<()> {
        self.store(word::HEAD, progress.head.get());
        self.store(word::DURABLE, progress.durable.get());
        self.store(word::NONCE, u64::from(progress.nonce.0));
        // Last: until it is there, the mark counts.
        self.store(word::SEGMENT, progress.segment.get());
        self.file.sync()
    }

    /// Tells readers in other processes how far they may read.
    pub(crate) fn publish(&self, progress: Progress) {
        let changes = self.load(word::NONCE) != u64::from(progress.nonce.0);
        if changes {
            self.store(word::END, 0);
            self.store(word::SEGMENT, progress.segment.get());
            self.store(word::NONCE, u64::from(progress.nonce.0));
        } else {
            // Before the head: who is shown an event has to find it.
            self.store(word::END, progress.end);
        }
        self.store(word::HEAD, progress.head.get());
        self.store(word::DURABLE, progress.durable.get());
        if changes {
            self.store(word::END, progress.end);
        }
    }

    /// Tells how far the disk has it.
    pub(crate) fn publish_durable(&self, durable: Position) {
        self.store(word::DURABLE, durable.get());
    }

    /// Says that the store was closed in good order, its last frame ending here, and synced.
    pub(crate) fn set_closed(&self, end: u64) {
        self.store(word::CLOSED, end);
    }

    /// Before a recovery replaces or removes anything that readers may know: says that the log stays what it was up to here,
    /// and no further.
    pub(crate) fn keeps(&self, kept: Position) {
        let number = self.load(word::RECOVERIES).div_ceil(2).wrapping_add(1);
        self.store(slot(number), kept.get());
        self.store(word::RECOVERIES, number.wrapping_mul(2).wrapping_sub(1));
    }

    /// Says that the recovery is over: what is published from now on is of the log as it is now.
    pub(crate) fn has_recovered(&self) {
        self.store(word::RECOVERIES, self.load(word::RECOVERIES).next_multiple_of(2));
    }

    /// Says that something was removed, or purged, in what is published.
    pub(crate) fn has_removed(&self) {
        self.store(word::REMOVALS, self.load(word::REMOVALS).wrapping_add(1));
    }

    /// Gives the lock back: nobody writes any more.
    pub(crate) fn release(&self) -> Result<()> {
        self.file.unlock()
    }

    fn load(&self, at: usize) -> u64 {
        self.map.word(at).load(Ordering::SeqCst)
    }

    fn store(&self, at: usize, value: u64) {
        self.file.storing();
        self.map.word(at).store(value, Ordering::SeqCst);
    }
}

impl Seen {
    /// The lock file, if there is one.
    pub(crate) fn open(directory: &dyn Directory) -> Result<Option<Self>> {
        let Ok(file) = directory.open(NAME, Access::Read) else { return Ok(None) };
        if file.len()? < PAGE as u64 {
            return Ok(None);
        }
        let writer_lives = !file.lock()?;
        if !writer_lives {
            // The map below would keep the lock for as long as it lives.
            file.unlock()?;
        }
        let mut seen =
            Self { map: file.map(PAGE as u64, Access::Read)?, writer_lives, stale: None, known: 0, removals: 0 };
        seen.removals = seen.load(word::REMOVALS);
        seen.stale = (!writer_lives).then(|| seen.load(word::SINCE));
        // One that is at work may not have come to what is read here.
        let recoveries = seen.load(word::RECOVERIES);
        seen.known = if writer_lives { recoveries / 2 } else { recoveries.div_ceil(2) };
        Ok(Some(seen))
    }

    /// Where a reader begins that knows nothing yet: how far the writer has come, unless it is changing something.
    pub(crate) fn begin(&mut self) -> Option<Progress> {
        self.removals = self.load(word::REMOVALS);
        let (progress, recoveries) = self.settled();
        if progress.is_some() {
            self.known = recoveries / 2;
        }
        progress
    }

    /// How far the writer has come, unless it is changing something, and the lowest position up to which recoveries have kept
    /// the log since the last look.
    pub(crate) fn look(&mut self) -> (Option<Progress>, Option<Position>) {
        self.removals = self.load(word::REMOVALS);
        let (progress, recoveries) = self.settled();
        (progress, self.kept_since(recoveries))
    }

    /// Another number than before when something was removed that the last look shows.
    pub(crate) fn removals(&self) -> u64 {
        self.removals
    }

    /// Whether a recovery is at work.
    pub(crate) fn is_recovering(&self) -> bool {
        !self.load(word::RECOVERIES).is_multiple_of(2)
    }

    /// What is published, if it is of the log as the last recovery left it, and the word on recoveries from before that.
    fn settled(&self) -> (Option<Progress>, u64) {
        let before = self.load(word::RECOVERIES);
        let progress = self.progress();
        let settled = before.is_multiple_of(2) && self.load(word::RECOVERIES) == before;
        (progress.filter(|_| settled), before)
    }

    fn kept_since(&mut self, recoveries: u64) -> Option<Position> {
        let (from, to) = (self.known, recoveries.div_ceil(2));
        if to <= from {
            return None;
        }
        let lowest = (from + 1..=to).take(word::KEPT_SLOTS as usize).map(|number| self.load(slot(number))).min();
        self.known = to;
        // Of more than it has room for nobody knows what they kept. The slots were looked at before this.
        let overrun = self.load(word::RECOVERIES).div_ceil(2).saturating_sub(from) > word::KEPT_SLOTS;
        if overrun { Some(Position::START) } else { lowest.map(Position::new) }
    }

    /// How far the writer has come that lived when this was opened, or one that came later. `None` while it begins or
    /// changes segments.
    fn progress(&self) -> Option<Progress> {
        let (nonce, segment) = (self.load(word::NONCE), self.load(word::SEGMENT));
        // What is durable was shown before, and what is shown was written before: the other way round from how it is stored.
        let (durable, head, end) = (self.load(word::DURABLE), self.load(word::HEAD), self.load(word::END));
        // The end is 0 from before the segment changes until after: an end that is not, between two looks at one nonce,
        // belongs to that segment.
        if end == 0 || self.load(word::NONCE) != nonce || self.load(word::SEGMENT) != segment {
            return None;
        }
        if self.stale == Some(self.load(word::SINCE)) {
            return None;
        }
        Some(Progress {
            segment: Position::new(segment),
            nonce: Nonce(nonce as u32),
            end,
            head: Position::new(head),
            durable: Position::new(durable),
        })
    }

    /// Whether a writer held the store when this was opened.
    pub(crate) fn writer_lives(&self) -> bool {
        self.writer_lives
    }

    fn load(&self, at: usize) -> u64 {
        self.map.word(at).load(Ordering::SeqCst)
    }
}

/// Where the word of the recovery with this number stands.
fn slot(number: u64) -> usize {
    word::KEPT + (number % word::KEPT_SLOTS) as usize * 8
}

fn make(directory: &dyn Directory) -> Result<Arc<dyn File>> {
    let file = directory.create(NAME)?;
    file.allocate(PAGE as u64, Prepared::Zeroed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::StoreId;
    use crate::segment::disk::{Disk, RealDisk};

    #[test]
    fn a_reader_that_looks_while_a_writer_begins_sees_nothing_and_then_its_segment() {
        let path = std::env::temp_dir().join(format!("towpath-lock-{}", std::process::id()));
        let directory = RealDisk.directory(&path, true).unwrap();
        let holder = Holder { pid: 1, store: StoreId([7; 16]), since: Timestamp::from_nanos(5) };
        let (segment, head, durable) = (Position::new(1), Position::START, Position::START);
        let old = Progress { segment, nonce: Nonce(1), end: 4144, head, durable };

        let first = Held::take(&*directory, &holder).unwrap();
        first.publish(old);
        let seen = Seen::open(&*directory).unwrap().unwrap();
        assert_eq!(seen.progress(), Some(old));
        drop(first);

        let second = Held::take(&*directory, &holder).unwrap();
        assert_eq!(seen.progress(), None);
        let new = Progress { nonce: Nonce(2), ..old };
        second.publish(new);
        assert_eq!(seen.progress(), Some(new));

        drop(second);
        std::fs::remove_dir_all(path).unwrap();
    }

    fn directory(name: &str) -> std::sync::Arc<dyn Directory> {
        let path = std::env::temp_dir().join(format!("towpath-lock-{name}-{}", std::process::id()));
        RealDisk.directory(&path, true).unwrap()
    }

    #[test]
    fn a_reader_is_told_the_lowest_position_that_was_kept_since_it_looked() {
        let directory = directory("kept");
        let holder = Holder { pid: 1, store: StoreId([7; 16]), since: Timestamp::from_nanos(5) };
        let held = Held::take(&*directory, &holder).unwrap();
        let progress = Progress {
            segment: Position::new(1),
            nonce: Nonce(1),
            end: 4144,
            head: Position::START,
            durable: Position::START,
        };
        held.publish(progress);
        let mut seen = Seen::open(&*directory).unwrap().unwrap();
        assert_eq!((seen.begin(), seen.look()), (Some(progress), (Some(progress), None)));

        // While it is at work nothing that is published counts.
        held.keeps(Position::new(50));
        assert!(seen.is_recovering());
        assert_eq!(seen.look(), (None, Some(Position::new(50))));
        held.has_recovered();
        assert_eq!(seen.look(), (Some(progress), None));

        // One that was cut short, and the next.
        held.keeps(Position::new(30));
        held.keeps(Position::new(40));
        held.has_recovered();
        assert_eq!(seen.look(), (Some(progress), Some(Position::new(30))));

        // As many as are remembered, and one more.
        for more in [0, 1] {
            for number in 0..word::KEPT_SLOTS + more {
                held.keeps(Position::new(1_000 - number));
                held.has_recovered();
            }
            let lowest = if more == 0 { 1_001 - word::KEPT_SLOTS } else { 0 };
            assert_eq!(seen.look().1, Some(Position::new(lowest)));
        }

        // Who opens it meanwhile takes the one at work for one that is to come.
        held.keeps(Position::new(7));
        let mut late = Seen::open(&*directory).unwrap().unwrap();
        assert_eq!(late.begin(), None);
        held.has_recovered();
        assert_eq!(late.look(), (Some(progress), Some(Position::new(7))));
        let mut later = Seen::open(&*directory).unwrap().unwrap();
        assert_eq!((later.begin(), later.look().1), (Some(progress), None));
        drop(held);
        std::fs::remove_dir_all(directory.path()).unwrap();
    }
}
