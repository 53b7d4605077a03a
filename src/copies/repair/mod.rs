//! Repairing: what is whole of a damaged store is written into a new one, and what is lost is written down there.

mod consumers;
mod header;
mod look;
mod newest;
mod read;
mod search;
mod write;

use std::path::Path;

use crate::copies::aside::{Aside, Kind, check_is_outside, is_free};
use crate::copies::place::Files;
use crate::copies::repair::look::{Found, Piecewise, look};
use crate::error::{Damage, Result};
use crate::format::header::file_name;
use crate::id::{Position, StoreId};
use crate::inspect::verify::{Depth, Progress, verify_on};
use crate::segment::disk::{Disk, RealDisk};

/// What a repair keeps of a store, and what is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repair {
    /// The store's id, which the repaired one has, too.
    pub store: StoreId,
    /// The oldest position that is kept, or lost: what came before was let go of.
    pub oldest: Position,
    /// The last position that is kept, or lost. New events come behind it.
    pub head: Position,
    /// Events that are whole, those of the store's own streams included.
    pub events: u64,
    /// What is lost, in the order of the log. Everything else from `oldest` to `head` is kept.
    pub lost: Vec<Lost>,
    /// Consumers whose last records may be lost. They go on at an earlier place, and what comes again may have been handled.
    pub put_back: Vec<PutBack>,
    /// A record of a removal may have stood in what is lost. Events that it removed, and that were not taken out of the files yet
    /// ([`Store::purge`](crate::Store::purge)), are there again in the repaired store: remove them again.
    pub may_bring_back: bool,
    /// Files that are not what they should be, and what becomes of each.
    pub files: Vec<Noted>,
    /// Bytes behind the last whole commit that a crash left there. They were never acknowledged as durable, and are not kept.
    pub torn_bytes: u64,
}

/// A stretch of a store that is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The segment file.
    pub segment: String,
    /// Where it begins there.
    pub offset: u64,
    /// Its bytes; 0 when they are not there at all.
    pub length: u64,
    /// The first position that is lost.
    pub first: Position,
    /// How many positions are; 0 when only records about consumers stood here.
    pub positions: u64,
    /// Records about consumers, or of removals, may have stood here, too.
    pub records: bool,
    /// What was found.
    pub why: String,
}

/// A consumer that goes on at an earlier place than it may have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutBack {
    /// Its name.
    pub consumer: String,
    /// The next position that it gets. Deliveries of a group before it that were unsettled come again, too.
    pub next: Position,
}

/// A file that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Noted {
    /// Its name.
    pub file: String,
    /// What is the matter, and what becomes of it.
    pub what: String,
}

impl Repair {
    /// Whether anything is damaged at all. A store with a torn end needs no repair: opening it is enough.
    pub fn is_needed(&self) -> bool {
        !(self.lost.is_empty() && self.put_back.is_empty() && self.files.is_empty())
    }

    /// How many positions are lost.
    pub fn positions_lost(&self) -> u64 {
        self.lost.iter().map(|lost| lost.positions).sum()
    }
}

/// A repaired store, made of a damaged one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// What was kept and lost.
    pub repair: Repair,
    /// How its files came there.
    pub files: Files,
    /// What the check of every byte still found. None, unless something is wrong that is no damage of bytes, such as a
    /// revision out of its order.
    pub damage: Vec<Damage>,
}

/// Says what [`repair`] would keep and lose. Changes nothing.
///
/// # Errors
/// [`Error::Locked`](crate::Error::Locked) while a writer has the store open. [`Error::NotAStore`](crate::Error::NotAStore) when
/// nothing can be read that says what was stored.
pub fn plan_repair(path: impl AsRef<Path>) -> Result<Repair> {
    told(&look(&RealDisk, path.as_ref())?)
}

/// Writes what is whole of a damaged store into `to`, which has to be empty or not there yet. The damaged one is not changed:
/// keep it until you know what you need of it.
///
/// The repaired store is the same store, with its id. Events keep their positions and revisions. Where some are lost readers
/// are told [`Error::Damaged`](crate::Error::Damaged), for exactly these positions; it opens for writing all the same. The next event of a stream
/// that may have lost some leaves out as many revisions, so none is given twice. An idempotency key that was lost with its commit may be used
/// again.
///
/// Consumers whose last records may be lost are put back to where they surely were, so that they miss nothing; what
/// they had handled since comes again. A cursor that had been moved *back* by a record that is lost stays where it was before
/// that.
///
/// It is made in `TO.part`, synced, every byte of it checked, and then takes its place at once.
///
/// # Errors
/// As [`plan_repair`]; [`Error::NotAStore`](crate::Error::NotAStore) when `to` is not empty, or `TO.part` is the
/// damaged one itself, another store, or a backup.
pub fn repair(path: impl AsRef<Path>, to: impl AsRef<Path>, progress: impl FnMut(Progress)) -> Result<Repaired> {
    repair_on(&RealDisk, path.as_ref(), to.as_ref(), progress)
}

pub(crate) fn repair_on(
    disk: &dyn Disk,
    path: &Path,
    to: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Repaired> {
    check_is_outside(disk, path, to, "store")?;
    let found = look(disk, path)?;
    let repair = told(&found)?;
    let aside = Aside::begin(disk, to, Kind::Store(repair.store), is_free)?;
    aside.clear(|_| false)?;
    let total = found.pieces.iter().map(limit).sum();
    let files = write::write(&found, &*aside.part, |done| progress(Progress { done: done.min(total), total }))?;
    let verdict = verify_on(disk, aside.part.path(), Depth::Whole, &mut progress)?;
    aside.take_place()?;
    Ok(Repaired { repair, files, damage: verdict.damage })
}

fn limit(piece: &look::Piece) -> u64 {
    match &piece.found {
        Piecewise::There { limit, .. } => *limit,
        Piecewise::Missing { .. } => 0,
    }
}

fn told(found: &Found) -> Result<Repair> {
    let mut lost = Vec::new();
    let mut events = 0;
    for piece in &found.pieces {
        let segment = file_name(piece.first);
        match &piece.found {
            Piecewise::There { read, .. } => {
                events += read.events;
                lost.extend(read.stretches.iter().map(|stretch| Lost {
                    segment: segment.clone(),
                    offset: stretch.offset,
                    length: stretch.end - stretch.offset,
                    first: stretch.position,
                    positions: stretch.positions,
                    records: stretch.records,
                    why: stretch.what.clone(),
                }));
            }
            Piecewise::Missing { why, .. } => lost.push(Lost {
                segment,
                offset: 0,
                length: 0,
                first: piece.first,
                positions: piece.next.get() - piece.first.get(),
                records: true,
                why: why.clone(),
            }),
        }
    }
    let mut files = found.noted.clone();
    files.extend(write::note_others(found)?);
    let put_back = found.unsure.iter().map(|(consumer, next)| PutBack { consumer: consumer.clone(), next: *next });
    Ok(Repair {
        store: found.store,
        oldest: found.pieces.first().map_or(found.next, |piece| piece.first),
        head: found.next.previous(),
        events,
        lost,
        put_back: put_back.collect(),
        may_bring_back: found.consumers.is_doubtful,
        files,
        torn_bytes: found.torn_bytes,
    })
}
