//! Writing a segment again, so that it lasts.

use crate::error::{Error, Result};
use crate::log::recover::quarantine::each_piece;
use crate::log::scan::{AtDamage, scan};
use crate::segment::Segment;
use crate::segment::disk::{Directory, Prepared};
use crate::segment::map::Access;

/// Makes the frames of a segment last that were found whole up to `end`: by a new file in the place of the old one.
///
/// After a failed sync the kernel shows bytes that never reached the disk, and calls them clean: syncing that file would do
/// nothing. And a file that is cut kills those who have mapped it and read behind the cut. A copy has neither fault.
pub(super) fn write_again(directory: &dyn Directory, segment: &Segment, end: u64, last_crc: u32) -> Result<()> {
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
