//! Index files merged in tiers: the same answers as without, from fewer files; C2, C12, R6 for the files themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use towpath::{Commit, Error, NewEvent, Query, Revision, Store, inspect};

use crate::support::files;
use crate::support::told::{self, Told};
use crate::support::{Scratch, os};

/// Sealed segments of the store that the tests ask: one tier of 64, two of 8, and three that are not merged.
const SEALED: u64 = 64 + 2 * 8 + 3;
const MERGED: u64 = 1 + 2 + 3;

/// Payloads are so large that a segment has room for a few dozen.
const PAYLOAD: usize = 3_000;

/// Tags that every segment has.
fn shared() -> impl Iterator<Item = (u64, String)> {
    (0..96).map(|number| (number % 16, format!("shared-{number}")))
}

/// Events of 97 streams, every fifth with a tag that many have, every 50th with one of a few, and each with a key and with
/// tags that every segment has, so many that pages of merged indexes spill.
fn commit(number: u64) -> Commit {
    let payload = vec![number as u8; PAYLOAD];
    let mut event = NewEvent::new(["placed", "shipped"][usize::from(number.is_multiple_of(7))], &payload);
    for (_, tag) in shared().filter(|(among, _)| number % 16 == *among) {
        event = event.tag(tag);
    }
    if number.is_multiple_of(5) {
        event = event.tag("often");
    }
    if number.is_multiple_of(50) {
        event = event.tag(format!("rare-{}", number % 3));
    }
    let mut commit = Commit::new();
    commit.event(&format!("order-{}", number * 31 % 97), event);
    commit
}

fn add(store: &Store, number: u64) {
    store.commit(commit(number).key(&format!("key-{number}"))).unwrap();
}

/// Adds events until there are so many sealed segments.
fn fill(store: &Store, path: &Path, sealed: u64) {
    for number in store.head().get().. {
        if files::segments(path).len() as u64 > sealed {
            return;
        }
        add(store, number);
    }
}

/// Waits until a look-up asks so many files.
fn until_merged(path: &Path, files: u64) {
    let begun = Instant::now();
    while inspect::summary(path).unwrap().index_files != files {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", inspect::summary(path));
        std::thread::yield_now();
    }
}

fn tiers(path: &Path) -> Vec<PathBuf> {
    files::with_extension(path, "tier")
}

/// A copy of a store whose indexes are merged, made once for all tests.
fn merged(scratch: &Scratch) -> PathBuf {
    static MADE: OnceLock<Scratch> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let scratch = Scratch::new();
        let store = os().open(scratch.store_path()).unwrap();
        fill(&store, &scratch.store_path(), SEALED);
        until_merged(&scratch.store_path(), MERGED);
        store.close().unwrap();
        scratch
    });
    let path = scratch.store_path();
    files::copy(&made.store_path(), &path);
    path
}

/// Everything that the tests ask for: by stream, tag, several at once, type, forward and backward, and by revision.
#[derive(Debug, PartialEq)]
struct Answers {
    forward: Vec<Vec<Told>>,
    backward: Vec<Vec<Told>>,
    revisions: Vec<u64>,
    third: Vec<Option<u64>>,
}

fn queries() -> Vec<Query> {
    let all_shared = shared().map(|(_, tag)| Query::new().tags([tag])).reduce(Query::or);
    vec![
        Query::new().stream("order-31"),
        Query::new().stream("order-0").types(["shipped"]),
        Query::new().stream("nowhere"),
        Query::new().tags(["rare-1"]),
        Query::new().tags(["rare-1", "often"]),
        Query::new().tags(["rare-1"]).or(Query::new().tags(["rare-2"]).types(["shipped"])),
        Query::new().category("order").tags(["rare-0"]),
        Query::new().tags(["never"]),
        all_shared.unwrap(),
    ]
}

fn ask(store: &Store) -> Answers {
    let forward = |query| store.read(query).map(|event| Told::of(&event.unwrap())).collect();
    let backward = |query| store.read(query).backwards().limit(7).map(|event| Told::of(&event.unwrap())).collect();
    let streams = (0..100).map(|number| format!("order-{number}"));
    let third = |stream: String| store.event_at(&stream, Revision::new(3)).unwrap().map(|event| event.position().get());
    Answers {
        forward: queries().into_iter().map(forward).collect(),
        backward: queries().into_iter().map(backward).collect(),
        revisions: streams.clone().map(|stream| store.revision(&stream).unwrap().get()).collect(),
        third: streams.map(third).collect(),
    }
}

#[test]
fn merged_indexes_answer_as_those_of_single_segments_do_and_as_the_events_say() {
    let scratch = Scratch::new();
    let path = merged(&scratch);
    assert!(inspect::verify(&path, |_| {}).unwrap().ok);
    let spill_pages = |tier: &PathBuf| u32::from_le_bytes(fs::read(tier).unwrap()[60..64].try_into().unwrap());
    assert!(tiers(&path).iter().any(|tier| spill_pages(tier) > 0), "pages that many segments share terms on spill");
    let with = ask(&Store::open_read_only(&path).unwrap());

    let all = told::all(&Store::open_read_only(&path).unwrap());
    let bears =
        |tag: &str| all.iter().filter(|event| event.tags.iter().any(|one| one == tag)).cloned().collect::<Vec<_>>();
    let rare = bears("rare-1");
    assert_eq!((&with.forward[3], &with.forward[4]), (&rare, &rare));
    assert!(with.backward[3].iter().eq(rare.iter().rev().take(7)) && rare.len() > 7);
    let of_stream: Vec<_> = all.iter().filter(|event| event.stream == "order-31").cloned().collect();
    assert_eq!(with.forward[0], of_stream);
    assert_eq!((with.forward[2].len(), with.revisions[31], with.revisions[99]), (0, of_stream.len() as u64, 0));
    assert_eq!(with.third[31], Some(of_stream[2].position));

    for tier in tiers(&path) {
        fs::remove_file(tier).unwrap();
    }
    assert_eq!(ask(&Store::open_read_only(&path).unwrap()), with);
    assert_eq!(inspect::summary(&path).unwrap().index_files, SEALED); // the control: those were asked one by one
}

#[test]
fn a_key_is_found_in_a_merged_index_and_a_new_one_is_not() {
    let scratch = Scratch::new();
    let path = merged(&scratch);
    let store = os().open(&path).unwrap();
    let head = store.head();
    let mut again = commit(50);
    let receipt = store.commit(again.key("key-50")).unwrap();
    assert!(receipt.is_duplicate() && receipt.first().get() == 51 && store.head() == head);
    assert!(matches!(store.commit(again.key("key-51")), Err(Error::KeyReused { .. })));
    assert!(!store.commit(again.key("key-new")).unwrap().is_duplicate());
}

#[test]
fn a_store_without_merged_indexes_gets_them_when_it_is_opened() {
    let scratch = Scratch::new();
    let path = merged(&scratch);
    let before: Vec<_> = tiers(&path).iter().map(|tier| (files::name(tier), fs::read(tier).unwrap())).collect();
    tiers(&path).iter().for_each(|tier| fs::remove_file(tier).unwrap());
    let leftover = path.join("00000000000000000001-8.tier.tmp");
    fs::write(&leftover, "half a file").unwrap();
    let store = os().open(&path).unwrap();
    until_merged(&path, MERGED);
    store.close().unwrap();
    let after: Vec<_> = tiers(&path).iter().map(|tier| (files::name(tier), fs::read(tier).unwrap())).collect();
    assert!(before == after && !leftover.exists());
}

#[test]
fn a_reader_in_step_with_a_writer_finds_what_is_merged_meanwhile() {
    let scratch = Scratch::new();
    let path = scratch.store_path();
    let store = os().open(&path).unwrap();
    fill(&store, &path, 3);
    let reader = Store::open_read_only(&path).unwrap();
    fill(&store, &path, 17);
    until_merged(&path, 1 + 1 + 1);
    assert_eq!(ask(&reader), ask(&store));
    fill(&store, &path, 30);
    assert_eq!(ask(&reader), ask(&store));
}

#[test]
fn a_damaged_merged_index_is_gone_without_and_made_again() {
    let scratch = Scratch::new();
    let path = merged(&scratch);
    let sound = ask(&Store::open_read_only(&path).unwrap());
    for page in 0.. {
        let path = merged(&scratch);
        let largest = tiers(&path).into_iter().max_by_key(|tier| fs::metadata(tier).unwrap().len()).unwrap();
        if fs::metadata(&largest).unwrap().len() <= page * 4096 {
            assert!(page >= 3, "it has a header, a directory and entries");
            return;
        }
        let whole = fs::read(&largest).unwrap();
        files::flip(&largest, page * 4096 + 2000, 0);
        assert_eq!(ask(&Store::open_read_only(&path).unwrap()), sound, "page {page}");
        let store = os().open(&path).unwrap();
        assert_eq!(ask(&store), sound, "page {page}");
        store.close().unwrap();
        until_whole(&path, &largest, &whole);
    }
}

/// Opens the store again until a file is what it was.
fn until_whole(path: &Path, file: &Path, whole: &[u8]) {
    let begun = Instant::now();
    while fs::read(file).ok().as_deref() != Some(whole) {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not made again");
        let store = os().open(path).unwrap();
        until_merged(path, MERGED);
        store.close().unwrap();
    }
}

#[test]
fn verify_tells_of_a_merged_index_that_leaves_a_segment_out() {
    let scratch = Scratch::new();
    let path = merged(&scratch);
    // Two tiers of eight segments each change places: each is whole, and says nothing of the other's segments.
    let eights: Vec<_> = tiers(&path).into_iter().filter(|tier| files::name(tier).ends_with("-8.tier")).collect();
    let bytes: Vec<_> = eights.iter().map(|tier| fs::read(tier).unwrap()).collect();
    fs::write(&eights[0], &bytes[1]).unwrap();
    assert!(inspect::verify(&path, |_| {}).unwrap().ok, "it names other segments, so it is not used");
    // A page of entries without any, with its checksum.
    let mut empty = bytes[0].clone();
    let (salt, number) = (u32::from_le_bytes(empty[32..36].try_into().unwrap()), 2u32);
    empty[2 * 4096 + 8..3 * 4096].fill(0xff);
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&number.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new_with_initial(hasher.finalize());
    hasher.update(&empty[2 * 4096 + 4..3 * 4096]);
    empty[2 * 4096..2 * 4096 + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
    fs::write(&eights[0], &empty).unwrap();
    let verdict = inspect::verify(&path, |_| {}).unwrap();
    assert!(!verdict.ok && verdict.damage[0].segment == files::name(&eights[0]), "{verdict:?}");
}

#[test]
fn a_damaged_segment_is_not_merged_and_is_told_of_all_the_same() {
    let scratch = Scratch::new();
    let path = merged(&scratch);
    for file in tiers(&path).into_iter().chain(files::indexes(&path)) {
        fs::remove_file(file).unwrap();
    }
    let damaged = &files::segments(&path)[20];
    files::overwrite(damaged, files::FRAMES + 20_000, &[7; 100]);
    let store = os().open(&path).unwrap();
    // 20 before it: two tiers and four; itself; 62 behind it: seven tiers and six.
    until_merged(&path, 2 + 4 + 1 + 7 + 6);
    let (_, errors) = told::read(&store, Query::new().tags(["rare-1"]));
    assert!(matches!(&errors[..], [Error::Damaged(damage)] if damage.segment == files::name(damaged)), "{errors:?}");
}

#[test]
fn a_merged_index_of_a_copy_that_went_on_differently_is_not_used() {
    let scratch = Scratch::new();
    let [path, other] = ["one", "other"].map(|name| scratch.path().join(name));
    let add = |store: &Store, tag: &str| {
        let event = NewEvent::new("t", &[0; PAYLOAD]).tag(tag);
        store.append("s-1", event).unwrap();
    };
    let store = os().open(&path).unwrap();
    while files::segments(&path).len() < 3 {
        add(&store, "both");
    }
    store.close().unwrap();
    files::copy(&path, &other);
    for (path, name) in [(&path, "one"), (&other, "two")] {
        let store = os().open(path).unwrap();
        while files::segments(path).len() < 12 {
            add(&store, &format!("{name}-{}", store.head()));
        }
        until_merged(path, 1 + 3);
        store.close().unwrap();
    }
    let segments = |path: &Path| files::segments(path).iter().map(|file| files::name(file)).collect::<Vec<_>>();
    assert_eq!(segments(&path), segments(&other), "the control: nothing but their contents tells them apart");
    let all = told::all(&Store::open_read_only(&path).unwrap());
    for tier in tiers(&other) {
        fs::copy(&tier, path.join(files::name(&tier))).unwrap();
    }
    // By tag only: reading everything would meet segments that are not those of the tier.
    let bearers = |store: &Store, tag: &str| {
        store.read(Query::new().tags([tag])).map(|event| Told::of(&event.unwrap())).collect::<Vec<_>>()
    };
    for store in [Store::open_read_only(&path).unwrap(), os().open(&path).unwrap()] {
        for event in all.iter().rev().filter(|event| event.tags[0] != "both") {
            assert_eq!(bearers(&store, &event.tags[0]), std::slice::from_ref(event));
        }
    }
}
