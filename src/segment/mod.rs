//! One segment: a file of frames, mapped. Knows nothing of other segments.

pub(crate) mod disk;
pub(crate) mod map;

use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::format::PAGE;
use crate::format::frame::{self, ALIGN, Found, Frame, Nonce};
use crate::format::header::{self, Header};
use crate::id::{Position, StoreId, Timestamp};
use crate::segment::disk::{Directory, File};
use crate::segment::map::{Access, Map};
use crate::sync::guard;
use crate::sync::primitive::Mutex;
use crate::sync::primitive::atomic::{AtomicBool, AtomicU64, Ordering};

/// A segment that can be read, and written while it is the newest.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    name: String,
    /// `None` when it is lost.
    file: Option<Arc<dyn File>>,
    map: Map,
    /// Where the whole commits end. Which of their events readers see is for the log's head to say.
    written: AtomicU64,
    /// Nothing will be written here any more.
    sealed: AtomicBool,
    /// The last position that can stand here so far; `u64::MAX` while that is not known.
    highest: AtomicU64,
    durable: AtomicBool,
    /// Why a sync has failed.
    unsynced: Mutex<Option<Error>>,
}

/// The one who writes into a segment.
#[derive(Debug)]
pub(crate) struct Pen {
    segment: Arc<Segment>,
    end: u64,
}

/// No segment that was made has this nonce.
const LOST: Nonce = Nonce(0);

impl Segment {
    /// One of which nothing is known to be written yet.
    fn new(header: Header, file: Option<Arc<dyn File>>, map: Map) -> Self {
        Self {
            name: header::file_name(header.first),
            header,
            file,
            map,
            written: AtomicU64::new(0),
            sealed: AtomicBool::new(false),
            highest: AtomicU64::new(u64::MAX),
            durable: AtomicBool::new(false),
            unsynced: Mutex::new(None),
        }
    }

    /// Reads and checks the header of a segment file.
    pub(crate) fn read_header(
        directory: &dyn Directory,
        name: &str,
        file: &dyn File,
    ) -> Result<Result<Header, header::Bad>> {
        let mut page = [0; PAGE];
        if file.read_at(&mut page, 0)? < PAGE {
            return Err(Error::not_a_store(&directory.path().join(name), "it is shorter than a segment's header"));
        }
        Ok(header::decode(&page))
    }

    /// Opens a segment file whose frames end with position `last`, at `end` as the segment behind it knows it, all of them
    /// whole and sealed. A shorter file is read as far as it goes; what is missing will be found damaged.
    pub(crate) fn open_sealed(
        directory: &dyn Directory,
        first: Position,
        end: u64,
        last: Position,
    ) -> Result<Arc<Self>> {
        Self::open_sealed_as(directory, &header::file_name(first), first, end, last)
    }

    /// The same of a file that does not have its name yet.
    pub(crate) fn open_sealed_as(
        directory: &dyn Directory,
        name: &str,
        first: Position,
        end: u64,
        last: Position,
    ) -> Result<Arc<Self>> {
        let mut segment = Self::open_named(directory, name, first, Access::Read, Some(end))?;
        // The map is enough: thousands of segments may be open, and files are few in many places.
        segment.file = None;
        let end = segment.header.own_end(end);
        segment.allow(end);
        segment.set_written(end);
        segment.seal(last);
        Ok(Arc::new(segment))
    }

    /// A sealed segment that cannot be opened: from `PAGE` to `end` all of it is damaged.
    pub(crate) fn lost(store: StoreId, first: Position, end: u64, last: Position) -> Result<Arc<Self>> {
        let name = header::file_name(first);
        let (created, durable) = (Timestamp::default(), Position::START);
        let header = Header { store, nonce: LOST, first, previous: None, created, durable, rewritten: None };
        let map = Map::nothing().map_err(|error| Error::io("map", std::path::Path::new(&name), error))?;
        let segment = Self::new(header, None, map);
        segment.set_written(end.max((PAGE + ALIGN) as u64));
        segment.set_durable();
        segment.seal(last);
        Ok(Arc::new(segment))
    }

    /// Opens a segment file; nothing of it may be read yet.
    pub(crate) fn open(directory: &dyn Directory, first: Position, access: Access, end: Option<u64>) -> Result<Self> {
        Self::open_named(directory, &header::file_name(first), first, access, end)
    }

    /// The same of a file that does not have its name yet.
    pub(crate) fn open_named(
        directory: &dyn Directory,
        name: &str,
        first: Position,
        access: Access,
        end: Option<u64>,
    ) -> Result<Self> {
        let file = directory.open(name, access)?;
        let header = Self::read_header(directory, name, &*file)?.map_err(|bad| bad_header(directory, name, bad))?;
        if header.first != first {
            let why = format!("its header says that it begins at position {}", header.first);
            return Err(Error::not_a_store(&directory.path().join(name), why));
        }
        let len = file.len()?;
        let map = file.map(end.map_or(len, |end| len.min(end)), Access::Read)?;
        Ok(Self::new(header, Some(file), map))
    }

    /// Opens a segment file whose header is not what was written, under one that is known otherwise.
    pub(crate) fn open_under(directory: &dyn Directory, header: Header) -> Result<Self> {
        let file = directory.open(&header::file_name(header.first), Access::Read)?;
        let map = file.map(file.len()?, Access::Read)?;
        map.allow(map.len());
        Ok(Self::new(header, Some(file), map))
    }

    /// Wraps a new file whose header, and the frames up to `end`, are written already.
    pub(crate) fn created(header: Header, file: Arc<dyn File>, map: Map, end: u64) -> (Arc<Self>, Pen) {
        let segment = Self::new(header, Some(file), map);
        segment.map.allow(end);
        segment.set_written(end);
        let segment = Arc::new(segment);
        (segment.clone(), Pen { segment, end })
    }

    /// Goes on writing where the frames end.
    pub(crate) fn into_pen(self, end: u64) -> (Arc<Self>, Pen) {
        self.map.allow(end);
        self.set_written(end);
        let segment = Arc::new(self);
        (segment.clone(), Pen { segment, end })
    }

    /// Whether it cannot be opened, so that nothing of it can be read.
    pub(crate) fn is_lost(&self) -> bool {
        self.header.nonce == LOST
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn first(&self) -> Position {
        self.header.first
    }

    /// Bytes mapped: the file's room for frames.
    pub(crate) fn capacity(&self) -> u64 {
        self.map.len()
    }

    pub(crate) fn file(&self) -> &dyn File {
        self.file.as_deref().expect("only what is written needs its file")
    }

    /// Where the whole commits end.
    #[inline]
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Says that whole commits stand up to here. For segments that another process writes, too.
    pub(crate) fn set_written(&self, end: u64) {
        self.written.fetch_max(end, Ordering::Release);
    }

    /// Whether all of a sealed segment is known to be on the disk.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    /// Says that all of a sealed segment is on the disk.
    pub(crate) fn set_durable(&self) {
        self.durable.store(true, Ordering::Release);
    }

    /// Syncs the file. After a sync that failed all others fail, whoever asks: the kernel tells only once of what it
    /// could not write, calls it clean, and says to the next one that all is well.
    pub(crate) fn sync(&self) -> Result<()> {
        let mut unsynced = guard(&self.unsynced);
        if let Some(error) = &*unsynced {
            return Err(error.clone());
        }
        self.file().sync().inspect_err(|error| *unsynced = Some(error.clone()))
    }

    /// Lets bytes up to here be read, though they are not published.
    pub(crate) fn allow(&self, upto: u64) {
        self.map.allow(upto);
    }

    /// Behind this there are holes only, which need not be looked at.
    pub(crate) fn data_end(&self) -> u64 {
        self.file.as_ref().and_then(|file| file.data_end().ok()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Nothing behind position `last` can stand here so far, so a search for sound frames does not believe one that
    /// claims to.
    pub(crate) fn set_last(&self, last: Position) {
        self.highest.store(last.get(), Ordering::Release);
    }

    /// The last position that can stand here, once it is sealed.
    pub(crate) fn last(&self) -> Option<Position> {
        self.is_sealed().then(|| Position::new(self.highest.load(Ordering::Relaxed)))
    }

    /// Nothing more comes here behind position `last`.
    pub(crate) fn seal(&self, last: Position) {
        self.highest.store(last.get(), Ordering::Relaxed);
        self.sealed.store(true, Ordering::Release);
    }

    /// What stands at an offset; frames must end at or before `limit`.
    #[inline]
    pub(crate) fn find(&self, offset: u64, limit: u64) -> Found<'_> {
        let bytes = self.map.bytes(offset..limit);
        if bytes.is_empty() && offset < limit {
            return Found::Bad(if self.is_lost() { "the segment cannot be opened" } else { "the file is too short" });
        }
        frame::find(bytes, self.header.nonce)
    }

    /// A frame that was found sound before.
    #[inline]
    pub(crate) fn frame(&self, offset: u64, len: u32) -> Frame<'_> {
        Frame::trusted(self.map.bytes(offset..offset + u64::from(len)))
    }

    /// Raw bytes, as far as they may be read.
    pub(crate) fn bytes(&self, from: u64, to: u64) -> &[u8] {
        self.map.bytes(from..to)
    }

    /// The first place behind the bad frame at `from` where sound frames go on. `expected` is the position that was to
    /// come at `from`, and the frames end at `limit`.
    ///
    /// A frame found by searching counts only if its position fits and what follows it agrees: sound frames in order up
    /// to `limit`, or, behind the next damage, a sound frame of a higher position. So the bytes of a frame that somebody
    /// stored in an event's payload, inside a frame that is damaged, are not taken for one: it would have to bear a
    /// position after `expected`, and the real frame behind it, which bears the one after `expected`, contradicts it.
    /// Behind the last real frame the last position that can stand here does; where that is not known, sound frames that
    /// reach the end count only if they begin where the bad frame says that it ends. A control record is not begun with,
    /// because it bears no position of its own, unless it speaks of a gap. The work is bounded by a few passes over the stretch.
    pub(crate) fn next_sound(&self, from: u64, limit: u64, expected: Position) -> Option<u64> {
        if let Some(next) = self.behind_bad_control(from, limit, expected) {
            return Some(next);
        }
        let highest = Position::new(self.highest.load(Ordering::Acquire));
        let claimed_end = from + frame::padded(frame::claimed_len(self.map.bytes(from..limit)) as usize) as u64;
        let mut budget = limit.min(self.capacity()).saturating_sub(from) * 8 + (1 << 20);
        // Where events were removed, a few bytes stand for many positions. Which are the last is known there.
        let has_gaps = self.header.rewritten.is_some();
        let mut offset = (from + 1).next_multiple_of(ALIGN as u64);
        let mut chain: Option<Chain> = None;
        while offset + (frame::HEADER as u64) <= limit {
            let bytes = self.map.bytes(offset..limit);
            let position = frame::peek_position(bytes)?;
            let comes_after = frame::peek_is_control(bytes) && position.previous() == highest;
            if position == Position::START || position > highest && !comes_after {
                offset += ALIGN as u64;
                continue;
            }
            budget = budget.checked_sub(u64::from(frame::peek_len(bytes)).min(limit - offset))?;
            if let Found::Frame(frame) = self.find(offset, limit) {
                match chain.take() {
                    Some(known) if offset == known.end && position == known.next => {
                        offset += frame.stride() as u64;
                        chain = Some(Chain { end: offset, next: after(frame), ..known });
                        continue;
                    }
                    Some(known) if offset > known.end && position >= known.next => return Some(known.start),
                    _ => {}
                }
                let reachable = (offset - from) / frame::HEADER as u64 + 1;
                let is_near = has_gaps || position.get().saturating_sub(expected.get()) <= reachable;
                if frame.positions() > 0 && position > expected && is_near {
                    let end = offset + frame.stride() as u64;
                    chain = Some(Chain { start: offset, end, next: after(frame) });
                    offset = end;
                    continue;
                }
            }
            offset += ALIGN as u64;
        }
        let reaches_the_end = |chain: &Chain| match highest.get() {
            u64::MAX => chain.start == claimed_end,
            last if self.is_sealed() => chain.next.get() == last + 1,
            _ => true,
        };
        chain.filter(|chain| chain.end == limit && reaches_the_end(chain)).map(|chain| chain.start)
    }

    /// Whether a sound frame behind `from`, of a higher position than `expected`, says that everything before it was on
    /// the disk when it was written.
    pub(crate) fn any_synced(&self, from: u64, limit: u64, expected: Position) -> bool {
        let mut budget = limit.min(self.capacity()).saturating_sub(from) * 8 + (1 << 20);
        let mut offset = (from + 1).next_multiple_of(ALIGN as u64);
        while offset + (frame::HEADER as u64) <= limit {
            let bytes = self.map.bytes(offset..limit);
            let steps =
                if self.header.rewritten.is_some() { u64::MAX } else { (offset - from) / frame::HEADER as u64 + 1 };
            let reachable = expected.get().saturating_add(steps);
            let fits = frame::peek_position(bytes).is_some_and(|at| at >= expected && at.get() <= reachable);
            if fits && frame::peek_is_synced(bytes) {
                let cost = u64::from(frame::peek_len(bytes)).min(limit - offset);
                let Some(left) = budget.checked_sub(cost) else { return true };
                budget = left;
                if matches!(self.find(offset, limit), Found::Frame(_)) {
                    return true;
                }
            }
            offset += ALIGN as u64;
        }
        false
    }

    /// A control record takes no position, so the event behind damaged ones bears the position that was expected.
    fn behind_bad_control(&self, from: u64, limit: u64, expected: Position) -> Option<u64> {
        let mut at = from;
        loop {
            let bytes = self.map.bytes(at..limit);
            let goes_on = bytes.len() >= frame::HEADER && frame::peek_is_control(bytes);
            let len = frame::claimed_len(bytes) as usize;
            if !goes_on || len < frame::HEADER {
                return None;
            }
            at += frame::padded(len) as u64;
            match self.find(at, limit) {
                Found::Frame(frame) => return (frame.position() == expected).then_some(at),
                Found::Blank => return None,
                Found::Bad(_) => {}
            }
        }
    }

    /// Describes a damaged stretch.
    pub(crate) fn damage(&self, offset: u64, end: u64, position: Position, what: impl Into<String>) -> Damage {
        Damage { segment: self.name.clone(), offset, length: end - offset, position, what: what.into() }
    }
}

/// Sound frames in order that a search has found.
struct Chain {
    start: u64,
    end: u64,
    /// The position that has to follow.
    next: Position,
}

/// The position that follows a frame: control records take none, unless they speak of positions that are gone.
pub(crate) fn after(frame: Frame<'_>) -> Position {
    Position::new(frame.position().get().saturating_add(frame.positions()))
}

impl Pen {
    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Where the written frames end.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        self.end + bytes as u64 <= self.segment.capacity()
    }

    /// Writes whole frames behind the others. They can be read from then on.
    pub(crate) fn write(&mut self, frames: &[u8]) -> Result<()> {
        self.segment.file().write_at(frames, self.end)?;
        self.end += frames.len() as u64;
        self.segment.map.allow(self.end);
        Ok(())
    }
}

/// What a bad header means for whoever opens the store.
pub(crate) fn bad_header(directory: &dyn Directory, name: &str, bad: header::Bad) -> Error {
    let path = directory.path().join(name);
    match bad {
        header::Bad::Version(found) => Error::Unsupported { path, what: "format version", found: u64::from(found) },
        header::Bad::Checksum(found) => {
            Error::Unsupported { path, what: "checksum algorithm", found: u64::from(found) }
        }
        header::Bad::Blank => Error::not_a_store(&path, "its header is blank"),
        header::Bad::NotASegment => Error::not_a_store(&path, "it is not a segment"),
        header::Bad::Damaged => Error::not_a_store(&path, "its header is damaged"),
    }
}
