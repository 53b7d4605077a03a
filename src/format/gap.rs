//! Positions at which no event stands any more, written down in their place. FORMAT.md, "Gaps".

use crate::format::control::WHY;
use crate::format::{extras, varint};

/// The first byte of the record.
pub(crate) const KIND: u8 = 12;

/// A gap has no more positions than a segment can have frames, so that a forged one stands for a bounded table.
pub(crate) const MOST: u64 = if cfg!(fuzzing) { 1 << 16 } else { 1 << 29 };

const LOST: u8 = 1;
const REMOVED: u8 = 2;

/// Positions, from that of the record's frame on, that bear nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) reason: Reason,
    /// How many; 0 when only control records were lost here.
    pub(crate) positions: u64,
    /// What became of them, for people.
    pub(crate) why: String,
}

/// Why nothing stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It was damaged, and a repair went on without. Readers are told.
    Lost,
    /// Somebody wanted it gone. Readers pass over it.
    Removed,
}

impl Gap {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(KIND);
        varint::put(out, self.positions);
        out.push(match self.reason {
            Reason::Lost => LOST,
            Reason::Removed => REMOVED,
        });
        extras::put_text(out, &self.why);
    }

    /// What stands behind the kind.
    pub(crate) fn take(rest: &mut &[u8]) -> Option<Self> {
        let positions = varint::take(rest).filter(|positions| *positions <= MOST)?;
        let (&reason, behind) = rest.split_first()?;
        *rest = behind;
        let reason = match reason {
            LOST => Reason::Lost,
            REMOVED if positions > 0 => Reason::Removed,
            _ => return None,
        };
        let why = extras::take_text(rest).filter(|why| why.len() <= WHY)?.to_owned();
        Some(Self { reason, positions, why })
    }
}

/// The gap in a control record's payload, if it is one.
pub(crate) fn of(payload: &[u8]) -> Option<Gap> {
    let (&kind, mut rest) = payload.split_first()?;
    let gap = if kind == KIND { Gap::take(&mut rest) } else { None };
    gap.filter(|_| rest.is_empty())
}

/// How many positions a control record's payload takes: 0 for every other record.
pub(crate) fn positions(payload: &[u8]) -> u64 {
    match payload.split_first() {
        Some((&KIND, _)) => of(payload).map_or(0, |gap| gap.positions),
        _ => 0,
    }
}
