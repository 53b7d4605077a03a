//! How a store is opened.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::format::limits;
use crate::log::grow::Manner;
use crate::log::recover::{open_writer, reader::open_reader};
use crate::log::retain::Retention;
use crate::segment::disk::{Disk, Prepared, RealDisk};
use crate::store::{Inner, Store};
use crate::writer::durability::Durability;
use crate::writer::housekeeping::Work;
use crate::writer::limit::Limit;
use crate::writer::{Settings, Writer};

/// How a store is opened. Each choice has a default that suits most.
#[derive(Clone)]
pub struct Options {
    durability: Durability,
    segment_bytes: u64,
    staging_bytes: usize,
    clock: Arc<dyn Clock>,
    create: bool,
    limit_bytes: Option<u64>,
    retention: Option<Retention>,
    disk: Arc<dyn Disk>,
    work: Work,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The defaults: [`Durability::Sync`], segments up to 64 MiB, 1 MiB of staging, the system's clock, and a store is
    /// made when there is none.
    pub fn new() -> Self {
        Self {
            durability: Durability::Sync,
            segment_bytes: 64 << 20,
            staging_bytes: limits::STAGING,
            clock: Arc::new(SystemClock),
            create: true,
            limit_bytes: None,
            retention: None,
            disk: Arc::new(RealDisk),
            work: Work::Threads,
        }
    }

    /// When an append returns.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The largest size of a segment file, from 64 KiB to [`limits::SEGMENT`]. Stores begin with smaller ones. Larger
    /// ones mean fewer files and longer recovery after a crash, smaller ones the other way round. One commit that needs
    /// more gets a segment of its own size. Segments that exist stay as they are. To index a sealed one takes 16 bytes of
    /// memory for each term (stream, category, type, tag …) of each of its events, for a moment.
    #[must_use]
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// How many bytes of commits may wait for the writer before [`Store::submit`] waits, at least one commit.
    #[must_use]
    pub fn staging_bytes(mut self, bytes: usize) -> Self {
        self.staging_bytes = bytes;
        self
    }

    /// Where recorded times come from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whether to make a store where there is none. Its parent directory has to be there.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Another disk, and no thread of the store's own: what threads do is done by [`Store::step`].
    #[cfg(feature = "simulation")]
    pub(crate) fn simulated(mut self, disk: Arc<dyn Disk>) -> Self {
        (self.disk, self.work) = (disk, Work::Steps);
        self
    }

    /// Opens the store for reading.
    #[cfg(feature = "simulation")]
    pub(crate) fn open_read_only(self, path: &Path) -> Result<Store> {
        open_on(&*self.disk, path, self.clock)
    }

    /// The most bytes that the store may have on disk, as [`inspect::Summary::bytes`](crate::inspect::Summary::bytes) counts them: all its
    /// files, a segment with all that is set aside for it. An append that needs another segment beyond that is refused
    /// with [`Error::StoreFull`]; reads, settlements, checkpoints and [`Store::retain`] go on. Segments are at most a quarter of
    /// the limit then, since the newest one never goes. The guide's page on
    /// [retention](crate::guide::retention) tells what may go beyond it. Without this only the disk is the limit.
    #[must_use]
    pub fn limit_bytes(mut self, bytes: u64) -> Self {
        self.limit_bytes = Some(bytes);
        self
    }

    /// Has the store let go of old segments by itself, as [`Store::retain`] does when it is called: once it is open, and whenever a
    /// segment was sealed, on a thread of its own; and when [`limit_bytes`](Options::limit_bytes) refused an append. So an age is
    /// looked at when something is written, not by a timer. What a consumer needs stays; a name that is
    /// [passed over](Retention::even_from) may be one that does not exist yet. [`Store::last_retention`] tells what came of it, and
    /// [`Counters`](crate::Counters) how much went. This is not remembered on disk: give it whenever you open the store.
    #[must_use]
    pub fn retain(mut self, retention: Retention) -> Self {
        self.retention = Some(retention);
        self
    }

    /// Opens the store for writing.
    ///
    /// # Errors
    /// As [`Store::open`], and [`Error::Invalid`] for a segment size out of bounds.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        if !(64 << 10..=limits::SEGMENT).contains(&self.segment_bytes) {
            let (what, why) = ("segment size", "it is not from 64 KiB to 16 GiB");
            return Err(Error::invalid(what, &self.segment_bytes.to_string(), why));
        }
        let manner = self.manner();
        let opened = open_writer(&*self.disk, path.as_ref(), self.create, manner, &*self.clock)?;
        let (log, recovery) = (opened.log.clone(), opened.recovery.clone());
        let settings = Settings {
            manner,
            durability: self.durability,
            staging_bytes: self.staging_bytes,
            clock: self.clock.clone(),
            limit: self.limit_bytes,
            retention: self.retention,
            work: self.work,
        };
        let writer = Writer::start(opened, settings)?;
        Ok(Store { inner: Arc::new(Inner::new(log, Some(writer), recovery, self.clock)) })
    }

    /// A sync converts blocks that were only set aside, which costs more than writing zeroes ahead does; without syncs
    /// the zeroes are wasted.
    fn manner(&self) -> Manner {
        let synced = self.durability == Durability::Sync;
        Manner {
            prepared: if synced { Prepared::Zeroed } else { Prepared::Allocated },
            synced,
            largest: self.limit_bytes.map_or(self.segment_bytes, |bytes| self.segment_bytes.min(Limit::largest(bytes))),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("durability", &self.durability)
            .field("segment_bytes", &self.segment_bytes)
            .field("staging_bytes", &self.staging_bytes)
            .field("create", &self.create)
            .field("limit_bytes", &self.limit_bytes)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

pub(super) fn open_read_only(path: &Path) -> Result<Store> {
    open_on(&RealDisk, path, Arc::new(SystemClock))
}

fn open_on(disk: &dyn Disk, path: &Path, clock: Arc<dyn Clock>) -> Result<Store> {
    let (log, recovery) = open_reader(disk, path)?;
    Ok(Store { inner: Arc::new(Inner::new(log, None, recovery, clock)) })
}
