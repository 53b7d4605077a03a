//! The index of one segment: in memory while frames still come, a file once it is sealed. One structure answers every
//! question: term → frames. The writer never pays for it: whoever asks first lets the index in memory catch up with the
//! frames, and after sealing another thread writes the file.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::Result;
use crate::format::frame::{Found, Frame};
use crate::format::index::{self, Layout, Postings, SPARSE, Summary, Unit};
use crate::format::term::Term;
use crate::format::{PAGE, header, names, u32_at};
use crate::id::{Position, Revision, Timestamp};
use crate::log::terms;
use crate::segment::Segment;
use crate::segment::disk::{Directory, Prepared};
use crate::segment::map::{Access, Map};
use crate::sync::guard;

/// No posting comes before this one.
const NONE: u32 = u32::MAX;

/// The index of one segment.
#[derive(Debug)]
pub(crate) struct Index {
    segment: Arc<Segment>,
    /// Whether the index in memory met damage; saves asking for it where there is none.
    damaged: AtomicBool,
    state: Mutex<State>,
    /// The file turned out damaged and was not made again yet.
    unsound: AtomicBool,
}

#[derive(Debug)]
enum State {
    Memory(Box<Memory>),
    File(Arc<IndexFile>),
}

impl Index {
    /// An index that begins empty, in memory.
    pub(crate) fn in_memory(segment: Arc<Segment>) -> Self {
        let memory = Memory::new(&segment);
        let state = Mutex::new(State::Memory(Box::new(memory)));
        Self { segment, state, unsound: AtomicBool::new(false), damaged: AtomicBool::new(false) }
    }

    /// The index of a sealed segment: its file, if there is a sound one, or else one in memory.
    pub(crate) fn of_sealed(segment: Arc<Segment>, directory: &dyn Directory) -> Self {
        let file = IndexFile::open(directory, &segment);
        let index = Self::in_memory(segment);
        if let Some(file) = file {
            *guard(&index.state) = State::File(Arc::new(file));
        }
        index
    }

    /// The same from the bytes of a file. `None` when it is not one for this segment.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_bytes(segment: Arc<Segment>, bytes: &[u8]) -> Option<Self> {
        let file = IndexFile::over(Map::memory(bytes).ok()?, &segment)?;
        let index = Self::in_memory(segment);
        *guard(&index.state) = State::File(Arc::new(file));
        Some(index)
    }

    /// Whether a file stands behind it already.
    pub(crate) fn is_file(&self) -> bool {
        matches!(*guard(&self.state), State::File(_))
    }

    /// Whether the file turned out damaged, told once.
    pub(crate) fn was_unsound(&self) -> bool {
        self.unsound.load(Ordering::Relaxed) && self.unsound.swap(false, Ordering::Relaxed)
    }

    /// The frames from `from` on and below `limit` that bear a term, rising, and every place there where the segment is
    /// damaged. Two texts with one hash give the same frames: compare the text.
    pub(crate) fn postings(&self, term: Term, from: u64, limit: u64) -> Vec<Unit> {
        self.ask(limit, |memory| memory.postings(term, from, limit), |file| file.postings(term, from))
    }

    /// The latest frame below `limit` that bears a term and that `is_it` takes.
    pub(crate) fn latest(&self, term: Term, limit: u64, is_it: impl Fn(Unit) -> bool) -> Option<Unit> {
        self.ask(
            limit,
            |memory| memory.chain(term).find(|unit| unit.offset() < limit && is_it(*unit)),
            |file| Ok(file.postings(term, 0)?.into_iter().rev().find(|unit| is_it(*unit))),
        )
    }

    /// How many frames bear a term. An upper bound where two texts have one hash.
    pub(crate) fn count(&self, term: Term, limit: u64) -> u64 {
        let in_memory = |memory: &Memory| memory.terms.get(&term).map_or(0, |chain| u64::from(chain.count));
        self.ask(limit, in_memory, |file| file.count(term))
    }

    /// What it says of the segment, at least up to `limit`.
    pub(crate) fn summary(&self, limit: u64) -> Summary {
        self.ask(limit, |memory| memory.summary, |file| Ok(file.layout.summary))
    }

    /// How many runs of [`SPARSE`] positions there are.
    pub(crate) fn chunks(&self, limit: u64) -> usize {
        self.ask(limit, |memory| memory.sparse.len(), |file| Ok(file.layout.sparse.len() / 4))
    }

    /// Where to begin to walk for the `chunk`-th run of [`SPARSE`] positions of the segment; `None` behind the last.
    pub(crate) fn chunk(&self, chunk: usize, limit: u64) -> Option<u64> {
        let unit = self.ask(limit, |memory| memory.sparse.get(chunk).copied(), |file| file.sparse(chunk));
        unit.map(Unit::offset).filter(|offset| *offset < limit)
    }

    /// The damaged stretch that begins at an offset, where the index in memory met one: the position that was to come
    /// there, and where the stretch ends.
    pub(crate) fn damage(&self, offset: u64) -> Option<(Position, u64)> {
        if !self.damaged.load(Ordering::Relaxed) {
            return None;
        }
        let State::Memory(memory) = &*guard(&self.state) else { return None };
        let at = memory.damaged.binary_search_by_key(&Unit::of(offset), |lost| lost.unit).ok()?;
        Some((memory.damaged[at].position, memory.damaged[at].end))
    }

    /// The bytes of the index file of a sealed segment. `None` when it has one already, when the segment is damaged, and
    /// when the file would be too large.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let State::Memory(memory) = &mut *guard(&self.state) else { return None };
        memory.catch_up(&self.segment, self.segment.written());
        if memory.damaged.is_empty() { memory.encode() } else { None }
    }

    /// Writes the index file of a sealed segment, beside it, and serves from it from now on.
    pub(crate) fn write_file(&self, directory: &dyn Directory) -> Result<()> {
        let Some(bytes) = self.encode() else { return Ok(()) };
        let name = header::index_name(self.segment.first());
        let temporary = format!("{name}.tmp");
        directory.remove(&temporary)?;
        let file = directory.create(&temporary)?;
        let written = file.allocate(bytes.len() as u64, Prepared::Allocated).and_then(|()| file.write_at(&bytes, 0));
        if let Err(error) = written.and_then(|()| file.sync()) {
            directory.remove(&temporary)?;
            return Err(error);
        }
        directory.rename(&temporary, &name)?;
        if let Some(file) = IndexFile::open(directory, &self.segment) {
            *guard(&self.state) = State::File(Arc::new(file));
        }
        Ok(())
    }

    /// Asks memory, caught up to `limit`, or the file. A file that turns out damaged is replaced by memory.
    fn ask<T>(
        &self,
        limit: u64,
        memory: impl FnOnce(&Memory) -> T,
        file: impl FnOnce(&IndexFile) -> Result<T, Unsound>,
    ) -> T {
        let found = match &*guard(&self.state) {
            State::File(found) => Some(found.clone()),
            State::Memory(_) => None,
        };
        if let Some(Ok(answer)) = found.map(|found| file(&found)) {
            return answer;
        }
        let mut state = guard(&self.state);
        if matches!(&*state, State::File(_)) {
            *state = State::Memory(Box::new(Memory::new(&self.segment)));
            self.unsound.store(true, Ordering::Relaxed);
        }
        match &mut *state {
            State::Memory(kept) => {
                kept.catch_up(&self.segment, limit);
                if !kept.damaged.is_empty() {
                    self.damaged.store(true, Ordering::Relaxed);
                }
                memory(kept)
            }
            State::File(_) => unreachable!("it was replaced by memory just now"),
        }
    }
}

/// The index of the frames up to some offset.
#[derive(Debug)]
struct Memory {
    summary: Summary,
    /// The position that comes next.
    next: Position,
    /// For each run of [`SPARSE`] positions, where to begin to walk.
    sparse: Vec<Unit>,
    terms: HashMap<Term, Chain, BuildHasherDefault<HashIsKey>>,
    /// Each posting knows the one before it of the same term.
    postings: Vec<(Unit, u32)>,
    /// Where frames are lost. What they bore is not known, so these belong to every term.
    damaged: Vec<Lost>,
}

/// A damaged stretch.
#[derive(Clone, Copy, Debug)]
struct Lost {
    unit: Unit,
    /// The position that was to come there.
    position: Position,
    end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    last: u32,
    count: u32,
}

impl Memory {
    fn new(segment: &Segment) -> Self {
        let header = &segment.header;
        Self {
            summary: Summary {
                store: header.store,
                nonce: header.nonce,
                first: header.first,
                events: 0,
                own_events: 0,
                streams: 0,
                end: PAGE as u64,
                first_time: Timestamp::default(),
                last_time: Timestamp::default(),
            },
            next: header.first,
            sparse: Vec::new(),
            terms: HashMap::default(),
            postings: Vec::new(),
            damaged: Vec::new(),
        }
    }

    /// Takes in the frames that have come since.
    fn catch_up(&mut self, segment: &Segment, limit: u64) {
        while self.summary.end < limit {
            let offset = self.summary.end;
            match segment.find(offset, limit) {
                Found::Frame(frame) if frame.position() == self.next && frame.is_control() => {
                    self.summary.end += frame.stride() as u64;
                }
                Found::Frame(frame) if frame.position() == self.next => {
                    self.reach(frame.position(), offset);
                    self.next = frame.position().next();
                    self.take_in(frame, Unit::of(offset));
                    self.summary.end += frame.stride() as u64;
                }
                // A frame out of order is damage too: the table would grow to wherever it claims to be.
                Found::Frame(_) | Found::Blank | Found::Bad(_) => {
                    let next = segment.next_sound(offset, limit, self.next).unwrap_or(limit);
                    self.damaged.push(Lost { unit: Unit::of(offset), position: self.next, end: next });
                    if let Found::Frame(frame) = segment.find(next, limit) {
                        self.reach(frame.position(), offset);
                        self.next = frame.position();
                    }
                    self.summary.end = next;
                }
            }
        }
    }

    /// Makes the sparse table say that positions from the next one up to `position` are found by walking from `offset`.
    fn reach(&mut self, position: Position, offset: u64) {
        let chunks = (position.get().saturating_sub(self.summary.first.get()) / SPARSE as u64) as usize + 1;
        while self.sparse.len() < chunks {
            self.sparse.push(Unit::of(offset));
        }
    }

    fn take_in(&mut self, frame: Frame<'_>, unit: Unit) {
        let own = frame.stream_bytes().first() == Some(&(names::OWN as u8));
        let summary = &mut self.summary;
        if summary.events == 0 {
            summary.first_time = frame.time();
        }
        summary.last_time = frame.time();
        summary.events += 1;
        summary.own_events += u64::from(own);
        summary.streams += u64::from(!own && frame.revision() == Revision::new(1));
        terms::of(frame, |term| {
            let at = self.postings.len() as u32;
            let chain = self.terms.entry(term).or_insert(Chain { last: NONE, count: 0 });
            self.postings.push((unit, chain.last));
            *chain = Chain { last: at, count: chain.count + 1 };
        });
    }

    /// The postings of a term, latest first.
    fn chain(&self, term: Term) -> impl Iterator<Item = Unit> {
        let mut at = self.terms.get(&term).map_or(NONE, |chain| chain.last);
        std::iter::from_fn(move || {
            let (unit, before) = *self.postings.get(at as usize)?;
            at = before;
            Some(unit)
        })
    }

    /// The postings of a term from `from` on and below `limit`, and the damaged places there, rising.
    fn postings(&self, term: Term, from: u64, limit: u64) -> Vec<Unit> {
        let mut units: Vec<Unit> = self.chain(term).take_while(|unit| unit.offset() >= from).collect();
        units.extend(self.damaged.iter().map(|lost| lost.unit).filter(|unit| unit.offset() >= from));
        units.retain(|unit| unit.offset() < limit);
        units.sort_unstable();
        units.dedup();
        units
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let mut terms: Vec<(Term, Vec<Unit>)> =
            self.terms.keys().map(|term| (*term, self.postings(*term, 0, u64::MAX))).collect();
        terms.sort_unstable_by_key(|(term, _)| *term);
        index::encode(&self.summary, &self.sparse, &terms)
    }
}

/// An index file, mapped. Each page is checked when it is first used.
#[derive(Debug)]
struct IndexFile {
    layout: Layout,
    map: Map,
    /// One bit a page: found whole.
    checked: Vec<AtomicU64>,
}

/// The index file is not what was written.
struct Unsound;

impl IndexFile {
    /// `None` when there is no file, or not one for this segment as it is.
    fn open(directory: &dyn Directory, segment: &Segment) -> Option<Self> {
        let file = directory.open(&header::index_name(segment.first()), Access::Read).ok()?;
        let len = file.len().ok().filter(|len| *len >= PAGE as u64)?;
        Self::over(file.map(len, Access::Read).ok()?, segment)
    }

    fn over(map: Map, segment: &Segment) -> Option<Self> {
        map.allow(map.len());
        let bytes = map.bytes(0..map.len());
        let layout = index::layout(bytes.get(..PAGE)?, bytes.len())?;
        let fits = layout.summary.store == segment.header.store
            && layout.summary.nonce == segment.header.nonce
            && layout.summary.end == segment.written()
            && layout.table_is_sound(bytes);
        let checked = (0..layout.pages().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        fits.then_some(Self { layout, map, checked })
    }

    fn postings(&self, term: Term, from: u64) -> Result<Vec<Unit>, Unsound> {
        let Some(postings) = self.find(term)? else { return Ok(Vec::new()) };
        let mut units = match postings.only() {
            Some(only) => vec![only],
            None => {
                let range = self.layout.postings_bytes(postings).ok_or(Unsound)?;
                postings.decode(self.bytes(range)?).ok_or(Unsound)?
            }
        };
        let skipped = units.partition_point(|unit| unit.offset() < from);
        units.drain(..skipped);
        Ok(units)
    }

    fn count(&self, term: Term) -> Result<u64, Unsound> {
        Ok(self.find(term)?.map_or(0, |postings| u64::from(postings.count)))
    }

    fn sparse(&self, chunk: usize) -> Result<Option<Unit>, Unsound> {
        let start = self.layout.sparse.start + chunk * 4;
        if start >= self.layout.sparse.end {
            return Ok(None);
        }
        Ok(Some(Unit(u32_at(self.bytes(start..start + 4)?, 0))))
    }

    fn find(&self, term: Term) -> Result<Option<Postings>, Unsound> {
        let fanout = self.bytes(self.layout.fanout_of(term))?;
        let bucket = self.layout.bucket(fanout).ok_or(Unsound)?;
        if bucket.is_empty() {
            return Ok(None);
        }
        Ok(self.layout.find(self.bytes(bucket)?, term))
    }

    fn bytes(&self, range: Range<usize>) -> Result<&[u8], Unsound> {
        let file = self.map.bytes(0..self.map.len());
        for page in self.layout.pages_of(&range) {
            let (word, bit) = (&self.checked[page / 64], 1 << (page % 64));
            if word.load(Ordering::Relaxed) & bit == 0 {
                if !self.layout.page_is_sound(file, page) {
                    return Err(Unsound);
                }
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(&file[range])
    }
}

/// Terms are hashes already.
#[derive(Default)]
struct HashIsKey(u64);

impl Hasher for HashIsKey {
    fn write(&mut self, _: &[u8]) {
        unreachable!("terms hash as one u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
