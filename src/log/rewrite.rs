//! Writing a sealed segment again without some of its events, a piece at a time, so that whoever does it can stop for
//! something else. Positions stay: where events stood, a gap says so.

use crate::sync::primitive::Arc;
use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::format::control::Control;
use crate::format::frame::{self, Found, Frame, Nonce, Place, flag};
use crate::format::gap::{self, Gap, Reason};
use crate::format::header::{self, Header, Rewritten};
use crate::format::{PAGE, u32_at};
use crate::id::{Position, Revision, Timestamp};
use crate::log::grow;
use crate::log::index::Index;
use crate::log::parts::{Part, Parts};
use crate::log::removals::Removals;
use crate::segment::disk::{Directory, File, Prepared};
use crate::segment::{Segment, after};

/// Bytes that are written in one go.
const WRITTEN_AT_ONCE: usize = if cfg!(test) { 16 << 10 } else { 256 << 10 };

/// What goes, and what of it leaves a stub.
#[derive(Clone, Debug, Default)]
pub(crate) struct Going {
    pub(crate) removals: Arc<Removals>,
    /// Of streams whose last event goes, too: its revision, which the next event of the stream goes on from.
    pub(crate) heads: HashMap<String, Revision>,
}

/// What is to become of one frame.
enum Fate {
    Keep,
    Stub,
    Remove,
}

/// A segment that is being written again.
#[derive(Debug)]
pub(crate) struct Rewrite {
    directory: Arc<dyn Directory>,
    going: Arc<Going>,
    part: Arc<Part>,
    nonce: Nonce,
    file: Arc<dyn File>,
    temporary: String,
    /// Where to go on in the old file, and which position comes there.
    from: u64,
    next: Position,
    /// How many commits ended before.
    commit: u64,
    /// Frames that are finished and not written yet, and where they begin.
    out: Vec<u8>,
    at: u64,
    /// The last frame that is kept, which may be the last of its commit now.
    kept: Option<Kept>,
    /// What was removed behind it.
    gap: Option<Missing>,
    old_crc: u32,
    last_crc: u32,
    removed: u64,
}

#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    place: Place,
    commit: u64,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    first: Position,
    positions: u64,
    time: Timestamp,
}

/// What a segment lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Freed {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// What became of a piece of work.
#[derive(Debug)]
pub(crate) enum Progress {
    /// There is more to do.
    Partly,
    /// The new file stands in the old one's place.
    Done(Freed),
    /// The old file is not whole: it stays as it is.
    Left,
    /// It was let go of meanwhile.
    Expired,
}

impl Going {
    fn fate(&self, frame: Frame<'_>) -> Fate {
        if frame.is_control() {
            let removed = frame.gap().is_some_and(|gap| gap.reason == Reason::Removed);
            return if removed { Fate::Remove } else { Fate::Keep };
        }
        let (stream, revision) = (frame.stream(), frame.revision());
        if !self.removals.hides(stream, revision) {
            return Fate::Keep;
        }
        if self.heads.get(stream) == Some(&revision) { Fate::Stub } else { Fate::Remove }
    }
}

impl Rewrite {
    /// Begins to write a sealed segment again. Nothing is left behind when that fails.
    pub(crate) fn begin(directory: Arc<dyn Directory>, part: Arc<Part>, going: Arc<Going>) -> Result<Self> {
        let segment = &part.segment;
        let mut nonce = grow::random_nonce(&*directory)?;
        while nonce == segment.header.nonce || nonce == segment.header.origin() {
            nonce = grow::random_nonce(&*directory)?;
        }
        let temporary = format!("{}.tmp", header::file_name(segment.first()));
        directory.remove(&temporary)?;
        let file = directory.create(&temporary)?;
        // It gets no longer than it was, so a full disk shows here.
        if let Err(error) = file.allocate(segment.written(), Prepared::Allocated) {
            directory.remove(&temporary)?;
            return Err(error);
        }
        let (from, next) = (PAGE as u64, segment.first());
        Ok(Self {
            directory,
            going,
            nonce,
            file,
            temporary,
            from,
            next,
            commit: 0,
            out: Vec::with_capacity(WRITTEN_AT_ONCE),
            at: PAGE as u64,
            kept: None,
            gap: None,
            old_crc: 0,
            last_crc: 0,
            removed: 0,
            part,
        })
    }

    /// Writes some bytes more. When they were the last, the new file takes the old one's place, `pause` being called while
    /// its index is made.
    pub(crate) fn go_on(&mut self, parts: &Parts, pause: &mut dyn FnMut()) -> Result<Progress> {
        let part = self.part.clone();
        let (segment, limit) = (&part.segment, part.segment.written());
        let piece = self.from.saturating_add(WRITTEN_AT_ONCE as u64).min(limit);
        while self.from < piece {
            match segment.find(self.from, limit) {
                Found::Frame(frame) if frame.position() == self.next => self.take(frame),
                // What is damaged stays for a repair to see.
                Found::Frame(_) | Found::Blank | Found::Bad(_) => return Ok(Progress::Left),
            }
        }
        if self.from < limit {
            self.write()?;
            return Ok(Progress::Partly);
        }
        self.finish(parts, pause)
    }

    /// What is written again.
    pub(crate) fn segment(&self) -> &Segment {
        &self.part.segment
    }

    /// Gives up. What was made is removed.
    pub(crate) fn abandon(self) -> Result<()> {
        self.directory.remove(&self.temporary)
    }

    fn take(&mut self, frame: Frame<'_>) {
        let fate = self.going.fate(frame);
        if let Fate::Remove = fate {
            self.removed += u64::from(frame.is_event());
            self.remove(frame);
        } else {
            let mut bytes = Vec::with_capacity(frame.stride());
            match fate {
                Fate::Stub => frame::stage_stub(&mut bytes, frame.stream_bytes()),
                _ => bytes.extend_from_slice(frame.bytes()),
            }
            self.removed += u64::from(matches!(fate, Fate::Stub) && frame.is_event());
            bytes.resize(bytes.len().next_multiple_of(frame::ALIGN), 0);
            let flags = frame.flags() & flag::SYNCED;
            let place = Place { position: frame.position(), revision: frame.revision(), time: frame.time(), flags };
            self.keep(Kept { bytes, place, commit: self.commit });
        }
        self.old_crc = frame.crc();
        self.next = after(frame);
        self.from += frame.stride() as u64;
        self.commit += u64::from(!frame.has_more());
    }

    fn remove(&mut self, frame: Frame<'_>) {
        let positions = frame.positions();
        match &mut self.gap {
            Some(gap) if gap.positions + positions <= gap::MOST => gap.positions += positions,
            gap => {
                // Only where more than half a billion positions are gone is there one already. What is kept before waits:
                // its commit may go on behind the gap.
                if gap.is_some() {
                    self.put_gap(false);
                }
                self.gap = Some(Missing { first: frame.position(), positions, time: frame.time() });
            }
        }
    }

    /// Now it is known whether what was kept before is the last of its commit.
    fn keep(&mut self, kept: Kept) {
        let goes_on = self.kept.as_ref().is_some_and(|before| before.commit == kept.commit);
        self.put_kept(goes_on);
        self.put_gap(goes_on);
        self.kept = Some(kept);
    }

    fn put_kept(&mut self, goes_on: bool) {
        if let Some(Kept { bytes, place, .. }) = self.kept.take() {
            self.put(&bytes, place, goes_on);
        }
    }

    fn put_gap(&mut self, goes_on: bool) {
        self.put_kept(goes_on);
        if let Some(Missing { first, positions, time }) = self.gap.take() {
            let mut bytes = Vec::new();
            let gap = Gap { reason: Reason::Removed, positions, why: String::new() };
            frame::stage_control(&mut bytes, &Control::Gap(gap).encode());
            self.put(&bytes, Place { position: first, revision: Revision::ABSENT, time, flags: 0 }, goes_on);
        }
    }

    fn put(&mut self, bytes: &[u8], place: Place, goes_on: bool) {
        let start = self.out.len();
        self.out.extend_from_slice(bytes);
        let len = u32_at(bytes, 0) as usize;
        let flags = place.flags | if goes_on { flag::MORE } else { 0 };
        self.last_crc = frame::finish(&mut self.out[start..start + len], Place { flags, ..place }, self.nonce);
    }

    fn write(&mut self) -> Result<()> {
        self.file.write_at(&self.out, self.at)?;
        self.at += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    fn finish(&mut self, parts: &Parts, pause: &mut dyn FnMut()) -> Result<Progress> {
        self.put_kept(false);
        self.put_gap(false);
        self.write()?;
        let old = &self.part.segment;
        let (original_end, original_crc) = match old.header.rewritten {
            Some(before) => (before.original_end, before.original_crc),
            None => (old.written(), self.old_crc),
        };
        let (nonce, end, last_crc) = (old.header.origin(), self.at, self.last_crc);
        let rewritten = Some(Rewritten { nonce, original_end, original_crc, end, last_crc });
        let header = Header { nonce: self.nonce, rewritten, ..old.header.clone() };
        self.file.write_at(&header::encode(&header), 0)?;
        self.file.truncate(end)?;
        self.file.sync()?;

        let last = old.last().unwrap_or(self.next.previous());
        let new = Segment::open_sealed_as(&*self.directory, &self.temporary, old.first(), original_end, last)?;
        let index = Index::in_memory(new.clone());
        // Made before, so that nobody has to do without. If it cannot be, answers are the same, only slower.
        let _unwritten = index.write_file(&*self.directory, pause);
        let part = Arc::new(Part { segment: new, index });
        if !parts.replace(&self.temporary, &part)? {
            // Nobody looks for this one any more.
            self.directory.remove(&header::index_name(old.first()))?;
            return Ok(Progress::Expired);
        }
        Ok(Progress::Done(Freed { events: self.removed, bytes: old.written() - end }))
    }
}

/// A segment that could not be written again, in the words of whoever asked for it.
pub(crate) fn not_whole(segment: &Segment) -> Error {
    let what = "events were removed here, and cannot be taken out because it is not whole";
    Error::Damaged(segment.damage(PAGE as u64, segment.written(), segment.first(), what))
}
