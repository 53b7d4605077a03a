//! What a check finds, and how closely it looks: C2. Each forged store is one that a single check notices.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use towpath::inspect::{self, Depth, Verdict};
use towpath::{Canal as _, Codec, Durability, NewEvent, Options, Retention, Settlement, Store};

use crate::support::Scratch;
use crate::support::files::{self, RawFrame};

fn look(path: &Path, depth: Depth) -> Verdict {
    inspect::verify_to(path, depth, |_| {}).unwrap()
}

/// Many small segments, with a checkpoint that stands at the head of most of them.
fn store_of(scratch: &Scratch) -> PathBuf {
    let store = Options::new().segment_bytes(64 << 10).durability(Durability::Os).open(scratch.store_path()).unwrap();
    let mut cursor = store.cursor("reader").open().unwrap();
    for number in 0..900u64 {
        store.append(&format!("cart-{}", number % 7), NewEvent::new("added", &[number as u8; 1000])).unwrap();
        if number == 5 {
            let batch = cursor.pull_batch(3, Duration::ZERO).unwrap();
            cursor.settle(batch.last().unwrap(), Settlement::Done).unwrap();
            cursor.flush().unwrap();
        }
    }
    drop(cursor);
    store.close().unwrap();
    let path = scratch.store_path();
    assert!(files::segments(&path).len() > 8);
    for depth in [Depth::Fast, Depth::Whole, Depth::Deep] {
        let verdict = look(&path, depth);
        assert!(verdict.ok && verdict.lost.is_empty(), "{depth:?}: {:?}", verdict.damage);
    }
    path
}

/// Changes one byte of a frame, and its checksum with it.
fn forge(segment: &Path, frame: RawFrame, at: u64, byte: u8) {
    files::overwrite(segment, frame.offset + at, &[byte]);
    let bytes = fs::read(segment).unwrap();
    let bytes = &bytes[frame.offset as usize..];
    let len = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let sum = files::crc(files::nonce(segment) ^ len, &bytes[8..len as usize]);
    files::overwrite(segment, frame.offset + 4, &sum.to_le_bytes());
    assert!(files::checksums_fit(segment));
}

fn whats(verdict: &Verdict) -> Vec<&str> {
    verdict.damage.iter().map(|damage| &damage.what[..]).collect()
}

/// L5: a segment in the middle whose checkpoint points past the events that were there.
#[test]
fn a_head_with_a_consumer_ahead_of_the_log_is_told() {
    let scratch = Scratch::in_memory();
    let path = store_of(&scratch);
    let segment = &files::segments(&path)[4];
    let first: u64 = files::name(segment)[..20].parse().unwrap();
    // The segments record, then the checkpoint: its position stands behind the kind.
    let head = files::frames(segment)[1];
    assert!(head.is_control);
    forge(segment, head, 42, (first >> 8) as u8);
    forge(segment, head, 41, first as u8);
    assert!(look(&path, Depth::Whole).ok, "control: the next event is as far as it may be");
    forge(segment, head, 41, first as u8 + 1);
    assert_eq!(whats(&look(&path, Depth::Whole)), ["it has a consumer ahead of the log"]);
}

#[test]
fn a_revision_out_of_order_and_a_time_that_goes_back_are_told() {
    let scratch = Scratch::in_memory();
    let path = store_of(&scratch);
    let segment = &files::segments(&path)[4];
    let first: u64 = files::name(segment)[..20].parse().unwrap();
    forge(segment, files::frame_of(segment, first + 10), 17, 9);
    let verdict = look(&path, Depth::Whole);
    assert!(whats(&verdict).iter().all(|what| what.contains("revision")) && !verdict.ok, "{:?}", verdict.damage);
    let other = Scratch::in_memory();
    let path = store_of(&other);
    let segment = &files::segments(&path)[4];
    let first: u64 = files::name(segment)[..20].parse().unwrap();
    forge(segment, files::frame_of(segment, first + 10), 31, 1);
    assert_eq!(whats(&look(&path, Depth::Whole)), ["its time is earlier than that of the event before it"]);
}

/// `Fast` reads a sample: it finds what stands in the newest segment and in headers, and says how much it left out.
#[test]
fn a_fast_check_looks_at_headers_and_the_newest_and_says_what_it_left_out() {
    let scratch = Scratch::in_memory();
    let path = store_of(&scratch);
    let fast = look(&path, Depth::Fast);
    assert_eq!(fast.segments_read, 4);
    assert_eq!(look(&path, Depth::Whole).segments_read, fast.segments);
    let segments = files::segments(&path);
    let original = fs::read(&segments[3]).unwrap();
    files::flip(&segments[3], 90, 0);
    assert!(!look(&path, Depth::Fast).ok, "a header");
    fs::write(&segments[3], &original).unwrap();
    files::set_len(&segments[3], original.len() as u64 / 2);
    assert!(!look(&path, Depth::Fast).ok, "a file cut short");
    fs::write(&segments[3], &original).unwrap();
    assert!(look(&path, Depth::Fast).ok, "control");

    // In every sealed segment: so the sample meets one, and `Whole` all of them.
    for segment in &segments[..segments.len() - 1] {
        files::flip(segment, files::frames(segment).last().unwrap().offset + 50, 0);
    }
    let fast = look(&path, Depth::Fast).damage;
    let whole = look(&path, Depth::Whole).damage;
    assert!(!fast.is_empty() && fast.len() < whole.len(), "{} {}", fast.len(), whole.len());
}

#[test]
fn a_page_of_an_index_file_that_changed_is_told_but_not_by_a_fast_check() {
    let scratch = Scratch::in_memory();
    let path = store_of(&scratch);
    let index = files::indexes(&path)[2].clone();
    let len = fs::metadata(&index).unwrap().len();
    files::flip(&index, (4096 + len) / 2, 0);
    let whole = look(&path, Depth::Whole);
    assert_eq!(whole.damage.iter().map(|damage| &damage.segment[..]).collect::<Vec<_>>(), [files::name(&index)]);
    assert!(look(&path, Depth::Fast).ok);
}

/// It was stored so, and every checksum fits: only who decodes it notices.
#[test]
fn a_payload_that_is_not_what_its_codec_says_is_found_by_a_deep_check_only() {
    let scratch = Scratch::in_memory();
    let path = store_of(&scratch);
    let store = Store::open(&path).unwrap();
    store.append("cart-1", NewEvent::encoded("added", Codec::Json, br#"{"n":1}"#.as_slice())).unwrap();
    let bad = store.append("cart-1", NewEvent::encoded("added", Codec::Json, b"{".as_slice())).unwrap();
    let worse = store.append("cart-1", NewEvent::encoded("added", Codec::MessagePack, [0x92, 1].as_slice())).unwrap();
    store.close().unwrap();
    assert!(look(&path, Depth::Whole).ok);
    let found: Vec<_> = look(&path, Depth::Deep).damage.iter().map(|damage| damage.position).collect();
    if cfg!(feature = "json") {
        assert_eq!(found, [bad.first(), worse.first()]);
    } else {
        assert_eq!(found, [worse.first()]);
    }
}

/// A store that let go of old segments goes on where its streams stood, and what knows that is checked.
#[test]
fn the_files_that_say_where_old_streams_stood_are_checked() {
    let scratch = Scratch::in_memory();
    let path = store_of(&scratch);
    let store = Store::open(&path).unwrap();
    store.retain(&Retention::new().max_events(200).even_from("reader")).unwrap();
    store.append("cart-1", NewEvent::new("added", "")).unwrap();
    store.close().unwrap();
    let heads = files::with_extension(&path, "heads");
    assert_eq!(heads.len(), 1);
    for depth in [Depth::Fast, Depth::Whole, Depth::Deep] {
        assert_eq!(look(&path, depth).damage, [], "{depth:?}");
    }
    let original = fs::read(&heads[0]).unwrap();
    files::flip(&heads[0], 4096 + 10, 3);
    let verdict = look(&path, Depth::Whole);
    assert_eq!(verdict.damage.len(), 1, "{:?}", verdict.damage);
    assert_eq!((&verdict.damage[0].segment, verdict.damage[0].offset), (&files::name(&heads[0]), 4096));
    fs::remove_file(&heads[0]).unwrap();
    for depth in [Depth::Fast, Depth::Whole] {
        assert!(whats(&look(&path, depth))[0].contains("is missing"));
    }
    fs::write(&heads[0], &original).unwrap();
    assert!(look(&path, Depth::Deep).ok);

    // What it says is compared with the events: a stream that stands elsewhere than they go on. "cart-0" is the first.
    let at = original.windows(6).rposition(|bytes| bytes == b"cart-0").unwrap();
    let mut forged = original.clone();
    forged[at + 6] ^= 1;
    let first: u64 = files::name(&heads[0])[..20].parse().unwrap();
    let end: u64 = files::name(&heads[0])[21..41].parse().unwrap();
    let mut seed = original[16..32].to_vec();
    seed.extend([first.to_le_bytes(), end.to_le_bytes()].concat());
    seed.extend(0u32.to_le_bytes());
    let sum = files::crc(files::crc(0, &seed), &forged[4096 + 4..8192]);
    forged[4096..4100].copy_from_slice(&sum.to_le_bytes());
    fs::write(&heads[0], &forged).unwrap();
    let verdict = look(&path, Depth::Whole);
    assert_eq!(whats(&verdict), ["its revision does not follow the one before it in its stream"]);
}
