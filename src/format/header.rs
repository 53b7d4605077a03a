//! The first page of a segment. FORMAT.md, "Segment header".

use std::ops::Range;

use crate::format::frame::{self, Nonce};
use crate::format::{CHECKSUM_CRC32, PAGE, VERSION, crc, u32_at, u64_at};
use crate::id::{Position, StoreId, Timestamp};

const MAGIC_BYTES: &[u8; 8] = b"towpath\n";

const MAGIC: Range<usize> = 0..8;
const FORMAT: Range<usize> = 8..12;
const CHECKSUM: Range<usize> = 12..16;
const STORE: Range<usize> = 16..32;
const NONCE: Range<usize> = 32..36;
const FIRST: Range<usize> = 40..48; // 36..40 stays 0
const PREVIOUS_FIRST: Range<usize> = 48..56;
const PREVIOUS_END: Range<usize> = 56..64;
const PREVIOUS_CRC: Range<usize> = 64..68;
const CREATED: Range<usize> = 72..80; // 68..72 stays 0
const DURABLE: Range<usize> = 80..88;
const ORIGINAL_END: Range<usize> = 88..96;
const ORIGINAL_CRC: Range<usize> = 96..100;
const ORIGINAL_NONCE: Range<usize> = 100..104;
const OWN_END: Range<usize> = 104..112;
const OWN_CRC: Range<usize> = 112..116;
const CRC: Range<usize> = PAGE - 4..PAGE; // over everything before it

/// Offsets in an index are 32 bits of eight bytes each, so no segment ends behind this.
const FARTHEST: u64 = (u32::MAX as u64) * 8;

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) store: StoreId,
    pub(crate) nonce: Nonce,
    /// The first position it can hold, as in its name.
    pub(crate) first: Position,
    /// The segment before it, unless this is the first one.
    pub(crate) previous: Option<Previous>,
    pub(crate) created: Timestamp,
    /// The last position that was known to be durable when the segment was made.
    pub(crate) durable: Position,
    /// What this file stands for, when it took the place of another one.
    pub(crate) rewritten: Option<Rewritten>,
}

/// A sealed segment was written again without some of its events. The one behind it still knows it as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// The first file that was here: its nonce, where its last frame ended, and the CRC of that frame.
    pub(crate) nonce: Nonce,
    pub(crate) original_end: u64,
    pub(crate) original_crc: u32,
    /// Where the last frame of this file ends, and its CRC.
    pub(crate) end: u64,
    pub(crate) last_crc: u32,
}

/// How a segment knows the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Previous {
    pub(crate) first: Position,
    /// Where its last frame ends.
    pub(crate) end: u64,
    /// The CRC of its last frame, 0 when it has none.
    pub(crate) last_crc: u32,
}

impl Header {
    /// The nonce of the first file that was here. It stays when the segment is written again.
    pub(crate) fn origin(&self) -> Nonce {
        self.rewritten.map_or(self.nonce, |rewritten| rewritten.nonce)
    }

    /// Where the frames of this file end, when the segment behind it knows that end. A file that does not stand for what
    /// is known there is read up to the end that is known.
    pub(crate) fn own_end(&self, known: u64) -> u64 {
        self.rewritten.filter(|rewritten| rewritten.original_end == known).map_or(known, |rewritten| rewritten.end)
    }

    /// Whether this file, whose frames end here with this CRC, is what the segment behind it follows.
    pub(crate) fn is_followed(&self, previous: Previous, end: u64, last_crc: u32) -> bool {
        let (end, last_crc) = match self.rewritten {
            Some(rewritten) if (rewritten.end, rewritten.last_crc) == (end, last_crc) => {
                (rewritten.original_end, rewritten.original_crc)
            }
            Some(_) => return false,
            None => (end, last_crc),
        };
        (previous.first, previous.end, previous.last_crc) == (self.first, end, last_crc)
    }
}

/// Why a page is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// All zeroes: the header never reached the disk.
    Blank,
    NotASegment,
    Version(u32),
    Checksum(u32),
    Damaged,
}

pub(crate) fn encode(header: &Header) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[MAGIC].copy_from_slice(MAGIC_BYTES);
    page[FORMAT].copy_from_slice(&VERSION.to_le_bytes());
    page[CHECKSUM].copy_from_slice(&CHECKSUM_CRC32.to_le_bytes());
    page[STORE].copy_from_slice(header.store.as_bytes());
    page[NONCE].copy_from_slice(&header.nonce.0.to_le_bytes());
    page[FIRST].copy_from_slice(&header.first.get().to_le_bytes());
    if let Some(previous) = header.previous {
        page[PREVIOUS_FIRST].copy_from_slice(&previous.first.get().to_le_bytes());
        page[PREVIOUS_END].copy_from_slice(&previous.end.to_le_bytes());
        page[PREVIOUS_CRC].copy_from_slice(&previous.last_crc.to_le_bytes());
    }
    page[CREATED].copy_from_slice(&header.created.as_nanos().to_le_bytes());
    page[DURABLE].copy_from_slice(&header.durable.get().to_le_bytes());
    if let Some(rewritten) = header.rewritten {
        page[ORIGINAL_END].copy_from_slice(&rewritten.original_end.to_le_bytes());
        page[ORIGINAL_CRC].copy_from_slice(&rewritten.original_crc.to_le_bytes());
        page[ORIGINAL_NONCE].copy_from_slice(&rewritten.nonce.0.to_le_bytes());
        page[OWN_END].copy_from_slice(&rewritten.end.to_le_bytes());
        page[OWN_CRC].copy_from_slice(&rewritten.last_crc.to_le_bytes());
    }
    let sum = crc(0, &page[..CRC.start]);
    page[CRC].copy_from_slice(&sum.to_le_bytes());
    page
}

pub(crate) fn decode(page: &[u8; PAGE]) -> Result<Header, Bad> {
    if page.iter().all(|b| *b == 0) {
        return Err(Bad::Blank);
    }
    if &page[MAGIC] != MAGIC_BYTES {
        return Err(Bad::NotASegment);
    }
    let version = u32_at(page, FORMAT.start);
    let sum_fits = crc(0, &page[..CRC.start]) == u32_at(page, CRC.start);
    if version != VERSION {
        // A flipped bit in the version must not be taken for a newer version, nor the other way round.
        return Err(if sum_fits || version > VERSION { Bad::Version(version) } else { Bad::Damaged });
    }
    if !sum_fits {
        return Err(Bad::Damaged);
    }
    if u32_at(page, CHECKSUM.start) != CHECKSUM_CRC32 {
        return Err(Bad::Checksum(u32_at(page, CHECKSUM.start)));
    }
    let fits = |end: u64| (PAGE as u64..=FARTHEST).contains(&end) && end.is_multiple_of(frame::ALIGN as u64);
    let previous_first = Position::new(u64_at(page, PREVIOUS_FIRST.start));
    let end = u64_at(page, PREVIOUS_END.start);
    if previous_first != Position::START && !fits(end) {
        return Err(Bad::Damaged);
    }
    let original_end = u64_at(page, ORIGINAL_END.start);
    let rewritten = (original_end != 0).then(|| Rewritten {
        nonce: Nonce(u32_at(page, ORIGINAL_NONCE.start)),
        original_end,
        original_crc: u32_at(page, ORIGINAL_CRC.start),
        end: u64_at(page, OWN_END.start),
        last_crc: u32_at(page, OWN_CRC.start),
    });
    if rewritten.is_some_and(|rewritten| !fits(rewritten.original_end) || !fits(rewritten.end)) {
        return Err(Bad::Damaged);
    }
    Ok(Header {
        store: StoreId(page[STORE].try_into().expect("16 bytes")),
        nonce: Nonce(u32_at(page, NONCE.start)),
        first: Position::new(u64_at(page, FIRST.start)),
        previous: (previous_first != Position::START).then(|| Previous {
            first: previous_first,
            end,
            last_crc: u32_at(page, PREVIOUS_CRC.start),
        }),
        created: Timestamp::from_nanos(u64_at(page, CREATED.start)),
        durable: Position::new(u64_at(page, DURABLE.start)),
        rewritten,
    })
}

/// A segment's file name: its first position in 20 digits.
pub(crate) fn file_name(first: Position) -> String {
    format!("{:020}.seg", first.get())
}

/// The name of its index file.
pub(crate) fn index_name(first: Position) -> String {
    format!("{:020}.idx", first.get())
}

/// The name of the tier file over so many segments, the first of which begins at `first`.
pub(crate) fn tier_name(first: Position, segments: usize) -> String {
    format!("{:020}-{segments}.tier", first.get())
}

/// The first position and the number of segments that the name of a tier file says.
pub(crate) fn parse_tier_name(name: &str) -> Option<(Position, usize)> {
    let (first, segments) = name.strip_suffix(".tier")?.split_once('-')?;
    let (first, segments) = (Position::new(first.parse().ok()?), segments.parse().ok()?);
    (tier_name(first, segments) == name).then_some((first, segments))
}

/// The name of the file with the heads of the streams that stood from `first` on, up to `end`.
pub(crate) fn heads_name(first: Position, end: Position) -> String {
    format!("{:020}-{:020}.heads", first.get(), end.get())
}

/// The positions that the name of a heads file says: where it begins, and where it ends, exclusive, which is behind.
pub(crate) fn parse_heads_name(name: &str) -> Option<(Position, Position)> {
    let (first, end) = name.strip_suffix(".heads")?.split_once('-')?;
    let (first, end) = (Position::new(first.parse().ok()?), Position::new(end.parse().ok()?));
    (heads_name(first, end) == name && first < end).then_some((first, end))
}

/// The first position in the name of an index file.
pub(crate) fn parse_index_name(name: &str) -> Option<Position> {
    parse_name(&format!("{}.seg", name.strip_suffix(".idx")?))
}

/// The first position in a segment's file name; `None` for every other name.
pub(crate) fn parse_name(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().map(Position::new)
}
