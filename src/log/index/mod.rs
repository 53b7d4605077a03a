//! The index of one segment: in memory while frames still come, a file once it is sealed. One structure answers every
//! question: term → frames. The writer never pays for it: whoever asks first lets the index in memory catch up with the
//! frames, and after sealing another thread writes the file.

pub(crate) mod file;
mod memory;
mod survey;

use crate::error::Result;
use crate::format::header;
use crate::format::index::{Summary, Unit};
use crate::format::term::Term;
use crate::id::Position;
use crate::log::checked::Unsound;
use crate::log::index::file::IndexFile;
use crate::log::index::memory::Memory;
use crate::segment::Segment;
use crate::segment::disk::{Directory, Prepared};
#[cfg(any(test, fuzzing))]
use crate::segment::map::Map;
use crate::sync::guard;
use crate::sync::primitive::atomic::{AtomicBool, Ordering};
use crate::sync::primitive::{Arc, Mutex};

/// Bytes of an index file that are written between two pauses.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// The index of one segment.
#[derive(Debug)]
pub(crate) struct Index {
    segment: Arc<Segment>,
    /// Whether the index in memory met damage; saves asking for it where there is none.
    damaged: AtomicBool,
    state: Mutex<State>,
    /// The file turned out damaged and was not made again yet.
    unsound: AtomicBool,
    /// Where the file says that events are; asked for only where frames are damaged.
    frames: Mutex<Option<Arc<[Unit]>>>,
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
        Self {
            segment,
            state,
            unsound: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            frames: Mutex::default(),
        }
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
        self.file().is_some()
    }

    /// The file, if one stands behind it.
    pub(crate) fn file(&self) -> Option<Arc<IndexFile>> {
        match &*guard(&self.state) {
            State::File(file) => Some(file.clone()),
            State::Memory(_) => None,
        }
    }

    /// Whether the file turned out damaged, told once.
    pub(crate) fn was_unsound(&self) -> bool {
        self.unsound.load(Ordering::Relaxed) && self.unsound.swap(false, Ordering::Relaxed)
    }

    /// The frames from `from` on and below `limit` that bear a term, rising, and every place there where the segment is
    /// damaged. Two texts with one hash give the same frames: compare the text.
    pub(crate) fn postings(&self, term: Term, from: u64, limit: u64) -> Vec<Unit> {
        let below = |mut units: Vec<Unit>| {
            // The file may have come since the limit was looked at, and knows of all that follows.
            units.retain(|unit| unit.offset() < limit);
            units
        };
        self.ask(limit, |memory| memory.postings(term, from, limit), |file| file.postings(term, from).map(below))
    }

    /// The latest place below `limit` that `is_it` takes, of the frames that bear a term and of the damaged places. `is_it`
    /// is told whether it is one of these. What a file knows of frames that were damaged later it knows by their terms.
    pub(crate) fn latest(&self, term: Term, limit: u64, is_it: impl Fn(Unit, bool) -> bool) -> Option<Unit> {
        self.ask(
            limit,
            |memory| {
                let mut latest_first = memory.latest_first(term).skip_while(|(unit, _)| unit.offset() >= limit);
                latest_first.find(|(unit, is_lost)| is_it(*unit, *is_lost)).map(|(unit, _)| unit)
            },
            |file| {
                let latest_first = file.postings(term, 0)?.into_iter().rev();
                Ok(latest_first.filter(|unit| unit.offset() < limit).find(|unit| is_it(*unit, false)))
            },
        )
    }

    /// How many frames bear a term. An upper bound where two texts have one hash.
    pub(crate) fn count(&self, term: Term, limit: u64) -> u64 {
        self.ask(limit, |memory| memory.count(term), |file| file.count(term))
    }

    /// What it says of the segment, at least up to `limit`.
    pub(crate) fn summary(&self, limit: u64) -> Summary {
        self.ask(limit, |memory| memory.survey.summary, |file| Ok(file.layout.summary))
    }

    /// How many runs of [`SPARSE`] positions there are.
    pub(crate) fn chunks(&self, limit: u64) -> usize {
        self.ask(limit, |memory| memory.survey.sparse.len(), |file| Ok(file.layout.sparse.len() / 4))
    }

    /// Where to begin to walk for the `chunk`-th run of [`SPARSE`] positions of the segment; `None` behind the last.
    pub(crate) fn chunk(&self, chunk: usize, limit: u64) -> Option<u64> {
        let unit = self.ask(limit, |memory| memory.survey.sparse.get(chunk).copied(), |file| file.sparse(chunk));
        unit.map(Unit::offset).filter(|offset| *offset < limit)
    }

    /// The damaged stretch that begins at an offset, where the index in memory met one: the position that was to come
    /// there, and where the stretch ends.
    pub(crate) fn damage(&self, offset: u64) -> Option<(Position, u64)> {
        if !self.damaged.load(Ordering::Relaxed) {
            return None;
        }
        let State::Memory(memory) = &*guard(&self.state) else { return None };
        let at = memory.survey.damaged.binary_search_by_key(&Unit::of(offset), |lost| lost.unit).ok()?;
        Some((memory.survey.damaged[at].position, memory.survey.damaged[at].end))
    }

    /// Where the first event behind an offset is that `is_it` takes, as the index file says. `None` without a sound file.
    pub(crate) fn frame_behind(&self, offset: u64, is_it: impl Fn(u64) -> bool) -> Option<u64> {
        let known = || self.file().and_then(|file| file.frames().ok()).unwrap_or_default().into();
        let frames = guard(&self.frames).get_or_insert_with(known).clone();
        let behind = &frames[frames.partition_point(|unit| unit.offset() <= offset)..];
        behind.iter().map(|unit| unit.offset()).find(|at| is_it(*at))
    }

    /// The bytes of the index file of a sealed segment. `None` when it has one already, when the segment is damaged, and
    /// when the file would be too large.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        self.encode_with(&mut || ())
    }

    fn encode_with(&self, pause: &mut dyn FnMut()) -> Option<Vec<u8>> {
        if self.is_file() { None } else { file::encode(&self.segment, pause) }
    }

    /// Writes the index file of a sealed segment, beside it, and serves from it from now on. `pause` is called every few
    /// hundred microseconds.
    pub(crate) fn write_file(&self, directory: &dyn Directory, pause: &mut dyn FnMut()) -> Result<()> {
        let Some(bytes) = self.encode_with(pause) else { return Ok(()) };
        let name = header::index_name(self.segment.first());
        let temporary = format!("{name}.tmp");
        directory.remove(&temporary)?;
        let file = directory.create(&temporary)?;
        let allocated = file.allocate(bytes.len() as u64, Prepared::Allocated);
        let mut pieces = (0..).step_by(WRITTEN_AT_ONCE).zip(bytes.chunks(WRITTEN_AT_ONCE));
        let written = allocated.and_then(|()| {
            pieces.try_for_each(|(offset, piece)| {
                pause();
                file.write_at(piece, offset)
            })
        });
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
        if let Some(Ok(answer)) = self.file().map(|found| file(&found)) {
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
                if !kept.survey.damaged.is_empty() {
                    self.damaged.store(true, Ordering::Relaxed);
                }
                memory(kept)
            }
            State::File(_) => unreachable!("it was replaced by memory just now"),
        }
    }
}
