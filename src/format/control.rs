//! Control records: what consumers and recovery need to remember, in the log itself. FORMAT.md, "Control records".

use crate::format::{names, u16_at, u64_at, varint};
use crate::id::Position;

const SEGMENTS: u8 = 1;
const CHECKPOINT: u8 = 2;
const CLOSED: u8 = 3;

/// One control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// At the head of a segment: the first positions of all segments that are kept before it, rising.
    Segments(Vec<Position>),
    /// A consumer goes on here.
    Checkpoint { name: String, next: Position },
    /// The writer closed the store in good order; everything before is durable.
    Closed,
}

impl Control {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Control::Segments(firsts) => {
                out.push(SEGMENTS);
                let mut before = 0;
                for first in firsts {
                    varint::put(&mut out, first.get() - before);
                    before = first.get();
                }
            }
            Control::Checkpoint { name, next } => {
                out.push(CHECKPOINT);
                out.extend_from_slice(&next.get().to_le_bytes());
                out.extend_from_slice(&(name.len() as u16).to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Control::Closed => out.push(CLOSED),
        }
        out
    }

    /// `None` when these bytes could not have been written by this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, mut rest) = bytes.split_first()?;
        match kind {
            SEGMENTS => {
                let (mut firsts, mut last) = (Vec::new(), 0u64);
                while !rest.is_empty() {
                    last = varint::take(&mut rest).filter(|step| *step > 0).and_then(|step| last.checked_add(step))?;
                    firsts.push(Position::new(last));
                }
                Some(Control::Segments(firsts))
            }
            CHECKPOINT if rest.len() >= 10 => {
                let name = &rest[10..];
                (name.len() == u16_at(rest, 8) as usize && names::is_sound(name)).then(|| Control::Checkpoint {
                    name: String::from_utf8_lossy(name).into_owned(),
                    next: Position::new(u64_at(rest, 0)),
                })
            }
            CLOSED if rest.is_empty() => Some(Control::Closed),
            _ => None,
        }
    }
}
