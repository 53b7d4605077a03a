//! How much of the disk the events take.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::failure::{Failure, Result};

/// Bytes that are looked at together for something that is not blank.
const BLOCK: u64 = 1 << 20;

/// What segments, index files and tiers hold, without the blank end of the newest segment, which waits for events to come.
pub(crate) fn used(dir: &Path) -> Result<u64> {
    sum(dir).map_err(|error| Failure::because(format!("could not read {}", dir.display()), &error))
}

fn sum(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|kind| kind.to_str()) {
            Some("idx" | "tier") => bytes += fs::metadata(&path)?.len(),
            Some("seg") => bytes += without_blank_end(&mut File::open(&path)?)?,
            _ => {}
        }
    }
    Ok(bytes)
}

/// The length of a file up to its last byte that is not zero.
fn without_blank_end(file: &mut (impl Read + Seek)) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = Vec::new();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(begin))?;
        block.clear();
        file.by_ref().take(end - begin).read_to_end(&mut block)?;
        if let Some(last) = block.iter().rposition(|byte| *byte != 0) {
            return Ok(begin + last as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_blank_end_is_not_counted() {
        let mut bytes = vec![0; 3 << 20];
        assert_eq!(without_blank_end(&mut Cursor::new(&bytes)).unwrap(), 0);
        bytes[1 << 20] = 1;
        assert_eq!(without_blank_end(&mut Cursor::new(&bytes)).unwrap(), (1 << 20) + 1);
        assert_eq!(without_blank_end(&mut Cursor::new(&bytes[..5])).unwrap(), 0);
    }
}
