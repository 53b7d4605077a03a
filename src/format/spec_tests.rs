//! FORMAT.md is what the encoders do: its hex examples are compared with their bytes.

use crate::event::codec::Codec;
use crate::event::draft::NewEvent;
use crate::format::backup::{self, Mark};
use crate::format::control::Control;
use crate::format::control::tests::examples;
use crate::format::frame::{self, Found, Nonce, Place, flag};
use crate::format::header::{self, Header, Previous, Rewritten};
use crate::format::heads::{Pages, Stood};
use crate::format::index::{self, Posting, Summary, Unit};
use crate::format::lock::{self, Holder};
use crate::format::term::{Kind, Term};
use crate::format::tier::{Entries, Head, Shape};
use crate::id::{Position, Revision, StoreId, Timestamp};

const SPEC: &str = include_str!("FORMAT.md");
const STORE: StoreId = StoreId([16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]);
const NONCE: Nonce = Nonce(0x5eed_0001);
/// The segment of the examples: its control state, two events and a checkpoint.
const FIRST_EVENT: u64 = 4144;
const SECOND_EVENT: u64 = 4200;
const END: u64 = 4344;

/// The bytes of one example: lines of an offset, bytes, and what they mean. Left out bytes are zeroes.
fn example(spec: &str, title: &str) -> Vec<u8> {
    let (_, block) = spec.split_once(&format!("```text\n# {title}\n")).expect("the spec has this example");
    let (block, _) = block.split_once("```").expect("the example ends");
    let mut bytes = Vec::new();
    for line in block.lines() {
        let (offset, rest) = line.split_once("  ").expect("an offset and two spaces");
        let (hex, _meaning) = rest.split_once("  ").unwrap_or((rest, ""));
        let offset = usize::from_str_radix(offset, 16).expect("an offset");
        assert!(offset >= bytes.len(), "offsets rise: {line}");
        bytes.resize(offset, 0);
        bytes.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("a byte")));
    }
    bytes
}

fn time(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(1_700_000_000_000_000_000 + nanos)
}

fn place(position: u64, revision: u64, nanos: u64) -> Place {
    Place { position: Position::new(position), revision: Revision::new(revision), time: time(nanos), flags: 0 }
}

fn event_frame() -> Vec<u8> {
    let event = NewEvent::encoded("item added", Codec::Json, br#"{"n":2}"#).tag("sku:tea").header("by", "Ann");
    let mut out = Vec::new();
    frame::stage_event(&mut out, "cart-1", &event);
    let len = frame::Staged::at(&out, 0).len();
    frame::finish(&mut out[..len], place(2, 2, 1), NONCE);
    out
}

fn control_frame() -> Vec<u8> {
    let mut out = Vec::new();
    let record = Control::Checkpoint { name: "mail".to_owned(), next: Position::new(3) };
    frame::stage_control(&mut out, &record.encode());
    let len = frame::Staged::at(&out, 0).len();
    frame::finish(&mut out[..len], place(3, 0, 2), NONCE);
    out
}

fn second_header() -> Header {
    let last = control_frame();
    let last_crc = u32::from_le_bytes(last[4..8].try_into().unwrap());
    Header {
        store: STORE,
        nonce: Nonce(0x5eed_0003),
        first: Position::new(3),
        previous: Some(Previous { first: Position::new(1), end: END, last_crc }),
        created: time(3),
        durable: Position::new(2),
        rewritten: None,
    }
}

fn rewritten_header() -> Header {
    let (nonce, original_end, original_crc) = (Nonce(0x5eed_0003), 8192, 0xcafe_f00d);
    let rewritten = Some(Rewritten { nonce, original_end, original_crc, end: 6144, last_crc: 0xdead_beef });
    Header { nonce: Nonce(0x5eed_0005), rewritten, ..second_header() }
}

fn stub_frame() -> Vec<u8> {
    let mut out = Vec::new();
    frame::stage_stub(&mut out, b"cart-1");
    let len = frame::Staged::at(&out, 0).len();
    frame::finish(&mut out[..len], place(2, 2, 1), NONCE);
    out
}

fn index_file() -> Vec<u8> {
    let summary = Summary {
        store: STORE,
        nonce: NONCE,
        first: Position::new(1),
        events: 2,
        gone: 0,
        own_events: 0,
        streams: 1,
        end: END,
        first_time: time(0),
        last_time: time(1),
    };
    let (first, second) = (Unit::of(FIRST_EVENT), Unit::of(SECOND_EVENT));
    let mut postings = Vec::new();
    for (kind, text, units) in [
        (Kind::Stream, &b"cart-1"[..], &[first, second][..]),
        (Kind::Category, b"cart", &[first, second]),
        (Kind::Type, b"opened", &[first]),
        (Kind::Type, b"item added", &[second]),
        (Kind::Tag, b"sku:tea", &[second]),
    ] {
        let term = Term::of(kind, text);
        postings.extend(units.iter().map(|unit| Posting::new(term, *unit)));
    }
    postings.sort_unstable();
    index::encode(&summary, &[first], &postings, &mut || ()).expect("a small index")
}

/// One of the examples that the control records' own tests have.
/// Over the segment of the examples and one behind it, in which the stream has another event.
fn tier_head() -> Head {
    let shape = Shape::new(3, 2, 64).expect("a small tier");
    let (segments, first, salt) = (2, Position::new(1), NONCE.0 ^ 2);
    Head { store: STORE, salt, first, segments, entries: 3, shape, spill_pages: 0 }
}

fn tier_file() -> Vec<u8> {
    let (head, [stream, tag]) = (tier_head(), tier_terms());
    let prefix = |term| head.shape.prefix(term);
    let entry = |term, segment| head.shape.entry(0, prefix(term), segment);
    let mut file = head.encode().to_vec();
    file.extend(head.encode_directory(&[(Position::new(1), NONCE), (Position::new(3), Nonce(0x5eed_0002))]));
    file.extend(head.encode_entries(2, &[entry(tag, 0), entry(stream, 0), entry(stream, 1)], None));
    file
}

fn tier_terms() -> [Term; 2] {
    [Term::of(Kind::Stream, b"cart-1"), Term::of(Kind::Tag, b"sku:tea")]
}

/// A page of entries is filled up with ones, which the example does not show.
fn without_fill(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0xff).map_or(0, |last| last + 1));
    bytes
}

fn record(at: usize) -> Vec<u8> {
    examples()[at].encode()
}

fn heads_page() -> Vec<u8> {
    let mut pages = Pages::new(STORE, Position::new(1), Position::new(600));
    for (name, revision, is_gone) in [("cart-1", 5, false), ("cart-2", 7, false), ("cart-3", 4, true)] {
        let stood = Stood { revision: Revision::new(revision), is_gone };
        assert!(pages.add(name.as_bytes(), stood).is_none());
    }
    pages.finish_page().expect("three streams")
}

fn lock_file() -> [u8; 4096] {
    lock::encode(&Holder { pid: 4121, store: STORE, since: time(0) })
}

fn mark() -> Mark {
    Mark { store: STORE, segment: Position::new(1), nonce: NONCE, end: END, head: Position::new(2) }
}

/// Pages end in zeroes, which an example does not show.
fn without_end(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    bytes
}

fn agree(spec: &str) -> bool {
    [
        ("event frame", event_frame()),
        ("control frame", control_frame()),
        ("segment header", header::encode(&second_header()).to_vec()),
        ("rewritten header", header::encode(&rewritten_header()).to_vec()),
        ("stub frame", stub_frame()),
        ("dropped record", record(14)),
        ("index file", index_file()),
        ("tier file", without_fill(tier_file())),
        ("lock file", lock_file().to_vec()),
        ("backup mark", backup::encode(&mark()).to_vec()),
        ("group record", record(3)),
        ("claimed record", record(4)),
        ("settled record", record(5)),
        ("unsettled record", record(6)),
        ("gap record", record(11)),
        ("kept record", record(13)),
        ("heads page", heads_page()),
    ]
    .into_iter()
    .all(|(title, made)| without_end(example(spec, title)) == without_end(made))
}

#[test]
fn the_examples_in_the_spec_are_what_the_encoders_make() {
    assert_eq!(example(SPEC, "event frame"), event_frame());
    assert_eq!(example(SPEC, "control frame"), control_frame());
    assert_eq!(example(SPEC, "segment header"), header::encode(&second_header()));
    assert_eq!(example(SPEC, "rewritten header"), header::encode(&rewritten_header()));
    assert_eq!(example(SPEC, "stub frame"), stub_frame());
    assert_eq!(example(SPEC, "dropped record"), record(14));
    assert_eq!(example(SPEC, "index file"), index_file());
    assert_eq!(example(SPEC, "tier file"), without_fill(tier_file()));
    assert_eq!(without_end(example(SPEC, "lock file")), without_end(lock_file().to_vec()));
    assert_eq!(example(SPEC, "backup mark"), backup::encode(&mark()));
    assert_eq!(example(SPEC, "group record"), record(3));
    assert_eq!(example(SPEC, "claimed record"), record(4));
    assert_eq!(example(SPEC, "settled record"), record(5));
    assert_eq!(example(SPEC, "unsettled record"), record(6));
    assert_eq!(example(SPEC, "gap record"), record(11));
    assert_eq!(example(SPEC, "kept record"), record(13));
    assert_eq!(example(SPEC, "heads page"), without_end(heads_page()));
    assert!(agree(SPEC));

    // The control: one byte in the spec changed, in each of the examples.
    for (byte, other) in [
        ("0001  cb 06", "0001  cb 07"),
        ("000f  05 01 32 07", "000f  05 01 32 08"),
        ("0020  10 60", "0020  10 61"),
        ("0028  02   ", "0028  03   "),
        ("0010  10 11", "0010  10 12"),
        ("1060  86 04 07", "1060  86 04 08"),
        ("1018  03", "1018  04"),
        ("0008  19 10", "0008  19 11"),
        ("000a  02 01 00 02 06", "000a  02 01 00 02 07"),
        ("0012  01 03 01", "0012  01 03 02"),
        ("0014  01 12", "0014  01 13"),
        ("0007  04 ab 02", "0007  04 ab 03"),
        ("0001  ac 02", "0001  ac 03"),
        ("0068  00 18", "0068  00 19"),
        ("0020  20 00", "0020  28 00"),
        ("0009  02 01 28 02 00", "0009  02 01 28 03 00"),
        ("0013  05 01 33 00 04", "0013  05 01 33 00 05"),
        ("0038  02 00", "0038  03 00"),
    ] {
        let changed = SPEC.replacen(byte, other, 1);
        assert_ne!(changed, SPEC, "{byte}");
        assert!(!agree(&changed), "{byte}");
    }
}

#[test]
fn the_examples_in_the_spec_read_back() {
    let bytes = example(SPEC, "event frame");
    let Found::Frame(event) = frame::find(&bytes, NONCE) else { panic!("no frame") };
    assert_eq!((event.stream(), event.type_name(), event.payload()), ("cart-1", "item added", &br#"{"n":2}"#[..]));
    assert_eq!(event.flags() & (flag::MORE | flag::CONTROL | flag::SYNCED), 0);
    assert_eq!(event.extras().tags().collect::<Vec<_>>(), ["sku:tea"]);
    assert_eq!(event.extras().headers().collect::<Vec<_>>(), ["by", "Ann"]);
    assert_eq!(SECOND_EVENT + event.stride() as u64 + control_frame().len() as u64, END);

    let records = [
        ("group record", 3),
        ("claimed record", 4),
        ("settled record", 5),
        ("unsettled record", 6),
        ("gap record", 11),
        ("kept record", 13),
    ];
    for (title, at) in records {
        assert_eq!(Control::decode(&example(SPEC, title)).as_ref(), Some(&examples()[at]), "{title}");
    }

    let page = example(SPEC, "segment header");
    assert_eq!(header::decode(page[..].try_into().unwrap()), Ok(second_header()));
    assert_eq!(backup::decode(&example(SPEC, "backup mark")), Some(mark()));
    let page = example(SPEC, "rewritten header");
    assert_eq!(header::decode(page[..].try_into().unwrap()), Ok(rewritten_header()));
    assert_eq!(Control::decode(&example(SPEC, "dropped record")).as_ref(), Some(&examples()[14]));

    let bytes = example(SPEC, "stub frame");
    let Found::Frame(stub) = frame::find(&bytes, NONCE) else { panic!("no frame") };
    assert!(stub.is_stub() && !stub.is_event() && event.is_event());
    assert_eq!((stub.stream(), stub.position(), stub.revision()), ("cart-1", event.position(), event.revision()));
    for (at, what) in [(33, "extras"), (36, "a type"), (32, "a control record")] {
        let mut other = bytes.clone();
        other[at] |= 2;
        frame::finish(&mut other[..46], place(2, 2, 1), NONCE);
        assert!(matches!(frame::find(&other, NONCE), Found::Bad(_)), "a stub has no {what}");
    }

    let file = example(SPEC, "index file");
    let layout = index::layout(&file[..4096], file.len()).expect("a sound index");
    assert!(layout.table_is_sound(&file) && layout.page_is_sound(&file, 0));
    let bucket = layout.bucket(&file[layout.fanout_of(Term::of(Kind::Tag, b"sku:tea"))]).unwrap();
    let found = |kind, text| layout.find(&file[bucket.clone()], Term::of(kind, text));
    assert_eq!(found(Kind::Tag, b"sku:tea").unwrap().only(), Some(Unit::of(SECOND_EVENT)));
    assert!(found(Kind::Tag, b"sku:coffee").is_none());
    let stream = found(Kind::Stream, b"cart-1").unwrap();
    let postings = stream.decode(&file[layout.postings_bytes(stream).unwrap()]).unwrap();
    assert_eq!(postings, [Unit::of(FIRST_EVENT), Unit::of(SECOND_EVENT)]);
}

#[test]
fn the_tier_file_in_the_spec_reads_back() {
    let mut file = example(SPEC, "tier file");
    file.resize(3 * 4096, 0xff);
    let head = Head::decode(&file[..4096], file.len() as u64).expect("a sound header");
    assert_eq!(head, tier_head());
    assert!(Head::decode(&file[..4096], file.len() as u64 + 4096).is_none());
    let covered = [(Position::new(1), NONCE), (Position::new(3), Nonce(0x5eed_0002))];
    assert_eq!(head.decode_directory(&file).expect("a sound directory"), covered);
    assert!(head.is_sound(2, &file[2 * 4096..]) && !head.is_sound(1, &file[2 * 4096..]));
    let entries = Entries::of(&file[2 * 4096..]);
    let read = |at| entries.get(at).map(|entry| head.shape.read(0, entry));
    let [stream, tag] = tier_terms().map(|term| head.shape.prefix(term));
    assert_eq!([read(0), read(1), read(2), read(3)], [Some((tag, 0)), Some((stream, 0)), Some((stream, 1)), None]);
    assert_eq!((entries.goes_on(), entries.lower_bound(head.shape.entry(0, stream, 1))), (None, 2));
}
