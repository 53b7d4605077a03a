//! Looking at a store's directory without opening the store: figures, and a check of every byte. Works beside a live
//! writer, takes no lock, and changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::event::query::Query;
use crate::format::frame::{Found, Frame};
use crate::format::{PAGE, VERSION, header};
use crate::id::{Position, Revision, StoreId, Timestamp};
use crate::log::index::Index;
use crate::log::parts::Part;
use crate::log::reader::Reader;
use crate::log::retain::{self, Plan, Retention};
use crate::log::scan::{AtDamage, Tail, scan};
use crate::log::terms::Filter;
use crate::log::{Log, recover};
use crate::segment::after;
use crate::segment::disk::RealDisk;
use crate::segment::map::Access;
use crate::sync::guard;

/// How many frames are checked between two reports of progress.
const REPORT_EVERY: u64 = 1 << 16;

/// What a store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The store's id.
    pub store: StoreId,
    /// Events of users; those of the store's own streams are not counted.
    pub events: u64,
    /// Streams of users that have events; of a store that let go of some, those whose first event is kept.
    pub streams: u64,
    /// Segment files.
    pub segments: u64,
    /// Files that a look-up for what is nowhere asks, besides the newest segment's index: tiers, and the index files of
    /// segments that no tier covers yet.
    pub index_files: u64,
    /// Bytes of all files of the store.
    pub bytes: u64,
    /// The position of the oldest event, 0 in an empty store.
    pub first_position: Position,
    /// The position of the last event that readers see, 0 in an empty store.
    pub last_position: Position,
    /// The last position that is known to be on stable storage. Under a live writer, as far as it has said.
    pub durable_position: Position,
    /// The version of the format.
    pub format_version: u32,
    /// The checkpoints of its consumers: name and the next position to read.
    pub checkpoints: Vec<(String, Position)>,
}

/// One stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamSummary {
    /// Its name.
    pub name: String,
    /// How many events it has.
    pub events: u64,
    /// The position of its last event.
    pub last_position: Position,
}

/// One event type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypeSummary {
    /// Its name.
    pub name: String,
    /// How many events it has.
    pub events: u64,
}

/// What is whole, and what was in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Survey<T> {
    /// What the events that are whole say.
    pub found: Vec<T>,
    /// The stretches whose events are not counted. When there are any, the counts are lower bounds.
    pub damage: Vec<Damage>,
}

/// What checking every byte found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// Nothing is damaged.
    pub ok: bool,
    /// Events that are whole, those of the store's own streams included.
    pub events: u64,
    /// Bytes behind the last whole commit that a crash left there; the next open puts them into `quarantine/`.
    pub torn_bytes: u64,
    /// What is not whole.
    pub damage: Vec<Damage>,
}

/// How far a check has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes checked.
    pub done: u64,
    /// Bytes to check in all.
    pub total: u64,
}

/// Counts what a store holds. Reads the newest segment and the heads of the index files; a sealed segment without an
/// index file is read whole.
///
/// # Errors
/// As [`Store::open_read_only`](crate::Store::open_read_only).
pub fn summary(path: impl AsRef<Path>) -> Result<Summary> {
    let log = open(path.as_ref())?;
    let (mut events, mut streams) = (0, 0);
    let firsts = log.parts.firsts();
    for first in &firsts {
        let part = log.parts.of(*first)?;
        let found = part.index.summary(part.segment.written());
        events += found.events - found.own_events;
        streams += found.streams;
    }
    let mut bytes = 0;
    for name in log.directory.names()? {
        // Folders have no bytes of their own, and a file may go while we look.
        bytes += log.directory.open(&name, Access::Read).and_then(|file| file.len()).unwrap_or(0);
    }
    let head = log.head();
    let checkpoints = guard(&log.state).checkpoints.iter().map(|(name, next)| (name.clone(), *next)).collect();
    Ok(Summary {
        store: log.store,
        events,
        streams,
        segments: firsts.len() as u64,
        index_files: log.parts.tiers.asked(&firsts[..firsts.len() - 1]) as u64,
        bytes,
        first_position: if head == Position::START { head } else { log.oldest() },
        last_position: head,
        durable_position: log.durable().min(head),
        format_version: VERSION,
        checkpoints,
    })
}

/// What a retention would let go of at a time, and who keeps back what: [`Store::plan_retention`](crate::Store::plan_retention)
/// without opening the store.
///
/// # Errors
/// As [`summary`].
pub fn plan_retention(path: impl AsRef<Path>, retention: &Retention, now: Timestamp) -> Result<Plan> {
    retain::plan(&open(path.as_ref())?, retention, now)
}

/// The streams of a store, by name, the store's own left out. Reads every event, goes on behind damage, and costs memory
/// for every stream.
///
/// # Errors
/// As [`summary`].
pub fn streams(path: impl AsRef<Path>) -> Result<Survey<StreamSummary>> {
    let mut found: HashMap<String, (u64, Position)> = HashMap::new();
    let damage = each_event(path.as_ref(), |frame| {
        let known = match found.get_mut(frame.stream()) {
            Some(known) => known,
            None => found.entry(frame.stream().to_owned()).or_default(),
        };
        *known = (known.0 + 1, frame.position());
    })?;
    let summary = |(name, (events, last_position))| StreamSummary { name, events, last_position };
    let mut streams: Vec<_> = found.into_iter().map(summary).collect();
    streams.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(Survey { found: streams, damage })
}

/// The event types of a store, by name, those in the store's own streams left out. Reads every event, and goes on
/// behind damage.
///
/// # Errors
/// As [`summary`].
pub fn types(path: impl AsRef<Path>) -> Result<Survey<TypeSummary>> {
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let damage = each_event(path.as_ref(), |frame| match found.get_mut(frame.type_name()) {
        Some(events) => *events += 1,
        None => {
            found.insert(frame.type_name().to_owned(), 1);
        }
    })?;
    let found = found.into_iter().map(|(name, events)| TypeSummary { name, events }).collect();
    Ok(Survey { found, damage })
}

/// Checks every byte of a store: checksums, order of positions, revisions and times, whole commits, how the segments
/// follow each other, the index files against the events, and the tiers against the index files. Damage is told, not repaired.
///
/// # Errors
/// When there is no store to check, or a segment cannot be opened at all.
pub fn verify(path: impl AsRef<Path>, mut progress: impl FnMut(Progress)) -> Result<Verdict> {
    let log = open(path.as_ref())?;
    let firsts = log.parts.firsts();
    let mut check = Check::default();
    let mut total = 0;
    for first in &firsts {
        total += log.parts.of(*first)?.segment.written();
    }
    for first in &firsts {
        let part = log.parts.of(*first)?;
        check.segment(&log, &part, |done| progress(Progress { done, total }))?;
        check.follows(&log, &part)?;
        check.index(&log, &part)?;
    }
    check.tiers(&log)?;
    check.tail(&log)?;
    progress(Progress { done: total, total });
    check.verdict.ok = check.verdict.damage.is_empty();
    Ok(check.verdict)
}

#[derive(Default)]
struct Check {
    verdict: Verdict,
    done: u64,
    time: Timestamp,
    revisions: HashMap<String, Revision>,
    /// Revisions behind damage cannot be known.
    lost: bool,
    last_crc: u32,
}

impl Check {
    fn segment(&mut self, log: &Log, part: &Part, mut progress: impl FnMut(u64)) -> Result<()> {
        let (segment, limit) = (&part.segment, part.segment.written());
        let (mut offset, mut next, mut frames) = (PAGE as u64, segment.first(), 0);
        let mut open_commit = false;
        self.last_crc = 0;
        while offset < limit {
            let what = match segment.find(offset, limit) {
                Found::Frame(frame) if frame.position() == next => {
                    if let Some(what) = self.event(log, frame)? {
                        let end = offset + frame.stride() as u64;
                        self.verdict.damage.push(segment.damage(offset, end, next, what));
                    }
                    open_commit = frame.has_more();
                    self.last_crc = frame.crc();
                    next = after(frame);
                    offset += frame.stride() as u64;
                    frames += 1;
                    if frames % REPORT_EVERY == 0 {
                        progress(self.done + offset);
                    }
                    continue;
                }
                Found::Frame(_) => "positions do not follow each other",
                Found::Blank => "a blank where frames were",
                Found::Bad(what) => what,
            };
            let end = part.behind_damage(offset, limit, next);
            self.verdict.damage.push(segment.damage(offset, end, next, what));
            self.lost = true;
            if let Found::Frame(frame) = segment.find(end, limit) {
                next = frame.position();
            }
            offset = end;
        }
        if open_commit && !self.lost {
            self.verdict.damage.push(segment.damage(limit, limit, next, "its last commit is not whole"));
        }
        self.done += limit;
        Ok(())
    }

    /// What is wrong with a sound frame in its place.
    fn event(&mut self, log: &Log, frame: Frame<'_>) -> Result<Option<&'static str>> {
        if frame.is_control() {
            return Ok(None);
        }
        self.verdict.events += 1;
        let late = frame.time() < self.time;
        self.time = self.time.max(frame.time());
        let known = match self.revisions.get_mut(frame.stream()) {
            Some(known) => known,
            // It goes on where it stood when its older events were let go of.
            None => self.revisions.entry(frame.stream().to_owned()).or_insert(log.stood(frame.stream())?),
        };
        let expected = std::mem::replace(known, frame.revision()).next();
        let in_order = if self.lost { frame.revision() >= expected } else { frame.revision() == expected };
        Ok(match (in_order, late) {
            (false, _) => Some("its revision does not follow the one before it in its stream"),
            (_, true) => Some("its time is earlier than that of the event before it"),
            _ => None,
        })
    }

    /// The segment behind this one has to know where it ends.
    fn follows(&mut self, log: &Log, part: &Part) -> Result<()> {
        let Some(following) = log.parts.after(part)?.map(|first| log.parts.of(first)).transpose()? else {
            return Ok(());
        };
        let fits = following.segment.header.previous.is_some_and(|previous| {
            previous.first == part.segment.first()
                && previous.end == part.segment.written()
                && (self.lost || previous.last_crc == self.last_crc)
        });
        if !fits {
            let what = "it is not what the segment behind it follows";
            let end = part.segment.written();
            self.verdict.damage.push(part.segment.damage(end, end, following.segment.first(), what));
        }
        Ok(())
    }

    /// An index file has to say what the events say. A missing one is no damage: it is made again.
    fn index(&mut self, log: &Log, part: &Part) -> Result<()> {
        let name = header::index_name(part.segment.first());
        let Ok(file) = log.directory.open(&name, Access::Read) else { return Ok(()) };
        if !part.segment.is_sealed() || self.lost {
            return Ok(());
        }
        let Some(made) = Index::in_memory(part.segment.clone()).encode() else { return Ok(()) };
        let read = file.len()?;
        // Only a file of the right length is worth room for what it holds.
        let mut stored = vec![0; if read == made.len() as u64 { made.len() } else { 0 }];
        file.read_at(&mut stored, 0)?;
        if made != stored {
            let what = "it does not say what the events say; delete it, and it is made again";
            self.verdict.damage.push(Damage {
                segment: name,
                offset: 0,
                length: read,
                position: part.segment.first(),
                what: what.to_owned(),
            });
        }
        Ok(())
    }

    /// A tier may name segments that do not bear a term. It must not leave out one that does.
    fn tiers(&mut self, log: &Log) -> Result<()> {
        for (tier, covered) in log.parts.tiers.all() {
            // It may cover what was let go of.
            for (number, first) in covered.iter().enumerate().filter(|(_, first)| **first >= log.oldest()) {
                let Some(file) = log.parts.of(*first)?.index.file() else { continue };
                if !tier.names_all(number, &file) {
                    let what = "it does not say what the indexes of its segments say; delete it, and it is made again";
                    let (segment, position, what) = (tier.name(), *first, what.to_owned());
                    self.verdict.damage.push(Damage { segment, offset: 0, length: tier.len(), position, what });
                    break;
                }
            }
        }
        Ok(())
    }

    /// Behind the last whole commit of a store that nobody writes.
    fn tail(&mut self, log: &Arc<Log>) -> Result<()> {
        if log.follows_a_writer() {
            return Ok(());
        }
        let part = log.parts.newest();
        let segment = &part.segment;
        segment.allow(segment.capacity());
        let found = scan(segment, segment.capacity(), AtDamage::PassOver)?;
        let lock = crate::log::lock::read(&*log.directory).filter(|left| left.holder.store == log.store);
        let durable = lock.map_or(Position::START, |left| left.progress.durable).max(found.durable);
        match found.tail(segment, segment.capacity(), durable.max(segment.header.durable)) {
            Tail::Blank => {}
            Tail::Torn { end } => self.verdict.torn_bytes = end - found.end,
            Tail::Damaged(damage) if self.verdict.damage.iter().any(|known| known.offset == damage.offset) => {}
            Tail::Damaged(damage) => self.verdict.damage.push(damage),
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<Arc<Log>> {
    Ok(recover::open_reader(&RealDisk, path)?.0)
}

/// Calls `each` for every event of users that is whole, and gives what is not.
fn each_event(path: &Path, mut each: impl FnMut(Frame<'_>)) -> Result<Vec<Damage>> {
    let log = open(path)?;
    let head = log.head();
    let mut reader = Reader::new(log, Filter::Query(Query::new()), head);
    let mut damage = Vec::new();
    while let Some(item) = reader.next_borrowed() {
        match item {
            Ok(event) => each(event.frame()),
            Err(Error::Damaged(found)) => damage.push(found),
            Err(error) => return Err(error),
        }
    }
    Ok(damage)
}
