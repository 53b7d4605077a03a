//! Small verbs that the tests are told with.

pub(crate) mod child;
pub(crate) mod files;
pub(crate) mod told;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use towpath::{Durability, Options, Store};

/// A directory of its own for one test, removed at its end.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("towpath-it-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let _none_yet = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Where the store of the test lies.
    pub(crate) fn store_path(&self) -> PathBuf {
        self.0.join("orders.towpath")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Opens the store with small segments, so that they follow each other in every test.
    pub(crate) fn open(&self) -> Store {
        self.open_with(Durability::Os)
    }

    pub(crate) fn open_with(&self, durability: Durability) -> Store {
        small().durability(durability).open(self.store_path()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// Options for small segments.
pub(crate) fn small() -> Options {
    Options::new().segment_bytes(128 << 10)
}
