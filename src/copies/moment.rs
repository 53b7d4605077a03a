//! Whether a copy is of one moment, though its files were copied one after the other.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::frame::Nonce;
use crate::format::header::file_name;
use crate::id::Position;
use crate::log::Log;
use crate::log::parts::read_header;
use crate::log::recover::reader::open_reader;
use crate::log::recover::segments;
use crate::segment::disk::{Directory, Disk};
use crate::sync::primitive::Arc;

/// So often a copy begins again when files changed under its eyes: retention, or streams that were made smaller.
const LOOKS: u32 = 16;

/// Which files stood under the names of segments before a log was opened.
///
/// A segment that is written again, without events that were removed, has another nonce. The record that tells of the removal was
/// written before, so whoever opens the log after that has it. In a copy of that log a segment that was written again later would
/// lack events without a word. One that never was holds everything. (A purge sees a removal a moment before readers do, within the
/// writer's turn; it has segments to sync and to write before anything of it can be seen.)
pub(super) struct Moment(BTreeMap<Position, Nonce>);

/// Looks at the files of a store, and then opens it for reading.
pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<(Moment, Arc<Log>)> {
    let directory = disk.directory(path, false)?;
    let mut nonces = BTreeMap::new();
    for first in segments(&directory.names()?) {
        match read_header(&*directory, first) {
            Ok(header) => _ = nonces.insert(first, header.nonce),
            Err(error) if may_pass(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((Moment(nonces), open_reader(disk, path)?.0))
}

impl Moment {
    /// Checks that a segment that was copied stood there, or was never written again. One whose header is damaged is as it is.
    pub(super) fn check(&self, copy: &dyn Directory, first: Position) -> Result<()> {
        match read_header(copy, first) {
            Ok(header) if header.rewritten.is_some() && self.0.get(&first) != Some(&header.nonce) => {
                Err(changed(&copy.path().join(file_name(first))))
            }
            Ok(_) | Err(Error::NotAStore { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Says that a file changed while it was copied.
pub(super) fn changed(path: &Path) -> Error {
    let why = "it was written again or let go of while it was copied, which is nothing wrong with it: run the copy again, while less \
               is removed";
    Error::not_a_store(path, why)
}

/// Whether looking again may help: a file was there a moment ago, or does not fit the others.
pub(super) fn may_pass(error: &Error) -> bool {
    matches!(error, Error::NotAStore { .. }) || is_gone(error)
}

/// Counts another look after an error that may pass. Any other one is given back, and after enough looks this one is.
pub(super) fn look_again(from: &Path, error: Error, looks: &mut u32) -> Result<()> {
    if !may_pass(&error) {
        return Err(error);
    }
    if *looks == LOOKS {
        return Err(if is_gone(&error) { changed(from) } else { error });
    }
    *looks += 1;
    Ok(())
}

fn is_gone(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        Error::Expired { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::draft::NewEvent;
    use crate::id::Revision;
    use crate::segment::disk::RealDisk;
    use crate::store::options::Options;

    #[test]
    fn a_segment_that_was_written_again_behind_the_moment_is_not_of_it() {
        let path = std::env::temp_dir().join(format!("towpath-moment-{}", std::process::id()));
        let store = Options::new().segment_bytes(64 << 10).open(&path).unwrap();
        let append = || (0..300).for_each(|_| _ = store.append("cart-1", NewEvent::new("added", &[1; 400])).unwrap());
        append();
        let moment = || open(&RealDisk, &path).unwrap().0;
        let has_all = |moment: &Moment| {
            let directory = RealDisk.directory(&path, false).unwrap();
            segments(&directory.names().unwrap()).into_iter().all(|first| moment.check(&*directory, first).is_ok())
        };
        let before = moment();
        append();
        assert!(has_all(&before), "new segments hold everything");
        store.truncate_stream("cart-1", Revision::new(200)).unwrap();
        assert!(has_all(&before), "nothing is taken out yet");
        assert!(store.purge().unwrap().events > 0);
        assert!(!has_all(&before));
        assert!(has_all(&moment()));
        store.close().unwrap();
        std::fs::remove_dir_all(&path).unwrap();
    }
}
