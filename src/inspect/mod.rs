//! Looking at a store's directory without opening the store: figures, and a check of every byte. Works beside a live
//! writer, takes no lock, and changes nothing.

mod surroundings;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

pub use surroundings::{FileSystem, Surroundings, Writer, surroundings};
pub use verify::{Depth, LostForGood, Progress, Verdict, verify, verify_to};

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Damage, Error, Result};
use crate::event::query::Query;
use crate::format::VERSION;
use crate::format::frame::Frame;
use crate::id::{Position, StoreId, Timestamp};
use crate::log::Log;
use crate::log::reader::Reader;
use crate::log::recover::reader::open_reader;
use crate::log::retain::{self, Plan, Retention};
use crate::log::terms::Filter;
use crate::segment::disk::RealDisk;
use crate::sync::guard;

/// What a store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The store's id.
    pub store: StoreId,
    /// Events of users; those of the store's own streams are not counted.
    pub events: u64,
    /// Streams of users whose first event is there. Where events are [gone](Summary::gone) others may have events left, too:
    /// [`streams`] finds all.
    pub streams: u64,
    /// Positions that hold no event any more: let go of, removed and taken out of the files, or written down as lost by a repair.
    /// What is damaged and was not repaired is not counted: [`verify`](verify()) tells of that.
    pub gone: u64,
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

/// Counts what a store holds. Reads the newest segment and the heads of the index files; a sealed segment without an
/// index file is read whole.
///
/// # Errors
/// As [`Store::open_read_only`](crate::Store::open_read_only).
pub fn summary(path: impl AsRef<Path>) -> Result<Summary> {
    summary_of(&open(path.as_ref())?)
}

fn summary_of(log: &Arc<Log>) -> Result<Summary> {
    let (mut events, mut streams, mut gone) = (0, 0, 0);
    let mut firsts = Vec::new();
    // Beside a live writer old segments may go meanwhile, the oldest first: where one is gone, the store begins behind it.
    for first in log.parts.firsts().into_iter().rev() {
        let Some(part) = log.parts.still_there(first)? else { break };
        firsts.push(first);
        let found = part.index.summary(part.segment.written());
        events += found.events - found.own_events;
        streams += found.streams;
        gone += found.gone;
    }
    firsts.reverse();
    let oldest = firsts[0];
    gone += oldest.get() - 1;
    // Folders have no bytes of their own, and a file may go while we look.
    let bytes = log.directory.names()?.iter().map(|name| log.directory.size(name)).sum::<Result<u64>>()?;
    let head = log.head();
    let checkpoints = guard(&log.state).checkpoints.iter().map(|(name, next)| (name.clone(), *next)).collect();
    Ok(Summary {
        store: log.store,
        events,
        streams,
        gone,
        segments: firsts.len() as u64,
        index_files: log.parts.tiers.asked(&firsts[..firsts.len() - 1]) as u64,
        bytes,
        first_position: if head == Position::START { head } else { oldest },
        last_position: head,
        durable_position: surroundings::durable(log, surroundings::left(log).as_ref())?,
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
/// for every stream. Events that a live writer lets go of meanwhile count as far as they were read before.
///
/// # Errors
/// As [`summary`].
pub fn streams(path: impl AsRef<Path>) -> Result<Survey<StreamSummary>> {
    let mut found: HashMap<String, (u64, Position)> = HashMap::new();
    let damage = each_event(&open(path.as_ref())?, |frame| {
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
/// behind damage. Events that a live writer lets go of meanwhile count as far as they were read before.
///
/// # Errors
/// As [`summary`].
pub fn types(path: impl AsRef<Path>) -> Result<Survey<TypeSummary>> {
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let damage = each_event(&open(path.as_ref())?, |frame| match found.get_mut(frame.type_name()) {
        Some(events) => *events += 1,
        None => {
            found.insert(frame.type_name().to_owned(), 1);
        }
    })?;
    let found = found.into_iter().map(|(name, events)| TypeSummary { name, events }).collect();
    Ok(Survey { found, damage })
}

fn open(path: &Path) -> Result<Arc<Log>> {
    Ok(open_reader(&RealDisk, path)?.0)
}

/// Calls `each` for every event of users that is whole, and gives what is not.
fn each_event(log: &Arc<Log>, mut each: impl FnMut(Frame<'_>)) -> Result<Vec<Damage>> {
    let head = log.head();
    let all = || Reader::new(log.clone(), Filter::Query(Query::new()), head);
    let mut reader = all();
    let mut damage = Vec::new();
    while let Some(item) = reader.next_borrowed() {
        match item {
            Ok(event) => each(event.frame()),
            Err(Error::Damaged(found)) => damage.push(found),
            // What was to come was let go of. That is further on each time, and the head is the end.
            Err(Error::Expired { oldest, .. }) => reader = all().from(oldest),
            Err(error) => return Err(error),
        }
    }
    Ok(damage)
}
