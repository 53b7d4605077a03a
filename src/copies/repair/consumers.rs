//! What consumers remember, added up from records of which some are lost. In doubt a consumer is put back: what it gets twice
//! it can bear, what it never gets nobody would notice.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::control::{Control, Kept};
use crate::id::Position;
use crate::log::state::State;
use crate::sync::guard;

/// The state so far, and what is doubtful about it.
#[derive(Default)]
pub(super) struct Consumers {
    state: State,
    /// How far groups had looked when records may have been lost for the first time.
    groups: BTreeMap<String, Position>,
    /// Cursors of which no record came since.
    cursors: BTreeSet<String>,
    /// Records may have been lost at all, such as those of removed events.
    pub(super) is_doubtful: bool,
}

impl Consumers {
    /// A segment begins with the whole state: what came before does not matter any more.
    pub(super) fn begin_anew(&mut self, records: Vec<Control>) {
        *self = Self::default();
        records.into_iter().for_each(|record| self.state.apply(record));
    }

    /// Records may be lost here.
    pub(super) fn doubt(&mut self) {
        self.is_doubtful = true;
        for (name, ledger) in &self.state.groups {
            self.groups.entry(name.clone()).or_insert_with(|| guard(ledger).scanned);
        }
        self.cursors.extend(self.state.checkpoints.keys().cloned());
    }

    /// Takes in a whole commit. Where its beginning may be lost, so may the results be that it settles something with.
    pub(super) fn commit(&mut self, records: Vec<Control>, may_be_cut: bool) {
        for record in records {
            let ends_something = match &record {
                Control::Settled { .. } | Control::Letters { .. } => true,
                Control::Checkpoint { name, .. } => self.state.checkpoints.contains_key(name),
                _ => false,
            };
            if !(may_be_cut && ends_something) {
                self.apply(record);
            }
        }
    }

    /// Takes in what is left of a control state that a segment began with. A group that is known stands as it did at the end
    /// of the segment before; of one that is not, this is all there is.
    pub(super) fn surviving(&mut self, record: Control) {
        let is_known = match &record {
            Control::Group { name, .. } | Control::Unsettled { group: name, .. } => self.groups.contains_key(name),
            _ => false,
        };
        if !is_known {
            self.apply(record);
        }
    }

    fn apply(&mut self, record: Control) {
        match &record {
            Control::Checkpoint { name, .. } => _ = self.cursors.remove(name),
            Control::Removed { name } => {
                self.cursors.remove(name);
                self.groups.remove(name);
            }
            Control::Reset { group, .. } => _ = self.groups.remove(group),
            _ => {}
        }
        self.state.apply(record);
    }

    /// From where on the log is kept, as the records say.
    pub(super) fn kept(&self) -> Option<&Kept> {
        self.state.kept.as_ref()
    }

    /// The state as records, behind segments that the one who writes them knows.
    pub(super) fn records(&self) -> Vec<Control> {
        self.state.records(Vec::new())
    }

    /// Ends: groups go back to where they surely were. Gives the consumers that may have come further: by name, where they go
    /// on.
    pub(super) fn settle(&mut self, kept: Option<Kept>, next: Position) -> Vec<(String, Position)> {
        let mut told = Vec::new();
        for (name, scanned) in std::mem::take(&mut self.groups) {
            if let Some(ledger) = self.state.groups.get(&name) {
                let mut ledger = guard(ledger);
                ledger.go_back(scanned);
                told.push((name, ledger.scanned.next()));
            }
        }
        for name in std::mem::take(&mut self.cursors) {
            if let Some(at) = self.state.checkpoints.get(&name) {
                told.push((name, *at));
            }
        }
        // Nobody may be ahead of what is kept.
        self.state.checkpoints.values_mut().for_each(|at| *at = (*at).min(next));
        for ledger in self.state.groups.values() {
            guard(ledger).go_back(next.previous());
        }
        self.state.kept = kept;
        told.sort();
        told
    }
}
