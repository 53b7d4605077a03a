//! The live control state: what the control records in the log add up to.

use std::collections::BTreeMap;

use crate::format::control::Control;
use crate::id::Position;

/// What consumers need to remember.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// By consumer name: the next position to read.
    pub(crate) checkpoints: BTreeMap<String, Position>,
}

impl State {
    /// Takes in one record.
    pub(crate) fn apply(&mut self, record: Control) {
        match record {
            Control::Checkpoint { name, next } => {
                self.checkpoints.insert(name, next);
            }
            Control::Segments(_) | Control::Closed => {}
        }
    }

    /// The whole state as records, as it stands at the head of a segment that follows those in `firsts`.
    pub(crate) fn records(&self, firsts: Vec<Position>) -> Vec<Control> {
        let checkpoints =
            self.checkpoints.iter().map(|(name, next)| Control::Checkpoint { name: name.clone(), next: *next });
        std::iter::once(Control::Segments(firsts)).chain(checkpoints).collect()
    }
}
