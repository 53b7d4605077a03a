//! What a store lies on, who has it, and what a power cut would cost: everything about it that does not stand in its events.

use std::path::Path;

use crate::error::Result;
use crate::format::PAGE;
use crate::format::frame::{Found, flag};
use crate::id::{Position, Timestamp};
use crate::log::Log;
use crate::log::lock::{self, Left};
use crate::log::mark::{self, Marked};
use crate::log::recover::QUARANTINE;
use crate::log::recover::reader::open_reader;
use crate::segment::disk::{Disk as _, LiesOn, RealDisk};
use crate::segment::{Segment, after};

/// Where a store lies, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Surroundings {
    /// Who writes, or wrote last. `None`: nobody ever did, as in a backup.
    pub writer: Option<Writer>,
    /// The last event.
    pub head: Position,
    /// The last event that is known to be on stable storage. A power cut now may take what comes behind it. Some of it the
    /// operating system may have written meanwhile, which nobody is told.
    pub durable: Position,
    /// How many events stood at once in the newest segment that were not known to be on stable storage, at the most: the
    /// durability that the store is written with, as it was seen. With `Sync` these are the events of one group.
    pub longest_unsynced: u64,
    /// Bytes that the store's files take on the disk.
    pub used: u64,
    /// Bytes of the file system, and how many of them this process may still use; `None` where it does not say.
    pub total: Option<u64>,
    /// See `total`.
    pub free: Option<u64>,
    /// What the store lies on, where the system tells.
    pub file_system: Option<FileSystem>,
    /// What others than the owner may do something with: the directory as `.`, files by their names. With the mode.
    pub wide: Vec<(String, u32)>,
    /// Files in `quarantine/`, of what recovery cut off.
    pub quarantined: u64,
}

/// Who writes a store, or wrote last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Writer {
    /// Its process, by the number that it had on its machine.
    pub process: u32,
    /// Since when it writes, or wrote.
    pub since: Timestamp,
    /// It holds the store now.
    pub lives: bool,
    /// It has closed the store in good order.
    pub closed: bool,
}

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileSystem {
    /// Its name; `unknown` for those that are not known here.
    pub name: &'static str,
    /// Why syncing, or locking, may not be what it is on a disk of one's own.
    pub caution: Option<&'static str>,
}

const MEMORY: &str = "it lies in memory: nothing of it outlives the machine, whatever is synced";
const NETWORK: &str =
    "it lies on another machine: syncs are as good as that one's, and the lock may not hold between machines";
const PROGRAM: &str = "a program serves it, and decides what syncing and locking mean";
const SIMPLE: &str = "it has no journal and no owners: a crash may damage it as a whole, and anybody may read it";

/// By the number that Linux gives them.
const KINDS: [(u64, &str, Option<&str>); 24] = [
    (0xef53, "ext4", None),
    (0x5846_5342, "xfs", None),
    (0x9123_683e, "btrfs", None),
    (0xf2f5_2010, "f2fs", None),
    (0x2fc1_2fc1, "zfs", None),
    (0xca45_1a4e, "bcachefs", None),
    (0x3153_464a, "jfs", None),
    (0x5265_4973, "reiserfs", None),
    (0x794c_7630, "overlay", None),
    (0xf15f, "ecryptfs", None),
    (0x0102_1994, "tmpfs", Some(MEMORY)),
    (0x8584_58f6, "ramfs", Some(MEMORY)),
    (0x6969, "nfs", Some(NETWORK)),
    (0x517b, "smb", Some(NETWORK)),
    (0xff53_4d42, "cifs", Some(NETWORK)),
    (0xfe53_4d42, "smb2", Some(NETWORK)),
    (0x00c3_6400, "ceph", Some(NETWORK)),
    (0x0102_1997, "9p", Some(NETWORK)),
    (0x5346_414f, "afs", Some(NETWORK)),
    (0x0bd0_0bd0, "lustre", Some(NETWORK)),
    (0x6573_5546, "fuse", Some(PROGRAM)),
    (0x786f_4256, "vboxsf", Some(PROGRAM)),
    (0x4d44, "vfat", Some(SIMPLE)),
    (0x2011_bab0, "exfat", Some(SIMPLE)),
];

/// Looks at what a store lies on, who has it, and what a power cut would cost. Reads the newest segment.
///
/// # Errors
/// As [`summary`](crate::inspect::summary).
pub fn surroundings(path: impl AsRef<Path>) -> Result<Surroundings> {
    let log = open_reader(&RealDisk, path.as_ref())?.0;
    let directory = &*log.directory;
    let left = left(&log);
    let lives = log.follows_a_writer();
    let newest = log.parts.newest();
    let closed = !lives && is_closed(left.as_ref(), &newest.segment);
    let durable = durable(&log, left.as_ref())?;
    let lies_on = directory.lies_on()?;
    let quarantined = match directory.names()?.iter().any(|name| name == QUARANTINE) {
        // Opened by its path: as a subdirectory it would be made where it is missing.
        true => RealDisk.directory(&path.as_ref().join(QUARANTINE), false)?.names()?.len() as u64,
        false => 0,
    };
    Ok(Surroundings {
        writer: left.map(|left| Writer { process: left.holder.pid, since: left.holder.since, lives, closed }),
        head: log.head(),
        durable,
        longest_unsynced: longest_unsynced(&newest.segment),
        used: lies_on.as_ref().map_or(0, |place| place.used),
        total: lies_on.as_ref().map(|place| place.total),
        free: lies_on.as_ref().map(|place| place.free),
        file_system: lies_on.as_ref().and_then(|place| place.kind).map(kind),
        wide: lies_on.as_ref().map(wide).unwrap_or_default(),
        quarantined,
    })
}

/// What the writer left in the lock file.
pub(super) fn left(log: &Log) -> Option<Left> {
    lock::read(&*log.directory).filter(|left| left.holder.store == log.store)
}

/// The last position that is known to be on stable storage. That is all of a store that was closed in good order, and of a backup that
/// bears its mark; of others what the writer, the header of the newest segment, or frames in it say.
pub(super) fn durable(log: &Log, left: Option<&Left>) -> Result<Position> {
    let (head, newest) = (log.head(), log.parts.newest());
    let is_marked = || Ok(mark::read(&*log.directory)?.and_then(Marked::sound).is_some());
    if !log.follows_a_writer() && (is_closed(left, &newest.segment) || is_marked()?) {
        return Ok(head);
    }
    let of_newest = left.filter(|left| left.progress.nonce == newest.segment.header.nonce);
    let said = of_newest.map_or(Position::START, |left| left.progress.durable);
    Ok(log.durable().max(said).max(newest.segment.header.durable).min(head))
}

/// Whether this is the newest segment of a store that was closed in good order.
fn is_closed(left: Option<&Left>, newest: &Segment) -> bool {
    left.is_some_and(|left| left.progress.nonce == newest.header.nonce && left.closed.is_some())
}

fn kind(number: u64) -> FileSystem {
    let known = KINDS.iter().find(|(known, ..)| *known == number);
    known.map_or(FileSystem { name: "unknown", caution: None }, |(_, name, caution)| FileSystem {
        name,
        caution: *caution,
    })
}

/// What is open to others than its owner.
fn wide(place: &LiesOn) -> Vec<(String, u32)> {
    let own = (place.mode & 0o077 != 0).then(|| (".".to_owned(), place.mode));
    own.into_iter().chain(place.modes.iter().filter(|(_, mode)| mode & 0o077 != 0).cloned()).collect()
}

/// The most events between two that say that everything before them is on the disk.
fn longest_unsynced(segment: &Segment) -> u64 {
    let (mut offset, limit) = (PAGE as u64, segment.written());
    let (mut longest, mut since) = (0, segment.first());
    let mut next = since;
    while offset < limit {
        // Where it is damaged the figure is of what comes before.
        let Found::Frame(frame) = segment.find(offset, limit) else { break };
        if frame.flags() & flag::SYNCED != 0 {
            longest = longest.max(frame.position().get().saturating_sub(since.get()));
            since = frame.position();
        }
        next = after(frame);
        offset += frame.stride() as u64;
    }
    longest.max(next.get().saturating_sub(since.get()))
}
