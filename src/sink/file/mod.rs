//! A sink that writes JSON lines to a file.

mod keep;
mod lines;
mod names;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::canal::batch::Delivery;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::id::Timestamp;
use crate::sink::file::keep::Keep;
use crate::sink::file::lines::{Lines, Resume};
use crate::sink::file::names::Names;
use crate::sink::record::{Fit, JsonRecord};
use crate::sink::tally::SinkCounts;
use crate::sink::{Refusal, Sink};

/// Lines are written together up to this many bytes.
const TOGETHER: usize = 256 << 10;

/// How often it is looked whether a rotated file has become too old, while none is rotated.
const LOOK: Duration = Duration::from_secs(60);

/// Appends records to a file, a JSON object a line as [`JsonRecord`] writes it, for its owner alone to read.
///
/// The file is rotated when it grows too large or a span of time is over; the rotated ones stand beside it, named by when that was and
/// a number: `events.20130101T100000Z-000017.ndjson`. They can be compressed, and removed by age, size and number.
///
/// A flush syncs the file, and a rotation its directory too. A file that was removed or replaced, that may not be written, or for
/// which there is no room: that is told as a failure that may pass, and once it has passed writing goes on, with whole lines
/// only. What a crash left of a line at the file's end is taken away when it is opened; the record comes again. One process writes to a
/// file at a time; another one is told.
///
/// Only a file that is empty, or that begins as this sink's lines do, is appended to.
///
/// ```no_run
/// use std::time::Duration;
/// use towpath::{FileSink, Forwarder, Stop, Store};
///
/// # let store = Store::open("orders.towpath")?;
/// let sink = FileSink::new("/var/log/orders/events.ndjson")?
///     .rotate_bytes(64 << 20)
///     .rotate_every(Duration::from_secs(24 * 60 * 60))
///     .gzip()
///     .keep_files(30);
/// Forwarder::new(store.cursor("to file").open()?, sink).batch(4096).run(&Stop::new())?;
/// # Ok::<(), towpath::Error>(())
/// ```
pub struct FileSink {
    name: String,
    parent: PathBuf,
    names: Names,
    rotate_bytes: u64,
    rotate_every: Option<Duration>,
    keep: Keep,
    record: JsonRecord,
    clock: Arc<dyn Clock>,
    /// `None` until it is needed, and after a failure.
    lines: Option<Lines>,
    resume: Option<Resume>,
    buffer: Vec<u8>,
    /// Records that were taken since the last flush.
    taken: usize,
    /// How many of these are durable, because their file was rotated since.
    durable: usize,
    /// Why those that are not durable never will be.
    lost: Option<String>,
    tidied: Timestamp,
    counts: SinkCounts,
}

impl FileSink {
    /// A sink for this file. It is opened, or made, with the first record; its directory has to be there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a path that names no file.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let shown = path.display().to_string();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|_| !shown.ends_with('/')) else {
            return Err(Error::invalid("file", &shown, "it does not name a file, or not in UTF-8"));
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self {
            name: format!("file {shown}"),
            parent: parent.to_owned(),
            names: Names::new(name),
            rotate_bytes: u64::MAX,
            rotate_every: None,
            keep: Keep::default(),
            record: JsonRecord::new(),
            clock: Arc::new(SystemClock),
            lines: None,
            resume: None,
            buffer: Vec::new(),
            taken: 0,
            durable: 0,
            lost: None,
            tidied: Timestamp::default(),
            counts: SinkCounts::default(),
        })
    }

    /// Begins another file before this one gets larger than so many bytes, at least 1. A record that is larger stands alone.
    /// Never, unless set.
    #[must_use]
    pub fn rotate_bytes(mut self, bytes: u64) -> Self {
        self.rotate_bytes = bytes.max(1);
        self
    }

    /// Begins another file with the first record of each span of this length, at least a second, counted from 1970 UTC on: a
    /// day begins at midnight there. Never, unless set.
    #[must_use]
    pub fn rotate_every(mut self, span: Duration) -> Self {
        self.rotate_every = Some(span.max(Duration::from_secs(1)));
        self
    }

    /// Compresses files once they are rotated, while the next record waits.
    #[must_use]
    pub fn gzip(mut self) -> Self {
        self.keep.gzip = true;
        self
    }

    /// Removes a file so long after it was rotated, at a rotation or up to a minute later at a flush. Never, unless set.
    #[must_use]
    pub fn keep_for(mut self, age: Duration) -> Self {
        self.keep.age = Some(age);
        self
    }

    /// Removes the oldest rotated files while all of them together have more than so many bytes, as they are stored. The
    /// one that is written to does not count. Never, unless set.
    #[must_use]
    pub fn keep_bytes(mut self, bytes: u64) -> Self {
        self.keep.bytes = Some(bytes);
        self
    }

    /// Removes the oldest rotated files while there are more than so many. Never, unless set.
    #[must_use]
    pub fn keep_files(mut self, files: usize) -> Self {
        self.keep.files = Some(files);
        self
    }

    /// Cuts the payload of a record whose line would be larger than so many bytes. A record that is too large even without
    /// it is refused. No limit, unless set.
    #[must_use]
    pub fn most_record_bytes(mut self, bytes: usize) -> Self {
        self.record = JsonRecord::new().most_bytes(bytes);
        self
    }

    /// The clock that files are rotated and removed by; the system's unless set.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the file now and not with the first record, to learn whether that can be done.
    ///
    /// # Errors
    /// A [`Refusal`] that says why not. It may pass, and the sink can be used all the same.
    pub fn open(&mut self) -> Result<(), Refusal> {
        self.ready().map_err(|why| Refusal::again(0, why))
    }

    /// Has the file open, unless it fails.
    fn ready(&mut self) -> Result<(), String> {
        if self.lines.is_some() {
            return Ok(());
        }
        let open = |resume| Lines::open(&self.parent, &self.names.active, resume, &*self.clock);
        let (mut lines, damage) = open(self.resume)?;
        if let Some(damage) = damage {
            self.set_aside(lines)?;
            self.counts.troubles.add(&damage, 1);
            (lines, _) = open(None)?;
        }
        self.resume = None;
        self.tidy(&lines);
        self.lines = Some(lines);
        Ok(())
    }

    /// Gives a file that is durable the name of a rotated one.
    fn set_aside(&self, lines: Lines) -> Result<(), String> {
        let last = lines.directory.names().map(|names| self.names.among(&names).last().map_or(0, |last| last.number));
        lines.rename(&self.names.rotated(self.clock.now(), last.map_err(lines::told)?.saturating_add(1)))
    }

    /// Looks whether the file is still what it was. What was not flushed yet went with it if not.
    fn look(&mut self) -> Result<(), String> {
        let Some(gone) = self.lines.as_ref().and_then(Lines::gone) else { return Ok(()) };
        self.counts.troubles.add(&gone, 1);
        self.lines = None;
        if self.taken == self.durable {
            return Ok(());
        }
        self.lost = Some(gone.clone());
        Err(gone)
    }

    /// Closes a file that failed. What is not durable is taken out of it when it is opened again.
    fn fail(&mut self, why: String) -> String {
        self.resume = self.lines.take().map(|lines| lines.resume());
        if self.taken > self.durable {
            self.lost = Some(why.clone());
        }
        why
    }

    /// Writes what is in the buffer, all or none.
    fn put(&mut self, held: &mut Held, taken: &mut usize) -> Result<(), Refusal> {
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let (records, cut) = (held.records, held.cut);
        *held = Held::default();
        if let Err(why) = lines.append(&self.buffer) {
            self.buffer.clear();
            // The file is as it was, unless that failed too, which will show when it is looked at.
            return Err(Refusal::again(*taken, why));
        }
        self.buffer.clear();
        self.taken += records;
        *taken += records;
        self.counts.cut.add(&self.record.cut_reason(), cut);
        Ok(())
    }

    /// Begins another file. Everything in this one is durable then.
    fn rotate(&mut self) -> Result<(), String> {
        let Some(mut lines) = self.lines.take() else { return self.ready() };
        if let Err(why) = lines.sync() {
            self.lines = Some(lines);
            return Err(self.fail(why));
        }
        let resume = lines.resume();
        if let Err(why) = self.set_aside(lines) {
            // It is durable under the one name or the other, but which one is not.
            self.resume = Some(resume);
            self.lost = (self.taken > self.durable).then(|| why.clone());
            return Err(why);
        }
        self.durable = self.taken;
        self.ready()
    }

    /// Whether the span of time that the file belongs to is over.
    fn is_over(&self) -> bool {
        let (Some(lines), Some(span)) = (&self.lines, self.rotate_every) else { return false };
        let number = |time: Timestamp| u128::from(time.as_nanos()) / span.as_nanos();
        lines.len > 0 && number(self.clock.now()) > number(lines.begun)
    }

    fn tidy(&mut self, lines: &Lines) {
        self.tidied = self.clock.now();
        self.keep.tidy(&lines.directory, &self.names, self.tidied, &mut self.counts);
    }

    fn try_write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        let again = |why: String| Refusal::again(0, why);
        self.look().map_err(again)?;
        self.ready().map_err(again)?;
        if self.is_over() {
            self.rotate().map_err(again)?;
        }
        self.buffer.clear();
        let (mut taken, mut held) = (0, Held::default());
        for record in records {
            let before = self.buffer.len();
            let fit = match self.record.delivery(record, &mut self.buffer) {
                Ok(fit) => fit,
                Err(refusal) => {
                    self.put(&mut held, &mut taken)?;
                    return Err(refusal.at(taken));
                }
            };
            self.buffer.push(b'\n');
            let len = self.lines.as_ref().map_or(0, |lines| lines.len);
            if len + before as u64 > 0 && len + self.buffer.len() as u64 > self.rotate_bytes {
                let line = self.buffer.split_off(before);
                self.put(&mut held, &mut taken)?;
                self.rotate().map_err(|why| Refusal::again(taken, why))?;
                self.buffer.extend_from_slice(&line);
            }
            held.records += 1;
            held.cut += u64::from(fit == Fit::Cut);
            if self.buffer.len() >= TOGETHER {
                self.put(&mut held, &mut taken)?;
            }
        }
        self.put(&mut held, &mut taken)
    }

    fn try_flush(&mut self) -> Result<(), String> {
        if let Some(why) = self.lost.take() {
            return Err(why);
        }
        let Some(mut lines) = self.lines.take() else { return Ok(()) };
        if self.taken > self.durable {
            let synced = lines.sync();
            self.lines = Some(lines);
            synced.map_err(|why| self.fail(why))?;
            // What is durable in a file without a name is not kept.
            self.look()?;
        } else {
            self.lines = Some(lines);
        }
        Ok(())
    }
}

/// Lines in the buffer.
#[derive(Default)]
struct Held {
    records: usize,
    cut: u64,
}

impl Sink for FileSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        if let Some(lost) = &self.lost {
            return Err(Refusal::again(0, lost.clone()));
        }
        self.try_write(records)
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        let flushed = self.try_flush();
        let (_, durable) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.durable));
        self.lost = None;
        flushed.map_err(|why| Refusal::again(durable, why))?;
        if self.keep.age.is_some()
            && self.clock.now().since(self.tidied) >= LOOK
            && let Some(lines) = self.lines.take()
        {
            self.tidy(&lines);
            self.lines = Some(lines);
        }
        Ok(())
    }

    fn counts(&self) -> SinkCounts {
        self.counts.clone()
    }
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink").field("name", &self.name).field("counts", &self.counts).finish_non_exhaustive()
    }
}
