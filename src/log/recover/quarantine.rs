//! Keeping what recovery cuts off.

use crate::error::Result;
use crate::format::header;
use crate::id::Position;
use crate::log::recover::{QUARANTINE, Quarantined, Recovery};
use crate::segment::Segment;
use crate::segment::disk::{Directory, File, Prepared};
use crate::segment::map::Access;

/// How much of a file is looked at in one go.
const COPIED_AT_ONCE: usize = 1 << 20;

/// Keeps bytes that are about to be cut off.
pub(super) fn quarantine(
    directory: &dyn Directory,
    segment: &Segment,
    from: u64,
    to: u64,
    recovery: &mut Recovery,
) -> Result<()> {
    let length = segment.bytes(from, to).len() as u64;
    let file = keep(directory, &format!("{}-{from}", segment.name()), segment.file(), from, length)?;
    let quarantined = Quarantined { segment: segment.name().to_owned(), offset: from, length: to - from, file };
    recovery.quarantined.push(quarantined);
    Ok(())
}

/// Keeps what a segment holds that never became part of the log, and is about to be removed.
pub(super) fn quarantine_whole(directory: &dyn Directory, first: Position, recovery: &mut Recovery) -> Result<()> {
    let name = header::file_name(first);
    let file = directory.open(&name, Access::Read)?;
    let length = used(&*file)?;
    let kept = keep(directory, &format!("{name}-whole"), &*file, 0, length)?;
    recovery.quarantined.push(Quarantined { segment: name, offset: 0, length, file: kept });
    Ok(())
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
pub(super) fn each_piece(
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
