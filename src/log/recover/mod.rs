//! Opening a store: what is there, what of it is whole, and where to go on. The guide's page on recovery tells why.

mod again;
mod chain;
mod newest;
mod quarantine;
pub(crate) mod reader;

use std::path::Path;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::format::backup;
use crate::format::header::{self, Previous};
use crate::format::lock::Holder;
use crate::id::{Position, StoreId, Timestamp};
use crate::log::counts::Counts;
use crate::log::grow::{self, Beginning, Manner, SPARE_NAME, Spare};
use crate::log::heads::{Heads, Known};
use crate::log::lock::{self, Held, Left};
use crate::log::mark;
use crate::log::parts::{Part, Parts};
use crate::log::recover::again::write_again;
use crate::log::recover::newest::{Newest, find_newest};
use crate::log::recover::reader::read_newest;
use crate::log::retain;
use crate::log::state::State;
use crate::log::{Log, Side};
use crate::segment::disk::{Directory, Disk};
use crate::segment::map::Access;
use crate::segment::{Pen, Segment};
use crate::sync::gate::Gate;
use crate::sync::primitive::atomic::{AtomicBool, AtomicU64};
use crate::sync::primitive::{Arc, Mutex};

/// The folder for what recovery cut off.
pub(crate) const QUARANTINE: &str = "quarantine";

/// What the names of files end in that were never finished.
const IN_THE_MAKING: [&str; 4] = [".idx.tmp", ".tier.tmp", ".heads.tmp", ".seg.tmp"];

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
        let holder = lock::read(&*directory).map(|left| left.holder.pid);
        return Err(Error::Locked { path: path.to_owned(), holder });
    }
    let names = directory.names()?;
    let firsts = segments(&names);
    if firsts.is_empty() {
        return make(directory, &names, create, manner, clock);
    }
    // Not asked where there is no mark: that lists the directory again.
    let marked = if mark::is_among(&names) { marked_end(&*directory)? } else { None };
    let left = marked.or_else(|| lock::read(&*directory));
    recover(directory, &names, firsts, left, manner, clock)
}

/// What the mark of a backup says that nobody has opened for writing yet, if that is so.
fn marked_end(directory: &dyn Directory) -> Result<Option<Left>> {
    let Some(marked) = mark::read(directory)? else { return Ok(None) };
    let newest = read_newest(directory, None);
    let (segment, found) = newest.map_err(|error| mark::rather_missing(directory, error))?;
    let mark = marked.held_against(&segment, found.end, found.next);
    mark.map(|mark| Some(mark.as_left())).map_err(|misfit| misfit.into_error(directory))
}

/// Removes the mark of a backup that is a store from now on: from where it was to end, more will come. What it says the lock file
/// takes over.
fn is_no_backup_any_more(directory: &dyn Directory, names: &[String], held: &Held, left: Option<Left>) -> Result<()> {
    if !mark::is_among(names) {
        return Ok(());
    }
    if let Some(left) = left {
        held.takes_over(left.progress)?;
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
    // Looked at first: what is known of streams that are gone is in these files alone.
    let known = Known::open(&*directory, newest.segment.header.store, newest.scan.state.kept.as_ref())?;
    let looked = Looked { directory, names, left, newest, known, recovery };
    if looked.recovery.clean { looked.go_on(clock) } else { looked.go_on_anew(manner, clock) }
}

/// What was found of a store that is there.
struct Looked<'a> {
    directory: Arc<dyn Directory>,
    names: &'a [String],
    left: Option<Left>,
    newest: Newest,
    known: Known,
    recovery: Recovery,
}

impl Looked<'_> {
    /// After a close in good order: goes on behind the closing record.
    fn go_on(self, clock: &dyn Clock) -> Result<Opened> {
        let Self { directory, names, left, newest, known, recovery } = self;
        let (header, scan) = (&newest.segment.header, newest.scan);
        let (store, first, last_time) = (header.store, header.first, scan.last_time.max(header.created));
        retain::remove_files(&*directory, names, &known)?;
        let held = hold(&*directory, store, clock)?;
        is_no_backup_any_more(&*directory, names, &held, left)?;
        // The scan let all of the file be read; what is written from here on must not be readable yet.
        let segment = Segment::open(&*directory, first, Access::Write, None)?;
        let (segment, pen) = segment.into_pen(scan.end);
        let parts = Parts::new(directory.clone(), Access::Write, &newest.firsts, Part::new(segment.clone()));
        let (next, last_crc) = (scan.next, scan.last_crc);
        let log = assemble(directory, store, parts, next, scan.state, Side::Writer(held))?;
        log.publish(&segment, scan.end, next.previous());
        log.has_recovered();
        Ok(Opened { log, pen, next, last_crc, last_time, recovery })
    }

    /// After an unclean end: what is whole is made to last, and writing goes on in a new segment.
    fn go_on_anew(self, manner: Manner, clock: &dyn Clock) -> Result<Opened> {
        let Self { directory, names, left, newest, known, recovery } = self;
        let (store, next) = (newest.segment.header.store, newest.scan.next);
        let time = newest.scan.last_time.max(newest.segment.header.created).max(clock.now());
        if !lock::is_among(names) {
            // A lock file without a segment is no store: the name of the first one has to last before that file has one.
            directory.sync()?;
        }
        // Readers of other processes hear what is kept before any file is another one.
        let held = hold(&*directory, store, clock)?;
        is_no_backup_any_more(&*directory, names, &held, left)?;
        held.keeps(next.previous());
        for first in &newest.gone {
            remove_segment(&*directory, *first)?;
        }
        let (previous, sealed) = make_last(&*directory, &newest)?;
        let state = newest.scan.state;
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
}

/// Makes the newest segment last, if it has events. Gives what the next one says of the one before it, and all before it.
fn make_last(directory: &dyn Directory, newest: &Newest) -> Result<(Option<Previous>, Vec<Position>)> {
    let Newest { segment, scan, durable, .. } = newest;
    let (first, end, last_crc) = (segment.first(), scan.end, scan.last_crc);
    let mut sealed = newest.firsts.clone();
    if scan.next == first {
        return Ok((segment.header.previous, sealed));
    }
    match write_again(directory, segment, end, last_crc) {
        // All of it is on the disk, and nothing that anybody was shown is cut.
        Err(Error::DiskFull { .. }) if *durable => {
            segment.file().truncate(end)?;
            segment.sync()?;
        }
        written => written?,
    }
    sealed.push(first);
    Ok((Some(Previous { first, end, last_crc }), sealed))
}

fn remove_segment(directory: &dyn Directory, first: Position) -> Result<()> {
    directory.remove(&header::index_name(first))?;
    directory.remove(&header::file_name(first))?;
    directory.sync()
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
    if lock::is_among(names) {
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
