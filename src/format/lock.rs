//! The lock file: who writes, and for readers in other processes how far. One page. After a crash recovery believes its
//! durable word, and its closed one only together with a closing record that ends there. FORMAT.md, "Lock file".

use std::ops::Range;

use crate::format::{PAGE, crc, u32_at, u64_at};
use crate::id::{StoreId, Timestamp};

pub(crate) const NAME: &str = "LOCK";

const MAGIC_BYTES: &[u8; 8] = b"towlock\n";
const MAGIC: Range<usize> = 0..8;
const PID: Range<usize> = 8..12;
const STORE: Range<usize> = 16..32; // 12..16 stays 0
const SINCE: Range<usize> = 32..40;
const CRC: Range<usize> = 40..44; // over everything before it

/// Words that are loaded and stored whole, 8 bytes each; all but `SINCE` are live and outside the CRC. While a segment is
/// changed, `END` is 0.
pub(crate) mod word {
    /// Since when the lock is held: under the CRC, written once by each writer, each time another number.
    pub(crate) const SINCE: usize = super::SINCE.start;
    /// The first position of the newest segment.
    pub(crate) const SEGMENT: usize = 2048;
    /// Where the published frames of that segment end.
    pub(crate) const END: usize = 2056;
    /// The last published position.
    pub(crate) const HEAD: usize = 2064;
    /// The last durable position.
    pub(crate) const DURABLE: usize = 2072;
    /// After a close in good order: where the closing record ends. 0 while somebody writes.
    pub(crate) const CLOSED: usize = 2080;
    /// The nonce of the newest segment: another file of the same name has another one.
    pub(crate) const NONCE: usize = 2088;
    /// Twice the number of recoveries after an unclean end; one less while one is at work.
    pub(crate) const RECOVERIES: usize = 2096;
    /// How often something was removed from streams, or was taken out of segments: those that began before look again.
    pub(crate) const REMOVALS: usize = 2104;
    /// Up to which position each of the last [`KEPT_SLOTS`] of them kept the log: that with number n in slot n modulo that.
    pub(crate) const KEPT: usize = 3072;
    pub(crate) const KEPT_SLOTS: u64 = 128;
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    pub(crate) store: StoreId,
    pub(crate) since: Timestamp,
}

pub(crate) fn encode(holder: &Holder) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[MAGIC].copy_from_slice(MAGIC_BYTES);
    page[PID].copy_from_slice(&holder.pid.to_le_bytes());
    page[STORE].copy_from_slice(holder.store.as_bytes());
    page[SINCE].copy_from_slice(&holder.since.as_nanos().to_le_bytes());
    let sum = crc(0, &page[..CRC.start]);
    page[CRC].copy_from_slice(&sum.to_le_bytes());
    page
}

/// `None` when this is no lock file, or a damaged one.
pub(crate) fn decode(page: &[u8]) -> Option<Holder> {
    let sound =
        page.len() == PAGE && &page[MAGIC] == MAGIC_BYTES && crc(0, &page[..CRC.start]) == u32_at(page, CRC.start);
    sound.then(|| Holder {
        pid: u32_at(page, PID.start),
        store: StoreId(page[STORE].try_into().expect("16 bytes")),
        since: Timestamp::from_nanos(u64_at(page, SINCE.start)),
    })
}
