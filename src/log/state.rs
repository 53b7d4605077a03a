//! The live control state: what the control records in the log add up to.

use std::collections::BTreeMap;

use crate::format::control::{Control, Kept};
use crate::id::Position;
use crate::log::ledger::Ledger;
use crate::log::removals::Removals;
use crate::sync::guard;
use crate::sync::primitive::{Arc, Mutex};

/// What consumers need to remember.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// By consumer name: the next position to read.
    pub(crate) checkpoints: BTreeMap<String, Position>,
    /// By name. Shared with the group's members, who look at theirs without holding up anybody else.
    pub(crate) groups: BTreeMap<String, Arc<Mutex<Ledger>>>,
    /// From where on the log is kept, when something of it was let go of.
    pub(crate) kept: Option<Kept>,
    /// What was removed. Shared with readers, who hold it as it was when they began.
    pub(crate) removals: Arc<Removals>,
}

impl State {
    /// Takes in one record.
    pub(crate) fn apply(&mut self, record: Control) {
        match record {
            Control::Checkpoint { name, next } => {
                self.checkpoints.insert(name, next);
            }
            Control::Group { name, standing } => {
                self.groups.entry(name).or_insert_with(|| Arc::new(Mutex::new(Ledger::new(standing))));
            }
            Control::Claimed { group, claim } => self.of(&group, |ledger| ledger.claimed(claim)),
            Control::Settled { group, settled } => self.of(&group, |ledger| ledger.settled(settled)),
            Control::Unsettled { group, rows } => self.of(&group, |ledger| ledger.unsettled(rows)),
            Control::Letters { group, redriven, dropped } => {
                self.of(&group, |ledger| ledger.letters(redriven, dropped));
            }
            Control::Paused { group, paused } => self.of(&group, |ledger| ledger.paused = paused),
            Control::Reset { group, scanned } => self.of(&group, |ledger| ledger.reset(scanned)),
            Control::Removed { name } => {
                self.checkpoints.remove(&name);
                self.groups.remove(&name);
            }
            Control::Kept(kept) => self.kept = Some(kept),
            Control::Dropped { stream, gone } => Arc::make_mut(&mut self.removals).dropped(stream, &gone),
            Control::Purged { stream, gone } => Arc::make_mut(&mut self.removals).purged(&stream, &gone),
            Control::Segments(_) | Control::Closed | Control::Gap(_) => {}
        }
    }

    /// The first position of the oldest segment that is kept, as far as something was let go of.
    pub(crate) fn oldest(&self) -> Position {
        self.kept.as_ref().map_or(Position::new(1), |kept| kept.oldest)
    }

    /// Whether it knows a consumer of this name.
    pub(crate) fn knows(&self, consumer: &str) -> bool {
        self.checkpoints.contains_key(consumer) || self.groups.contains_key(consumer)
    }

    /// How many consumers it knows.
    pub(crate) fn consumers(&self) -> usize {
        self.checkpoints.len() + self.groups.len()
    }

    /// The whole state as records, as it stands at the head of a segment that follows those in `firsts`.
    pub(crate) fn records(&self, firsts: Vec<Position>) -> Vec<Control> {
        let mut records = vec![Control::Segments(firsts)];
        records.extend(self.kept.clone().map(Control::Kept));
        let checkpoints = self.checkpoints.iter();
        records.extend(checkpoints.map(|(name, next)| Control::Checkpoint { name: name.clone(), next: *next }));
        self.groups.iter().for_each(|(name, ledger)| guard(ledger).records(name, &mut records));
        records.extend(self.removals.records());
        records
    }

    /// A record of a group that the store does not know says nothing: it was removed.
    fn of(&self, group: &str, change: impl FnOnce(&mut Ledger)) {
        if let Some(ledger) = self.groups.get(group) {
            change(&mut guard(ledger));
        }
    }
}
