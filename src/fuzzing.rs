//! What the fuzz targets in `fuzz/` call, and what the unit tests here replay from `fuzz/regressions`: each function takes
//! any bytes, makes a decoder read them, and panics when the answers do not agree with each other. Not part of the API.
//!
//! A checksum stops nearly all made-up bytes at the door, so the first byte of most inputs says whether it is put right
//! first: a forged file has to be as harmless as a damaged one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::SystemClock;
use crate::error::{Error, Result};
use crate::event::codec::Codec;
use crate::event::query::Query;
use crate::event::typed;
use crate::event::upcast::{Encoded, Upcasters};
use crate::format::control::Control;
use crate::format::frame::{self, Found, Frame, HEADER, Nonce, Place, flag, padded};
use crate::format::gap;
use crate::format::header::{self, Header};
use crate::format::heads::{Head, Streams};
use crate::format::term::{Kind, Term};
use crate::format::{PAGE, VERSION, backup, crc, lock, names, u16_at, u32_at};
use crate::id::{Position, Revision, StoreId, Timestamp};
use crate::log::grow::Manner;
use crate::log::heads::HeadsFile;
use crate::log::index::Index;
use crate::log::reader::Reader;
use crate::log::scan::{AtDamage, Tail, scan};
use crate::log::state::State;
use crate::log::terms::{self, Filter};
use crate::log::tiers::file::Tier;
use crate::log::{Log, recover};
use crate::segment::Segment;
use crate::segment::disk::{File, Prepared, RealDisk};
use crate::segment::map::{Access, Map};

const NONCE: Nonce = Nonce(0x5eed_0001);
const STORE: StoreId = StoreId([7; 16]);
const FIRST: Position = Position::new(1);

/// Flags that no frame of this version has; in an input they ask for something instead.
const LEAVE_CHECKSUM: u16 = 1 << 6;
const LEAVE_POSITION: u16 = 1 << 7;

/// Bytes where frames may stand: what is found there, and every accessor of it. First byte: 1 puts the checksum right.
pub fn frame(input: &[u8]) {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if mode & 1 == 1 {
        repair(&mut bytes, FIRST);
    }
    if bytes.len() >= HEADER {
        let _any = (frame::peek_position(&bytes), frame::peek_len(&bytes), frame::peek_is_control(&bytes));
    }
    let Found::Frame(found) = frame::find(&bytes, NONCE) else { return };
    assert!(found.len() <= bytes.len() && found.stride() >= found.len() && found.stride().is_multiple_of(8));
    look_at(found);
    // A sound frame is sound wherever it is moved to, and with another nonce it is none.
    let copy = bytes[..found.stride()].to_vec();
    assert!(matches!(frame::find(&copy, NONCE), Found::Frame(again) if again.has_content_of(&found)));
    assert!(!matches!(frame::find(&copy, Nonce(NONCE.0 ^ 1)), Found::Frame(_)));
}

/// A segment's header page, a lock file's, or a backup's mark. First byte: 1 puts the checksum right.
pub fn header(input: &[u8]) {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let mut page = [0; PAGE];
    let used = bytes.len().min(PAGE);
    page[..used].copy_from_slice(&bytes[..used]);
    if mode & 1 == 1 {
        let sum = crc(0, &page[..PAGE - 4]);
        page[PAGE - 4..].copy_from_slice(&sum.to_le_bytes());
    }
    if let Ok(decoded) = header::decode(&page) {
        let again = header::decode(&header::encode(&decoded));
        assert_eq!(again.as_ref(), Ok(&decoded), "what was read can be written");
        assert_eq!(header::parse_name(&header::file_name(decoded.first)), Some(decoded.first));
    }
    if let Some(holder) = lock::decode(&page) {
        assert_eq!(lock::decode(&lock::encode(&holder)), Some(holder));
    }
    if let Some(mark) = backup::decode(&page) {
        assert_eq!(backup::decode(&backup::encode(&mark)), Some(mark));
    }
    let _any = (lock::decode(bytes), backup::decode(bytes));
    if let Ok(name) = std::str::from_utf8(bytes)
        && let Some(first) = header::parse_name(name)
    {
        assert_eq!(header::file_name(first), name);
    }
    if let Some(control) = Control::decode(bytes) {
        assert_eq!(Control::decode(&control.encode()), Some(control));
    }
}

/// Control records that follow each other, each behind its length in 16 bits: what is read can be written, and what they
/// add up to is what a new segment would carry of it.
pub fn control(input: &[u8]) {
    let (mut rest, mut state) = (input, State::default());
    while rest.len() >= 2 {
        let len = usize::from(u16_at(rest, 0)).min(rest.len() - 2);
        let (record, behind) = rest[2..].split_at(len);
        rest = behind;
        let Some(record) = Control::decode(record) else { continue };
        assert_eq!(Control::decode(&record.encode()).as_ref(), Some(&record), "what was read can be written");
        state.apply(record);
        let mut carried = State::default();
        for record in state.records(Vec::new()) {
            let again = Control::decode(&record.encode());
            assert_eq!(again.as_ref(), Some(&record), "what is carried can be read");
            carried.apply(record);
        }
        assert_eq!(carried.records(Vec::new()), state.records(Vec::new()), "what was carried is another state");
    }
}

/// An index file for a fixed segment. First byte: 1 puts all checksums right, 2 the header's identity too.
pub fn index_file(input: &[u8]) {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let (segment, frames) = sample_segment();
    let mut bytes = bytes.to_vec();
    if mode & 2 == 2 && bytes.len() >= PAGE {
        let sound = Index::in_memory(segment.clone()).encode().expect("a small index");
        bytes[..12].copy_from_slice(&sound[..12]);
        bytes[16..36].copy_from_slice(&sound[16..36]);
        bytes[72..80].copy_from_slice(&sound[72..80]);
    }
    if mode & 1 == 1 {
        repair_index(&mut bytes);
    }
    let Some(index) = Index::of_bytes(segment.clone(), &bytes) else { return };
    let limit = segment.written();
    for frame in &frames {
        for term in terms_of(*frame).into_iter().chain([Term(0), Term(u64::MAX)]) {
            let found = index.postings(term, 0, limit);
            assert!(found.len() <= bytes.len() + limit as usize, "an answer larger than the file");
            let _any = (index.latest(term, limit, |_, _| true), index.count(term, limit));
            assert!(index.postings(term, limit, limit).iter().all(|unit| unit.offset() >= limit));
        }
    }
    let _any = index.summary(limit);
    for chunk in 0..index.chunks(limit).min(1_000) + 1 {
        assert!(index.chunk(chunk, limit).is_none_or(|offset| offset < limit));
    }
    if mode & 3 == 0 {
        // Nothing was forged, so what it says is so.
        let memory = Index::in_memory(segment.clone());
        for term in frames.iter().flat_map(|frame| terms_of(*frame)) {
            assert_eq!(index.postings(term, 0, limit), memory.postings(term, 0, limit));
        }
    }
}

/// A tier file. First byte: 1 puts all checksums right, 2 gives it a header and a directory that fit its size.
pub fn tier_file(input: &[u8]) {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    if mode & 2 == 2 {
        forge_tier(&mut bytes);
    }
    if mode & 1 == 1 {
        repair_tier(&mut bytes);
    }
    let Some(tier) = Map::memory(&bytes).ok().and_then(Tier::over) else { return };
    for term in (0..64).map(|number| Term(number << 58)).chain([Term(u64::MAX)]) {
        let mut named = 0;
        let _unsound = tier.bearing(term, |_| named += 1);
        assert!(named <= bytes.len() / 4, "an answer larger than the file");
    }
}

/// A heads file. First byte: 1 puts all checksums right, 2 gives it a header that fits its size.
pub fn heads_file(input: &[u8]) {
    let Some((&mode, bytes)) = input.split_first() else { return };
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(PAGE).max(PAGE), 0);
    if mode & 2 == 2 {
        let pages = (bytes.len() / PAGE) as u32 - 1;
        let streams = u64::from(u32_at(&bytes, 0));
        let head = Head { store: STORE, first: FIRST, end: Position::new(900), streams, pages };
        bytes[..PAGE].copy_from_slice(&head.encode());
    }
    if mode & 1 == 1 {
        repair_heads(&mut bytes);
    }
    let Some(file) = Map::memory(&bytes).ok().and_then(|map| HeadsFile::over("heads".to_owned(), map)) else { return };
    let mut names = vec![Vec::new(), b"order".to_vec(), vec![0xff; 600]];
    for page in bytes.chunks_exact(PAGE).skip(1) {
        let (mut streams, before) = (Streams::of(page), names.len());
        while let Some((name, stood)) = streams.next() {
            assert!(names::is_sound(name) && stood.revision > Revision::ABSENT);
            names.push(name.to_vec());
        }
        assert!(names.len() - before <= PAGE / 3, "more streams than bytes for them");
    }
    for name in &names {
        let _told = file.find(name);
    }
}

/// The frames of a segment, whatever they are. First byte: 1 puts checksums and positions right, 2 takes the segment for
/// sealed, 4 puts blank space behind, 8 has everything known to be durable.
pub fn segment_scan(input: &[u8]) {
    let Some((&mode, body)) = input.split_first() else { return };
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(8), 0);
    if mode & 1 == 1 {
        repair(&mut body, FIRST);
    }
    if mode & 4 == 4 {
        body.resize(body.len() + 1024, 0);
    }
    let segment = segment_of(&body);
    let limit = segment.capacity();
    if mode & 2 == 2 {
        segment.seal(Position::new(body.len() as u64 / HEADER as u64));
    }
    for at_damage in [AtDamage::Stop, AtDamage::PassOver] {
        let Ok(found) = scan(&segment, limit, at_damage) else { continue };
        assert!(found.end <= limit && found.events <= body.len() as u64 / HEADER as u64);
        let mut behind = PAGE as u64;
        for damage in &found.damage {
            assert!(damage.offset >= behind && damage.length > 0, "damage is told once: {damage}");
            behind = damage.offset + damage.length;
        }
        assert!(behind <= limit);
        let durable = if mode & 8 == 8 { found.next } else { Position::START };
        match found.tail(&segment, limit, durable) {
            Tail::Blank => assert!(segment.bytes(found.end, limit).iter().all(|byte| *byte == 0)),
            Tail::Torn { end } => assert!(end > found.end && end <= limit),
            Tail::Damaged(damage) => assert!(damage.offset >= found.end && damage.offset + damage.length <= limit),
        }
    }
    agree(&segment);
}

/// The index in memory, the one in a file, and the frames themselves have to say the same.
fn agree(segment: &Arc<Segment>) {
    let (limit, memory) = (segment.written(), Index::in_memory(segment.clone()));
    let (mut offset, mut next, mut sound) = (PAGE as u64, segment.first(), true);
    while let Found::Frame(frame) = segment.find(offset, limit) {
        sound &= frame.position() == next;
        if !sound {
            break;
        }
        if !frame.is_control() {
            for term in terms_of(frame) {
                assert!(memory.postings(term, 0, limit).iter().any(|unit| unit.offset() == offset));
                assert!(memory.count(term, limit) > 0);
            }
        }
        next = crate::segment::after(frame);
        offset += frame.stride() as u64;
    }
    let most = segment.capacity() + gap::MOST;
    assert!(memory.chunks(limit) as u64 <= most, "a table larger than the file and its gaps");
    let Some(bytes) = Index::in_memory(segment.clone()).encode() else { return };
    let file = Index::of_bytes(segment.clone(), &bytes).expect("an index that was just encoded");
    assert!(file.is_file());
    assert_eq!((file.summary(limit), file.chunks(limit)), (memory.summary(limit), memory.chunks(limit)));
    let mut offset = PAGE as u64;
    while let Found::Frame(frame) = segment.find(offset, limit) {
        for term in terms_of(frame) {
            assert_eq!(file.postings(term, offset, limit), memory.postings(term, offset, limit));
            // A tag that one event bears twice counts twice in memory: an upper bound is enough.
            assert!((1..=memory.count(term, limit)).contains(&file.count(term, limit)));
        }
        offset += frame.stride() as u64;
    }
}

/// A payload that claims to be an event. First byte: codec, second: event type.
pub fn typed_payload(input: &[u8]) {
    let [codec, name, payload @ ..] = input else { return };
    let codec = [Codec::MessagePack, Codec::Json, Codec::Bincode, Codec::Raw][usize::from(codec % 4)];
    let name = NAMES[usize::from(*name) % NAMES.len()];
    let at = Position::new(3);
    match typed::decode::<Order>(name, codec, payload, at) {
        Ok(order) => round_trip(&order, codec),
        Err(error) => assert!(matches!(error, Error::Decode { position, .. } if position == at)),
    }
    let _any: Result<Numbers> = typed::decode(name, codec, payload, at);
    let _any: Result<Loose> = typed::decode(name, codec, payload, at);
    let _any: Result<Line> = typed::content(name, codec, payload, at);
    let upcasters = Upcasters::new()
        .upcast("Noted", 0, |text: String| Order::Placed {
            sku: text,
            count: 1,
            lines: Vec::new(),
            by: None,
            kind: Kindly::Plain,
        })
        .register("Opened", 0, |old| {
            Ok(Encoded {
                type_name: "Noted".into(),
                version: 0,
                codec: old.codec,
                payload: old.payload.to_vec().into(),
            })
        });
    if let Ok(new) = upcasters.apply(name, 0, codec, payload, at) {
        let order: Result<Order> = typed::decode(&new.type_name, new.codec, &new.payload, at);
        assert!(order.is_ok() || !matches!(name, "Noted" | "Opened"), "what an upcaster made reads back");
    }
    #[cfg(feature = "json")]
    let _any = typed::json(name, codec, payload, at);
}

/// A store that was opened for writing, without the threads of a writer: what recovery made of a directory.
#[derive(Debug)]
pub struct Recovered(Arc<Log>);

impl Recovered {
    /// The last position that is there.
    pub fn head(&self) -> Position {
        self.0.head()
    }

    /// As [`Store::read`](crate::Store::read).
    pub fn read(&self, query: Query) -> Reader {
        Reader::new(self.0.clone(), Filter::Query(query), self.head())
    }
}

/// Recovers a store.
///
/// # Errors
/// As [`Store::open`](crate::Store::open).
pub fn recovered(path: &Path, segment_bytes: u64) -> Result<Recovered> {
    let manner = Manner { prepared: Prepared::Allocated, synced: false, largest: segment_bytes };
    let opened = recover::open_writer(&RealDisk, path, false, manner, &SystemClock)?;
    Ok(Recovered(opened.log))
}

fn round_trip(order: &Order, codec: Codec) {
    let Ok((name, payload)) = typed::encode(order, codec) else { return };
    let again: Order = typed::decode(name, codec, &payload, Position::START).expect("what was written reads back");
    assert!(*order == again || *order == Order::Unknown, "{order:?} became {again:?}");
}

const NAMES: [&str; 10] =
    ["Opened", "Noted", "Moved", "Placed", "v2.grown", "Tagged", "Loose", "Line", "Unknown", "something else"];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Order {
    Opened,
    Noted(String),
    Moved(i64, Option<u8>),
    Placed {
        sku: String,
        count: u32,
        #[serde(default)]
        lines: Vec<Line>,
        #[serde(alias = "who")]
        by: Option<String>,
        #[serde(default)]
        kind: Kindly,
    },
    #[serde(rename = "v2.grown")]
    Grown {
        tree: Tree,
        by_name: BTreeMap<String, u64>,
        letter: char,
        bytes: Vec<u8>,
        pair: (bool, i16),
    },
    Tagged(Tagged),
    Loose(Loose),
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
enum Kindly {
    #[default]
    Plain,
    Sized(u8),
    Named {
        name: Box<str>,
        inner: Option<Box<Kindly>>,
    },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    sku: String,
    #[serde(flatten)]
    rest: BTreeMap<String, Loose>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Tree {
    name: String,
    branches: Vec<Tree>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t")]
enum Tagged {
    One { a: u64 },
    Two { b: Option<String> },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Loose {
    Nothing(()),
    Number(i64),
    Text(String),
    List(Vec<Loose>),
    Map(BTreeMap<String, Loose>),
}

/// Floats do not compare with themselves, so they stand apart.
#[derive(Debug, Serialize, Deserialize)]
enum Numbers {
    Moved(f32, f64),
    Placed { wide: u128, deep: i128, tiny: u8 },
}

/// Asks a frame for all it has.
fn look_at(frame: Frame<'_>) {
    let _any = (frame.position().next(), frame.revision().next(), frame.time(), frame.codec(), frame.has_more());
    if frame.is_control() {
        assert!(frame.stream().is_empty() && frame.type_name().is_empty() && frame.extras().is_empty());
        let _any = Control::decode(frame.payload());
        return;
    }
    assert_eq!(frame.stream().as_bytes(), frame.stream_bytes());
    assert_eq!(frame.type_name().as_bytes(), frame.type_bytes());
    assert!(!frame.stream().is_empty() && frame.type_name().is_empty() == frame.is_stub());
    assert!(!frame.is_stub() || frame.payload().is_empty() && frame.extras().is_empty());
    let extras = frame.extras();
    let texts: usize = extras.tags().map(str::len).sum::<usize>() + extras.headers().map(str::len).sum::<usize>();
    let names = frame.stream().len() + frame.type_name().len();
    assert!(HEADER + names + texts + frame.payload().len() <= frame.len());
    assert!(extras.headers().count().is_multiple_of(2));
    let _any = (extras.id(), extras.occurred(), extras.schema_version(), extras.correlation(), extras.causation());
    let _any = (extras.causation_bytes(), extras.key());
    assert!(!terms_of(frame).is_empty());
}

fn terms_of(frame: Frame<'_>) -> Vec<Term> {
    let mut found = Vec::new();
    if !frame.is_control() {
        terms::of(frame, |term| found.push(term));
    }
    found
}

/// Makes sound frames of bytes that look a little like frames: lengths, positions and checksums, unless the flags ask for
/// something else.
fn repair(bytes: &mut [u8], first: Position) {
    let (mut offset, mut next) = (0, first);
    while bytes.len() >= offset + HEADER {
        let rest = &mut bytes[offset..];
        let flags = u16_at(rest, 32);
        let mut len = u32_at(rest, 0) as usize;
        if len == 0 {
            offset += 8;
            continue;
        }
        if len < HEADER || padded(len) > rest.len() {
            len = HEADER + (len & 0xff).min((rest.len() - HEADER) & !7);
            rest[..4].copy_from_slice(&(len as u32).to_le_bytes());
        }
        let kept = flags & !(LEAVE_CHECKSUM | LEAVE_POSITION);
        rest[32..34].copy_from_slice(&kept.to_le_bytes());
        if flags & LEAVE_CHECKSUM == 0 {
            let frame = Frame::trusted(&rest[..len]);
            let position = if flags & LEAVE_POSITION == 0 { next } else { frame.position() };
            let place = Place {
                position,
                revision: frame.revision(),
                time: frame.time(),
                flags: kept & (flag::MORE | flag::SYNCED),
            };
            frame::finish(&mut rest[..len], place, NONCE);
            // A header whose lengths do not fit together is none, whatever its checksum says.
            if let Found::Frame(found) = frame::find(rest, NONCE) {
                next = crate::segment::after(found);
            }
        }
        offset += padded(len);
    }
}

/// Puts every checksum of an index file right, as far as its own numbers make sense.
fn repair_index(bytes: &mut [u8]) {
    if bytes.len() < PAGE {
        return;
    }
    // Of the bytes behind the header, every 4096 have four in the table at the end.
    let rest = bytes.len() - PAGE;
    let table = PAGE + rest - rest.div_ceil(PAGE + 4) * 4;
    if table < PAGE {
        return;
    }
    let sums: Vec<u8> = bytes[PAGE..table].chunks(PAGE).flat_map(|page| crc(0, page).to_le_bytes()).collect();
    let used = sums.len().min(bytes.len() - table);
    bytes[table..table + used].copy_from_slice(&sums[..used]);
    let sum = crc(0, &bytes[table..]);
    bytes[36..40].copy_from_slice(&sum.to_le_bytes());
    let sum = crc(0, &bytes[..PAGE - 4]);
    bytes[PAGE - 4..PAGE].copy_from_slice(&sum.to_le_bytes());
}

/// Gives a file the header and the directory of a tier file of its size, with numbers that come from what stands there.
fn forge_tier(bytes: &mut Vec<u8>) {
    let pages = bytes.len().div_ceil(PAGE).max(3);
    bytes.resize(pages * PAGE, 0);
    let behind = pages as u32 - 2;
    let segments = 1 + u32::from(bytes[12] % 64);
    let main_pages = 1 + u32_at(bytes, 56) % behind;
    let widest = main_pages.ilog2() + 31 - segments.next_power_of_two().trailing_zeros();
    let prefix_bits = 1 + u32_at(bytes, 36) % widest;
    bytes[..8].copy_from_slice(b"towtiers");
    for (at, number) in [(8, VERSION), (12, segments), (36, prefix_bits), (56, main_pages), (60, behind - main_pages)] {
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    bytes[40..48].copy_from_slice(&1u64.to_le_bytes());
    for segment in 0..segments as usize {
        let at = PAGE + 8 + segment * 16;
        bytes[at..at + 8].copy_from_slice(&(segment as u64 + 1).to_le_bytes());
    }
    for page in bytes[2 * PAGE..].chunks_exact_mut(PAGE) {
        let goes_on = u32_at(page, 4) % (behind + 3);
        page[4..8].copy_from_slice(&goes_on.to_le_bytes());
    }
}

/// Puts every checksum of a tier file right.
fn repair_tier(bytes: &mut [u8]) {
    if bytes.len() < PAGE {
        return;
    }
    let salt = u32_at(bytes, 32);
    for (number, page) in (0u32..).zip(bytes.chunks_exact_mut(PAGE)).skip(1) {
        let sum = crc(crc(salt, &number.to_le_bytes()), &page[4..]);
        page[..4].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = crc(0, &bytes[..PAGE - 4]);
    bytes[PAGE - 4..PAGE].copy_from_slice(&sum.to_le_bytes());
}

/// Puts every checksum of a heads file right, as far as its header can be read.
fn repair_heads(bytes: &mut [u8]) {
    let sum = crc(0, &bytes[..PAGE - 4]);
    bytes[PAGE - 4..PAGE].copy_from_slice(&sum.to_le_bytes());
    let Some(head) = Head::decode(&bytes[..PAGE], bytes.len() as u64) else { return };
    for (number, page) in (0..).zip(bytes.chunks_exact_mut(PAGE).skip(1)) {
        head.seal(number, page);
    }
}

/// A sealed segment with a few events, and its frames.
fn sample_segment() -> (Arc<Segment>, Vec<Frame<'static>>) {
    static BODY: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let body = BODY.get_or_init(|| sample_body(40));
    let segment = segment_of(body);
    segment.seal(Position::new(40));
    let (mut frames, mut offset) = (Vec::new(), 0);
    while let Found::Frame(frame) = frame::find(&body[offset..], NONCE) {
        frames.push(frame);
        offset += frame.stride();
    }
    frames.truncate(4);
    (segment, frames)
}

/// The frames of so many events.
fn sample_body(events: u64) -> Vec<u8> {
    use crate::event::draft::NewEvent;

    let mut body = Vec::new();
    for number in 0..events {
        let start = body.len();
        let event = NewEvent::new("moved", "here").tag(format!("day:{}", number % 3)).id(number.into());
        frame::stage_event(&mut body, &format!("cart-{}", number % 5), &event);
        let len = u32_at(&body, start) as usize;
        let place = Place {
            position: Position::new(number + 1),
            revision: crate::id::Revision::new(number / 5 + 1),
            time: Timestamp::from_nanos(number),
            flags: 0,
        };
        frame::finish(&mut body[start..start + len], place, NONCE);
    }
    assert!(Term::of(Kind::Type, b"moved") != Term(0), "an index is asked for terms that it has and has not");
    body
}

fn segment_of(body: &[u8]) -> Arc<Segment> {
    let header = Header {
        store: STORE,
        nonce: NONCE,
        first: FIRST,
        previous: None,
        created: Timestamp::default(),
        durable: Position::START,
        rewritten: None,
    };
    let mut bytes = header::encode(&header).to_vec();
    bytes.extend_from_slice(body);
    let map = Map::memory(&bytes).expect("a little memory");
    Segment::created(header, Arc::new(NoFile), map, bytes.len() as u64).0
}

/// A segment in memory has no file to go to.
#[derive(Debug)]
struct NoFile;

impl File for NoFile {
    fn len(&self) -> Result<u64> {
        Err(Error::Closed)
    }
    #[cfg(feature = "sink-file")]
    fn look(&self) -> Result<crate::segment::disk::Look> {
        Err(Error::Closed)
    }
    fn read_at(&self, _: &mut [u8], _: u64) -> Result<usize> {
        Err(Error::Closed)
    }
    fn write_at(&self, _: &[u8], _: u64) -> Result<()> {
        Err(Error::Closed)
    }
    fn allocate(&self, _: u64, _: Prepared) -> Result<()> {
        Err(Error::Closed)
    }
    fn truncate(&self, _: u64) -> Result<()> {
        Err(Error::Closed)
    }
    fn sync(&self) -> Result<()> {
        Err(Error::Closed)
    }
    fn map(&self, _: u64, _: Access) -> Result<Map> {
        Err(Error::Closed)
    }
    fn lock(&self) -> Result<bool> {
        Err(Error::Closed)
    }
    fn unlock(&self) -> Result<()> {
        Err(Error::Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;
    use crate::format::heads::{Pages, Stood};

    /// Runs a target on every kept case; there have to be some.
    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(target);
        let mut cases = 0;
        for case in std::fs::read_dir(&folder).unwrap() {
            let case = case.unwrap().path();
            let input = std::fs::read(&case).unwrap();
            assert!(catch_unwind(|| run(&input)).is_ok(), "{} fails again", case.display());
            cases += 1;
        }
        assert!(cases > 0, "{} is empty", folder.display());
    }

    #[test]
    fn kept_frames_still_pass() {
        replay("frame", frame);
    }

    #[test]
    fn kept_control_records_still_pass() {
        replay("control", control);
    }

    /// As many inputs as a unit test can afford, made of sound records: cut, doubled, in any order, with bytes changed.
    #[test]
    fn control_records_in_any_order_are_carried_as_they_are() {
        let sound: Vec<Vec<u8>> = crate::format::control::tests::examples().iter().map(Control::encode).collect();
        let mut seed = 11u64;
        let mut random = |most: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % most
        };
        let mut input = Vec::new();
        for _ in 0..4_000 {
            input.clear();
            for _ in 0..1 + random(9) {
                let mut record = sound[random(sound.len())].clone();
                for _ in 0..random(4) {
                    let at = random(record.len());
                    record[at] = [record[at] ^ 1 << random(8), random(256) as u8, 0, 255][random(4)];
                }
                input.extend_from_slice(&(record.len() as u16).to_le_bytes());
                input.extend_from_slice(&record);
            }
            assert!(catch_unwind(|| control(&input)).is_ok(), "{input:?}");
        }
    }

    #[test]
    fn kept_headers_still_pass() {
        replay("header", header);
    }

    #[test]
    fn kept_index_files_still_pass() {
        replay("index_file", index_file);
    }

    #[test]
    fn kept_tier_files_still_pass() {
        replay("tier_file", tier_file);
    }

    /// As many inputs as a unit test can afford: pages that go on in each other, with entries of all sizes.
    #[test]
    fn forged_tier_files_are_harmless() {
        let mut seed = 11u64;
        for _ in 0..300 {
            let mut input = vec![3];
            for _ in 0..PAGE * (3 + (seed >> 33) as usize % 4) / 8 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                input.extend_from_slice(&(seed >> (seed >> 59)).to_le_bytes());
            }
            assert!(catch_unwind(|| tier_file(&input)).is_ok(), "{input:?}");
        }
    }

    #[test]
    fn kept_heads_files_still_pass() {
        replay("heads_file", heads_file);
    }

    #[test]
    fn kept_segments_still_pass() {
        replay("segment_scan", segment_scan);
    }

    #[test]
    fn kept_payloads_still_pass() {
        replay("typed_payload", typed_payload);
    }

    /// The control for the targets: what they put right does pass the checks that would stop it otherwise.
    #[test]
    fn repaired_inputs_get_past_the_checksums() {
        let mut frames = sample_body(3);
        frames[40] ^= 1;
        assert!(matches!(frame::find(&frames, NONCE), Found::Bad(_)));
        repair(&mut frames, FIRST);
        assert!(matches!(frame::find(&frames, NONCE), Found::Frame(_)));

        let (segment, _) = sample_segment();
        let mut index = Index::in_memory(segment.clone()).encode().unwrap();
        index[PAGE + 9] ^= 1;
        let flipped = Index::of_bytes(segment.clone(), &index).unwrap();
        let first = Term::of(Kind::Type, b"moved");
        assert_eq!(flipped.count(first, segment.written()), 40);
        assert!(!flipped.is_file(), "a damaged page is not believed");
        repair_index(&mut index);
        let forged = Index::of_bytes(segment.clone(), &index).unwrap();
        let _any = forged.count(first, segment.written());
        assert!(forged.is_file(), "a repaired one is");

        let mut tier = vec![0; 4 * PAGE];
        let over = |bytes: &[u8]| Tier::over(Map::memory(bytes).unwrap());
        forge_tier(&mut tier);
        assert!(over(&tier).is_none());
        repair_tier(&mut tier);
        assert!(over(&tier).unwrap().bearing(first, |_| ()).is_ok());

        let mut pages = Pages::new(STORE, FIRST, Position::new(9));
        let stood = Stood { revision: Revision::new(3), is_gone: true };
        assert!(pages.add(b"order-1", stood).is_none());
        let page = pages.finish_page().unwrap();
        let mut heads = [&pages.head().encode()[..], &page].concat();
        let found =
            |bytes: &[u8]| HeadsFile::over(String::new(), Map::memory(bytes).unwrap()).unwrap().find(b"order-2");
        assert!(matches!(found(&heads), Ok(None)));
        // The last byte of the stream's name.
        heads[PAGE + 6 + 2 + 6] = b'2';
        assert!(matches!(found(&heads), Err(Error::Damaged(_))));
        repair_heads(&mut heads);
        assert!(matches!(found(&heads), Ok(Some(found)) if found == stood));
    }
}
