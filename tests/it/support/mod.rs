//! Small verbs that the tests are told with.

pub(crate) mod child;
pub(crate) mod files;
pub(crate) mod helper;
#[cfg(feature = "sink-http")]
pub(crate) mod http_server;
pub(crate) mod orders;
pub(crate) mod random;
#[cfg(any(feature = "sink-http", feature = "sink-kafka", feature = "sink-redis"))]
pub(crate) mod records;
#[cfg(feature = "sink-redis")]
pub(crate) mod redis_server;
#[cfg(any(feature = "sink-http", feature = "sink-kafka", feature = "sink-redis"))]
pub(crate) mod servers;
pub(crate) mod told;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use towpath::{Canal as _, Durability, Event, NewEvent, Options, Reader, Reason, Retry, Settlement, Store};

/// A directory of its own for one test, removed at its end.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::in_directory(&std::env::temp_dir())
    }

    /// In memory where that can be had, for tests that open stores a thousand times and prove nothing about disks.
    pub(crate) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::in_directory(memory) } else { Self::new() }
    }

    fn in_directory(directory: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("towpath-it-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = directory.join(name);
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

    /// What a process that is killed now leaves behind: a copy of the files as they are, in a directory of its own.
    pub(crate) fn as_if_killed(&self) -> Scratch {
        let copy = Scratch::new();
        copy_directory(&self.store_path(), &copy.store_path());
        copy
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

/// Options for the smallest segments, for tests that prove nothing about disks.
pub(crate) fn os() -> Options {
    Options::new().segment_bytes(64 << 10).durability(Durability::Os)
}

/// Has a cursor, `reader`, come to position 41, and a group, `mail`, with unsettled deliveries and a dead letter.
pub(crate) fn consume(store: &Store) {
    let mut cursor = store.cursor("reader").open().unwrap();
    let batch = cursor.pull_batch(40, Duration::ZERO).unwrap();
    cursor.settle(batch.last().unwrap(), Settlement::Done).unwrap();
    cursor.flush().unwrap();
    let group = store.group("mail").retry(Retry::never()).open().unwrap();
    let mut member = group.member().unwrap();
    let batch = member.pull_batch(9, Duration::ZERO).unwrap();
    let deliveries: Vec<_> = batch.iter().collect();
    let refused = Settlement::Reject { reason: Reason::Rejected, why: "no such plane".into() };
    member.settle(deliveries[0].token(), Settlement::Done).unwrap();
    member.settle(deliveries[1].token(), refused).unwrap();
    member.flush().unwrap();
}

/// A plain event with a text.
pub(crate) fn noted(text: &str) -> NewEvent<'_> {
    NewEvent::new("noted", text)
}

/// The positions of what is read.
pub(crate) fn positions(reader: Reader) -> Vec<u64> {
    reader.map(|event| event.unwrap().position().get()).collect()
}

/// The payloads of what is read, as text.
pub(crate) fn texts(reader: Reader) -> Vec<String> {
    reader.map(|event| text(&event.unwrap()).to_owned()).collect()
}

/// The payload of an event, as text.
pub(crate) fn text<'a>(event: &'a Event<'_>) -> &'a str {
    std::str::from_utf8(event.payload()).unwrap()
}

/// Whether these are the numbers from 1 on, none missing and none twice.
pub(crate) fn is_dense(positions: &[u64]) -> bool {
    positions.iter().copied().eq(1..=positions.len() as u64)
}

/// How many cases a property test tries: few unless `PROPTEST_CASES` asks for more.
pub(crate) fn cases(few: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// Copies files that may be replaced meanwhile: what goes away between the look and the copy was not there.
fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &target),
            false => match std::fs::copy(entry.path(), target) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                _ => {}
            },
        }
    }
}
