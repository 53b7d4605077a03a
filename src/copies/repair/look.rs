//! What a damaged store consists of: which segments there are, which are missing, and what stands in them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::copies::repair::Noted;
use crate::copies::repair::consumers::Consumers;
use crate::copies::repair::header::open_without;
use crate::copies::repair::newest::Newest;
use crate::copies::repair::read::{Read, Until, read};
use crate::error::{Error, Result};
use crate::format::backup::{self, Mark};
use crate::format::control::Kept;
use crate::format::frame;
use crate::format::header::{self, Header};
use crate::format::lock::NAME as LOCK;
use crate::format::{PAGE, limits};
use crate::id::{Position, StoreId, Timestamp};
use crate::log::index::Index;
use crate::log::lock::{self, Left, Progress};
use crate::log::mark::{self, Misfit};
use crate::log::parts::Part;
use crate::log::recover::segments;
use crate::log::scan::{AtDamage, data_end, scan};
use crate::segment::Segment;
use crate::segment::disk::{Directory, Disk};
use crate::segment::map::Access;
use crate::sync::primitive::Arc;

/// Nothing lies so many positions behind what is whole: not even three terabytes of the smallest events. Each gap in a repaired
/// store stands for half a billion, so what is written for lost ones has an end.
const FARTHEST: u64 = 1 << 36;

/// A store as it was found.
pub(super) struct Found {
    pub(super) directory: Arc<dyn Directory>,
    pub(super) names: Vec<String>,
    pub(super) store: StoreId,
    pub(super) pieces: Vec<Piece>,
    /// What consumers remember, settled.
    pub(super) consumers: Consumers,
    pub(super) kept: Option<Kept>,
    pub(super) unsure: Vec<(String, Position)>,
    pub(super) noted: Vec<Noted>,
    pub(super) torn_bytes: u64,
    /// The position that comes next.
    pub(super) next: Position,
    pub(super) last_time: Timestamp,
}

/// One segment of the log.
pub(super) struct Piece {
    pub(super) first: Position,
    pub(super) next: Position,
    pub(super) found: Piecewise,
}

pub(super) enum Piecewise {
    /// It is there. Its header is `None` when that is not what was written.
    There { part: Part, limit: u64, header: Option<Box<Header>>, read: Read },
    /// Nothing of it can be read.
    Missing { why: String, head: Vec<crate::format::control::Control>, time: Timestamp },
}

/// A segment file that was opened.
pub(super) struct Opened {
    pub(super) segment: Segment,
    header: Option<Header>,
}

pub(super) fn look(disk: &dyn Disk, path: &Path) -> Result<Found> {
    let directory = disk.directory(path, false)?;
    let left = lock::read(&*directory);
    if !directory.lock()? {
        return Err(Error::Locked { path: path.to_owned(), holder: left.map(|left| left.holder.pid) });
    }
    let names = directory.names()?;
    let mut looking = Looking { directory: &*directory, store: StoreId([0; 16]), noted: Vec::new() };
    let (headers, store) = looking.headers(&segments(&names), left)?;
    looking.store = store;
    let marked = looking.marked(&headers)?;
    let left = left.filter(|left| left.holder.store == store).or(marked.map(|mark| mark.as_left()));
    let left = left.filter(|left| looking.can_be(&headers, left));
    let (newest, lost_behind) = looking.newest(&headers, left, marked)?;
    let kept = looking.kept(&newest, &headers, &names);
    let firsts = looking.firsts(&newest, &headers, kept.as_ref());

    let mut consumers = Consumers::default();
    let (mut pieces, mut time) = (Vec::new(), Timestamp::default());
    let mut next = firsts[0];
    for (at, first) in firsts.iter().enumerate() {
        let following = firsts.get(at + 1).copied();
        if *first < next && following.is_some() {
            looking.note(*first, "its positions stand in the segment before it; it is left out");
            continue;
        }
        let piece = looking.piece(*first, following, &headers, &newest, &mut time, &mut consumers)?;
        next = piece.next;
        pieces.push(piece);
    }
    // What was there for sure, and of which no file is left.
    let known = left.filter(|left| !newest.is_closed && left.progress.segment > newest.first);
    let known = known.filter(|left| left.progress.durable >= left.progress.segment);
    let known = known.map_or(Position::START, |left| left.progress.durable.max(left.progress.head)).max(lost_behind);
    // Of a backup that is to end with a segment that has no event the records in it are lost.
    let ends_later = marked.is_some_and(|mark| mark.segment > newest.first && mark.segment >= next);
    if known >= next || ends_later {
        consumers.doubt();
        let why = "the segment is missing, or nothing of it can be read".to_owned();
        let found = Piecewise::Missing { why, head: consumers.records(), time };
        let following = known.next().max(next);
        pieces.push(Piece { first: next, next: following, found });
        next = following;
    }
    let kept = kept.or_else(|| consumers.kept().cloned());
    let unsure = consumers.settle(kept.clone(), next);
    let (noted, torn_bytes) = (looking.noted, newest.torn_bytes);
    Ok(Found { directory, names, store, pieces, consumers, kept, unsure, noted, torn_bytes, next, last_time: time })
}

/// The headers of segment files, by the positions in their names; `None` for those that are not what was written.
pub(super) type Headers = BTreeMap<Position, Option<Header>>;

pub(super) struct Looking<'a> {
    pub(super) directory: &'a dyn Directory,
    store: StoreId,
    noted: Vec<Noted>,
}

impl Looking<'_> {
    pub(super) fn note(&mut self, first: Position, what: impl Into<String>) {
        self.noted.push(Noted { file: header::file_name(first), what: what.into() });
    }

    /// The headers, and whose store this is: what the lock file says, or most of the headers do.
    fn headers(&mut self, firsts: &[Position], left: Option<Left>) -> Result<(Headers, StoreId)> {
        let mut headers = Headers::new();
        for first in firsts {
            let name = header::file_name(*first);
            let file = match self.directory.open(&name, Access::Read) {
                Err(Error::NotAStore { why, .. }) => {
                    self.note(*first, why);
                    continue;
                }
                file => file?,
            };
            let found = match Segment::read_header(self.directory, &name, &*file) {
                Ok(found) => found.ok(),
                Err(Error::NotAStore { .. }) => None,
                Err(error) => return Err(error),
            };
            headers.insert(*first, found);
        }
        let mut stores: BTreeMap<StoreId, usize> = BTreeMap::new();
        headers.values().flatten().for_each(|header| *stores.entry(header.store).or_default() += 1);
        let most = stores.into_iter().max_by_key(|(_, files)| *files).map(|(store, _)| store);
        let Some(store) = left.map(|left| left.holder.store).or(most) else {
            return Err(Error::not_a_store(self.directory.path(), "nothing in it says which store it is"));
        };
        let highest = headers.iter().rfind(|(_, found)| found.is_some()).map_or(u64::MAX, |(first, _)| first.get());
        headers.retain(|first, found| {
            let why = match found {
                None if first.get() > highest.saturating_add(FARTHEST)
                    || first.get() > u64::MAX / 2
                    || *first == Position::START =>
                {
                    "its name cannot be right, and its header is not what was written; it is left out"
                }
                Some(header) if header.store != store => "it belongs to another store, and is left out",
                Some(header) if header.first != *first => {
                    "its header bears another position than its name; it is left out"
                }
                _ => return true,
            };
            self.note(*first, why);
            false
        });
        self.leave_out_copies(&mut headers, store)?;
        Ok((headers, store))
    }

    /// Leaves out files without a sound header that hold what another one does: its frames bear the same nonce.
    fn leave_out_copies(&mut self, headers: &mut Headers, store: StoreId) -> Result<()> {
        let sound = headers.iter().filter_map(|(first, header)| Some((header.as_ref()?.nonce.0, *first)));
        let mut nonces: BTreeMap<u32, Position> = sound.collect();
        let damaged: Vec<_> = headers.iter().filter(|(_, header)| header.is_none()).map(|(first, _)| *first).collect();
        for first in damaged {
            let Some(segment) = open_without(self.directory, store, first)? else { continue };
            let known = *nonces.entry(segment.header.nonce.0).or_insert(first);
            if known != first {
                self.note(first, format!("it holds what {} does; it is left out", header::file_name(known)));
                headers.remove(&first);
            }
        }
        Ok(())
    }

    /// Whether the log can go as far as the lock file or the mark says. The words that tell are under no checksum.
    fn can_be(&mut self, headers: &Headers, left: &Left) -> bool {
        let Progress { segment, head, durable, .. } = left.progress;
        let newest = headers.keys().next_back().map_or(0, |first| first.get());
        let most = segment.get().saturating_add(limits::SEGMENT / frame::HEADER as u64);
        let farthest = head.max(durable);
        let can_be = segment.get() <= newest.saturating_add(FARTHEST) && farthest.get() < most;
        if !can_be {
            let what =
                format!("it says that the log goes up to position {farthest}, which cannot be; that is left out");
            self.noted.push(Noted { file: LOCK.to_owned(), what });
        }
        can_be
    }

    /// The mark of a backup, unless it is damaged, or is of other files than these.
    fn marked(&mut self, headers: &Headers) -> Result<Option<Mark>> {
        let Some(marked) = mark::read(self.directory)? else { return Ok(None) };
        for first in headers.keys().rev() {
            let Some(Opened { segment, .. }) = self.open(*first, headers)? else { continue };
            let found = scan(&segment, segment.capacity(), AtDamage::PassOver)?;
            if let Err(Misfit::Mark { why, .. }) = marked.held_against(&segment, found.end, found.next) {
                let what = format!("{why}; it is left out, and nothing tells whether the backup has lost its end");
                self.noted.push(Noted { file: backup::NAME.to_owned(), what });
                return Ok(None);
            }
            return Ok(marked.sound());
        }
        Ok(None)
    }

    /// A segment file of which something can be read.
    pub(super) fn open(&self, first: Position, headers: &Headers) -> Result<Option<Opened>> {
        let segment = match headers.get(&first) {
            None => return Ok(None),
            Some(Some(_)) => Some(Segment::open(self.directory, first, Access::Read, None)?),
            Some(None) => open_without(self.directory, self.store, first)?,
        };
        Ok(segment.map(|segment| {
            segment.allow(segment.capacity());
            Opened { segment, header: headers.get(&first).cloned().flatten() }
        }))
    }

    /// From where on the log is kept. Where the record of it is lost, heads files tell: they speak of all that is gone.
    fn kept(&self, newest: &Newest, headers: &Headers, names: &[String]) -> Option<Kept> {
        let said = newest.named.as_ref().and_then(|(_, kept)| kept.clone());
        let lowest = *headers.keys().next()?;
        if said.as_ref().is_some_and(|kept| kept.oldest >= lowest) {
            return said;
        }
        let files: Vec<_> = names.iter().filter_map(|name| header::parse_heads_name(name)).collect();
        let (mut end, mut heads) = (lowest, Vec::new());
        while let Some((first, _)) = files.iter().filter(|file| file.1 == end).min() {
            heads.insert(0, *first);
            end = *first;
        }
        let all = end == Position::new(1) && !heads.is_empty();
        if all { Some(Kept { oldest: lowest, heads }) } else { said }
    }

    /// The first positions of the segments that make up the log, rising.
    fn firsts(&mut self, newest: &Newest, headers: &Headers, kept: Option<&Kept>) -> Vec<Position> {
        let oldest = kept.map_or(Position::new(1), |kept| kept.oldest);
        let there = headers.range(..newest.first).filter(|(first, _)| **first >= oldest);
        let mut firsts: Vec<Position> = match &newest.named {
            Some((named, _)) => named.iter().copied().filter(|first| *first >= oldest).collect(),
            None => {
                let named =
                    there.clone().filter_map(|(_, header)| header.as_ref()?.previous).map(|before| before.first);
                let named = named.filter(|first| *first >= oldest);
                there.clone().map(|(first, _)| *first).chain(named).collect()
            }
        };
        let extra: Vec<_> = there.map(|(first, _)| *first).filter(|first| !firsts.contains(first)).collect();
        extra.into_iter().for_each(|first| self.note(first, "the newest segment does not know it; it is left out"));
        firsts.push(newest.first);
        // What comes before the first that is known is missing as a whole.
        firsts.push(oldest);
        firsts.sort_unstable();
        firsts.dedup();
        firsts
    }

    fn piece(
        &mut self,
        first: Position,
        following: Option<Position>,
        headers: &Headers,
        newest: &Newest,
        time: &mut Timestamp,
        consumers: &mut Consumers,
    ) -> Result<Piece> {
        let opened = self.open(first, headers)?;
        let Some(Opened { segment, header }) = opened else {
            consumers.doubt();
            let is_there = headers.contains_key(&first);
            let why = if is_there { "nothing of it can be read" } else { "the segment is missing" }.to_owned();
            let found = Piecewise::Missing { why, head: consumers.records(), time: *time };
            return Ok(Piece { first, next: following.unwrap_or(first.next()), found });
        };
        let (limit, until) = match following {
            None => (newest.limit, Until::Newest { known: newest.known, end: newest.marked_end }),
            Some(following) => {
                let successor = headers.get(&following).and_then(Option::as_ref);
                let previous = successor.and_then(|header| header.previous).filter(|before| before.first == first);
                // Without its header nobody knows whether it was written again, and ends elsewhere.
                let end = match previous.filter(|_| header.is_some()) {
                    Some(before) => segment.header.own_end(before.end),
                    None => data_end(&segment, PAGE as u64, segment.capacity()),
                };
                (end, Until::Sealed { last: following.previous() })
            }
        };
        segment.allow(limit);
        segment.set_written(limit);
        match (until, newest.highest) {
            (Until::Sealed { last }, _) => segment.seal(last),
            (Until::Newest { .. }, Some(highest)) => segment.set_last(highest),
            (Until::Newest { .. }, None) => {}
        }
        let segment = Arc::new(segment);
        let index = match until {
            Until::Sealed { .. } => Index::of_sealed(segment.clone(), self.directory),
            Until::Newest { .. } => Index::in_memory(segment.clone()),
        };
        let part = Part { segment, index };
        *time = (*time).max(part.segment.header.created);
        let read = read(&part, limit, until, *time, consumers)?;
        *time = read.last_time;
        if header.is_none() {
            self.note(first, "its header is damaged; its frames tell what it said");
        }
        Ok(Piece {
            first,
            next: read.next,
            found: Piecewise::There { part, limit, header: header.map(Box::new), read },
        })
    }
}
