//! R1–R4: what holds when events are read.

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use towpath::{
    Commit, Durability, Ended, EventId, ManualClock, NewEvent, Position, Query, Reader, Revision, Store, Timestamp,
};

use crate::support::told::Told;
use crate::support::{Scratch, cases, is_dense, noted, positions, small, texts};

const STREAMS: [&str; 14] =
    ["a", "a-1", "a-2", "a.b", "a-", "ab-1", "a.b.c", "b-1", "b.b", "b-1-x", "a.c.c", "b-2", "c", "a..c"];
const CATEGORIES: [&str; 5] = ["a", "ab", "b", "c", "a-1"];
const SUBJECTS: [&str; 12] = ["*", ">", "a.*", "a.>", "a.*.c", "*.b", "*.*", "a.b", "*.>", "a.>.c", "a.*.*", "b*.b"];
const TYPES: [&str; 4] = ["opened", "closed", "moved", "open"];
const TAGS: [&str; 4] = ["x", "y", "xy", "a-1"];
/// In every list of names that are asked for, and never written.
const NOWHERE: &str = "nowhere";

/// An event, as it was given to the store.
#[derive(Clone, Debug)]
struct Given {
    stream: &'static str,
    type_name: &'static str,
    tags: Vec<&'static str>,
    size: usize,
    /// By how much the clock is moved before, also back.
    later: i64,
    /// Whether its commit goes on with the next event.
    goes_on: bool,
}

/// One alternative of a query: lists of names.
#[derive(Clone, Debug, Default)]
struct Asked {
    streams: Vec<&'static str>,
    categories: Vec<&'static str>,
    subjects: Vec<&'static str>,
    types: Vec<&'static str>,
    tags: Vec<&'static str>,
}

/// A way to read.
#[derive(Clone, Debug, Default)]
struct Reading {
    /// None at all asks for everything.
    alternatives: Vec<Asked>,
    from: Option<u64>,
    after: Option<u64>,
    since: Option<u64>,
    until: Option<u64>,
    limit: Option<u64>,
    backwards: bool,
}

impl Reading {
    fn of(&self, store: &Store) -> Reader {
        let query = |asked: &Asked| {
            let query = Query::new().types(asked.types.clone()).tags(asked.tags.clone());
            let query = asked.streams.iter().fold(query, |query, name| query.stream(*name));
            let query = asked.categories.iter().fold(query, |query, name| query.category(*name));
            asked.subjects.iter().fold(query, |query, pattern| query.subject(*pattern))
        };
        let all = self.alternatives.iter().map(query).reduce(Query::or).unwrap_or_default();
        let mut reader = store.read(all);
        if let Some(position) = self.from {
            reader = reader.from(Position::new(position));
        }
        if let Some(position) = self.after {
            reader = reader.after(Position::new(position));
        }
        if let Some(time) = self.since {
            reader = reader.since(Timestamp::from_nanos(time));
        }
        if let Some(position) = self.until {
            reader = reader.until(Position::new(position));
        }
        if let Some(events) = self.limit {
            reader = reader.limit(events);
        }
        if self.backwards { reader.backwards() } else { reader }
    }

    /// The same by looking at every event.
    fn naively<'a>(&self, log: &'a [Told]) -> Vec<&'a Told> {
        // Each of them says where to begin: the last one that is called counts.
        let from = self.after.map(|position| position + 1).or(self.from).unwrap_or(0);
        let narrowed = |event: &&Told| {
            event.position >= from
                && event.position <= self.until.unwrap_or(u64::MAX)
                && event.time >= self.since.unwrap_or(0)
                && (self.alternatives.is_empty() || self.alternatives.iter().any(|asked| asked.matches(event)))
        };
        let mut found: Vec<&Told> = log.iter().filter(narrowed).collect();
        if self.backwards {
            found.reverse();
        }
        found.truncate(self.limit.map_or(usize::MAX, |events| events as usize));
        found
    }

    /// Compares the two.
    fn check(&self, store: &Store, log: &[Told]) -> Result<(), String> {
        let mut reader = self.of(store);
        let mut found = Vec::new();
        for event in &mut reader {
            found.push(Told::of(&event.map_err(|error| error.to_string())?));
        }
        let expected = self.naively(log);
        if !found.iter().eq(expected.iter().copied()) {
            let numbers = |events: &mut dyn Iterator<Item = u64>| events.collect::<Vec<_>>();
            let got = numbers(&mut found.iter().map(|event| event.position));
            let wanted = numbers(&mut expected.iter().map(|event| event.position));
            return Err(format!("{self:?} gave {got:?} instead of {wanted:?}"));
        }
        let from = self.after.map(|position| position + 1).or(self.from).unwrap_or(0);
        let head = log.len() as u64;
        let ended = if from > head + 1 {
            Ended::PastHead { asked: Position::new(from), head: Position::new(head) }
        } else if self.limit == Some(found.len() as u64) {
            Ended::Limit
        } else {
            Ended::AtHead
        };
        let nothing_asked = self.limit == Some(0);
        if reader.ended() == ended || nothing_asked { Ok(()) } else { Err(format!("{self:?}: {:?}", reader.ended())) }
    }
}

impl Asked {
    fn matches(&self, event: &Told) -> bool {
        let category = event.stream.split('-').next().unwrap();
        let any = |names: &[&str], name: &str| names.is_empty() || names.contains(&name);
        any(&self.streams, &event.stream)
            && any(&self.categories, category)
            && (self.subjects.is_empty() || self.subjects.iter().any(|pattern| fits(pattern, &event.stream)))
            && any(&self.types, &event.type_name)
            && self.tags.iter().all(|tag| event.tags.iter().any(|own| own == tag))
    }
}

/// Whether a stream's name fits a pattern: as many parts, or at least as many before a `>`, and each one that is asked
/// for literally is there.
fn fits(pattern: &str, stream: &str) -> bool {
    let mut asked: Vec<&str> = pattern.split('.').collect();
    let mut parts: Vec<&str> = stream.split('.').collect();
    if asked.last() == Some(&">") && parts.len() >= asked.len() {
        asked.pop();
        parts.truncate(asked.len());
    }
    asked.len() == parts.len() && asked.iter().zip(&parts).all(|(asked, part)| *asked == "*" || asked == part)
}

/// Writes a history, and knows what has to be read.
fn write(dir: &Scratch, history: &[Given]) -> (Store, Vec<Told>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(1_000)));
    let options = small().segment_bytes(64 << 10).durability(Durability::Os);
    let store = options.clock(clock.clone()).open(dir.store_path()).unwrap();
    let (mut now, mut time, mut log) = (1_000, 1_000, Vec::new());
    let mut commit = Commit::new();
    for (n, given) in history.iter().enumerate() {
        let payload: Vec<u8> = (0..given.size).map(|byte| (byte + n) as u8).collect();
        commit.event(given.stream, NewEvent::new(given.type_name, &payload).tags(given.tags.clone()));
        let revision = log.iter().filter(|event: &&Told| event.stream == given.stream).count() as u64 + 1;
        log.push(Told {
            position: n as u64 + 1,
            stream: given.stream.to_owned(),
            revision,
            type_name: given.type_name.to_owned(),
            tags: given.tags.iter().map(|tag| (*tag).to_owned()).collect(),
            time: 0,
            payload,
            key: None,
        });
        if given.goes_on && n + 1 < history.len() {
            continue;
        }
        now = (now as i64 + given.later).max(0) as u64;
        clock.set(Timestamp::from_nanos(now));
        time = time.max(now);
        let first = log.len() - commit.len();
        log[first..].iter_mut().for_each(|event| event.time = time);
        store.commit(&commit).unwrap();
        commit.clear();
    }
    (store, log)
}

fn files(dir: &Scratch, ending: &str) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(dir.store_path()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = all.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    files.sort();
    files
}

fn given() -> impl Strategy<Value = Given> {
    // The first names are common and the last ones rare, so that some questions are worth an index and others not.
    let skewed = |names: &'static [&'static str]| {
        (0..names.len(), 0..names.len(), 0..names.len()).prop_map(|(a, b, c)| names[a.min(b).min(c)])
    };
    let tags = vec(skewed(&TAGS), 0..3).prop_map(|mut tags| {
        tags.dedup();
        tags
    });
    let size = prop_oneof![3 => 0..40_usize, 2 => 500..3_000_usize];
    let goes_on = prop::bool::weighted(0.3);
    (skewed(&STREAMS), skewed(&TYPES), tags, size, -2..5_i64, goes_on).prop_map(
        |(stream, type_name, tags, size, later, goes_on)| Given { stream, type_name, tags, size, later, goes_on },
    )
}

fn names(names: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    let one = prop_oneof![8 => select(names), 1 => Just(NOWHERE)];
    prop_oneof![2 => Just(Vec::new()), 1 => vec(one, 1..=most)]
}

fn reading(events: usize) -> impl Strategy<Value = Reading> {
    let asked = (names(&STREAMS, 2), names(&CATEGORIES, 2), names(&SUBJECTS, 2), names(&TYPES, 2), names(&TAGS, 2))
        .prop_map(|(streams, categories, subjects, types, tags)| Asked { streams, categories, subjects, types, tags });
    let position = 0..events as u64 + 4;
    let narrowed = |values: Range<u64>| option::weighted(0.3, values);
    let alternatives = prop_oneof![1 => Just(Vec::new()), 6 => vec(asked, 1..4)];
    let limit = narrowed(0..12);
    let since = narrowed(995..1_000 + events as u64 * 2);
    (
        alternatives,
        narrowed(position.clone()),
        narrowed(position.clone()),
        since,
        narrowed(position),
        limit,
        any::<bool>(),
    )
        .prop_map(|(alternatives, from, after, since, until, limit, backwards)| Reading {
            alternatives,
            from,
            after,
            since,
            until,
            limit,
            backwards,
        })
}

/// R1, R4, C9: on the open store, on a reader beside it, after reopening, and with index files missing.
#[test]
fn every_combination_agrees_with_a_naive_scan() {
    let config = ProptestConfig { cases: cases(40), failure_persistence: None, ..ProptestConfig::default() };
    let input = (20..220_usize).prop_flat_map(|n| (vec(given(), n), vec(reading(n), 24), any::<u32>()));
    proptest!(config, |((history, readings, lost) in input)| {
        let dir = Scratch::new();
        let (store, log) = write(&dir, &history);
        let check = |store: &Store| {
            readings.iter().try_for_each(|reading| reading.check(store, &log)).map_err(TestCaseError::fail)
        };
        check(&store)?;
        check(&Store::open_read_only(dir.store_path()).unwrap())?;
        check_points(&store, &log);
        store.close().unwrap();
        for (n, file) in files(&dir, "idx").iter().enumerate() {
            if lost & 1 << (n % 32) != 0 {
                fs::remove_file(file).unwrap();
            }
        }
        check(&Store::open_read_only(dir.store_path()).unwrap())?;
        let store = dir.open();
        check(&store)?;
        check_points(&store, &log);
    });
}

fn check_points(store: &Store, log: &[Told]) {
    for known in log {
        let here = store.event(Position::new(known.position)).unwrap().unwrap();
        assert_eq!(&Told::of(&here), known);
        let there = store.event_at(&known.stream, Revision::new(known.revision)).unwrap().unwrap();
        assert_eq!(there.position(), here.position());
    }
    for stream in STREAMS {
        let last = log.iter().filter(|event| event.stream == stream).count() as u64;
        assert_eq!(store.revision(stream).unwrap().get(), last);
        assert!(store.event_at(stream, Revision::new(last + 1)).unwrap().is_none());
        assert!(store.event_at(stream, Revision::ABSENT).unwrap().is_none());
    }
}

/// R1: the control of the test above. Whatever a reading narrows by, the comparison notices when it is not heeded.
#[test]
fn the_comparison_with_a_naive_scan_notices_everything_that_is_not_heeded() {
    let dir = Scratch::new();
    let history: Vec<Given> = (0..200)
        .map(|n| Given {
            stream: STREAMS[n % 9],
            type_name: TYPES[n % 4],
            tags: if n % 3 == 0 { vec!["x"] } else { vec![] },
            size: 1_000,
            later: 1,
            goes_on: false,
        })
        .collect();
    let (store, log) = write(&dir, &history);
    assert!(files(&dir, "seg").len() > 2, "there are several segments");
    let all = Reading { alternatives: vec![Asked::default()], ..Reading::default() };
    all.check(&store, &log).unwrap();
    let narrow: [fn(&mut Reading); 10] = [
        |reading| reading.alternatives[0].streams.push("a-1"),
        |reading| reading.alternatives[0].categories.push("a"),
        |reading| reading.alternatives[0].subjects.push("*.b"),
        |reading| reading.alternatives[0].types.push("closed"),
        |reading| reading.alternatives[0].tags.push("x"),
        |reading| reading.from = Some(20),
        |reading| reading.after = Some(20),
        |reading| reading.since = Some(1_020),
        |reading| reading.until = Some(120),
        |reading| reading.limit = Some(30),
    ];
    for (n, narrow) in narrow.iter().enumerate() {
        for backwards in [false, true] {
            let mut right = Reading { backwards, ..all.clone() };
            narrow(&mut right);
            right.check(&store, &log).unwrap();
            let not_heeded: Vec<Told> =
                Reading { backwards: false, ..right.clone() }.naively(&log).into_iter().cloned().collect();
            assert!(not_heeded.len() < log.len(), "{n}");
            assert!(all.check(&store, &not_heeded).is_err(), "{n}");
        }
    }
    assert!(Reading { backwards: true, ..all.clone() }.check(&store, &[]).is_err());
    let changes: [fn(&mut Told); 3] =
        [|known| known.time += 1, |known| known.payload[0] ^= 1, |known| known.revision += 1];
    for change in changes {
        let mut other = log.clone();
        change(&mut other[150]);
        assert!(all.check(&store, &other).is_err());
    }
}

/// R2. That an older position than the oldest kept one is told cannot be seen before segments are retired.
#[test]
fn reading_from_past_the_end_yields_nothing_and_says_so() {
    let dir = Scratch::new();
    let store = dir.open();
    let ended = |mut reader: Reader| {
        assert_eq!(reader.ended(), Ended::Not);
        assert!(reader.next().is_none() && reader.next().is_none());
        reader.ended()
    };
    let past = |asked, head| Ended::PastHead { asked: Position::new(asked), head: Position::new(head) };
    assert_eq!(ended(store.read(Query::new())), Ended::AtHead, "an empty store has been read");
    assert_eq!(ended(store.read(Query::new()).from(Position::new(2))), past(2, 0));
    for _ in 0..3 {
        store.append("a-1", noted("x")).unwrap();
    }
    for backwards in [false, true] {
        let read = || if backwards { store.read(Query::new()).backwards() } else { store.read(Query::new()) };
        assert_eq!(ended(read().from(Position::new(4))), Ended::AtHead, "the next one to come is not past the end");
        assert_eq!(ended(read().from(Position::new(5))), past(5, 3));
        assert_eq!(ended(read().after(Position::new(4))), past(5, 3));
        assert_eq!(ended(read().after(Position::new(u64::MAX))), past(u64::MAX, 3));
        assert_eq!(positions(read().after(Position::new(2))), [3]);
        assert_eq!(positions(read().until(Position::new(99)).from(Position::new(3))), [3]);
    }
    assert!(store.event(Position::START).unwrap().is_none());
    assert!(store.event(Position::new(4)).unwrap().is_none());
    assert!(store.event(Position::new(u64::MAX)).unwrap().is_none());
}

/// R3.
#[test]
fn racing_readers_see_a_growing_prefix_without_a_hole() {
    const EVENTS: u64 = 6_000;
    let dir = Scratch::new();
    let store = dir.open();
    let beside = Store::open_read_only(dir.store_path()).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reading in [&store, &beside] {
            let done = &done;
            scope.spawn(move || {
                let mut before = 0;
                loop {
                    let over = done.load(Ordering::Acquire);
                    let ahead = positions(reading.read(Query::new()));
                    let mut back = positions(reading.read(Query::new()).backwards());
                    back.reverse();
                    let of_type = positions(reading.read(Query::new().types(["noted"])));
                    assert!(is_dense(&ahead) && is_dense(&back) && is_dense(&of_type));
                    assert!(before <= ahead.len() && ahead.len() <= back.len() && back.len() <= of_type.len());
                    let revisions: Vec<u64> =
                        reading.read(Query::new().stream("a-3")).map(|event| event.unwrap().revision().get()).collect();
                    assert!(is_dense(&revisions));
                    before = of_type.len();
                    if over {
                        assert_eq!(ahead.len() as u64, EVENTS + 1);
                        break;
                    }
                }
            });
        }
        for n in 0..EVENTS {
            store.submit(Commit::new().event(&format!("a-{}", n % 40), noted("some text"))).unwrap();
        }
        store.append("a-3", noted("last")).unwrap();
        done.store(true, Ordering::Release);
    });
    let mut holed = positions(store.read(Query::new()));
    holed.remove(17);
    assert!(!is_dense(&holed), "the check can fail");
}

/// R3.
#[test]
fn a_reader_ends_at_the_head_it_was_made_at() {
    let dir = Scratch::new();
    let store = dir.open();
    store.append("a-1", noted("before")).unwrap();
    let early = store.read(Query::new());
    store.append("a-1", noted("after")).unwrap();
    assert_eq!(texts(early), ["before"]);
    assert_eq!(texts(store.read(Query::new())), ["before", "after"]);
}

/// R4.
#[test]
fn events_are_found_by_position_by_revision_and_by_id() {
    let dir = Scratch::new();
    let mut store = dir.open();
    let wide = [b'.'; 3_000];
    for n in 0..150_u128 {
        let event = NewEvent::new("t", &wide);
        let event = if n % 2 == 0 { event.id(n << 64 | n) } else { event };
        store.append(&format!("a-{}", n % 7), event).unwrap();
    }
    store.append("b-1", noted("first").id(5)).unwrap();
    store.append("b-2", noted("second").id(5)).unwrap();
    let elsewhere = Scratch::new();
    let other = elsewhere.open();
    other.append("a-1", noted("elsewhere").id(6)).unwrap();
    let foreign = other.event(Position::new(1)).unwrap().unwrap();
    for reopened in [false, true] {
        for event in store.read(Query::new().category("a")) {
            let event = event.unwrap();
            let number = event.position().get() - 1;
            let place = EventId::Place { store: store.id(), position: event.position() };
            let own = EventId::Own(u128::from(number) << 64 | u128::from(number));
            assert_eq!(event.id(), if number % 2 == 0 { own } else { place });
            for id in [event.id(), place] {
                assert_eq!(store.event_by_id(&id).unwrap().unwrap().position(), event.position());
            }
            assert_eq!(store.event_by_id(&own).unwrap().is_some(), number % 2 == 0, "the check can fail");
            let there = store.event_at(event.stream(), event.revision()).unwrap().unwrap();
            assert_eq!(there.position(), event.position());
        }
        let latest = store.event_by_id(&EventId::Own(5)).unwrap().unwrap();
        assert_eq!((latest.stream(), reopened), ("b-2", reopened), "of several with one id, the latest");
        assert!(store.event_by_id(&EventId::Own(6)).unwrap().is_none());
        let there = EventId::Place { store: other.id(), position: foreign.position() };
        assert!(store.event_by_id(&there).unwrap().is_none(), "a place in another store");
        let past = EventId::Place { store: store.id(), position: Position::new(999) };
        assert!(store.event_by_id(&past).unwrap().is_none());
        store.close().unwrap();
        store = dir.open();
    }
}

/// R4: an event is a view into its segment, which it keeps.
#[test]
fn an_event_stays_readable_when_its_store_is_closed_and_its_files_are_gone() {
    let dir = Scratch::new();
    let store = dir.open();
    store.append("a-1", NewEvent::new("opened", "kept").tag("x").header("by", "ada")).unwrap();
    let event = store.event(Position::new(1)).unwrap().unwrap();
    store.close().unwrap();
    drop(dir);
    assert_eq!((event.stream(), event.type_name(), event.payload()), ("a-1", "opened", &b"kept"[..]));
    assert_eq!(event.tags().collect::<Vec<_>>(), ["x"]);
    assert_eq!(event.headers().collect::<Vec<_>>(), [("by", "ada")]);
}
