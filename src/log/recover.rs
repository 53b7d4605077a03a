//! Opening a store: what is there, what of it is whole, and where to go on. The guide's page on recovery tells why.

use std::path::Path;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::backup;
use crate::format::frame::ALIGN;
use crate::format::header::{self, Previous};
use crate::format::lock::Holder;
use crate::id::{Position, StoreId, Timestamp};
use crate::log::counts::Counts;
use crate::log::grow::{self, Beginning, Manner, SPARE_NAME, Spare};
use crate::log::heads::{Heads, Known};
use crate::log::lock::{Held, Left, Progress, Seen};
use crate::log::mark::{self, Marked};
use crate::log::parts::{Part, Parts, read_header};
use crate::log::retain;
use crate::log::scan::{AtDamage, Scan, Tail, data_end, scan};
use crate::log::shown::Shown;
use crate::log::state::State;
use crate::log::{Log, Side};
use crate::segment::disk::{Directory, Disk, File, Prepared};
use crate::segment::map::Access;
use crate::segment::{Pen, Segment, bad_header};
use crate::sync::gate::Gate;
use crate::sync::primitive::atomic::Ordering;
use crate::sync::primitive::atomic::{AtomicBool, AtomicU64};
use crate::sync::primitive::thread;
use crate::sync::primitive::{Arc, Mutex};

/// The folder for what recovery cut off.
pub(crate) const QUARANTINE: &str = "quarantine";

/// The smallest piece of a file that a disk writes whole.
const SECTOR: usize = 512;

/// What the names of files end in that were never finished.
const IN_THE_MAKING: [&str; 4] = [".idx.tmp", ".tier.tmp", ".heads.tmp", ".seg.tmp"];

/// How much of a file is looked at in one go.
const COPIED_AT_ONCE: usize = 1 << 20;

/// So often a reader looks again when it comes while a writer begins or changes segments, which is a few stores.
const CHANGES_PASS: u32 = 1_000;

/// So often, a millisecond apart, it looks again while a recovery is at work. One that takes longer is not waited for.
const RECOVERIES_PASS: u32 = 2_000;

/// So often a reader tries again, a millisecond apart, when files changed under its eyes: beside a writer, and without.
const FAILURES_PASS: u32 = 500;
const FAILURES_STAY: u32 = if cfg!(fuzzing) { 0 } else { 4 };

/// What opening a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The store was made just now.
    pub created: bool,
    /// The store was closed in good order, or made just now. Beside a writer, a read-only store says `false`.
    pub clean: bool,
    /// Bytes of segments that were read to find out.
    pub bytes_read: u64,
    /// What was cut off because it was never whole, and where it is kept. Opening read-only cuts nothing.
    pub quarantined: Vec<Quarantined>,
}

/// Bytes that recovery cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quarantined {
    /// The segment that they stood in.
    pub segment: String,
    /// Where they stood.
    pub offset: u64,
    /// How many they are.
    pub length: u64,
    /// The file in `quarantine/` that holds them now.
    pub file: String,
}

/// An open log and where its writer goes on.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) log: Arc<Log>,
    pub(crate) pen: Pen,
    pub(crate) next: Position,
    pub(crate) last_crc: u32,
    pub(crate) last_time: Timestamp,
    pub(crate) recovery: Recovery,
}

/// The newest segment that counts, as it was found.
struct Newest {
    segment: Segment,
    scan: Scan,
    /// The segments before it.
    firsts: Vec<Position>,
    /// The segments behind it, latest first: copied to `quarantine/`, and to be removed.
    gone: Vec<Position>,
    /// Whether everything in its file is known to be on the disk.
    durable: bool,
}

/// Opens a store for its one writer.
pub(crate) fn open_writer(
    disk: &dyn Disk,
    path: &Path,
    create: bool,
    manner: Manner,
    clock: &dyn Clock,
) -> Result<Opened> {
    let directory = disk.directory(path, create)?;
    if !directory.lock()? {
        let holder = crate::log::lock::read(&*directory).map(|left| left.holder.pid);
        return Err(Error::Locked { path: path.to_owned(), holder });
    }
    let names = directory.names()?;
    let firsts = segments(&names);
    if firsts.is_empty() {
        return make(directory, &names, create, manner, clock);
    }
    let left = match crate::log::lock::read(&*directory) {
        None => marked_end(&*directory)?,
        left => left,
    };
    recover(directory, &names, firsts, left, manner, clock)
}

/// What the mark of a backup says that nobody has opened for writing yet, if that is so.
fn marked_end(directory: &dyn Directory) -> Result<Option<Left>> {
    let Some(marked) = mark::read(directory)? else { return Ok(None) };
    let (segment, found) = read_newest(directory, None)?;
    match (marked.misfit(&segment, found.end, found.next), marked) {
        (None, Marked::Sound(mark)) => Ok(Some(mark.as_left())),
        (misfit, _) => misfit.map_or(Ok(None), |misfit| Err(misfit.into_error(directory))),
    }
}

/// Removes the mark of a backup that is a store from now on: from where it was to end, more will come.
fn is_no_backup_any_more(directory: &dyn Directory, names: &[String]) -> Result<()> {
    if !names.iter().any(|name| name == backup::NAME) {
        return Ok(());
    }
    // Without the lock file the mark would count, and other files do not fit it.
    directory.sync()?;
    directory.remove(backup::NAME)
}

fn recover(
    directory: Arc<dyn Directory>,
    names: &[String],
    firsts: Vec<Position>,
    left: Option<Left>,
    manner: Manner,
    clock: &dyn Clock,
) -> Result<Opened> {
    let mut recovery = Recovery::default();
    let newest = find_newest(&*directory, firsts, left, &mut recovery)?;
    let is_temporary = |name: &&String| *name == SPARE_NAME || IN_THE_MAKING.iter().any(|end| name.ends_with(end));
    for name in names.iter().filter(is_temporary) {
        directory.remove(name)?;
    }
    let store = newest.segment.header.store;
    // Looked at first: what is known of streams that are gone is in these files alone.
    let known = Known::open(&*directory, store, newest.scan.state.kept.as_ref())?;
    let (next, last_time) = (newest.scan.next, newest.scan.last_time.max(newest.segment.header.created));
    let (end, last_crc) = (newest.scan.end, newest.scan.last_crc);
    let (state, sealed, first) = (newest.scan.state.clone(), newest.firsts.clone(), newest.segment.first());
    let time = last_time.max(clock.now());

    if recovery.clean {
        retain::remove_files(&*directory, names, &known)?;
        let held = hold(&*directory, store, clock)?;
        is_no_backup_any_more(&*directory, names)?;
        // The scan let all of the file be read; what is written from here on must not be readable yet.
        let segment = Segment::open(&*directory, first, Access::Write, None)?;
        let (segment, pen) = segment.into_pen(end);
        let parts = Parts::new(directory.clone(), Access::Write, &sealed, Part::new(segment.clone()));
        let log = assemble(directory, store, parts, next, state, Side::Writer(held))?;
        log.publish(&segment, end, next.previous());
        log.has_recovered();
        return Ok(Opened { log, pen, next, last_crc, last_time, recovery });
    }

    // After an unclean end. Readers of other processes hear what is kept before any file is another one.
    if !crate::log::lock::is_among(names) {
        // A lock file without a segment is no store: the name of the first one has to last before that file has one.
        directory.sync()?;
    }
    let held = hold(&*directory, store, clock)?;
    is_no_backup_any_more(&*directory, names)?;
    held.keeps(next.previous());
    for first in &newest.gone {
        remove_segment(&*directory, *first)?;
    }
    // What is whole is made to last, and writing goes on in a new segment.
    let has_events = next > first;
    let (previous, sealed) = if has_events {
        match write_again(&*directory, &newest.segment, end, last_crc) {
            // All of it is on the disk, and nothing that anybody was shown is cut.
            Err(Error::DiskFull { .. }) if newest.durable => {
                newest.segment.file().truncate(end)?;
                newest.segment.sync()?;
            }
            written => written?,
        }
        let mut sealed = sealed;
        sealed.push(first);
        (Some(Previous { first, end, last_crc }), sealed)
    } else {
        (newest.segment.header.previous, sealed)
    };
    let records = state.records(sealed.clone());
    let size = grow::next_size(0, grow::state_size(&records), manner.largest);
    let spare = Spare::prepare(&*directory, size, manner)?;
    let durable = next.previous();
    let beginning = Beginning { store, first: next, previous, durable, time, records, all_durable: true };
    let synced = Manner { synced: true, ..manner };
    let (segment, pen) = spare.begin(&*directory, beginning, synced)?.take_name(&*directory)?;
    // Not before: what says that these files may go was perhaps in the cache only.
    retain::remove_files(&*directory, names, &known)?;
    let parts = Parts::new(directory.clone(), Access::Write, &sealed, Part::new(segment.clone()));
    let log = assemble(directory, store, parts, next, state, Side::Writer(held))?;
    log.publish(&segment, segment.written(), next.previous());
    log.has_recovered();
    Ok(Opened { log, pen, next, last_crc: 0, last_time: time, recovery })
}

/// Finds the newest segment that holds something whole, cuts what was never whole behind it, and checks that the
/// segments before it are there.
fn find_newest(
    directory: &dyn Directory,
    mut firsts: Vec<Position>,
    left: Option<Left>,
    recovery: &mut Recovery,
) -> Result<Newest> {
    check_newest_is_there(directory, left, &firsts)?;
    let mut durable = Position::START;
    let mut gone = Vec::new();
    loop {
        let Some(first) = firsts.pop() else {
            return Err(Error::not_a_store(directory.path(), "none of its segments has a sound beginning"));
        };
        let name = header::file_name(first);
        let closed = left.filter(|left| left.progress.segment == first && recovery.quarantined.is_empty());
        let closed = closed.and_then(|left| left.closed);
        let file = directory.open(&name, Access::Read)?;
        let blank = is_unfinished(directory, &name, &*file)?;
        if blank && !firsts.is_empty() {
            if left.is_some_and(|left| left.progress.durable >= first) {
                return Err(Error::not_a_store(&directory.path().join(&name), "its header is blank"));
            }
            quarantine_whole(directory, first, recovery)?;
            gone.push(first);
            continue;
        }
        let segment = Segment::open(directory, first, Access::Write, None)?;
        segment.allow(segment.capacity());
        let found = scan(&segment, segment.capacity(), AtDamage::Stop)?;
        recovery.bytes_read += found.end;
        if let Some(left) = left.filter(|left| left.holder.store == segment.header.store) {
            durable = durable.max(left.progress.durable);
        }
        durable = durable.max(segment.header.durable).max(found.durable);
        // Behind the closing record nothing was written; what stands there is written over, and need not be read.
        let clean = found.closed && closed == Some(found.end);
        let tail = if clean { Tail::Blank } else { found.tail(&segment, segment.capacity(), durable) };
        if let Tail::Damaged(damage) = tail {
            return Err(Error::Damaged(damage));
        }
        let Some(before) = found.firsts.clone() else {
            // Without its control state the segment was never finished: its first commit did not reach the disk.
            if firsts.is_empty() {
                return Err(Error::not_a_store(&directory.path().join(&name), "its control state is missing"));
            }
            quarantine_whole(directory, first, recovery)?;
            gone.push(first);
            continue;
        };
        let oldest = found.state.oldest();
        check_chain(directory, &segment, &before, &firsts, oldest, durable >= first.previous())?;
        let before: Vec<Position> = before.into_iter().filter(|first| *first >= oldest).collect();
        // Of what stood before this segment was begun, only its own frames can say that all of it was on the disk: after the
        // last event there may have been control records.
        let sure = clean || found.durable >= first.previous();
        if !sure && let Some(cut) = cut_before(directory, &before, &segment, durable, recovery)? {
            // Without syncs a power cut may take earlier pages and leave later ones: everything behind the gap goes.
            let behind = firsts.split_off(firsts.partition_point(|first| *first <= cut));
            for first in [first].into_iter().chain(behind.into_iter().rev()) {
                quarantine_whole(directory, first, recovery)?;
                gone.push(first);
            }
            continue;
        }
        recovery.clean = clean;
        let durable = durable >= found.next.previous() && matches!(tail, Tail::Blank);
        if let Tail::Torn { end } = tail {
            quarantine(directory, &segment, found.end, end, recovery)?;
        }
        return Ok(Newest { segment, scan: found, firsts: before, gone, durable });
    }
}

/// Whether a segment is shorter than its header, or that is blank, or one of the two sectors is that have something in them: without syncs a power
/// cut may leave so much of it. Then no frame of it was ever known to be on the disk.
fn is_unfinished(directory: &dyn Directory, name: &str, file: &dyn File) -> Result<bool> {
    if file.len()? < PAGE as u64 {
        return Ok(true);
    }
    match Segment::read_header(directory, name, file)? {
        Err(header::Bad::Blank) => Ok(true),
        Err(header::Bad::Damaged | header::Bad::NotASegment) => {
            let mut page = [0; PAGE];
            file.read_at(&mut page, 0)?;
            let blank = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
            Ok(blank(&page[..SECTOR]) || blank(&page[PAGE - SECTOR..]))
        }
        _ => Ok(false),
    }
}

/// A segment that the lock file names, and that held events that were durable, has to be there.
fn check_newest_is_there(directory: &dyn Directory, left: Option<Left>, there: &[Position]) -> Result<()> {
    match left.map(|left| left.progress) {
        Some(Progress { segment, durable, .. })
            if durable >= segment && there.last().is_some_and(|last| *last < segment) =>
        {
            let path = directory.path().join(header::file_name(segment));
            Err(Error::not_a_store(&path, "the segment is missing"))
        }
        _ => Ok(()),
    }
}

/// The first of the segments from `oldest` on that are named and not there.
fn missing(named: &[Position], there: &[Position], oldest: Position) -> Option<Position> {
    from(named, oldest).iter().find(|first| there.binary_search(first).is_err()).copied()
}

/// Every segment that the newest one names has to be there, none else, and the one before it has to be the one it knows.
/// Those before `oldest` were let go of, and may be there or not. Both lists rise. `synced`: all of them are known to be
/// on the disk.
fn check_chain(
    directory: &dyn Directory,
    newest: &Segment,
    named: &[Position],
    there: &[Position],
    oldest: Position,
    synced: bool,
) -> Result<()> {
    let path = |first: &Position| directory.path().join(header::file_name(*first));
    if let Some(missing) = missing(named, there, oldest) {
        return Err(Error::not_a_store(&path(&missing), "the segment is missing"));
    }
    let (named, there) = (from(named, oldest), from(there, oldest));
    if let Some(extra) = there.iter().find(|first| named.binary_search(first).is_err()) {
        return Err(Error::not_a_store(&path(extra), format!("{} does not know it", newest.name())));
    }
    match (newest.header.previous, named.last()) {
        (None, None) => Ok(()),
        // All before the newest was let go of.
        (Some(previous), None) if previous.first < oldest => Ok(()),
        (Some(previous), Some(last)) if previous.first == *last => {
            let name = header::file_name(*last);
            let header = match Segment::read_header(directory, &name, &*directory.open(&name, Access::Read)?)? {
                Ok(header) => header,
                // Damage in a sealed segment is told by whoever reads there.
                Err(header::Bad::Damaged) => return Ok(()),
                // One that was never synced may have lost its header: it is looked at next.
                Err(_) if !synced && is_unfinished(directory, &name, &*directory.open(&name, Access::Read)?)? => {
                    return Ok(());
                }
                Err(bad) => return Err(bad_header(directory, &name, bad)),
            };
            if header.store != newest.header.store {
                return Err(Error::not_a_store(&path(last), "it belongs to another store"));
            }
            if header.first != *last {
                return Err(Error::not_a_store(&path(last), "its header bears another position than its name"));
            }
            Ok(())
        }
        _ => Err(Error::not_a_store(&path(&newest.first()), "the segment before it is not the one that it follows")),
    }
}

/// Those of rising positions that are not less than `oldest`.
fn from(firsts: &[Position], oldest: Position) -> &[Position] {
    &firsts[firsts.partition_point(|first| *first < oldest)..]
}

/// Checks the segments from the one that holds `durable` on. Gives the first position of a segment that is not whole up
/// to its end though it need not be: it becomes the newest. Damage in events that were durable is left for readers to tell.
fn cut_before(
    directory: &dyn Directory,
    firsts: &[Position],
    newest: &Segment,
    durable: Position,
    recovery: &mut Recovery,
) -> Result<Option<Position>> {
    let from = firsts.partition_point(|first| *first <= durable).saturating_sub(1);
    let mut successors = firsts[from..].iter().skip(1).copied().chain([newest.first()]);
    for first in &firsts[from..] {
        let successor = successors.next().unwrap_or(newest.first());
        let name = header::file_name(successor);
        if is_unfinished(directory, &name, &*directory.open(&name, Access::Read)?)? {
            return Ok(Some(successor));
        }
        let previous = read_header(directory, successor)?.previous;
        let segment = match Segment::open(directory, *first, Access::Read, None) {
            Ok(segment) => segment,
            Err(Error::NotAStore { .. }) if successor.previous() <= durable => continue,
            Err(Error::NotAStore { .. }) => return Ok(Some(*first)),
            // No room for another map, say: that says nothing of what the file holds.
            Err(error) => return Err(error),
        };
        segment.allow(segment.capacity());
        let found = scan(&segment, segment.capacity(), AtDamage::Stop)?;
        recovery.bytes_read += found.end;
        let is_whole = |previous| segment.header.is_followed(previous, found.end, found.last_crc);
        let whole = previous.is_some_and(is_whole);
        if !whole {
            match found.tail(&segment, segment.capacity(), durable) {
                Tail::Damaged(_) if successor.previous() <= durable => continue,
                Tail::Damaged(damage) => return Err(Error::Damaged(damage)),
                Tail::Blank | Tail::Torn { .. } => return Ok(Some(*first)),
            }
        }
        write_again(directory, &segment, found.end, found.last_crc)?;
    }
    Ok(None)
}

/// Makes the frames of a segment last that were found whole up to `end`: by a new file in the place of the old one.
///
/// After a failed sync the kernel shows bytes that never reached the disk, and calls them clean: syncing that file would do
/// nothing. And a file that is cut kills those who have mapped it and read behind the cut. A copy has neither fault.
fn write_again(directory: &dyn Directory, segment: &Segment, end: u64, last_crc: u32) -> Result<()> {
    let temporary = format!("{}.tmp", segment.name());
    directory.remove(&temporary)?;
    let file = directory.create(&temporary)?;
    let written = file.allocate(end, Prepared::Allocated).and_then(|()| {
        each_piece(segment.file(), 0, end, |bytes, at| file.write_at(bytes, at).map(|()| true))?;
        file.sync()
    });
    let checked = written.and_then(|()| {
        // The kernel may have dropped such bytes since they were found whole.
        let copy = Segment::open_named(directory, &temporary, segment.first(), Access::Read, None)?;
        copy.allow(end);
        let found = scan(&copy, end, AtDamage::Stop)?;
        if (found.end, found.last_crc) == (end, last_crc) {
            return Ok(());
        }
        let why = "it changed while it was read; try again";
        Err(Error::io("copy", &directory.path().join(segment.name()), std::io::Error::other(why)))
    });
    if let Err(error) = checked {
        // Room is what may be short of.
        directory.remove(&temporary)?;
        return Err(error);
    }
    directory.rename(&temporary, segment.name())?;
    directory.sync()
}

/// Keeps bytes that are about to be cut off.
fn quarantine(directory: &dyn Directory, segment: &Segment, from: u64, to: u64, recovery: &mut Recovery) -> Result<()> {
    let length = segment.bytes(from, to).len() as u64;
    let file = keep(directory, &format!("{}-{from}", segment.name()), segment.file(), from, length)?;
    let quarantined = Quarantined { segment: segment.name().to_owned(), offset: from, length: to - from, file };
    recovery.quarantined.push(quarantined);
    Ok(())
}

/// Keeps what a segment holds that never became part of the log, and is about to be removed.
fn quarantine_whole(directory: &dyn Directory, first: Position, recovery: &mut Recovery) -> Result<()> {
    let name = header::file_name(first);
    let file = directory.open(&name, Access::Read)?;
    let length = used(&*file)?;
    let kept = keep(directory, &format!("{name}-whole"), &*file, 0, length)?;
    recovery.quarantined.push(Quarantined { segment: name, offset: 0, length, file: kept });
    Ok(())
}

fn remove_segment(directory: &dyn Directory, first: Position) -> Result<()> {
    directory.remove(&header::index_name(first))?;
    directory.remove(&header::file_name(first))?;
    directory.sync()
}

/// Copies a stretch of a file to one in `quarantine/` under a name of its own, so that nothing kept before is lost. Gives its
/// name. What an opening that failed has kept already is not kept again.
fn keep(directory: &dyn Directory, stem: &str, from: &dyn File, start: u64, length: u64) -> Result<String> {
    let folder = directory.subdirectory(QUARANTINE)?;
    let taken = folder.names()?;
    let mut name = stem.to_owned();
    let mut number = 0;
    let mut is_kept = false;
    while !is_kept && taken.contains(&name) {
        is_kept = is_copy(&*folder.open(&name, Access::Read)?, from, start, length)?;
        if !is_kept {
            number += 1;
            name = format!("{stem}-{number}");
        }
    }
    let kept = if is_kept { folder.open(&name, Access::Write)? } else { folder.create(&name)? };
    if !is_kept && length > 0 {
        kept.allocate(length, Prepared::Allocated)?;
        each_piece(from, start, length, |bytes, at| kept.write_at(bytes, at).map(|()| true))?;
    }
    kept.sync()?;
    folder.sync()?;
    directory.sync()?;
    Ok(name)
}

/// Whether a file holds just this stretch of another one.
fn is_copy(kept: &dyn File, from: &dyn File, start: u64, length: u64) -> Result<bool> {
    let mut there = vec![0; COPIED_AT_ONCE];
    Ok(kept.len()? == length
        && each_piece(from, start, length, |bytes, at| {
            let read = kept.read_at(&mut there[..bytes.len()], at)?;
            Ok(there[..read] == *bytes)
        })?)
}

/// Reads a stretch of a file piece by piece, as long as it is wanted. Each comes with its place in the stretch. Says whether all
/// of them were.
fn each_piece(
    file: &dyn File,
    start: u64,
    length: u64,
    mut take: impl FnMut(&[u8], u64) -> Result<bool>,
) -> Result<bool> {
    let mut bytes = vec![0; COPIED_AT_ONCE.min(usize::try_from(length).unwrap_or(COPIED_AT_ONCE))];
    let mut at = 0;
    while at < length {
        let most = bytes.len().min(usize::try_from(length - at).unwrap_or(bytes.len()));
        let read = file.read_at(&mut bytes[..most], start + at)?;
        if read == 0 || !take(&bytes[..read], at)? {
            return Ok(read == 0);
        }
        at += read as u64;
    }
    Ok(true)
}

/// Behind the last byte of a file that is not zero.
fn used(file: &dyn File) -> Result<u64> {
    let mut bytes = vec![0; COPIED_AT_ONCE];
    let mut end = file.data_end()?;
    while end > 0 {
        let start = (end - 1) / COPIED_AT_ONCE as u64 * COPIED_AT_ONCE as u64;
        let read = file.read_at(&mut bytes[..(end - start) as usize], start)?;
        if let Some(last) = bytes[..read].iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Makes a new store.
fn make(
    directory: Arc<dyn Directory>,
    names: &[String],
    create: bool,
    manner: Manner,
    clock: &dyn Clock,
) -> Result<Opened> {
    let path = directory.path();
    if crate::log::lock::is_among(names) {
        return Err(Error::not_a_store(path, "it has a lock file, but its segments are missing"));
    }
    if let Some(other) = names.iter().find(|name| *name != SPARE_NAME) {
        return Err(Error::not_a_store(path, format!("it holds other things, such as {other:?}, and no segment")));
    }
    if !create {
        return Err(Error::not_a_store(path, "it is empty"));
    }
    let mut id = [0; 16];
    directory.random(&mut id)?;
    let (store, first, time) = (StoreId(id), Position::new(1), clock.now());
    let records = State::default().records(Vec::new());
    let spare = Spare::prepare(&*directory, grow::next_size(0, 0, manner.largest), manner)?;
    let durable = Position::START;
    let beginning = Beginning { store, first, previous: None, durable, time, records, all_durable: false };
    let (segment, pen) =
        spare.begin(&*directory, beginning, Manner { synced: true, ..manner })?.take_name(&*directory)?;
    let held = hold(&*directory, store, clock)?;
    let parts = Parts::new(directory.clone(), Access::Write, &[], Part::new(segment.clone()));
    let log = assemble(directory, store, parts, first, State::default(), Side::Writer(held))?;
    log.publish(&segment, segment.written(), Position::START);
    let recovery = Recovery { created: true, clean: true, ..Recovery::default() };
    Ok(Opened { log, pen, next: first, last_crc: 0, last_time: time, recovery })
}

/// Opens a store for reading, beside a writer or without one. Changes nothing. A backup has to end where its mark says.
pub(crate) fn open_reader(disk: &dyn Disk, path: &Path) -> Result<(Arc<Log>, Recovery)> {
    open_reader_if(disk, path, |directory, segment, found| {
        match mark::check(directory, segment, found.end, found.next)? {
            Some(misfit) => Err(misfit.into_error(directory)),
            None => Ok(()),
        }
    })
}

/// The same, also of a backup that ends elsewhere: for who tells what is the matter with it.
pub(crate) fn open_reader_anyhow(disk: &dyn Disk, path: &Path) -> Result<Arc<Log>> {
    open_reader_if(disk, path, |_, _, _| Ok(())).map(|(log, _)| log)
}

fn open_reader_if(
    disk: &dyn Disk,
    path: &Path,
    check: impl Fn(&dyn Directory, &Segment, &Scan) -> Result<()>,
) -> Result<(Arc<Log>, Recovery)> {
    let directory = disk.directory(path, false)?;
    // A writer may begin a segment, or end, between two looks; a few looks settle it.
    let (mut looks, mut failures) = (0, 0);
    loop {
        let mut seen = Seen::open(&*directory)?;
        let progress = seen.as_mut().and_then(Seen::begin);
        looks += 1;
        let lives = seen.as_ref().is_some_and(Seen::writer_lives);
        if lives && progress.is_none() && looks < CHANGES_PASS {
            thread::yield_now();
            continue;
        }
        let recovering = lives && seen.as_ref().is_some_and(Seen::is_recovering);
        if recovering && looks < CHANGES_PASS + RECOVERIES_PASS {
            thread::sleep(std::time::Duration::from_millis(1));
            continue;
        }
        let newest = read_newest(&*directory, progress).and_then(|(segment, found)| {
            if progress.is_none() {
                check(&*directory, &segment, &found)?;
            }
            Ok((segment, found))
        });
        match newest {
            Ok((segment, found)) => {
                let firsts = found.firsts.clone().unwrap_or_default();
                let firsts = from(&firsts, found.state.oldest());
                let recovery = Recovery { clean: found.closed, bytes_read: found.end, ..Recovery::default() };
                let store = segment.header.store;
                let next = found.next;
                let durable = progress.map_or(found.durable, |progress| progress.durable);
                let known = next.previous().max(segment.first().previous());
                let shown = Arc::new(Shown::new(directory.path().to_owned(), seen, known));
                let parts = Parts::new(directory.clone(), Access::Read, firsts, Part::new(Arc::new(segment)));
                let parts = parts.shown_by(shown.clone());
                let log = assemble(directory, store, parts, next, found.state, Side::Reader(shown))?;
                log.durable.store(durable.get(), Ordering::Release);
                return Ok((log, recovery));
            }
            Err(error) if failures >= if progress.is_some() { FAILURES_PASS } else { FAILURES_STAY } => {
                return Err(error);
            }
            Err(_) => {
                failures += 1;
                thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
}

/// The newest segment with everything that may be read of it published.
fn read_newest(directory: &dyn Directory, progress: Option<Progress>) -> Result<(Segment, Scan)> {
    let firsts = segments(&directory.names()?);
    let Some(newest) = progress.map(|progress| progress.segment).or(firsts.last().copied()) else {
        return Err(Error::not_a_store(directory.path(), "it holds no segment"));
    };
    let segment = Segment::open(directory, newest, Access::Read, None)?;
    if progress.is_some_and(|progress| progress.nonce != segment.header.nonce) {
        return Err(Error::not_a_store(&directory.path().join(segment.name()), "its file was replaced just now"));
    }
    let left = crate::log::lock::read(directory).filter(|left| left.holder.store == segment.header.store);
    if progress.is_none() {
        check_newest_is_there(directory, left, &firsts)?;
    }
    // Without a writer: what the last one left says where a store ends that was closed in good order, if it is true.
    let of_newest = left.filter(|left| left.progress.nonce == segment.header.nonce);
    let closed = of_newest.and_then(|left| left.closed);
    let limit = progress.map(|progress| progress.end).or(closed).unwrap_or(segment.capacity());
    segment.allow(limit);
    if let Some(head) = progress.or(of_newest.map(|left| left.progress)).map(|progress| progress.head) {
        segment.set_last(head);
    }
    let mut found = scan(&segment, limit, AtDamage::PassOver)?;
    if progress.is_none() && !(found.closed && found.end == limit) {
        segment.allow(segment.capacity());
        found = scan(&segment, segment.capacity(), AtDamage::PassOver)?;
    }
    let Some(named) = &found.firsts else {
        return Err(Error::not_a_store(&directory.path().join(segment.name()), "its control state is missing"));
    };
    let there: Vec<Position> = firsts.into_iter().filter(|first| *first < newest).collect();
    let oldest = found.state.oldest();
    if let Some(missing) = missing(named, &there, oldest) {
        let limit = progress.map_or(segment.capacity(), |progress| progress.end);
        let durable = left.map_or(found.durable, |left| left.progress.durable);
        if let Some(mut damage) = found.first_damage(&segment, limit, durable) {
            // Whoever is sent to look for that segment looks for what was let go of.
            damage.what = format!(
                "{}, and with it perhaps the record that {} and older events are not kept any more; repair the store",
                damage.what,
                header::file_name(missing)
            );
            return Err(Error::Damaged(damage));
        }
    }
    check_chain(directory, &segment, named, &there, oldest, true)?;
    let mut end = found.end;
    let is_clean = found.closed && closed == Some(end);
    if let Some(left) = left.filter(|left| progress.is_none() && !is_clean && left.progress.durable >= found.next) {
        // What was durable and is not there is for readers to meet, as damage.
        segment.allow(segment.capacity());
        end = data_end(&segment, end, segment.capacity()).max(end + ALIGN as u64);
        found.next = left.progress.durable.next();
    }
    if let Some(progress) = progress.filter(|progress| found.end < progress.end) {
        // So is what a writer has published, and what is not whole any more.
        end = progress.end.min(segment.capacity());
        found.next = found.next.max(progress.head.next());
    }
    segment.set_written(end);
    Ok((segment, found))
}

fn assemble(
    directory: Arc<dyn Directory>,
    store: StoreId,
    parts: Parts,
    next: Position,
    state: State,
    side: Side,
) -> Result<Arc<Log>> {
    parts.find_tiers()?;
    let head = next.previous();
    // A reader looks when it is asked: a writer may make other files of these meanwhile.
    let kept = state.kept.as_ref().filter(|_| matches!(side, Side::Writer(_)));
    let heads = Heads::new(Known::open(&*directory, store, kept)?);
    let durable = if matches!(side, Side::Writer(_)) { head } else { Position::START };
    Ok(Arc::new(Log {
        directory,
        store,
        parts,
        heads,
        head: Gate::new(head.get()),
        end: Gate::new(0),
        durable: AtomicU64::new(durable.get()),
        hides: AtomicBool::new(!state.removals.is_empty()),
        // The writer before may not have come to say so.
        has_removed: AtomicBool::new(true),
        state: Mutex::new(state),
        begun: Mutex::default(),
        side,
        counts: Counts::default(),
        costs: Arc::default(),
        closed: AtomicBool::new(false),
    }))
}

fn hold(directory: &dyn Directory, store: StoreId, clock: &dyn Clock) -> Result<Held> {
    Held::take(directory, &Holder { pid: std::process::id(), store, since: clock.now() })
}

/// The first positions of the segment files among these names, rising.
pub(crate) fn segments(names: &[String]) -> Vec<Position> {
    let mut firsts: Vec<Position> = names.iter().filter_map(|name| header::parse_name(name)).collect();
    firsts.sort_unstable();
    firsts
}
