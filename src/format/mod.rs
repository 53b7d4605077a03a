//! Every byte of every file. Pure: no files, clocks or threads. The text of the format is the guide page
//! [`format`](crate::guide::format); `FORMAT.md` in this folder is its source.

pub(crate) mod backup;
pub(crate) mod control;
pub(crate) mod definition;
pub(crate) mod extras;
pub(crate) mod frame;
pub(crate) mod gap;
pub(crate) mod header;
pub(crate) mod heads;
pub(crate) mod index;
pub mod limits;
pub(crate) mod lock;
pub(crate) mod names;
pub(crate) mod runs;
#[cfg(test)]
mod spec_tests;
pub(crate) mod term;
pub(crate) mod tier;
mod varint;

/// The version of the format that this build writes, and the only one so far.
pub const VERSION: u32 = 1;

/// Checksum algorithm 1: CRC-32 as in IEEE 802.3 (polynomial 0x04C11DB7, reflected).
pub(crate) const CHECKSUM_CRC32: u32 = 1;

/// Segment headers and the lock file have one page; index files are checked page by page.
pub(crate) const PAGE: usize = 4096;

/// Puts another store's id into a sound header of a segment, an index file or a tier: all bear it in the same place, and their
/// checksum at the end.
pub(crate) fn set_store(page: &mut [u8; PAGE], store: crate::id::StoreId) {
    page[16..32].copy_from_slice(store.as_bytes());
    let sum = crc(0, &page[..PAGE - 4]);
    page[PAGE - 4..].copy_from_slice(&sum.to_le_bytes());
}

/// Reads a little-endian `u16`. The range is one that the caller checked.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// Reads a little-endian `u32`.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Reads a little-endian `u64`.
#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The seed from which [`crc`] over these bytes comes out as `sum`: there is exactly one.
pub(crate) fn crc_seed(sum: u32, bytes: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    // What a seed adds to the sum of zeroes is shifted by one bit for each that follows; this shifts it back.
    (0..bytes.len() * 8).fold(sum ^ crc(0, bytes), |seed, _| match seed >> 31 {
        0 => seed << 1,
        _ => (seed ^ POLYNOMIAL) << 1 | 1,
    })
}

/// The CRC-32 of some bytes, going on from `seed`.
#[inline]
pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}
