//! Checking a store: what is whole, and what is not.

mod derived;
mod frames;
mod heads;
mod payload;
mod revisions;
mod sample;
mod state;

use std::path::Path;
use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::id::Position;
use crate::inspect::verify::frames::Frames;
use crate::inspect::verify::revisions::Revisions;
use crate::log::Log;
use crate::log::mark::{self, Misfit};
use crate::log::parts::Part;
use crate::log::recover::reader::open_reader_anyhow;
use crate::log::scan::{AtDamage, Tail, scan};
use crate::segment::disk::{Disk, RealDisk};

/// How closely a store is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// The chain: the header of every segment, and whether each follows the one before it; the heads of all index files and
    /// tiers; every frame of the newest segment, and of at most three sealed ones, chosen at random each time. Left out: the
    /// frames of all other segments, the pages of index files and tiers, and revisions. It costs about a quarter of a gigabyte of reading, however large the store is.
    Fast,
    /// Every checksum of every file, and everything that has an order: positions, times, commits, the revisions of each
    /// stream, the chain of segments, that each begins with its control state and no consumer in it is ahead of the log, and the terms of index files against tiers. Left out: whether index files say what the events say. Revisions
    /// are checked of the first four million streams, in the order in which they appear.
    #[default]
    Whole,
    /// All that, every index made again in memory and compared, the revisions of all streams, and every payload decoded as what its codec says, as far as that can be done without knowing its type: JSON where this build reads it, and
    /// MessagePack. A payload that does not decode was stored as it is, so its event is whole.
    Deep,
}

/// What checking a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// Nothing is damaged. What was [lost for good](Verdict::lost) and is written down is no damage any more.
    pub ok: bool,
    /// Events that were read and are whole, those of the store's own streams included.
    pub events: u64,
    /// Segments, and how many of them were read frame by frame.
    pub segments: u64,
    /// How many of them were read frame by frame; all of them but for [`Depth::Fast`].
    pub segments_read: u64,
    /// Bytes behind the last whole commit that a crash left there; the next open puts them into `quarantine/`.
    pub torn_bytes: u64,
    /// What is not whole.
    pub damage: Vec<Damage>,
    /// Positions that are written down as lost.
    pub lost: Vec<LostForGood>,
    /// Positions that were removed on purpose, in the segments that were read.
    pub removed: u64,
    /// Streams whose revisions were not checked, because there were too many; at most so many.
    pub streams_unchecked: u64,
}

/// Positions whose events are gone for good, which is written down in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostForGood {
    /// The first of them.
    pub first: Position,
    /// How many; 0 when only records about consumers were lost here.
    pub positions: u64,
    /// What was found there.
    pub why: String,
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes checked.
    pub done: u64,
    /// Bytes to check in all.
    pub total: u64,
}

/// Checks a store as [`Depth::Whole`] says. Damage is told, not repaired. What a backup lacks of what its mark says is damage.
///
/// # Errors
/// When there is no store to check: no segment, one missing, or the newest one cannot be read at all. The error names
/// the file.
pub fn verify(path: impl AsRef<Path>, progress: impl FnMut(Progress)) -> Result<Verdict> {
    verify_to(path, Depth::Whole, progress)
}

/// Checks a store as closely as is asked for.
///
/// # Errors
/// As [`verify`].
pub fn verify_to(path: impl AsRef<Path>, depth: Depth, mut progress: impl FnMut(Progress)) -> Result<Verdict> {
    verify_on(&RealDisk, path.as_ref(), depth, &mut progress)
}

pub(crate) fn verify_on(
    disk: &dyn Disk,
    path: &Path,
    depth: Depth,
    progress: &mut dyn FnMut(Progress),
) -> Result<Verdict> {
    verify_log(&open_reader_anyhow(disk, path)?, depth, progress)
}

pub(super) fn verify_log(log: &Arc<Log>, depth: Depth, progress: &mut dyn FnMut(Progress)) -> Result<Verdict> {
    let firsts = log.parts.firsts();
    let read = sample::choose(&*log.directory, &firsts, depth)?;
    let mut check = Check::new(log, depth)?;
    let total = bytes(log, &read)? * check.passes();
    let mut done = 0;
    for pass in 0..check.passes() {
        check.frames.begin(pass);
        for first in &firsts {
            // Beside a live writer old segments may go meanwhile.
            let kept = *first >= check.kept_from;
            let Some(part) = log.parts.still_there(*first)?.filter(|_| kept) else {
                check.frames.skip();
                continue;
            };
            let is_read = read.binary_search(first).is_ok();
            if is_read {
                check.frames.segment(&part, &mut |offset| progress(Progress { done: done + offset, total }));
                done += part.segment.written();
            } else {
                check.frames.pass_over(&part);
            }
            if pass == 0 {
                check.verdict.segments_read += u64::from(is_read);
                check.follows(&part, is_read)?;
                check.derived(&part, depth)?;
            }
        }
    }
    check.tiers(depth)?;
    check.heads(depth)?;
    check.tail()?;
    progress(Progress { done: total, total });
    Ok(check.finish(firsts.len()))
}

fn bytes(log: &Log, read: &[Position]) -> Result<u64> {
    let written = |first| Ok(log.parts.still_there(first)?.map_or(0, |part| part.segment.written()));
    read.iter().try_fold(0, |sum, first| Ok(sum + written(*first)?))
}

/// A check under way.
struct Check<'a> {
    log: &'a Arc<Log>,
    /// What came before was let go of when this began.
    kept_from: Position,
    frames: Frames,
    verdict: Verdict,
}

impl<'a> Check<'a> {
    fn new(log: &'a Arc<Log>, depth: Depth) -> Result<Self> {
        let revisions = match depth {
            Depth::Fast => Revisions::none(),
            Depth::Whole => Revisions::in_one_pass(),
            Depth::Deep => Revisions::of(revisions::streams(log)?),
        };
        // Which files cannot be read is told where they are checked.
        let stood = log.heads_now().ok();
        let kept_from = stood.as_ref().map_or(Position::START, |known| known.oldest);
        let frames = Frames::new(revisions, stood, depth == Depth::Deep);
        Ok(Self { log, kept_from, frames, verdict: Verdict::default() })
    }

    /// How often the frames are gone through.
    fn passes(&self) -> u64 {
        self.frames.passes()
    }

    /// The segment behind this one has to know where it ends.
    fn follows(&mut self, part: &Part, is_read: bool) -> Result<()> {
        let Some(first) = self.log.parts.after(part)? else { return Ok(()) };
        let Some(following) = self.log.parts.still_there(first)? else { return Ok(()) };
        let (header, last_crc) = (&part.segment.header, self.frames.last_crc().filter(|_| is_read));
        let fits = following.segment.header.previous.is_some_and(|previous| {
            // What was not read, or not whole, is taken for what it says.
            let said = header.rewritten.map_or(previous.last_crc, |rewritten| rewritten.last_crc);
            header.is_followed(previous, part.segment.written(), last_crc.unwrap_or(said))
        });
        let too_short = !is_read && part.segment.capacity() < part.segment.written();
        if !fits || too_short {
            let what = if fits { "the file is too short" } else { "it is not what the segment behind it follows" };
            let end = part.segment.written();
            self.verdict.damage.push(part.segment.damage(end, end, following.segment.first(), what));
        }
        Ok(())
    }

    /// Behind the last whole commit of a store that nobody writes.
    fn tail(&mut self) -> Result<()> {
        let log = self.log;
        if log.follows_a_writer() {
            return Ok(());
        }
        let part = log.parts.newest();
        let segment = &part.segment;
        segment.allow(segment.capacity());
        let found = scan(segment, segment.capacity(), AtDamage::PassOver)?;
        if let Some(misfit) = mark::check(&*log.directory, segment, found.end, found.next)? {
            let is_cut = matches!(misfit, Misfit::Short(_));
            self.verdict.damage.push(misfit.into_damage());
            if is_cut {
                return Ok(());
            }
        }
        let lock = crate::log::lock::read(&*log.directory).filter(|left| left.holder.store == log.store);
        let durable = lock.map_or(Position::START, |left| left.progress.durable).max(found.durable);
        match found.tail(segment, segment.capacity(), durable.max(segment.header.durable)) {
            Tail::Blank => {}
            Tail::Torn { end } => self.verdict.torn_bytes = end - found.end,
            Tail::Damaged(damage)
                if self
                    .frames
                    .damage
                    .iter()
                    .any(|known| (&known.segment, known.offset) == (&damage.segment, damage.offset)) => {}
            Tail::Damaged(damage) => self.verdict.damage.push(damage),
        }
        Ok(())
    }

    fn finish(self, segments: usize) -> Verdict {
        let Self { frames, mut verdict, .. } = self;
        let mut damage = frames.damage;
        damage.append(&mut verdict.damage);
        // Names of segments rise with the positions that they hold.
        damage.sort_by(|a, b| (&a.segment, a.offset).cmp(&(&b.segment, b.offset)));
        Verdict {
            ok: damage.is_empty(),
            events: frames.events,
            segments: segments as u64,
            damage,
            lost: frames.lost,
            removed: frames.removed,
            streams_unchecked: frames.revisions.unchecked(),
            ..verdict
        }
    }
}

/// What is wrong with a file as a whole.
fn of_file(name: String, length: u64, position: Position, what: &str) -> Damage {
    Damage { segment: name, offset: 0, length, position, what: what.to_owned() }
}

/// Whether a file is there and cannot be read at all is told by whoever opens it; that it is gone is no damage here.
fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}
