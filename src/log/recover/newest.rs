//! The newest segment that counts, for a writer: what was never whole is cut.

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::header;
use crate::id::Position;
use crate::log::lock::Left;
use crate::log::parts::read_header;
use crate::log::recover::Recovery;
use crate::log::recover::again::write_again;
use crate::log::recover::chain::{check_chain, check_newest_is_there};
use crate::log::recover::quarantine::{quarantine, quarantine_whole};
use crate::log::scan::{AtDamage, Scan, Tail, scan};
use crate::segment::Segment;
use crate::segment::disk::{Directory, File};
use crate::segment::map::Access;

/// The smallest piece of a file that a disk writes whole.
const SECTOR: usize = 512;

/// The newest segment that counts, as it was found.
pub(super) struct Newest {
    pub(super) segment: Segment,
    pub(super) scan: Scan,
    /// The segments before it.
    pub(super) firsts: Vec<Position>,
    /// The segments behind it, latest first: copied to `quarantine/`, and to be removed.
    pub(super) gone: Vec<Position>,
    /// Whether everything in its file is known to be on the disk.
    pub(super) durable: bool,
}

/// Finds the newest segment that holds something whole, cuts what was never whole behind it, and checks that the
/// segments before it are there.
pub(super) fn find_newest(
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

/// Whether a segment is shorter than its header, or that is blank, or one of the two sectors is that have something in them:
/// without syncs a power cut may leave so much of it. Then no frame of it was ever known to be on the disk.
pub(super) fn is_unfinished(directory: &dyn Directory, name: &str, file: &dyn File) -> Result<bool> {
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
