//! What becomes of files that were rotated away: compressed, and removed in the end.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::Result;
use crate::id::Timestamp;
use crate::segment::disk::{Directory, File};
use crate::segment::map::Access;
use crate::sink::file::lines::told;
use crate::sink::file::names::{GZIP, Names, Rotated};
use crate::sink::tally::SinkCounts;

/// What is done with rotated files.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keep {
    pub(super) gzip: bool,
    pub(super) age: Option<Duration>,
    pub(super) bytes: Option<u64>,
    pub(super) files: Option<usize>,
}

impl Keep {
    /// Compresses and removes what is due. What fails is counted, and done the next time.
    pub(super) fn tidy(&self, directory: &Arc<dyn Directory>, names: &Names, now: Timestamp, counts: &mut SinkCounts) {
        if let Err(error) = self.try_tidy(directory, names, now, counts) {
            counts.troubles.add(&told(error), 1);
        }
    }

    fn try_tidy(
        &self,
        directory: &Arc<dyn Directory>,
        names: &Names,
        now: Timestamp,
        counts: &mut SinkCounts,
    ) -> Result<()> {
        let all = directory.names()?;
        for left_over in all.iter().filter(|name| names.is_left_over(name)) {
            directory.remove(left_over)?;
        }
        // A compressed file gets its name only when it is whole; the plain one beside it was about to be removed.
        let is_twice = |file: &Rotated| !file.is_compressed && all.contains(&format!("{}{GZIP}", file.name));
        for file in names.among(&all).iter().filter(|file| is_twice(file)) {
            directory.remove(&file.name)?;
        }

        // What goes anyway need not be compressed; how many bytes there are is known only after that.
        Keep { bytes: None, ..*self }.remove(directory, names, now, counts)?;
        let mut plain = names.among(&directory.names()?).into_iter().filter(|file| self.gzip && !file.is_compressed);
        let compressed = plain.try_for_each(|file| compress(directory, &file.name));
        // Also when there was no room to compress: this makes some.
        self.remove(directory, names, now, counts)?;
        compressed
    }

    /// Removes the oldest for as long as there is a reason to.
    fn remove(
        &self,
        directory: &Arc<dyn Directory>,
        names: &Names,
        now: Timestamp,
        counts: &mut SinkCounts,
    ) -> Result<()> {
        let files = names.among(&directory.names()?);
        let mut sizes = Vec::with_capacity(files.len());
        for file in &files {
            sizes.push(directory.look(&file.name)?.map_or(0, |look| look.len));
        }
        let mut bytes: u64 = sizes.iter().sum();
        for (place, (file, size)) in files.iter().zip(sizes).enumerate() {
            let left = files.len() - place;
            let age = Duration::from_secs((now.as_nanos() / 1_000_000_000).saturating_sub(file.time));
            let why = if self.files.is_some_and(|most| left > most) {
                "more files than are kept"
            } else if self.bytes.is_some_and(|most| bytes > most) {
                "more bytes than are kept"
            } else if self.age.is_some_and(|most| age > most) {
                "older than is kept"
            } else {
                break;
            };
            directory.remove(&file.name)?;
            counts.removed.add(why, 1);
            bytes -= size;
        }
        Ok(())
    }
}

/// Puts a compressed file in the place of a plain one. Whenever this ends, one of the two is whole.
fn compress(directory: &Arc<dyn Directory>, name: &str) -> Result<()> {
    let (whole, making) = (format!("{name}{GZIP}"), format!("{name}{GZIP}.tmp"));
    let made = pack(directory, name, &making);
    if made.is_err() {
        // What it takes may be what there is no room for.
        let _left_over = directory.remove(&making);
    }
    made?;
    directory.rename(&making, &whole)?;
    directory.sync()?;
    directory.remove(name)
}

fn pack(directory: &Arc<dyn Directory>, name: &str, to: &str) -> Result<()> {
    let plain = directory.open(name, Access::Read)?;
    let mut target = Writing { file: directory.create(to)?, at: 0, failed: None };
    let packed = pack_into(&*plain, &mut target)?;
    if let Some(error) = target.failed {
        return Err(error);
    }
    packed.map_err(|error| crate::error::Error::io("compress", &directory.path().join(name), error))?;
    target.file.sync()
}

fn pack_into(plain: &dyn File, target: &mut Writing) -> Result<io::Result<()>> {
    let mut encoder = GzEncoder::new(target, Compression::default());
    let (mut buffer, mut at) = (vec![0; 64 << 10], 0);
    loop {
        let read = plain.read_at(&mut buffer, at)?;
        if read == 0 {
            return Ok(encoder.finish().map(drop));
        }
        at += read as u64;
        if let Err(error) = encoder.write_all(&buffer[..read]) {
            return Ok(Err(error));
        }
    }
}

/// A file to be written from its beginning to its end.
struct Writing {
    file: Arc<dyn File>,
    at: u64,
    /// Says more than what can be told as an `io::Error`.
    failed: Option<crate::error::Error>,
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.file.write_at(bytes, self.at) {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
