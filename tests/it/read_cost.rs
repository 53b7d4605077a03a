//! R1, R4: what reading costs, by the counters. A query costs what it finds, and not the log that it searches.

use std::fs;

use towpath::{Commit, Durability, NewEvent, Options, Position, Query, ReadCost, Reader, Revision, Store};

use crate::support::Scratch;
use crate::support::files;

/// Events of the log.
const EVENTS: u64 = 40_000;
/// Each of these bears the tag "rare"; the last one stands in the newest segment.
const RARE: [u64; 5] = [5_000, 15_000, 25_000, 35_000, EVENTS];
/// All frames have this length, with padding.
const FRAME: u64 = 200;

/// What a reader found, and what that has cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    found: u64,
    read: ReadCost,
}

impl Cost {
    fn of(mut reader: Reader) -> Self {
        let found = reader.by_ref().map(Result::unwrap).fold(0, |found, _| found + 1);
        Self { found, read: reader.cost() }
    }

    /// Whether no frame was looked at that was not handed out.
    fn is_of_the_matches(&self) -> bool {
        self.read.frames == self.found && self.read.frame_bytes == self.found * FRAME
    }
}

/// Writes events from one position to another. Every hundredth bears the tag "hundredth"; those half way between, and every
/// ten thousandth, the tag "other". Every second has the type "even".
fn write(store: &Store, positions: std::ops::RangeInclusive<u64>) {
    let mut commit = Commit::new();
    for position in positions.clone() {
        let stream = format!("stream-{:04}", position % 1_000);
        let tags: &[(&str, bool)] = &[
            ("rare", RARE.contains(&position)),
            ("hundredth", position.is_multiple_of(100)),
            ("other", position % 100 == 50 || position.is_multiple_of(10_000)),
        ];
        let tags: Vec<&str> = tags.iter().filter(|(_, bears)| *bears).map(|(tag, _)| *tag).collect();
        let kind = if position.is_multiple_of(2) { "even" } else { "odd." };
        // The frame's header, the names, the tags with their lengths, and as much payload as makes all frames alike.
        let named = 40 + stream.len() + kind.len() + tags.iter().map(|tag| 2 + tag.len()).sum::<usize>();
        let payload = vec![b'.'; FRAME as usize - named - if tags.is_empty() { 0 } else { 2 }];
        commit.event(&stream, NewEvent::new(kind, &payload).tags(tags));
        if commit.len() == 100 || position == *positions.end() {
            store.submit(&commit).unwrap();
            commit.clear();
        }
    }
}

/// Several sealed segments with their index files, and a newest one with the last event in it.
fn log(dir: &Scratch) -> Store {
    let options = || Options::new().segment_bytes(1 << 20).durability(Durability::Os);
    let store = options().open(dir.store_path()).unwrap();
    write(&store, 1..=EVENTS - 500);
    store.close().unwrap();
    let store = options().open(dir.store_path()).unwrap();
    write(&store, EVENTS - 499..=EVENTS);
    store.sync().unwrap();
    // A segment that has no index file yet would be indexed by whoever reads first.
    let begun = store.counters().segments_begun;
    while store.counters().segments_sealed < begun {
        std::thread::yield_now();
    }
    assert!(segments(dir) > 6, "there are several segments");
    store
}

fn segments(dir: &Scratch) -> usize {
    files::segments(&dir.store_path()).len()
}

fn rare() -> Query {
    Query::new().tags(["rare"])
}

/// The control is the same query by looking at every event, and the same one without index files.
#[test]
fn a_tag_of_one_in_ten_thousand_costs_its_matches_and_not_the_log() {
    let dir = Scratch::new();
    let store = log(&dir);
    let first = Cost::of(store.read(rare()));
    assert_eq!(first.found, RARE.len() as u64);
    // The newest segment is taken in, but for what the writer took in to look up where streams stand: never its last commit.
    assert!(first.read.indexed_bytes >= 100 * FRAME, "{first:?}");
    for backwards in [false, true] {
        let reader = store.read(rare());
        let cost = Cost::of(if backwards { reader.backwards() } else { reader });
        assert!(cost.is_of_the_matches() && cost.found == RARE.len() as u64, "{cost:?}");
        assert_eq!(cost.read.indexed_bytes, 0, "once");
        let index_bytes = cost.read.index_bytes;
        assert!(index_bytes < 512 * segments(&dir) as u64, "{index_bytes} bytes of index");
    }

    let mut scan = store.read(Query::new().subject(">"));
    let found = scan.by_ref().filter(|event| event.as_ref().unwrap().tags().any(|tag| tag == "rare")).count();
    assert_eq!((found, scan.cost().index_bytes), (RARE.len(), 0));
    assert!(scan.cost().frames >= EVENTS && scan.cost().frame_bytes >= EVENTS * FRAME, "a scan looks at every frame");
    drop(scan);

    store.close().unwrap();
    for index in files::indexes(&dir.store_path()) {
        fs::remove_file(index).unwrap();
    }
    let bare = Cost::of(Store::open_read_only(dir.store_path()).unwrap().read(rare()));
    assert_eq!(bare.found, RARE.len() as u64);
    assert!(bare.read.indexed_bytes >= EVENTS * FRAME, "without index files all of it is taken in: {bare:?}");
}

#[test]
fn alternatives_types_and_several_tags_cost_their_matches_too() {
    let dir = Scratch::new();
    let store = log(&dir);
    let both = ["hundredth", "other"];
    for (what, query, matches) in [
        ("a tag and a type that half of all have", rare().types(["even"]), 5),
        ("a tag and another type", rare().types(["odd."]), 0),
        ("two tags that are seldom borne together", Query::new().tags(both), EVENTS / 10_000),
        ("a stream or a tag", rare().or(Query::new().stream("stream-0007")), EVENTS / 1_000 + 5),
        ("a tag or both tags", rare().or(Query::new().tags(both)), EVENTS / 10_000 + 4),
        ("a tag that nothing bears", Query::new().tags(["absent"]), 0),
    ] {
        Cost::of(store.read(query.clone()));
        for backwards in [false, true] {
            let read = || if backwards { store.read(query.clone()).backwards() } else { store.read(query.clone()) };
            let all = Cost::of(read());
            assert_eq!(all.found, matches, "{what}");
            // Only what has the tag and another type is looked at for nothing: reading the places of half of all events
            // would cost more.
            let for_nothing = if what == "a tag and another type" { 5 } else { 0 };
            assert_eq!(all.read.frames, matches + for_nothing, "{what}: {all:?}");
            let one = Cost::of(read().limit(1));
            assert!(one.read.frames <= 1 + for_nothing && one.read.segments <= all.read.segments, "{what}: {one:?}");
        }
    }
    let half = Cost::of(store.read(Query::new().types(["even"])));
    assert!(half.found == EVENTS / 2 && half.read.frames >= EVENTS, "no index is worth that: the control");
}

#[test]
fn the_store_adds_up_what_its_readers_and_its_look_ups_have_cost() {
    let dir = Scratch::new();
    let store = log(&dir);
    let time = store.event(Position::new(23_456)).unwrap().unwrap().time();
    let all = || store.read(Query::new());
    for read in [
        &all as &dyn Fn() -> Reader,
        &|| all().backwards(),
        &|| all().from(Position::new(12_345)).limit(10),
        &|| all().since(time).limit(10),
        &|| store.read(rare()),
        &|| store.read(rare()).backwards(),
    ] {
        let before = store.counters().read;
        let cost = Cost::of(read());
        assert!(cost.read.frames >= cost.found && cost.found > 0);
        assert_eq!(store.counters().read - before, cost.read);
    }
    let before = store.counters().read;
    store.event(Position::new(20_000)).unwrap().unwrap();
    let event = store.counters().read - before;
    assert!((1..=32).contains(&event.frames), "from the sparse table on: {event:?}");
    let before = store.counters().read;
    store.event_at("stream-0007", Revision::new(20)).unwrap().unwrap();
    let by_revision = store.counters().read - before;
    assert!(by_revision.frames > 0 && by_revision.frames <= 2 * segments(&dir) as u64, "{by_revision:?}");
}
