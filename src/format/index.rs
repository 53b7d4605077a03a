//! The index file of a sealed segment: which terms stand in which frames. FORMAT.md, "Index file".

use std::ops::Range;

use crate::format::frame::Nonce;
use crate::format::term::Term;
use crate::format::{PAGE, VERSION, crc, u32_at, u64_at, varint};
use crate::id::{Position, StoreId, Timestamp};

const MAGIC_BYTES: &[u8; 8] = b"towindex";

const MAGIC: Range<usize> = 0..8;
const FORMAT: Range<usize> = 8..12;
const FANOUT_BITS: Range<usize> = 12..16;
const STORE: Range<usize> = 16..32;
const NONCE: Range<usize> = 32..36;
const TABLE_CRC: Range<usize> = 36..40; // of the table of page checksums at the end
const FIRST: Range<usize> = 40..48;
const EVENTS: Range<usize> = 48..56;
const OWN_EVENTS: Range<usize> = 56..64;
const STREAMS: Range<usize> = 64..72;
const END: Range<usize> = 72..80;
const FIRST_TIME: Range<usize> = 80..88;
const LAST_TIME: Range<usize> = 88..96;
const TERMS: Range<usize> = 96..104;
const POSTINGS: Range<usize> = 104..112;
const GONE: Range<usize> = 112..120;
const CRC: Range<usize> = PAGE - 4..PAGE; // over everything before it

/// Every so many positions one offset is kept.
pub(crate) const SPARSE: usize = 32;
/// Bytes of one term: hash, how many postings, where they are.
const TERM: usize = 16;
/// About so many terms share one entry of the fanout.
const FANOUT_TERMS: usize = 8;
const FANOUT_BITS_MAX: u32 = 24;
/// Terms that are encoded between two pauses: some tens of microseconds.
const TERMS_AT_ONCE: usize = 4096;

/// Offsets of frames are kept in units of eight bytes, so that 32 bits reach 32 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unit(pub(crate) u32);

impl Unit {
    /// From a frame's offset in bytes, a multiple of eight below 32 GiB.
    pub(crate) fn of(offset: u64) -> Self {
        Unit((offset / 8) as u32)
    }

    /// The offset in bytes.
    pub(crate) fn offset(self) -> u64 {
        u64::from(self.0) * 8
    }
}

/// What an index says of its segment as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) store: StoreId,
    pub(crate) nonce: Nonce,
    pub(crate) first: Position,
    /// Events, those of the store's own streams included.
    pub(crate) events: u64,
    /// Positions whose event is gone.
    pub(crate) gone: u64,
    /// Events of the store's own streams.
    pub(crate) own_events: u64,
    /// Streams of users that begin in this segment.
    pub(crate) streams: u64,
    /// Where the frames that are indexed end.
    pub(crate) end: u64,
    pub(crate) first_time: Timestamp,
    pub(crate) last_time: Timestamp,
}

/// Where the parts of an index file are, computed from a checked header.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) summary: Summary,
    pub(crate) sparse: Range<usize>,
    fanout: Range<usize>,
    fanout_bits: u32,
    terms: Range<usize>,
    postings: Range<usize>,
    /// One CRC for each page of the parts above.
    table: Range<usize>,
    table_crc: u32,
}

/// A frame that bears a term. They sort as in the file: by hash, then by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Posting {
    high: u32,
    low: u32,
    unit: Unit,
}

impl Posting {
    pub(crate) fn new(term: Term, unit: Unit) -> Self {
        Self { high: (term.0 >> 32) as u32, low: term.0 as u32, unit }
    }

    fn term(self) -> Term {
        Term(u64::from(self.high) << 32 | u64::from(self.low))
    }
}

/// Encodes a whole index file. `postings` come sorted, none of them twice. `pause` is called again and again.
/// `None` when the postings need more than 4 GiB; the segment is then searched without an index file.
pub(crate) fn encode(
    summary: &Summary,
    sparse: &[Unit],
    postings: &[Posting],
    pause: &mut dyn FnMut(),
) -> Option<Vec<u8>> {
    let terms = || postings.chunk_by(|one, next| one.term() == next.term());
    let count = terms().count();
    let bits = (count / FANOUT_TERMS).next_power_of_two().trailing_zeros().min(FANOUT_BITS_MAX);
    let fanout_end = PAGE + sparse.len() * 4 + ((1 << bits) + 1) * 4;
    let terms_start = fanout_end.next_multiple_of(8);
    // Close to what it will be; rarely a byte more is moved.
    let mut out = Vec::with_capacity(terms_start + count * TERM + (postings.len() - count) * 2 + count / 64 + PAGE);
    out.resize(PAGE, 0);
    sparse.iter().for_each(|unit| out.extend_from_slice(&unit.0.to_le_bytes()));

    let mut bucket = 0;
    for (at, term) in terms().enumerate() {
        while bucket <= bucket_of(term[0].term(), bits) {
            out.extend_from_slice(&(at as u32).to_le_bytes());
            bucket += 1;
        }
    }
    for _ in bucket..=1 << bits {
        out.extend_from_slice(&(count as u32).to_le_bytes());
    }
    out.resize(terms_start + count * TERM, 0);

    let postings_start = out.len();
    for (at, term) in terms().enumerate() {
        let place = match term {
            [only] => only.unit.0,
            _ => u32::try_from(out.len() - postings_start).ok()?,
        };
        if term.len() > 1 {
            let mut before = 0;
            for posting in term {
                varint::put(&mut out, u64::from(posting.unit.0 - before));
                before = posting.unit.0;
            }
        }
        if at % TERMS_AT_ONCE == 0 {
            pause();
        }
        let entry = &mut out[terms_start + at * TERM..][..TERM];
        entry[..8].copy_from_slice(&term[0].term().0.to_le_bytes());
        entry[8..12].copy_from_slice(&(term.len() as u32).to_le_bytes());
        entry[12..].copy_from_slice(&place.to_le_bytes());
    }
    let postings_len = out.len() - postings_start;

    pause();
    let table: Vec<u8> = out[PAGE..].chunks(PAGE).flat_map(|page| crc(0, page).to_le_bytes()).collect();
    pause();
    let header = &mut out[..PAGE];
    header[MAGIC].copy_from_slice(MAGIC_BYTES);
    header[FORMAT].copy_from_slice(&VERSION.to_le_bytes());
    header[FANOUT_BITS].copy_from_slice(&bits.to_le_bytes());
    header[STORE].copy_from_slice(summary.store.as_bytes());
    header[NONCE].copy_from_slice(&summary.nonce.0.to_le_bytes());
    header[TABLE_CRC].copy_from_slice(&crc(0, &table).to_le_bytes());
    for (range, number) in [
        (FIRST, summary.first.get()),
        (EVENTS, summary.events),
        (OWN_EVENTS, summary.own_events),
        (STREAMS, summary.streams),
        (END, summary.end),
        (FIRST_TIME, summary.first_time.as_nanos()),
        (LAST_TIME, summary.last_time.as_nanos()),
        (TERMS, count as u64),
        (POSTINGS, postings_len as u64),
        (GONE, summary.gone),
    ] {
        header[range].copy_from_slice(&number.to_le_bytes());
    }
    let sum = crc(0, &header[..CRC.start]);
    header[CRC].copy_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&table);
    Some(out)
}

/// Reads the header of a file of `len` bytes. `None` when it is not a sound header for a file of that size.
pub(crate) fn layout(page: &[u8], len: usize) -> Option<Layout> {
    let sound = page.len() == PAGE
        && &page[MAGIC] == MAGIC_BYTES
        && u32_at(page, FORMAT.start) == VERSION
        && crc(0, &page[..CRC.start]) == u32_at(page, CRC.start);
    if !sound {
        return None;
    }
    let size = |range: Range<usize>| usize::try_from(u64_at(page, range.start)).ok();
    let fanout_bits = u32_at(page, FANOUT_BITS.start);
    if fanout_bits > FANOUT_BITS_MAX {
        return None;
    }
    let part = |start: usize, count: usize, each: usize| Some(start..start.checked_add(count.checked_mul(each)?)?);
    let sparse = part(PAGE, size(EVENTS)?.checked_add(size(GONE)?)?.div_ceil(SPARSE), 4)?;
    let fanout = part(sparse.end, (1 << fanout_bits) + 1, 4)?;
    let terms = part(fanout.end.checked_next_multiple_of(8)?, size(TERMS)?, TERM)?;
    let postings = part(terms.end, size(POSTINGS)?, 1)?;
    let table = part(postings.end, (postings.end - PAGE).div_ceil(PAGE), 4)?;
    (table.end == len).then(|| Layout {
        summary: Summary {
            store: StoreId(page[STORE].try_into().expect("16 bytes")),
            nonce: Nonce(u32_at(page, NONCE.start)),
            first: Position::new(u64_at(page, FIRST.start)),
            events: u64_at(page, EVENTS.start),
            gone: u64_at(page, GONE.start),
            own_events: u64_at(page, OWN_EVENTS.start),
            streams: u64_at(page, STREAMS.start),
            end: u64_at(page, END.start),
            first_time: Timestamp::from_nanos(u64_at(page, FIRST_TIME.start)),
            last_time: Timestamp::from_nanos(u64_at(page, LAST_TIME.start)),
        },
        sparse,
        fanout,
        fanout_bits,
        terms,
        postings,
        table,
        table_crc: u32_at(page, TABLE_CRC.start),
    })
}

impl Layout {
    /// The pages that have a checksum.
    pub(crate) fn pages(&self) -> usize {
        (self.table.start - PAGE).div_ceil(PAGE)
    }

    /// Which pages hold these bytes.
    pub(crate) fn pages_of(&self, bytes: &Range<usize>) -> Range<usize> {
        (bytes.start - PAGE) / PAGE..(bytes.end - PAGE).div_ceil(PAGE)
    }

    /// Whether the table of page checksums is whole.
    pub(crate) fn table_is_sound(&self, file: &[u8]) -> bool {
        crc(0, &file[self.table.clone()]) == self.table_crc
    }

    /// Whether one page is whole.
    pub(crate) fn page_is_sound(&self, file: &[u8], page: usize) -> bool {
        let start = PAGE + page * PAGE;
        let bytes = &file[start..self.table.start.min(start + PAGE)];
        crc(0, bytes) == u32_at(file, self.table.start + page * 4)
    }

    /// How many terms there are.
    pub(crate) fn terms(&self) -> usize {
        self.terms.len() / TERM
    }

    /// The bytes of a term, counted in the order of their hashes.
    pub(crate) fn term_bytes(&self, at: usize) -> Range<usize> {
        let start = self.terms.start + at * TERM;
        start..start + TERM
    }

    /// Reads the hash of a term.
    pub(crate) fn term(&self, bytes: &[u8]) -> Term {
        Term(u64_at(bytes, 0))
    }

    /// The bytes of the fanout that say where a term's bucket is.
    pub(crate) fn fanout_of(&self, term: Term) -> Range<usize> {
        let start = self.fanout.start + bucket_of(term, self.fanout_bits) * 4;
        start..start + 8
    }

    /// The bytes of a bucket's terms. `None` when the fanout makes no sense.
    pub(crate) fn bucket(&self, fanout: &[u8]) -> Option<Range<usize>> {
        let (from, to) = (u32_at(fanout, 0) as usize, u32_at(fanout, 4) as usize);
        (from <= to && to <= self.terms()).then(|| self.terms.start + from * TERM..self.terms.start + to * TERM)
    }

    /// How many postings a term has and where they are, from the bytes of its bucket.
    pub(crate) fn find(&self, bucket: &[u8], term: Term) -> Option<Postings> {
        let entry = bucket.chunks_exact(TERM).find(|entry| u64_at(entry, 0) == term.0)?;
        Some(Postings { count: u32_at(entry, 8), place: u32_at(entry, 12) })
    }

    /// The bytes that hold these postings; the end is an upper bound. `None` when they make no sense.
    pub(crate) fn postings_bytes(&self, postings: Postings) -> Option<Range<usize>> {
        let start = self.postings.start.checked_add(postings.place as usize)?;
        let most = start.checked_add((postings.count as usize).checked_mul(5)?)?;
        (start <= self.postings.end).then(|| start..most.min(self.postings.end))
    }
}

/// One term's postings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Postings {
    pub(crate) count: u32,
    place: u32,
}

impl Postings {
    /// The only posting, when there is just one.
    pub(crate) fn only(self) -> Option<Unit> {
        (self.count == 1).then_some(Unit(self.place))
    }

    /// Decodes the postings. `None` when they make no sense.
    pub(crate) fn decode(self, mut bytes: &[u8]) -> Option<Vec<Unit>> {
        let mut units = Vec::with_capacity((self.count as usize).min(bytes.len()));
        let mut unit = 0u32;
        for _ in 0..self.count {
            unit = unit.checked_add(u32::try_from(varint::take(&mut bytes)?).ok()?)?;
            units.push(Unit(unit));
        }
        Some(units)
    }
}

fn bucket_of(term: Term, bits: u32) -> usize {
    if bits == 0 { 0 } else { (term.0 >> (64 - bits)) as usize }
}
