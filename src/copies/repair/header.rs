//! The header of a segment that is not what was written: its frames tell the nonce that their checksums start from.

use crate::error::Result;
use crate::format::PAGE;
use crate::format::control::Control;
use crate::format::frame::{self, ALIGN, Found, Nonce};
use crate::format::header::Header;
use crate::id::{Position, StoreId, Timestamp};
use crate::segment::Segment;
use crate::segment::disk::Directory;

/// So many bytes are summed up at most in the search.
const EFFORT: u64 = 256 << 20;

/// Opens a segment file without believing its header. `None` when nothing tells its nonce.
pub(super) fn open_without(directory: &dyn Directory, store: StoreId, first: Position) -> Result<Option<Segment>> {
    let (created, durable) = (Timestamp::default(), Position::START);
    let mut header = Header { store, nonce: Nonce(1), first, previous: None, created, durable, rewritten: None };
    let segment = Segment::open_under(directory, header.clone())?;
    let Some((nonce, created)) =
        search(segment.bytes((PAGE as u64).min(segment.capacity()), segment.capacity()), first)
    else {
        return Ok(None);
    };
    (header.nonce, header.created) = (nonce, created);
    Segment::open_under(directory, header).map(Some)
}

/// The nonce under which frames follow each other, and the time of the first of them. Any frame fits some nonce, so two have
/// to agree, or it has to be the record that every segment begins with.
fn search(bytes: &[u8], first: Position) -> Option<(Nonce, Timestamp)> {
    let (mut at, mut effort) = (0, EFFORT);
    while at + frame::HEADER <= bytes.len() {
        let here = &bytes[at..];
        let farthest = first.get() + (at / frame::HEADER) as u64;
        let fits = frame::peek_position(here).is_some_and(|at| (first.get()..=farthest).contains(&at.get()));
        if fits && frame::claimed_len(here) as usize <= here.len() {
            effort = effort.checked_sub(u64::from(frame::claimed_len(here)) * 2)?;
            if let Some(nonce) = frame::nonce_of(here).filter(|nonce| nonce.0 != 0)
                && let Found::Frame(frame) = frame::find(here, nonce)
            {
                let begins = at == 0
                    && frame.is_control()
                    && matches!(Control::decode(frame.payload()), Some(Control::Segments(_)));
                let next = crate::segment::after(frame);
                let agrees = || {
                    let behind = here.get(frame.stride()..).unwrap_or_default();
                    matches!(frame::find(behind, nonce), Found::Frame(other) if other.position() == next)
                };
                if begins || agrees() {
                    return Some((nonce, frame.time()));
                }
            }
        }
        at += ALIGN;
    }
    None
}
