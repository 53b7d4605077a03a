//! The revisions of each stream: dense, from 1. In bounded memory: where there are too many streams for it, the frames are
//! gone through several times, each time for a part of the streams.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::error::Result;
use crate::id::Revision;
use crate::log::Log;

/// So many streams are remembered at once: about a hundred megabytes.
const AT_ONCE: u64 = if cfg!(test) { 8 } else { 4 << 20 };

/// The last revision of streams, by a hash that nobody can foresee.
pub(super) struct Revisions {
    known: HashMap<u64, Known>,
    hasher: RandomState,
    passes: u64,
    pass: u64,
    /// How often something was not seen, so that revisions before it say little.
    forgotten: u32,
    /// Positions whose event was removed, and that no missing revision accounts for yet.
    removed: u64,
    /// Streams that had no room.
    passed_over: u64,
    is_on: bool,
}

#[derive(Clone, Copy)]
struct Known {
    revision: Revision,
    forgotten: u32,
}

/// How many streams there are, the store's own included; at least.
pub(super) fn streams(log: &Log) -> Result<u64> {
    log.parts.firsts().into_iter().try_fold(0, |sum, first| {
        // Beside a live writer old segments may go meanwhile.
        let Some(part) = log.parts.still_there(first)? else { return Ok(sum) };
        let found = part.index.summary(part.segment.written());
        Ok(sum + found.streams + found.own_events)
    })
}

impl Revisions {
    /// Does not look.
    pub(super) fn none() -> Self {
        Self { is_on: false, ..Self::of(0) }
    }

    /// As many streams as there is room for.
    pub(super) fn in_one_pass() -> Self {
        Self::of(0)
    }

    /// All of so many streams.
    pub(super) fn of(streams: u64) -> Self {
        Self {
            known: HashMap::new(),
            hasher: RandomState::new(),
            // Half full on average, so that no part of them is too large.
            passes: (streams * 2).div_ceil(AT_ONCE).max(1),
            pass: 0,
            forgotten: 0,
            removed: 0,
            passed_over: 0,
            is_on: true,
        }
    }

    pub(super) fn passes(&self) -> u64 {
        self.passes
    }

    pub(super) fn begin(&mut self, pass: u64) {
        self.pass = pass;
        self.known.clear();
        (self.forgotten, self.removed) = (0, 0);
    }

    /// Some events were not seen: revisions may jump.
    pub(super) fn forget(&mut self) {
        self.forgotten += 1;
    }

    /// Events were removed: no stream misses more revisions.
    pub(super) fn removed(&mut self, events: u64) {
        self.removed += events;
    }

    /// Whether an event of a stream has the revision that has to come, as far as can be known. `stood` says where a stream
    /// stood before the first event that is kept, if that can be known. Was something `let_go` of, events that had been
    /// removed there are not accounted for.
    pub(super) fn follows(
        &mut self,
        stream: &[u8],
        revision: Revision,
        stood: impl FnOnce(&[u8]) -> Option<Revision>,
        let_go: bool,
    ) -> bool {
        if !self.is_on {
            return true;
        }
        let hash = self.hasher.hash_one(stream);
        if hash % self.passes != self.pass {
            return true;
        }
        let now = Known { revision, forgotten: self.forgotten };
        if self.known.len() as u64 >= AT_ONCE && !self.known.contains_key(&hash) {
            self.passed_over += 1;
            return true;
        }
        let before = self.known.insert(hash, now);
        let Some(last) = before.map(|known| known.revision).or_else(|| stood(stream)) else { return true };
        let jumps = before.map_or(0, |known| known.forgotten) < self.forgotten;
        let Some(missing) = revision.get().checked_sub(last.next().get()) else { return false };
        if missing == 0 || jumps || before.is_none() && let_go {
            return true;
        }
        // A fork cannot tell of which stream the events were that are gone: each may go on behind all of them.
        missing <= self.removed
    }

    /// How many streams were left out, at most: events that had no room.
    pub(super) fn unchecked(&self) -> u64 {
        self.passed_over
    }
}
