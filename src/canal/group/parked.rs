//! Order keys under which dead letters stand, where what follows a dead letter must not overtake it.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::canal::group::letter::{Head, STREAMS};
use crate::error::Result;
use crate::format::term::Kind;
use crate::log::ledger::Ledger;
use crate::log::terms::Filter;
use crate::store::Store;
use crate::sync::guard;

/// The keys that are parked. What tells them is the stream of dead letters itself.
#[derive(Debug, Default)]
pub(super) struct Parked {
    keys: HashSet<u64>,
    /// Whether the group parks at all.
    parks: bool,
    /// Whether the dead letters have to be read again: some of them are gone.
    is_stale: bool,
}

impl Parked {
    /// Not read yet.
    pub(super) fn unread(parks: bool) -> Self {
        Self { keys: HashSet::new(), parks, is_stale: parks }
    }

    /// Dead letters went away.
    pub(super) fn set_stale(&mut self) {
        self.is_stale = self.parks;
    }

    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.keys.contains(&key)
    }

    pub(super) fn add(&mut self, key: Option<u64>) {
        self.keys.extend(key);
    }

    /// Reads the dead letters again where that has to be. Everything that was decided must have been written.
    pub(super) fn refresh(&mut self, store: &Store, group: &str, ledger: &Mutex<Ledger>) -> Result<()> {
        if !std::mem::take(&mut self.is_stale) {
            return Ok(());
        }
        self.keys.clear();
        let gone = guard(ledger).gone.clone();
        let stream = format!("{STREAMS}{group}").into_bytes();
        // A dead letter that cannot be read parks nothing.
        for letter in store.read_filtered(Filter::Exactly(Kind::Stream, stream)).flatten() {
            if !gone.contains(letter.revision().get()) {
                self.keys.extend(Head::of(&letter).and_then(|head| head.key));
            }
        }
        Ok(())
    }
}
