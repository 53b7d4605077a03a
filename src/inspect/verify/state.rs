//! What the head of each segment says of consumers: it has to be there, and none of them may be ahead of the log.
//!
//! It is not compared with what the records before it add up to: a segment without events is replaced, and what its
//! records said stands at the head of the one that took its place, and nowhere else.

use crate::format::control::Control;
use crate::id::Position;

/// The control state at the head of a segment, while its records come.
#[derive(Default)]
pub(super) struct Head {
    /// Where the segment begins; `None` once its first commit is over, or was not seen whole.
    first: Option<Position>,
    /// Whether the first record was the one that names the segments before it.
    begun: bool,
    ahead: bool,
}

const MISSING: &str = "the control state that the segment begins with is missing";

impl Head {
    /// A segment begins: its first commit has to be its control state.
    pub(super) fn begin(&mut self, first: Position) {
        *self = Self { first: Some(first), begun: false, ahead: false };
    }

    /// Some records were not seen.
    pub(super) fn forget(&mut self) {
        self.first = None;
    }

    /// An event comes. It has to come behind the control state.
    pub(super) fn event(&mut self) -> Option<&'static str> {
        self.first.take().map(|_| MISSING)
    }

    /// Takes in a record, and says what is wrong once the first commit is over.
    pub(super) fn record(&mut self, record: &Control, has_more: bool) -> Option<&'static str> {
        let first = self.first?;
        match record {
            Control::Segments(_) => self.begun = true,
            Control::Checkpoint { next, .. } => self.ahead |= *next > first,
            Control::Group { standing, .. } => self.ahead |= standing.scanned >= first,
            _ => {}
        }
        if has_more {
            return None;
        }
        self.first = None;
        match (self.begun, self.ahead) {
            (false, _) => Some(MISSING),
            (true, true) => Some("it has a consumer ahead of the log"),
            (true, false) => None,
        }
    }
}
