//! Whether the segments that are there are those that are to be there.

use crate::error::{Error, Result};
use crate::format::header;
use crate::id::Position;
use crate::log::lock::{Left, Progress};
use crate::log::recover::newest::is_unfinished;
use crate::segment::disk::Directory;
use crate::segment::map::Access;
use crate::segment::{Segment, bad_header};

/// A segment that the lock file names, and that held events that were durable, has to be there.
pub(super) fn check_newest_is_there(directory: &dyn Directory, left: Option<Left>, there: &[Position]) -> Result<()> {
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
pub(super) fn missing(named: &[Position], there: &[Position], oldest: Position) -> Option<Position> {
    from(named, oldest).iter().find(|first| there.binary_search(first).is_err()).copied()
}

/// Every segment that the newest one names has to be there, none else, and the one before it has to be the one it knows.
/// Those before `oldest` were let go of, and may be there or not. Both lists rise. `synced`: all of them are known to be
/// on the disk.
pub(super) fn check_chain(
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
pub(super) fn from(firsts: &[Position], oldest: Position) -> &[Position] {
    &firsts[firsts.partition_point(|first| *first < oldest)..]
}
