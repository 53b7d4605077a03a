//! How many bytes a store may have, and what is refused when it has them. The guide's page on retention says what counts.

use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::frame::Staged;
use crate::format::names;
use crate::log::Log;
use crate::log::grow::{self, SPARE_NAME, Spare};
use crate::writer::housekeeping::Orders;
use crate::writer::turn::Turn;

/// Segments are at most this part of the limit: the newest never goes, so the others have to be most of the store.
const SEGMENTS: u64 = 4;

/// The limit on a store's bytes.
#[derive(Debug)]
pub(crate) struct Limit {
    bytes: u64,
    refused: Option<Refused>,
}

/// What did not fit the last time, so that a full store need not look at all of its files for each commit.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// As of these changes of the files.
    changes: u64,
    used: u64,
    /// Nothing that takes this much room fits.
    needed: u64,
}

impl Limit {
    /// Whether the files that there are fit in is found out before the first append.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, refused: Some(Refused { changes: u64::MAX, used: 0, needed: 0 }) }
    }

    /// The largest segment under a limit.
    pub(crate) fn largest(bytes: u64) -> u64 {
        (bytes / SEGMENTS).max(64 << 10)
    }

    /// Whoever keeps to a retention is told, too.
    fn full(&self, log: &Log, orders: &Orders, used: u64, needed: u64) -> Error {
        orders.retain();
        Error::StoreFull { path: log.directory.path().to_owned(), limit: self.bytes, used, needed }
    }
}

impl Turn {
    /// Refuses events of users while the store has more bytes than it may have.
    pub(super) fn check_limit(&mut self, commit: &[u8], log: &Log) -> Result<()> {
        let Some(limit) = &mut self.limit else { return Ok(()) };
        let Some(known) = limit.refused.filter(|refused| refused.needed == 0) else { return Ok(()) };
        if !appends(commit) {
            return Ok(());
        }
        let changes = log.counts.changed.get();
        if known.changes == changes {
            return Err(limit.full(log, &self.orders, known.used, commit.len() as u64));
        }
        let used = used_by_others(log)? + self.pen.segment().capacity();
        limit.refused = (used > limit.bytes).then_some(Refused { changes, used, needed: 0 });
        if limit.refused.is_some() { Err(limit.full(log, &self.orders, used, commit.len() as u64)) } else { Ok(()) }
    }

    /// The next segment, with room for `needed` bytes behind its header, no larger than the limit leaves. What is no append
    /// gets a small one beyond the limit, so that a full store can still be read, settled and emptied.
    pub(super) fn spare_within(&mut self, needed: u64, commit: &[u8], log: &Log) -> Result<Spare> {
        let Some(limit) = &mut self.limit else {
            let size = grow::next_size(self.log_bytes, needed, self.manner.largest);
            return self.orders.spare(needed).map_or_else(|| Spare::prepare(&*log.directory, size, self.manner), Ok);
        };
        let whole = needed + PAGE as u64;
        let (changes, is_append) = (log.counts.changed.get(), appends(commit));
        if let Some(known) = limit.refused.filter(|known| known.changes == changes && known.needed <= whole)
            && is_append
        {
            return Err(limit.full(log, &self.orders, known.used, whole));
        }
        // Of the segment that is newest now the blank end will be cut; without events all of it goes.
        let kept = if self.next > self.pen.segment().first() { self.pen.end() } else { 0 };
        let used = used_by_others(log)? + kept;
        let room = limit.bytes.saturating_sub(used);
        if let Some(spare) = self.orders.spare(needed).filter(|spare| spare.size() <= room) {
            limit.refused = None;
            return Ok(spare);
        }
        let size = grow::next_size(self.log_bytes, needed, self.manner.largest).min(room / PAGE as u64 * PAGE as u64);
        if size >= whole {
            limit.refused = None;
            return Spare::prepare(&*log.directory, size, self.manner);
        }
        if is_append {
            log.directory.remove(SPARE_NAME)?;
            limit.refused = Some(Refused { changes, used, needed: whole });
            return Err(limit.full(log, &self.orders, used, whole));
        }
        let size = grow::next_size(0, needed, self.manner.largest);
        let spare = Spare::prepare(&*log.directory, size, self.manner)?;
        limit.refused = Some(Refused { changes, used: used + size, needed: 0 });
        Ok(spare)
    }

    /// Whether the limit leaves room for another segment of this size beside the newest.
    pub(super) fn limit_allows(&self, size: u64, log: &Log) -> bool {
        let Some(limit) = &self.limit else { return true };
        used_by_others(log).is_ok_and(|used| used + self.pen.segment().capacity() + size <= limit.bytes)
    }
}

/// Bytes of all files besides the newest segment and the one that is made ready.
fn used_by_others(log: &Log) -> Result<u64> {
    let newest = log.parts.newest();
    let names = log.directory.names()?;
    let others = names.iter().filter(|name| *name != newest.segment.name() && *name != SPARE_NAME);
    others.map(|name| log.directory.size(name)).sum()
}

/// Whether a commit has events of users in it. Settlements and the dead letters that come with them are none.
fn appends(commit: &[u8]) -> bool {
    let mut at = 0;
    while at < commit.len() {
        let staged = Staged::at(commit, at);
        let frame = staged.frame();
        if !frame.is_control() && frame.stream_bytes().first() != Some(&(names::OWN as u8)) {
            return true;
        }
        at += staged.stride();
    }
    false
}
