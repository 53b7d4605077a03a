//! The mark of a backup: where it ends. One page, written when everything else is there. FORMAT.md, "Mark of a backup".

use std::ops::Range;

use crate::format::frame::Nonce;
use crate::format::{PAGE, crc, u32_at, u64_at};
use crate::id::{Position, StoreId};

pub(crate) const NAME: &str = "BACKUP";

const MAGIC_BYTES: &[u8; 8] = b"towback\n";
const MAGIC: Range<usize> = 0..8;
const STORE: Range<usize> = 16..32; // 8..16 stays 0
const NONCE: Range<usize> = 32..36;
const SEGMENT: Range<usize> = 40..48; // 36..40 stays 0
const END: Range<usize> = 48..56;
const HEAD: Range<usize> = 56..64;
const CRC: Range<usize> = PAGE - 4..PAGE; // over everything before it
const _: () = assert!(MAGIC.end == STORE.start - 8 && STORE.end == NONCE.start && NONCE.end == SEGMENT.start - 4);
const _: () = assert!(SEGMENT.end == END.start && END.end == HEAD.start && HEAD.end <= CRC.start);

/// Where a backup ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) store: StoreId,
    /// The first position of the newest segment.
    pub(crate) segment: Position,
    /// Its nonce.
    pub(crate) nonce: Nonce,
    /// Where its last frame ends.
    pub(crate) end: u64,
    /// The last position.
    pub(crate) head: Position,
}

pub(crate) fn encode(mark: &Mark) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[MAGIC].copy_from_slice(MAGIC_BYTES);
    page[STORE].copy_from_slice(mark.store.as_bytes());
    page[NONCE].copy_from_slice(&mark.nonce.0.to_le_bytes());
    page[SEGMENT].copy_from_slice(&mark.segment.get().to_le_bytes());
    page[END].copy_from_slice(&mark.end.to_le_bytes());
    page[HEAD].copy_from_slice(&mark.head.get().to_le_bytes());
    let sum = crc(0, &page[..CRC.start]);
    page[CRC].copy_from_slice(&sum.to_le_bytes());
    page
}

/// `None` when this is no mark, or a damaged one.
pub(crate) fn decode(page: &[u8]) -> Option<Mark> {
    let sound =
        page.len() == PAGE && &page[MAGIC] == MAGIC_BYTES && crc(0, &page[..CRC.start]) == u32_at(page, CRC.start);
    sound.then(|| Mark {
        store: StoreId(page[STORE].try_into().expect("16 bytes")),
        segment: Position::new(u64_at(page, SEGMENT.start)),
        nonce: Nonce(u32_at(page, NONCE.start)),
        end: u64_at(page, END.start),
        head: Position::new(u64_at(page, HEAD.start)),
    })
}
