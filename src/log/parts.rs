//! The segments of a log in their order, opened when somebody reads there.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::frame::{ALIGN, Found};
use crate::format::header::{self, Header};
use crate::id::{Position, StoreId};
use crate::log::checked::Unsound;
use crate::log::index::Index;
use crate::log::scan::{AtDamage, data_end, scan};
use crate::log::shown::Shown;
use crate::log::tiers::file::Tier;
use crate::log::tiers::search::Search;
use crate::log::tiers::{Covering, FAN_IN, Tiers};
use crate::segment::disk::Directory;
use crate::segment::map::Access;
use crate::segment::{Segment, bad_header};
use crate::sync::guard;
use crate::sync::primitive::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, Weak};

/// How many sealed segments stay mapped when nobody reads them. Each takes two maps and about a kilobyte; opening one again
/// takes ten microseconds.
const KEPT_OPEN: usize = 4096;

/// A segment and its index.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) segment: Arc<Segment>,
    pub(crate) index: Index,
}

/// All parts of a log.
#[derive(Debug)]
pub(crate) struct Parts {
    directory: Arc<dyn Directory>,
    pub(super) store: StoreId,
    /// Whether index files and tiers may be written and removed.
    access: Access,
    slots: RwLock<Vec<Arc<Slot>>>,
    newest: RwLock<Arc<Part>>,
    recent: Mutex<VecDeque<Arc<Part>>>,
    /// Held by whoever replaces or removes the file of a sealed segment.
    files: Mutex<()>,
    pub(crate) tiers: Tiers,
    /// On the reading side: what tells whether a file is still one of this log.
    shown: Option<Arc<Shown>>,
}

#[derive(Debug)]
struct Slot {
    first: Position,
    part: Mutex<Weak<Part>>,
}

impl Part {
    pub(crate) fn new(segment: Arc<Segment>) -> Arc<Self> {
        Arc::new(Self { index: Index::in_memory(segment.clone()), segment })
    }

    /// Where sound frames go on behind the bad one at `from`, at which position `expected` was to come; `limit` when none
    /// do. Where the segment's own bytes do not prove it the index file may know.
    pub(crate) fn behind_damage(&self, from: u64, limit: u64, expected: Position) -> u64 {
        let is_sound = |at| matches!(self.segment.find(at, limit), Found::Frame(frame) if frame.position() >= expected);
        let known = || self.index.frame_behind(from, is_sound);
        self.segment.next_sound(from, limit, expected).or_else(known).unwrap_or(limit)
    }
}

impl Parts {
    /// The parts whose segments begin at `sealed`, rising, and the newest.
    pub(crate) fn new(directory: Arc<dyn Directory>, access: Access, sealed: &[Position], newest: Arc<Part>) -> Self {
        let mut slots: Vec<_> = sealed.iter().map(|first| Slot::new(*first, Weak::new())).collect();
        slots.push(Slot::new(newest.segment.first(), Arc::downgrade(&newest)));
        Self {
            directory,
            store: newest.segment.header.store,
            access,
            slots: RwLock::new(slots),
            newest: RwLock::new(newest),
            recent: Mutex::new(VecDeque::new()),
            files: Mutex::new(()),
            tiers: Tiers::default(),
            shown: None,
        }
    }

    /// The same parts beside a writer in another process.
    pub(crate) fn shown_by(self, shown: Arc<Shown>) -> Self {
        Self { shown: Some(shown), ..self }
    }

    pub(crate) fn newest(&self) -> Arc<Part> {
        self.newest.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The first position of the oldest part.
    pub(crate) fn oldest(&self) -> Position {
        self.slots()[0].first
    }

    /// The first positions of all parts, rising.
    pub(crate) fn firsts(&self) -> Vec<Position> {
        self.slots().iter().map(|slot| slot.first).collect()
    }

    /// Adds a new newest part. The one before it stays open for whoever holds it.
    pub(crate) fn push(&self, part: Arc<Part>) {
        let slot = Slot::new(part.segment.first(), Arc::downgrade(&part));
        let segments = {
            let mut slots = self.slots.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            slots.push(slot);
            slots.len()
        };
        self.set_newest(part);
        if self.access == Access::Read && segments.is_multiple_of(FAN_IN) {
            // By now the writer may have merged some. Without, the answers are the same, only slower.
            let _later = self.find_tiers();
        }
    }

    /// Forgets the parts before the one that begins at `oldest`: their files are let go of. Whoever holds one reads on in it.
    pub(crate) fn let_go_before(&self, oldest: Position) {
        {
            let mut slots = self.slots.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            // The newest is never let go of.
            let gone = slots.partition_point(|slot| slot.first < oldest).min(slots.len() - 1);
            slots.drain(..gone);
        }
        guard(&self.recent).retain(|part| part.segment.first() >= oldest);
        for covering in self.tiers.let_go_before(oldest) {
            // When that fails, the next who opens the store does it.
            let _still_there = if self.access == Access::Write { self.directory.remove(&covering) } else { Ok(()) };
        }
    }

    /// On the reading side: whoever comes to a sealed segment from now on opens it by its name.
    pub(crate) fn open_again(&self) {
        let slots: Vec<Arc<Slot>> = self.slots().iter().rev().skip(1).cloned().collect();
        guard(&self.recent).clear();
        slots.iter().for_each(|slot| *guard(&slot.part) = Weak::new());
    }

    /// On the reading side: forgets the parts before the oldest file that stands there. A writer has let go of them.
    pub(crate) fn find_oldest(&self) -> Result<()> {
        if self.access == Access::Read {
            let names = self.directory.names()?;
            if let Some(oldest) = names.iter().filter_map(|name| header::parse_name(name)).min() {
                self.let_go_before(oldest);
            }
        }
        Ok(())
    }

    /// On the reading side: begins anew with these parts, none of which was known.
    pub(crate) fn begin_anew(&self, sealed: &[Position], newest: Arc<Part>) {
        let fresh = Self::new(self.directory.clone(), self.access, sealed, newest.clone());
        let slots = fresh.slots.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        *self.slots.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = slots;
        self.set_newest(newest);
        let _later = self.find_tiers();
    }

    /// Puts another part in the newest one's place, which holds no event: its file was replaced.
    pub(crate) fn replace_newest(&self, part: Arc<Part>) {
        let replaced = self.newest();
        let slot = Slot::new(part.segment.first(), Arc::downgrade(&part));
        if let Some(last) = self.slots.write().unwrap_or_else(|poisoned| poisoned.into_inner()).last_mut() {
            *last = slot;
        }
        self.set_newest(part);
        replaced.segment.seal(replaced.segment.first().previous());
    }

    /// For whoever replaces or removes files of sealed segments, as long as it does.
    pub(crate) fn changes_files(&self) -> MutexGuard<'_, ()> {
        guard(&self.files)
    }

    /// Puts a sealed segment that was written again in the place of what it was, file and all. Whoever reads there goes on
    /// with what it was. `false`: that is not there any more.
    pub(crate) fn replace(&self, temporary: &str, part: &Arc<Part>) -> Result<bool> {
        let first = part.segment.first();
        let _one = self.changes_files();
        let found = {
            let slots = self.slots();
            slots.binary_search_by_key(&first, |slot| slot.first).ok().map(|at| slots[at].clone())
        };
        let Some(slot) = found else { return Ok(false) };
        let mut open = guard(&slot.part);
        self.directory.rename(temporary, &header::file_name(first))?;
        self.directory.sync()?;
        *open = Arc::downgrade(part);
        let mut recent = guard(&self.recent);
        recent.retain(|old| old.segment.first() != first);
        recent.push_back(part.clone());
        Ok(true)
    }

    /// The part that holds a position: the last one that begins at or before it. For a position before the oldest part,
    /// the oldest.
    pub(crate) fn of(&self, position: Position) -> Result<Arc<Part>> {
        let (slot, next) = {
            let slots = self.slots();
            let at = slots.partition_point(|slot| slot.first <= position).max(1) - 1;
            (slots[at].clone(), slots.get(at + 1).map(|slot| slot.first))
        };
        self.open(&slot, next)
    }

    /// The part that begins at `first`, unless a writer has let go of it since.
    pub(crate) fn still_there(&self, first: Position) -> Result<Option<Arc<Part>>> {
        match self.of(first) {
            Ok(part) => Ok((part.segment.first() == first).then_some(part)),
            Err(Error::Expired { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a reader goes on behind `part`: the first position of the part after it, or of the one that took its place
    /// because it held no event. Of a part that was let go of: behind its last event.
    pub(crate) fn after(&self, part: &Part) -> Result<Option<Position>> {
        let first = part.segment.first();
        if first < self.oldest() {
            return Ok(part.segment.last().map(Position::next));
        }
        let in_its_place = match self.of(first) {
            Err(Error::Expired { .. }) => return Ok(part.segment.last().map(Position::next)),
            found => found?,
        };
        if in_its_place.segment.header.origin() != part.segment.header.origin() {
            return Ok(Some(first));
        }
        Ok(self.following(first))
    }

    /// The first position of the part after the one that begins at `first`.
    pub(crate) fn following(&self, first: Position) -> Option<Position> {
        let slots = self.slots();
        slots.get(slots.partition_point(|slot| slot.first <= first)).map(|slot| slot.first)
    }

    /// The earliest part that holds a position or comes behind it, and that may hold what is searched for. There always is
    /// one: of the newest nothing is known.
    pub(crate) fn search_forward(&self, mut from: Position, search: &mut Search) -> Result<Arc<Part>> {
        loop {
            let Some(covering) = self.tier_over(from) else { return self.of(from) };
            let begins = self.begins(from);
            match search.ask(&covering) {
                Ok(None) => return self.of(from),
                Ok(Some(firsts)) => match firsts.get(firsts.partition_point(|first| *first < begins)) {
                    Some(first) => return self.of(*first),
                    None => from = covering.range().end,
                },
                Err(Unsound) => self.forget(&covering.tier),
            }
        }
    }

    /// The latest part that holds a position or comes before it, and that may hold what is searched for.
    pub(crate) fn search_back(&self, mut until: Position, search: &mut Search) -> Result<Option<Arc<Part>>> {
        while until >= self.oldest() && until > Position::START {
            let Some(covering) = self.tier_over(until) else { return self.of(until).map(Some) };
            match search.ask(&covering) {
                Ok(None) => return self.of(until).map(Some),
                Ok(Some(firsts)) => match firsts[..firsts.partition_point(|first| *first <= until)].last() {
                    // A tier may cover what was let go of.
                    Some(first) if *first < self.oldest() => return Ok(None),
                    Some(first) => return self.of(*first).map(Some),
                    None => until = covering.range().start.previous(),
                },
                Err(Unsound) => self.forget(&covering.tier),
            }
        }
        Ok(None)
    }

    /// The tier that covers a position.
    fn tier_over(&self, position: Position) -> Option<Covering> {
        let covering = self.tiers.over(position)?;
        if self.is_of_these(&covering.tier) {
            return Some(covering);
        }
        self.forget(&covering.tier);
        None
    }

    /// Whether a tier is of these segments.
    pub(crate) fn is_of_these(&self, tier: &Tier) -> bool {
        tier.is_of(|last| read_header(&*self.directory, last).ok().map(|header| header.origin()))
    }

    /// Takes in the tier files that there are. The writer removes those that are of no use.
    pub(crate) fn find_tiers(&self) -> Result<()> {
        let needless = self.tiers.find(&*self.directory, self.store, &self.firsts(), &self.directory.names()?);
        if self.access == Access::Write && !needless.is_empty() {
            needless.iter().try_for_each(|name| self.directory.remove(name))?;
            // Where recovery cut segments, others will come under the same names. No power cut may bring back what was
            // said of the old ones.
            self.directory.sync()?;
        }
        Ok(())
    }

    /// Goes without a tier that is not what was written. The writer removes its file, so that it is made again.
    pub(crate) fn forget(&self, tier: &Arc<Tier>) {
        let was_there = self.tiers.remove(tier);
        // Who comes later may find one of the same name that was made again.
        if was_there && self.access == Access::Write {
            // When that fails, the next who opens the store finds out again.
            let _still_there = self.directory.remove(&tier.name());
        }
    }

    /// The first position of the part that holds a position.
    fn begins(&self, position: Position) -> Position {
        let slots = self.slots();
        slots[slots.partition_point(|slot| slot.first <= position).max(1) - 1].first
    }

    fn open(&self, slot: &Slot, next: Option<Position>) -> Result<Arc<Part>> {
        let mut open = guard(&slot.part);
        if let Some(part) = open.upgrade() {
            if self.access == Access::Write && part.index.was_unsound() {
                let _unwritten = part.index.write_file(&*self.directory, &mut || ());
            }
            return Ok(part);
        }
        let Some(next) = next else { return Ok(self.newest()) };
        let opened = self.open_sealed(slot.first, next);
        if let Some(shown) = &self.shown {
            // Recovery may have put another file in its place.
            shown.check_now()?;
        }
        let segment = opened?;
        if segment.is_lost() {
            self.find_oldest()?;
            let oldest = self.oldest();
            if slot.first < oldest {
                return Err(Error::Expired { asked: slot.first, oldest });
            }
        }
        let index = Index::of_sealed(segment.clone(), &*self.directory);
        if self.access == Access::Write && !index.is_file() {
            // Without the file the answers are the same, only slower: a failure need not stop the reader.
            let _unwritten = index.write_file(&*self.directory, &mut || ());
        }
        if let Some(covering) = self.tiers.over(slot.first)
            && !segment.is_lost()
            && covering.tier.nonce_of(slot.first) != Some(segment.header.origin())
        {
            self.forget(&covering.tier);
        }
        let part = Arc::new(Part { segment, index });
        *open = Arc::downgrade(&part);
        let mut recent = guard(&self.recent);
        recent.push_back(part.clone());
        if recent.len() > KEPT_OPEN {
            recent.pop_front();
        }
        Ok(part)
    }

    /// Opens the sealed segment before the one that begins at `next`. One that cannot be opened as what it is to be is
    /// damaged from its beginning to its end, so that reading can go on behind it.
    fn open_sealed(&self, first: Position, next: Position) -> Result<Arc<Segment>> {
        let directory = &*self.directory;
        let successor = unless_lost(read_header(directory, next))?;
        let known_end = match &successor {
            Some(successor) => {
                let fits = successor.previous.filter(|previous| previous.first == first);
                let path = || directory.path().join(header::file_name(next));
                let why = || format!("it does not follow {}", header::file_name(first));
                Some(fits.ok_or_else(|| Error::not_a_store(&path(), why()))?.end)
            }
            None => None,
        };
        let last = next.previous();
        let found = match known_end {
            Some(end) => Segment::open_sealed(directory, first, end, last),
            None => Segment::open(directory, first, Access::Read, None)
                .and_then(|whole| Segment::open_sealed(directory, first, end_without_successor(&whole, last)?, last)),
        };
        match unless_lost(found)? {
            Some(segment) if segment.header.store == self.store => Ok(segment),
            _ => Segment::lost(self.store, first, known_end.unwrap_or_default(), last),
        }
    }

    fn slots(&self) -> RwLockReadGuard<'_, Vec<Arc<Slot>>> {
        self.slots.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set_newest(&self, part: Arc<Part>) {
        *self.newest.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = part;
    }
}

impl Slot {
    fn new(first: Position, part: Weak<Part>) -> Arc<Self> {
        Arc::new(Self { first, part: Mutex::new(part) })
    }
}

/// Where the frames of a sealed segment end whose successor does not say. Its file ends there, too, unless a crash came before
/// that was cut. When they do not go up to `last`, that is a frame later, so that a blank is found there.
fn end_without_successor(segment: &Segment, last: Position) -> Result<u64> {
    segment.allow(segment.capacity());
    let end = data_end(segment, PAGE as u64, segment.capacity());
    let is_short = scan(segment, end, AtDamage::PassOver)?.next <= last;
    Ok(if is_short { end + ALIGN as u64 } else { end })
}

/// `None` for a file that is gone or not what it was: that is damage. Other errors may pass.
fn unless_lost<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotAStore { .. }) => Ok(None),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the header of the segment that begins at `first`.
pub(crate) fn read_header(directory: &dyn Directory, first: Position) -> Result<Header> {
    let name = header::file_name(first);
    let file = directory.open(&name, Access::Read)?;
    Segment::read_header(directory, &name, &*file)?.map_err(|bad| bad_header(directory, &name, bad))
}
