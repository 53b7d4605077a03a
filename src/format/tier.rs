//! A tier file: which of several neighbouring segments bear a term. FORMAT.md, "Tier file".

use std::ops::Range;

use crate::format::frame::Nonce;
use crate::format::term::Term;
use crate::format::{PAGE, VERSION, crc, u32_at, u64_at};
use crate::id::{Position, StoreId};

const MAGIC_BYTES: &[u8; 8] = b"towtiers";

const MAGIC: Range<usize> = 0..8;
const FORMAT: Range<usize> = 8..12;
const SEGMENTS: Range<usize> = 12..16;
const STORE: Range<usize> = 16..32;
const SALT: Range<usize> = 32..36;
const PREFIX_BITS: Range<usize> = 36..40;
const FIRST: Range<usize> = 40..48;
const ENTRIES: Range<usize> = 48..56;
const MAIN_PAGES: Range<usize> = 56..60;
const SPILL_PAGES: Range<usize> = 60..64;
const CRC: Range<usize> = PAGE - 4..PAGE; // over everything before it

/// Of every other page: its checksum, and for pages of entries the one that they go on in.
const PAGE_CRC: Range<usize> = 0..4;
const GOES_ON: Range<usize> = 4..8;
const BODY: usize = 8;

/// Entries of one page.
pub(crate) const PAGE_ENTRIES: usize = (PAGE - BODY) / 4;
/// Entries that a main page has on the average. Hashes spread so evenly that, where each is borne by one segment, more
/// than fit come on one page in 10^10. A term has an entry for each segment that bears it, all on one page: where many bear
/// the same, pages spill, and others have room.
const USUAL_ENTRIES: u64 = 832;
/// What no entry is; it fills the rest of a page.
const NO_ENTRY: u32 = u32::MAX;

/// A covered segment in the directory: first position, nonce, four zeroes.
const COVERED: usize = 16;
const COVERED_A_PAGE: usize = (PAGE - BODY) / COVERED;

/// The most segments that one tier covers.
pub(crate) const SEGMENTS_MAX: usize = 4096;

/// How hashes are cut into pages and entries.
///
/// Of a hash its highest `prefix_bits` count. They say the page, since hashes spread evenly over all pages, and an entry
/// is what is left of them there, and behind it the number of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    prefix_bits: u32,
    segment_bits: u32,
    main_pages: u32,
}

impl Shape {
    /// For so many entries of so many segments, whose hashes are known to `known_bits`. `None` when there are too many.
    pub(crate) fn new(entries: u64, segments: usize, known_bits: u32) -> Option<Self> {
        let main_pages = u32::try_from(entries.div_ceil(USUAL_ENTRIES).max(1)).ok()?;
        let segment_bits = segments.next_power_of_two().trailing_zeros();
        // An entry leaves its highest bit free, so that none is `NO_ENTRY`.
        let prefix_bits = (main_pages.ilog2() + 31 - segment_bits).min(known_bits);
        Some(Self { prefix_bits, segment_bits, main_pages })
    }

    /// How much of a hash is known.
    pub(crate) fn prefix_bits(self) -> u32 {
        self.prefix_bits
    }

    pub(crate) fn main_pages(self) -> u32 {
        self.main_pages
    }

    /// What counts of a term's hash.
    pub(crate) fn prefix(self, term: Term) -> u64 {
        term.0 >> (64 - self.prefix_bits)
    }

    /// The page of a prefix, counted from the first one of entries.
    pub(crate) fn page(self, prefix: u64) -> u32 {
        ((u128::from(prefix) * u128::from(self.main_pages)) >> self.prefix_bits) as u32
    }

    /// The lowest prefix of a page; of the one behind the last: all that are less.
    pub(crate) fn begins(self, page: u32) -> u64 {
        (u128::from(page) << self.prefix_bits).div_ceil(u128::from(self.main_pages)) as u64
    }

    /// The entry of a prefix and a segment, on the page whose prefixes begin at `begins`.
    pub(crate) fn entry(self, begins: u64, prefix: u64, segment: u32) -> u32 {
        ((prefix - begins) as u32) << self.segment_bits | segment
    }

    /// The prefix and the segment of an entry, on the page whose prefixes begin at `begins`.
    pub(crate) fn read(self, begins: u64, entry: u32) -> (u64, u32) {
        let segment = entry & ((1 << self.segment_bits) - 1);
        (begins + u64::from(entry >> self.segment_bits), segment)
    }
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) store: StoreId,
    /// Where the checksums of this file's pages begin, so that no other file's page passes.
    pub(crate) salt: u32,
    /// The first position of the first segment.
    pub(crate) first: Position,
    pub(crate) segments: u32,
    pub(crate) entries: u64,
    pub(crate) shape: Shape,
    pub(crate) spill_pages: u32,
}

impl Head {
    /// The pages that say which segments are covered.
    fn directory_pages(&self) -> u32 {
        (self.segments as usize).div_ceil(COVERED_A_PAGE) as u32
    }

    /// The page of the file where the entries of a main page begin.
    pub(crate) fn main_page(&self, page: u32) -> u32 {
        1 + self.directory_pages() + page
    }

    /// The first page of the file behind the main ones.
    pub(crate) fn spill(&self) -> u32 {
        self.main_page(self.shape.main_pages)
    }

    /// Pages of the file.
    pub(crate) fn pages(&self) -> u32 {
        self.spill() + self.spill_pages
    }

    pub(crate) fn encode(&self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[MAGIC].copy_from_slice(MAGIC_BYTES);
        page[STORE].copy_from_slice(self.store.as_bytes());
        for (range, number) in [
            (FORMAT, VERSION),
            (SEGMENTS, self.segments),
            (SALT, self.salt),
            (PREFIX_BITS, self.shape.prefix_bits),
            (MAIN_PAGES, self.shape.main_pages),
            (SPILL_PAGES, self.spill_pages),
        ] {
            page[range].copy_from_slice(&number.to_le_bytes());
        }
        page[FIRST].copy_from_slice(&self.first.get().to_le_bytes());
        page[ENTRIES].copy_from_slice(&self.entries.to_le_bytes());
        let sum = crc(0, &page[..CRC.start]);
        page[CRC].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// Reads the header of a file of `len` bytes. `None` when it is not a sound one for a file of that size.
    pub(crate) fn decode(page: &[u8], len: u64) -> Option<Self> {
        let sound = page.len() == PAGE
            && &page[MAGIC] == MAGIC_BYTES
            && u32_at(page, FORMAT.start) == VERSION
            && crc(0, &page[..CRC.start]) == u32_at(page, CRC.start);
        if !sound {
            return None;
        }
        let segments = u32_at(page, SEGMENTS.start);
        let main_pages = u32_at(page, MAIN_PAGES.start);
        let prefix_bits = u32_at(page, PREFIX_BITS.start);
        if !(1..=SEGMENTS_MAX as u32).contains(&segments) || main_pages == 0 {
            return None;
        }
        let segment_bits = segments.next_power_of_two().trailing_zeros();
        let widest = (main_pages.ilog2() + 31 - segment_bits).min(64);
        let head = Self {
            store: StoreId(page[STORE].try_into().expect("16 bytes")),
            salt: u32_at(page, SALT.start),
            first: Position::new(u64_at(page, FIRST.start)),
            segments,
            entries: u64_at(page, ENTRIES.start),
            shape: Shape { prefix_bits, segment_bits, main_pages },
            spill_pages: u32_at(page, SPILL_PAGES.start),
        };
        let pages = 1 + u64::from(head.directory_pages()) + u64::from(main_pages) + u64::from(head.spill_pages);
        let fits = (1..=widest).contains(&prefix_bits) && pages * PAGE as u64 == len && pages <= u64::from(u32::MAX);
        fits.then_some(head)
    }

    /// Whether a page of the file is whole.
    pub(crate) fn is_sound(&self, number: u32, page: &[u8]) -> bool {
        page.len() == PAGE && self.checksum(number, page) == u32_at(page, PAGE_CRC.start)
    }

    fn checksum(&self, number: u32, page: &[u8]) -> u32 {
        crc(crc(self.salt, &number.to_le_bytes()), &page[PAGE_CRC.end..])
    }

    fn seal(&self, number: u32, page: &mut [u8]) {
        let sum = self.checksum(number, page);
        page[PAGE_CRC].copy_from_slice(&sum.to_le_bytes());
    }

    /// The pages behind the header: first position and nonce of each covered segment.
    pub(crate) fn encode_directory(&self, covered: &[(Position, Nonce)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, some) in (1..).zip(covered.chunks(COVERED_A_PAGE)) {
            let mut page = [0; PAGE];
            for ((first, nonce), bytes) in some.iter().zip(page[BODY..].chunks_exact_mut(COVERED)) {
                bytes[..8].copy_from_slice(&first.get().to_le_bytes());
                bytes[8..12].copy_from_slice(&nonce.0.to_le_bytes());
            }
            self.seal(number, &mut page);
            out.extend_from_slice(&page);
        }
        out
    }

    /// Which segments are covered. `None` when those pages are not whole, or their positions do not rise.
    pub(crate) fn decode_directory(&self, file: &[u8]) -> Option<Vec<(Position, Nonce)>> {
        let mut covered: Vec<(Position, Nonce)> = Vec::with_capacity(self.segments as usize);
        for (number, page) in (1..=self.directory_pages()).zip(file.get(PAGE..)?.chunks(PAGE)) {
            if !self.is_sound(number, page) {
                return None;
            }
            let left = self.segments as usize - covered.len();
            for bytes in page[BODY..].chunks_exact(COVERED).take(left) {
                let (first, nonce) = (Position::new(u64_at(bytes, 0)), Nonce(u32_at(bytes, 8)));
                let rises = covered.last().map_or(first == self.first, |(before, _)| *before < first);
                rises.then(|| covered.push((first, nonce)))?;
            }
        }
        (covered.len() == self.segments as usize).then_some(covered)
    }

    /// A page of sorted entries, at most [`PAGE_ENTRIES`]. `goes_on`: the page of the file that has the rest.
    pub(crate) fn encode_entries(&self, number: u32, entries: &[u32], goes_on: Option<u32>) -> [u8; PAGE] {
        let mut page = [0xff; PAGE];
        page[GOES_ON].copy_from_slice(&goes_on.unwrap_or(0).to_le_bytes());
        for (entry, bytes) in entries.iter().zip(page[BODY..].chunks_exact_mut(4)) {
            bytes.copy_from_slice(&entry.to_le_bytes());
        }
        self.seal(number, &mut page);
        page
    }
}

/// A page of entries that was found whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entries<'a>(&'a [u8]);

impl<'a> Entries<'a> {
    pub(crate) fn of(page: &'a [u8]) -> Self {
        Entries(page)
    }

    /// The page of the file that has the rest. They lie behind each other, so a chain ends.
    pub(crate) fn goes_on(self) -> Option<u32> {
        Some(u32_at(self.0, GOES_ON.start)).filter(|page| *page != 0)
    }

    /// The entry at a place; `None` behind the last.
    pub(crate) fn get(self, at: usize) -> Option<u32> {
        (at < PAGE_ENTRIES).then(|| u32_at(self.0, BODY + at * 4)).filter(|entry| *entry != NO_ENTRY)
    }

    /// The place of the first entry that is not less.
    pub(crate) fn lower_bound(self, entry: u32) -> usize {
        let (mut from, mut left) = (0, PAGE_ENTRIES);
        while left > 0 {
            let half = left / 2;
            if u32_at(self.0, BODY + (from + half) * 4) < entry {
                (from, left) = (from + half + 1, left - half - 1);
            } else {
                left = half;
            }
        }
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_finds_its_page_and_is_read_back_from_its_entry() {
        for (entries, segments, known) in [(1, 2, 64), (7_000, 8, 64), (25_000_000, 64, 39), (1_600_000_000, 4096, 64)]
        {
            let shape = Shape::new(entries, segments, known).unwrap();
            let last = (1u64 << shape.prefix_bits()) - 1;
            for prefix in [0, 1, last / 3, last / 2, last - 1, last] {
                let page = shape.page(prefix);
                let begins = shape.begins(page);
                assert!(page < shape.main_pages() && begins <= prefix && prefix < shape.begins(page + 1));
                for segment in [0, segments as u32 - 1] {
                    let entry = shape.entry(begins, prefix, segment);
                    assert!(entry != NO_ENTRY && shape.read(begins, entry) == (prefix, segment));
                }
            }
        }
    }

    #[test]
    fn merging_full_tiers_keeps_as_much_of_the_hashes() {
        let eight = Shape::new(8 * 380_000, 8, 64).unwrap();
        let sixty_four = Shape::new(64 * 380_000, 64, eight.prefix_bits()).unwrap();
        let all = Shape::new(4096 * 380_000, 4096, sixty_four.prefix_bits()).unwrap();
        assert_eq!([eight.prefix_bits(), sixty_four.prefix_bits(), all.prefix_bits()], [39; 3]);
    }
}
