//! Whether a path still leads to the directory that it led to.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory, as it was found at a path.
pub(crate) struct Place {
    path: PathBuf,
    /// Device and inode; `None` when it could not be looked at.
    found: Option<(u64, u64)>,
}

impl Place {
    pub(crate) fn of(path: &Path) -> Self {
        let found = std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        Self { path: path.to_owned(), found }
    }

    /// What stands at the path now instead, if that is sure.
    pub(crate) fn fault(&self) -> Option<String> {
        let path = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(now) if self.found.is_some_and(|found| found != (now.dev(), now.ino())) => Some(format!(
                "{path} is another directory now than the one that was followed; say it again to follow that"
            )),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Some(format!("{path} is gone: it was moved away or removed while it was followed"))
            }
            _ => None,
        }
    }
}
