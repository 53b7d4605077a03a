//! Removing events: the beginning of a stream, all of a stream, all but the latest of each key; and taking what was removed
//! out of the files.

use std::collections::HashSet;
use std::hash::Hash;

use crate::error::{Error, Result};
use crate::event::query::Query;
use crate::format::control::Control;
use crate::format::{limits, names};
use crate::id::Revision;
use crate::log::event::Event;
use crate::log::ledger::ranges::Ranges;
use crate::log::purge::Purged;
use crate::log::removals::BYTES_A_STRETCH;
use crate::log::walk::latest;
use crate::store::Store;
use crate::writer::commit::Commit;

/// What [`Store::compact_stream`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Events that are gone for readers.
    pub removed: u64,
    /// Older events that are superseded and stay, because more would have been
    /// [too much at a time](limits::REMOVALS). Call it again after [`Store::purge`].
    pub left: u64,
}

impl Store {
    /// Removes the events of a stream before a revision. Readers that are made from now on do not see them, wherever they
    /// look; positions and revisions stay what they are. The files lose them later: see [`purge`](Store::purge).
    ///
    /// A revision behind the stream's last counts as the one that comes next: the stream is removed as by
    /// [`delete_stream`](Store::delete_stream). Whether or not it lasts when this returns is as for
    /// [`append`](Store::append).
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("towpath-truncate-{}", std::process::id()));
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// use towpath::{NewEvent, Query, Revision, Store};
    ///
    /// let store = Store::open(&dir)?;
    /// for n in 0..10 {
    ///     store.append("meter-1", NewEvent::new("read", &n.to_string()))?;
    /// }
    /// store.truncate_stream("meter-1", Revision::new(8))?;
    /// let left = store.read(Query::new()).map(|event| Ok(event?.position().get())).collect::<towpath::Result<Vec<u64>>>()?;
    /// assert_eq!(left, [8, 9, 10]);
    /// let purged = store.purge()?;
    /// assert_eq!((purged.segments, purged.events), (1, 7));
    /// store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), towpath::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for a stream of the store's own, [`Error::TooLarge`] when too much was removed and not
    /// [purged](Store::purge) yet, and what an append can fail with.
    pub fn truncate_stream(&self, stream: &str, before: Revision) -> Result<()> {
        let head = self.head_of(stream)?;
        self.remove(stream, up_to(before.get().saturating_sub(1).min(head.get())))
    }

    /// Removes all events of a stream, as they are when this is called. The stream does not exist then: it stands at
    /// [`Revision::ABSENT`], and an append that expects it to be absent succeeds. Its revisions are not used again; the
    /// next event goes on behind the last that was removed.
    ///
    /// # Errors
    /// As [`truncate_stream`](Store::truncate_stream).
    pub fn delete_stream(&self, stream: &str) -> Result<()> {
        let head = self.head_of(stream)?;
        self.remove(stream, up_to(head.get()))
    }

    /// Removes all events of a stream but the latest of each key, as they are when this is called; events for which `key`
    /// gives `None` stay. Nothing is kept of `key`: what is appended later is compacted by calling this again. Reads the
    /// stream and keeps one key for each event that stays.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("towpath-compact-{}", std::process::id()));
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// use towpath::{NewEvent, Query, Store};
    ///
    /// let store = Store::open(&dir)?;
    /// for (sku, price) in [("tea", "3"), ("coffee", "5"), ("tea", "4")] {
    ///     store.append("prices", NewEvent::new("set", price).tag(format!("sku:{sku}")))?;
    /// }
    /// let by_sku = |event: &towpath::Event<'_>| event.tags().find(|tag| tag.starts_with("sku:")).map(str::to_owned);
    /// assert_eq!(store.compact_stream("prices", by_sku)?.removed, 1);
    /// let left: Vec<Vec<u8>> = store.read(Query::new()).map(|event| Ok(event?.payload().to_vec())).collect::<towpath::Result<_>>()?;
    /// assert_eq!(left, [b"5", b"4"]);
    /// store.close()?;
    /// # std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), towpath::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`truncate_stream`](Store::truncate_stream), and [`Error::Damaged`] when some of the stream cannot be read.
    pub fn compact_stream<K: Hash + Eq>(
        &self,
        stream: &str,
        mut key: impl FnMut(&Event<'_>) -> Option<K>,
    ) -> Result<Compacted> {
        names::check_users("stream name", stream)?;
        self.writer()?.check_may_wait()?;
        let (mut seen, mut gone, mut compacted) = (HashSet::new(), Ranges::default(), Compacted::default());
        let room = limits::REMOVALS.saturating_sub(self.removals_size() + stream.len()) / BYTES_A_STRETCH;
        let mut events = self.read(Query::new().stream(stream)).backwards();
        while let Some(event) = events.next_borrowed() {
            let event = event?;
            let Some(key) = key(&event) else { continue };
            if seen.insert(key) {
                continue;
            }
            if gone.len() >= room {
                compacted.left += 1;
                continue;
            }
            gone.add(event.revision().get(), event.revision().get());
            compacted.removed += 1;
        }
        self.remove(stream, gone)?;
        Ok(compacted)
    }

    /// Takes what was removed out of the files, and waits until that is done: the segments that hold some of it are written
    /// again without it, one after the other, by a thread of the store's own, while reading and writing go on. The disk
    /// needs room for one more segment meanwhile. The newest segment is ended first when it holds some.
    ///
    /// Without this it happens when the next segment is full. Whoever reads a segment then, or holds an event of it, keeps
    /// the old file until it is done. Files that were copied before, as by a backup, have what they had.
    ///
    /// # Errors
    /// [`Error::DiskFull`] and [`Error::Io`] when a segment cannot be written, [`Error::Damaged`] when it is not whole: that
    /// one stays as it is, those before it are done, and readers go on not seeing what was removed. [`Error::Closed`] when
    /// the store is closed meanwhile, [`Error::Stopped`], [`Error::ReadOnly`].
    pub fn purge(&self) -> Result<Purged> {
        self.writer()?.purge()
    }

    fn head_of(&self, stream: &str) -> Result<Revision> {
        names::check_users("stream name", stream)?;
        self.writer()?.check_may_wait()?;
        let log = &self.inner.log;
        Ok(log.costs.of(|| latest::standing(log, stream, log.head()))?.revision)
    }

    fn removals_size(&self) -> usize {
        self.inner.log.removals().map_or(0, |removals| removals.size())
    }

    fn remove(&self, stream: &str, gone: Ranges) -> Result<()> {
        let log = &self.inner.log;
        if gone.is_empty() {
            return Ok(());
        }
        let size = self.removals_size() + stream.len() + gone.len() * BYTES_A_STRETCH;
        if size > limits::REMOVALS {
            let (size, limit) = (size as u64, limits::REMOVALS as u64);
            return Err(Error::TooLarge { what: "list of what was removed and not purged yet", size, limit });
        }
        let mut commit = Commit::new();
        commit.control(&Control::Dropped { stream: stream.to_owned(), gone: gone.to_vec() });
        let writer = self.writer()?;
        writer.commit(&commit)?;
        // A commit without events waits for no sync of its own.
        if writer.syncs() { writer.sync() } else { Ok(()) }?;
        log.head.wake();
        Ok(())
    }
}

/// The revisions up to this one, if there are any.
fn up_to(last: u64) -> Ranges {
    let mut ranges = Ranges::default();
    ranges.add(1, last);
    ranges
}

#[cfg(test)]
mod tests;
