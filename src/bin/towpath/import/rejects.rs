//! Rows that did not go in: counted, and written to a file where one is named.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use crate::failure::{Failure, Result};

pub(crate) struct Rejects {
    to: Option<BufWriter<File>>,
    rejected: Rejected,
}

/// How many, and the first of them: line and reason.
#[derive(Default)]
pub(crate) struct Rejected {
    pub(crate) count: u64,
    pub(crate) first: Option<(u64, String)>,
}

#[derive(Serialize)]
struct Reject<'a> {
    line: u64,
    reason: &'a str,
    row: &'a str,
}

impl Rejects {
    /// Begins the file anew.
    pub(crate) fn create(path: Option<&Path>, input: &Path, store: &Path) -> Result<Self> {
        let to = path.map(|path| create(path, input, store)).transpose()?;
        Ok(Self { to: to.map(BufWriter::new), rejected: Rejected::default() })
    }

    pub(crate) fn add(&mut self, line: u64, reason: &str, row: &[u8]) -> Result<()> {
        self.rejected.count += 1;
        self.rejected.first.get_or_insert_with(|| (line, reason.to_owned()));
        let Some(to) = &mut self.to else { return Ok(()) };
        let reject = Reject { line, reason, row: &String::from_utf8_lossy(row) };
        let written =
            serde_json::to_writer(&mut *to, &reject).map_err(io::Error::from).and_then(|()| to.write_all(b"\n"));
        written.map_err(failure)
    }

    pub(crate) fn finish(mut self) -> Result<Rejected> {
        self.to.iter_mut().try_for_each(Write::flush).map_err(failure)?;
        Ok(self.rejected)
    }
}

fn create(path: &Path, input: &Path, store: &Path) -> Result<File> {
    if is_within(path, store) {
        return Err(Failure::new(format!("{} lies in the store; name a file outside of it", path.display())));
    }
    let is_input = fs::canonicalize(path).is_ok_and(|path| fs::canonicalize(input).is_ok_and(|input| input == path));
    if is_input {
        return Err(Failure::new(format!("{} holds the rows; name another file for rejects", path.display())));
    }
    File::create(path).map_err(|error| Failure::because(format!("could not create {}", path.display()), &error))
}

/// Also when a link leads there: creating the file anew would empty a segment.
pub(crate) fn is_within(path: &Path, store: &Path) -> bool {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let real = fs::canonicalize(path).or_else(|_| fs::canonicalize(folder));
    real.is_ok_and(|real| fs::canonicalize(store).is_ok_and(|store| real.starts_with(store)))
}

fn failure(error: io::Error) -> Failure {
    Failure::because("could not write the rejects", &error)
}
