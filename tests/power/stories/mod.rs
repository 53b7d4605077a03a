//! What runs until the power goes, and what has to hold afterwards.

pub(crate) mod append;
pub(crate) mod commits;
#[cfg(feature = "sink-file")]
pub(crate) mod forward;
pub(crate) mod group;
pub(crate) mod retain;
pub(crate) mod roll;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::disk;

/// A workload. What it does hangs on nothing but how far it got.
pub(crate) struct Story {
    pub(crate) name: &'static str,
    /// Works below a directory, and marks what was acknowledged.
    pub(crate) run: fn(&Path, &Marks),
    /// Recovers what is there and checks it against what was marked, then goes on writing, and marks that, too. What is wrong, if
    /// anything is.
    pub(crate) check: fn(&Path, &[&str], &Marks) -> Result<(), String>,
}

/// Where it is written down that something was acknowledged, in its place among the writes of the disk.
pub(crate) struct Marks(File);

impl Marks {
    pub(crate) fn of(machine: &Path) -> Self {
        Self(File::options().write(true).open(machine.join("fuse").join(disk::MARKS)).unwrap())
    }

    pub(crate) fn mark(&self, what: impl std::fmt::Display) {
        (&self.0).write_all(what.to_string().as_bytes()).unwrap();
    }
}

/// The numbers of the marks of a kind, the last one of them for those that only grow.
pub(crate) fn marked<'a>(known: &'a [&str], kind: &'a str) -> impl Iterator<Item = u64> + use<'a> {
    let words = known.iter().filter_map(move |mark| mark.strip_prefix(kind)?.strip_prefix(' '));
    words.flat_map(|numbers| numbers.split(' ').map(|number| number.parse().unwrap()))
}

/// Turns any error into what is wrong.
pub(crate) fn wrong(error: impl std::fmt::Display) -> String {
    error.to_string()
}
