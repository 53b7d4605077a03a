//! Opening a store for reading.

use std::path::Path;

use crate::error::{Damage, Error, Result};
use crate::format::frame::ALIGN;
use crate::format::header;
use crate::id::Position;
use crate::log::lock::{self, Progress, Seen};
use crate::log::mark;
use crate::log::parts::{Part, Parts};
use crate::log::recover::chain::{check_chain, check_newest_is_there, from, missing};
use crate::log::recover::{Recovery, assemble, segments};
use crate::log::scan::{AtDamage, Scan, data_end, scan};
use crate::log::shown::Shown;
use crate::log::{Log, Side};
use crate::segment::Segment;
use crate::segment::disk::{Directory, Disk};
use crate::segment::map::Access;
use crate::sync::primitive::Arc;
use crate::sync::primitive::atomic::Ordering;
use crate::sync::primitive::thread;

/// So often a reader looks again when it comes while a writer begins or changes segments, which is a few stores.
const CHANGES_PASS: u32 = 1_000;

/// So often, a millisecond apart, it looks again while a recovery is at work. One that takes longer is not waited for.
const RECOVERIES_PASS: u32 = 2_000;

/// So often a reader tries again, a millisecond apart, when files changed under its eyes: beside a writer, and without.
const FAILURES_PASS: u32 = 500;
const FAILURES_STAY: u32 = if cfg!(fuzzing) { 0 } else { 4 };

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
            Ok((segment, found)) => return reading(directory, seen, progress, segment, found),
            Err(error) if progress.is_none() && failures >= FAILURES_STAY => {
                return Err(mark::rather_missing(&*directory, error));
            }
            Err(error) if failures >= FAILURES_PASS => return Err(error),
            Err(_) => {
                failures += 1;
                thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
}

/// The log of a reader that has found this.
fn reading(
    directory: Arc<dyn Directory>,
    seen: Option<Seen>,
    progress: Option<Progress>,
    segment: Segment,
    found: Scan,
) -> Result<(Arc<Log>, Recovery)> {
    let firsts = found.firsts.clone().unwrap_or_default();
    let firsts = from(&firsts, found.state.oldest());
    let recovery = Recovery { clean: found.closed, bytes_read: found.end, ..Recovery::default() };
    let (store, next) = (segment.header.store, found.next);
    let durable = progress.map_or(found.durable, |progress| progress.durable);
    let known = next.previous().max(segment.first().previous());
    let shown = Arc::new(Shown::new(directory.path().to_owned(), seen, known));
    let parts = Parts::new(directory.clone(), Access::Read, firsts, Part::new(Arc::new(segment)));
    let parts = parts.shown_by(shown.clone());
    let log = assemble(directory, store, parts, next, found.state, Side::Reader(shown))?;
    log.durable.store(durable.get(), Ordering::Release);
    Ok((log, recovery))
}

/// The newest segment with everything that may be read of it published.
pub(super) fn read_newest(directory: &dyn Directory, progress: Option<Progress>) -> Result<(Segment, Scan)> {
    let firsts = segments(&directory.names()?);
    let Some(newest) = progress.map(|progress| progress.segment).or(firsts.last().copied()) else {
        return Err(Error::not_a_store(directory.path(), "it holds no segment"));
    };
    let segment = Segment::open(directory, newest, Access::Read, None)?;
    if progress.is_some_and(|progress| progress.nonce != segment.header.nonce) {
        return Err(Error::not_a_store(&directory.path().join(segment.name()), "its file was replaced just now"));
    }
    let left = lock::read(directory).filter(|left| left.holder.store == segment.header.store);
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
        let damage = found.first_damage(&segment, limit, durable);
        damage.map_or(Ok(()), |damage| Err(may_be_let_go(missing, damage)))?;
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

/// What is missing where the record that it was let go of may be damaged. Whoever is sent to look for that segment looks for
/// what nobody has.
fn may_be_let_go(missing: Position, damage: Damage) -> Error {
    let what = format!(
        "{}, and with it perhaps the record that {} and older events are not kept any more; repair the store",
        damage.what,
        header::file_name(missing)
    );
    Error::Damaged(Damage { what, ..damage })
}
