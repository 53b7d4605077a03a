//! Streams that lose events: their beginning, all of them, all but the latest of each key. Whatever else is done, every way of
//! reading says what a plain list says. R1, R4, W3, W7, C3, C9.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use towpath::{
    Canal as _, Commit, Durability, Error, EventId, Expected, NewEvent, Options, Position, Query, Reader, Retention,
    Revision, Settlement, Start, Store, copies, inspect,
};

use crate::support::{Scratch, cases, positions};

const STREAMS: [&str; 4] = ["cart-1", "cart-2", "cart", "order-1"];
const TYPES: [&str; 3] = ["opened", "added", "closed"];
const TAGS: [&str; 3] = ["red", "green", "blue"];

#[derive(Clone, Debug)]
enum Step {
    /// One commit of events: stream, type, tag, size.
    Append(Vec<(&'static str, &'static str, &'static str, usize)>),
    Truncate(&'static str, u64),
    Delete(&'static str),
    /// By type, or by tag.
    Compact(&'static str, bool),
    Purge,
    /// Keeps so many positions, and what else is in the segments that hold them.
    Retain(u64),
    Reopen {
        close: bool,
    },
    Crash,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    position: u64,
    stream: String,
    revision: u64,
    type_name: String,
    tag: String,
    payload: Vec<u8>,
    goes_on: bool,
}

#[derive(Default)]
struct Model {
    /// By position, from 1. What is gone is `None`, with what it was.
    log: Vec<(Told, bool)>,
    revisions: HashMap<&'static str, u64>,
    /// Whole segments before this position were let go of.
    oldest: u64,
}

impl Model {
    fn append(&mut self, events: &[(&'static str, &'static str, &'static str, usize)]) -> Commit {
        let mut commit = Commit::new();
        for (at, (stream, type_name, tag, size)) in events.iter().enumerate() {
            let position = self.log.len() as u64 + 1;
            let revision = self.revisions.entry(stream).or_default();
            *revision += 1;
            let mut payload = format!("payload of {position}. ").into_bytes();
            payload.resize(payload.len() + size, b'.');
            commit.event(stream, NewEvent::new(*type_name, &payload).tag(*tag).id(u128::from(position)));
            let told = Told {
                position,
                stream: (*stream).to_owned(),
                revision: *revision,
                type_name: (*type_name).to_owned(),
                tag: (*tag).to_owned(),
                payload,
                goes_on: at + 1 < events.len(),
            };
            self.log.push((told, false));
        }
        commit
    }

    fn here(&self) -> impl DoubleEndedIterator<Item = &Told> {
        self.log.iter().filter(|(told, gone)| !gone && told.position >= self.oldest).map(|(told, _)| told)
    }

    fn remove(&mut self, stream: &str, goes: impl Fn(&Told) -> bool) {
        self.log.iter_mut().filter(|(told, _)| told.stream == stream && goes(told)).for_each(|(_, gone)| *gone = true);
    }

    fn compact(&mut self, stream: &str, key: impl Fn(&Told) -> String) -> u64 {
        let mut seen = std::collections::HashSet::new();
        let mut removed = 0;
        for (told, gone) in self.log.iter_mut().rev() {
            if told.stream == stream && !*gone && told.position >= self.oldest && !seen.insert(key(told)) {
                (*gone, removed) = (true, removed + 1);
            }
        }
        removed
    }

    /// Where a stream stands: at its last event, be it let go of; nowhere when that was removed.
    fn revision(&self, stream: &str) -> u64 {
        let last = self.log.iter().rev().find(|(told, _)| told.stream == stream);
        last.filter(|(_, gone)| !gone).map_or(0, |(told, _)| told.revision)
    }
}

/// What a reader hands out. Whether a commit goes on is not compared: its end may be gone.
fn told(reader: Reader) -> Vec<Told> {
    reader
        .map(|event| {
            let event = event.unwrap();
            Told {
                position: event.position().get(),
                stream: event.stream().to_owned(),
                revision: event.revision().get(),
                type_name: event.type_name().to_owned(),
                tag: event.tags().collect(),
                payload: event.payload().to_vec(),
                goes_on: false,
            }
        })
        .collect()
}

fn agree(store: &Store, model: &Model) {
    let all: Vec<Told> = model.here().map(|told| Told { goes_on: false, ..told.clone() }).collect();
    let of = |fits: &dyn Fn(&Told) -> bool| all.iter().filter(|told| fits(told)).cloned().collect::<Vec<_>>();
    assert_eq!(told(store.read(Query::new())), all);
    let mut back = told(store.read(Query::new()).backwards());
    back.reverse();
    assert_eq!(back, all);
    for stream in STREAMS {
        assert_eq!(told(store.read(Query::new().stream(stream))), of(&|told| told.stream == stream), "{stream}");
        let mut back = told(store.read(Query::new().stream(stream)).backwards());
        back.reverse();
        assert_eq!(back, of(&|told| told.stream == stream), "{stream} backwards");
        assert_eq!(store.revision(stream).unwrap().get(), model.revision(stream), "{stream}");
    }
    assert_eq!(told(store.read(Query::new().category("cart"))), of(&|told| told.stream.starts_with("cart")));
    assert_eq!(told(store.read(Query::new().types(["added"]))), of(&|told| told.type_name == "added"));
    assert_eq!(told(store.read(Query::new().tags(["red"]))), of(&|told| told.tag == "red"));
    for (was, gone) in &model.log {
        let position = Position::new(was.position);
        let gone = &(*gone || was.position < model.oldest);
        if was.position < model.oldest {
            assert!(matches!(store.event(position), Err(Error::Expired { .. })), "{position}");
        } else {
            let at = store.event(position).unwrap();
            assert_eq!(at.map(|event| event.payload().to_vec()), (!gone).then(|| was.payload.clone()), "{position}");
        }
        let by_revision = store.event_at(&was.stream, Revision::new(was.revision)).unwrap();
        assert_eq!(by_revision.map(|event| event.position()), (!gone).then_some(position));
        let by_id = store.event_by_id(&EventId::Own(u128::from(was.position))).unwrap();
        assert_eq!(by_id.map(|event| event.position()), (!gone).then_some(position));
    }
    let mut follower = store.follow().start(Start::Beginning).open().unwrap();
    let mut followed = Vec::new();
    loop {
        let batch = follower.pull_batch(7, Duration::ZERO).unwrap();
        if batch.is_empty() {
            break;
        }
        followed.extend(batch.iter().map(|event| event.position().get()));
    }
    assert_eq!(followed, all.iter().map(|told| told.position).collect::<Vec<_>>());
}

/// Whether the files of a store hold the payload of this position.
fn stands_in_files(scratch: &Scratch, position: u64) -> bool {
    let needle = format!("payload of {position}. ").into_bytes();
    std::fs::read_dir(scratch.store_path()).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let is_segment = path.extension().is_some_and(|end| end == "seg");
        is_segment && std::fs::read(path).unwrap().windows(needle.len()).any(|bytes| bytes == needle)
    })
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..60usize, 1 => 5_000..30_000usize]
}

fn step() -> impl Strategy<Value = Step> {
    let event = (select(&STREAMS[..]), select(&TYPES[..]), select(&TAGS[..]), sizes());
    prop_oneof![
        12 => vec(event, 1..6).prop_map(Step::Append),
        3 => (select(&STREAMS[..]), 0..12u64).prop_map(|(stream, before)| Step::Truncate(stream, before)),
        1 => select(&STREAMS[..]).prop_map(Step::Delete),
        2 => (select(&STREAMS[..]), any::<bool>()).prop_map(|(stream, by)| Step::Compact(stream, by)),
        2 => Just(Step::Purge),
        2 => (1..40u64).prop_map(Step::Retain),
        1 => any::<bool>().prop_map(|close| Step::Reopen { close }),
        1 => Just(Step::Crash),
    ]
}

fn run(steps: Vec<Step>) {
    let mut scratch = Scratch::in_memory();
    let mut store = scratch.open();
    let mut model = Model::default();
    let mut held = Vec::new();
    for step in steps {
        match step {
            Step::Append(events) => {
                let absent = model.revision(events[0].0) == 0;
                let mut commit = model.append(&events);
                if absent {
                    commit.expect(events[0].0, Expected::Absent);
                }
                let receipt = store.commit(&commit).unwrap();
                assert_eq!(receipt.revision().get(), model.log.last().unwrap().0.revision, "revisions go on");
            }
            Step::Truncate(stream, before) => {
                store.truncate_stream(stream, Revision::new(before)).unwrap();
                model.remove(stream, |told| told.revision < before);
            }
            Step::Delete(stream) => {
                store.delete_stream(stream).unwrap();
                model.remove(stream, |_| true);
            }
            Step::Compact(stream, true) => {
                let compacted = store.compact_stream(stream, |event| Some(event.type_name().to_owned())).unwrap();
                assert_eq!(compacted.removed, model.compact(stream, |told| told.type_name.clone()));
            }
            Step::Compact(stream, false) => {
                let compacted = store.compact_stream(stream, |event| event.tags().next().map(str::to_owned)).unwrap();
                assert_eq!(compacted.removed, model.compact(stream, |told| told.tag.clone()));
            }
            Step::Purge => {
                held.extend(
                    store.read(Query::new()).map(|event| event.unwrap()).map(|event| (event.position(), event)),
                );
                held.truncate(20);
                store.purge().unwrap();
                for (told, gone) in &model.log {
                    let is_there = !gone && told.position >= model.oldest;
                    assert_eq!(stands_in_files(&scratch, told.position), is_there, "{}", told.position);
                }
                agree(&Store::open_read_only(scratch.store_path()).unwrap(), &model);
            }
            Step::Retain(events) => {
                let plan = store.retain(&Retention::new().max_events(events)).unwrap();
                model.oldest = model.oldest.max(plan.keeps_from.get());
            }
            Step::Reopen { close } => {
                held.clear();
                if close {
                    store.close().unwrap()
                } else {
                    drop(store)
                }
                store = scratch.open();
            }
            Step::Crash => {
                held.clear();
                let left = scratch.as_if_killed();
                drop(store);
                scratch = left;
                store = scratch.open();
            }
        }
        agree(&store, &model);
        for (position, event) in &held {
            assert_eq!(
                event.payload(),
                model.log[position.get() as usize - 1].0.payload,
                "what was read stays readable"
            );
        }
    }
    let verdict = inspect::verify(scratch.store_path(), |_| ()).unwrap();
    assert!(verdict.ok, "{verdict:?}");
    drop(held);
    store.close().unwrap();
    let store = Store::open_read_only(scratch.store_path()).unwrap();
    agree(&store, &model);
    let verdict = inspect::verify(scratch.store_path(), |_| ()).unwrap();
    assert!(verdict.ok, "{verdict:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(24), ..ProptestConfig::default() })]

    #[test]
    fn streams_lose_what_was_removed_and_nothing_else_whatever_else_is_done(steps in vec(step(), 1..40)) {
        run(steps);
    }
}

fn filled(store: &Store, events: u64) {
    for number in 1..=events {
        let stream = if number % 3 == 0 { "cart-1" } else { "order-1" };
        let payload = format!("payload of {}. {}", store.head().next(), ".".repeat(4_000));
        store.append(stream, NewEvent::new("added", payload.as_bytes())).unwrap();
    }
}

#[test]
fn readers_and_a_writer_go_on_while_segments_are_written_again() {
    let scratch = Scratch::new();
    let store = scratch.open();
    filled(&store, 300);
    let beside = Store::open_read_only(scratch.store_path()).unwrap();
    let mut before = beside.read(Query::new());
    let seen_before: Vec<u64> = before.by_ref().take(50).map(|event| event.unwrap().position().get()).collect();
    store.delete_stream("cart-1").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Acquire) || rounds == 0 {
                let seen = positions(store.read(Query::new()));
                assert!(seen.iter().all(|position| position % 3 != 0 || *position > 300), "{seen:?}");
                assert_eq!(seen.iter().filter(|position| **position <= 300).count(), 200);
                // Another process may see what was removed, or not; never anything else.
                let others = positions(beside.read(Query::new()));
                let kept = others.iter().filter(|position| **position % 3 != 0 && **position <= 300).count();
                assert_eq!((kept, others.is_sorted()), (200, true), "{others:?}");
                rounds += 1;
            }
        });
        let writing = scope.spawn(|| {
            for number in 0..100u64 {
                let receipt = store.append("order-2", NewEvent::new("added", &[7; 3_000])).unwrap();
                assert_eq!((receipt.last().get(), receipt.revision().get()), (301 + number, 1 + number));
            }
        });
        let purged = store.purge().unwrap();
        assert!(purged.events <= 100, "a segment that was sealed only now may have lost some already: {purged:?}");
        done.store(true, Ordering::Release);
        writing.join().unwrap();
        reading.join().unwrap();
    });
    // A reader that had begun goes on, with all of it or without what was removed.
    let rest: Vec<u64> = before.map(|event| event.unwrap().position().get()).collect();
    let all: Vec<u64> = seen_before.into_iter().chain(rest).collect();
    assert!(all.is_sorted() && all.iter().filter(|position| **position % 3 != 0).count() == 200, "{all:?}");
    assert_eq!(positions(Store::open_read_only(scratch.store_path()).unwrap().read(Query::new())).len(), 300);
    assert!(inspect::verify(scratch.store_path(), |_| ()).unwrap().ok);
}

#[test]
fn what_was_removed_is_gone_from_files_when_the_next_segment_is_full_without_being_asked_for() {
    let scratch = Scratch::new();
    let store = scratch.open();
    filled(&store, 9);
    store.delete_stream("cart-1").unwrap();
    assert!(stands_in_files(&scratch, 3), "control: removing alone leaves it where it is");
    filled(&store, 60);
    store.close().unwrap();
    // The thread ends when the store is closed, and goes on with the next segment.
    let store = scratch.open();
    while stands_in_files(&scratch, 3) {
        filled(&store, 60);
        assert!(store.head() < Position::new(3_000), "it is never taken out");
    }
    assert!(stands_in_files(&scratch, 4), "control: what was not removed is there");
}

#[test]
fn a_key_holds_as_long_as_the_first_event_of_its_commit() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let mut order = Commit::new();
    order.event("order-1", NewEvent::new("placed", "")).event("cart-1", NewEvent::new("closed", "")).key("once");
    let first = store.commit(&order).unwrap();
    store.delete_stream("cart-1").unwrap();
    for purged in [false, true] {
        if purged {
            assert_eq!(store.purge().unwrap().events, 1);
        }
        let again = store.commit(&order).unwrap();
        assert!(again.is_duplicate(), "{purged}");
        assert_eq!((again.first(), again.last()), (first.first(), first.last()), "{purged}");
        let mut other = Commit::new();
        other.event("order-1", NewEvent::new("placed", "otherwise")).event("cart-1", NewEvent::new("closed", ""));
        let reused = store.commit(other.key("once"));
        assert!(matches!(reused, Err(Error::KeyReused { .. })), "control: {reused:?}");
    }
    store.delete_stream("order-1").unwrap();
    for purged in [false, true] {
        if purged {
            store.purge().unwrap();
        }
        assert!(store.event(first.first()).unwrap().is_none());
    }
    assert!(!store.commit(&order).unwrap().is_duplicate(), "the key went with its event");
}

#[test]
fn a_group_is_not_handed_what_was_removed_and_keeps_no_dead_letter_of_it() {
    let scratch = Scratch::new();
    let store = scratch.open();
    filled(&store, 6);
    let group = store.group("mail").start(Start::Beginning).open().unwrap();
    let mut member = group.member().unwrap();
    let batch = member.pull_batch(4, Duration::ZERO).unwrap();
    assert_eq!(batch.iter().map(|event| event.position().get()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    store.delete_stream("cart-1").unwrap();
    store.purge().unwrap();
    for delivery in batch.iter() {
        member.settle(delivery.token(), Settlement::Retry { after: Some(Duration::ZERO), why: "busy".into() }).unwrap();
    }
    drop(batch);
    let mut again = Vec::new();
    loop {
        let batch = member.pull_batch(9, Duration::ZERO).unwrap();
        if batch.is_empty() {
            break;
        }
        for delivery in batch.iter() {
            again.push(delivery.event().position().get());
            member.settle(delivery.token(), Settlement::Done).unwrap();
        }
    }
    again.sort_unstable();
    // 6 is what the group may see that had begun to read before; 3 waited for another attempt and ends without one.
    again.retain(|position| *position != 6);
    assert_eq!(again, [1, 2, 4, 5]);
    member.flush().unwrap();
    assert!(positions(store.read(Query::new().stream("$dead/mail"))).is_empty());
    drop(member);
    drop(group);
    let consumers = store.consumers().unwrap();
    let left = (consumers[0].in_flight, consumers[0].waiting, consumers[0].dead);
    assert_eq!(left, (0, 0, 0), "{consumers:?}");
}

#[test]
fn a_damaged_segment_stays_as_it_is_and_readers_do_not_see_what_was_removed() {
    let scratch = Scratch::new();
    let store = scratch.open();
    filled(&store, 90);
    store.close().unwrap();
    let mut segments: Vec<_> =
        std::fs::read_dir(scratch.store_path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.extension().is_some_and(|end| end == "seg"));
    segments.sort();
    let damaged = &segments[1];
    let mut bytes = std::fs::read(damaged).unwrap();
    bytes[9_000] ^= 1;
    std::fs::write(damaged, &bytes).unwrap();

    let store = scratch.open();
    store.delete_stream("cart-1").unwrap();
    assert!(matches!(store.purge(), Err(Error::Damaged(_))));
    assert_eq!(std::fs::read(damaged).unwrap(), bytes);
    assert_ne!(std::fs::read(&segments[0]).unwrap().len(), bytes.len(), "control: the others are written again");
    let carts = store.read(Query::new().stream("cart-1")).filter(Result::is_ok).count();
    let orders = store.read(Query::new().stream("order-1")).filter(Result::is_ok).count();
    assert!(carts == 0 && orders >= 58, "{carts} {orders}");
    assert!(store.revision("cart-1").is_ok_and(|revision| revision == Revision::ABSENT));
}

#[test]
fn streams_of_the_stores_own_and_lists_that_get_too_long_are_refused() {
    let scratch = Scratch::new();
    // So large that nothing is taken out of the files meanwhile.
    let large = Options::new().segment_bytes(64 << 20).durability(Durability::Os);
    let store = large.open(scratch.store_path()).unwrap();
    assert!(matches!(store.delete_stream("$dead/mail"), Err(Error::Invalid { .. })));
    assert!(matches!(store.truncate_stream("", Revision::new(2)), Err(Error::Invalid { .. })));
    let mut refused = false;
    for number in 0..8_000 {
        let stream = format!("{}-{number}", "s".repeat(1_000));
        store.append(&stream, NewEvent::new("added", "")).unwrap();
        refused = match store.delete_stream(&stream) {
            Ok(()) => false,
            Err(Error::TooLarge { .. }) => true,
            Err(error) => panic!("{error}"),
        };
        if refused {
            store.purge().unwrap();
            store.delete_stream(&stream).unwrap();
            break;
        }
    }
    assert!(refused, "control: a list of millions of bytes is too long");
    assert!(matches!(Store::open_read_only(scratch.store_path()).unwrap().purge(), Err(Error::ReadOnly { .. })));
}

fn stream(store: &Store, name: &str) -> Vec<u64> {
    positions(store.read(Query::new().stream(name)))
}

#[test]
fn a_store_that_was_opened_for_reading_before_sees_removals_and_never_again_what_was_purged() {
    let scratch = Scratch::new();
    let store = scratch.open();
    filled(&store, 90);
    let beside = Store::open_read_only(scratch.store_path()).unwrap();
    let mut begun = beside.read(Query::new().stream("cart-1"));
    assert_eq!(begun.next().unwrap().unwrap().position().get(), 3);
    assert_eq!(stream(&beside, "cart-1").len(), 30, "control: it has all segments mapped");

    store.truncate_stream("cart-1", Revision::new(21)).unwrap();
    let left: Vec<u64> = (21..=30).map(|revision| revision * 3).collect();
    assert_eq!(stream(&beside, "cart-1"), left);
    assert!(beside.event(Position::new(6)).unwrap().is_none());
    // A segment that was sealed only now may have had some of it taken out already.
    assert!(store.purge().unwrap().events <= 20);
    assert!(!stands_in_files(&scratch, 6) && stands_in_files(&scratch, 4));
    // What is hidden no more is not in what it opens now, though the old files are still mapped for the reader that had begun.
    for _ in 0..2 {
        assert_eq!(stream(&beside, "cart-1"), left);
        assert!(beside.event(Position::new(6)).unwrap().is_none());
        store.append("order-1", NewEvent::new("added", "")).unwrap();
    }
    let rest: Vec<u64> = begun.map(|event| event.unwrap().position().get()).collect();
    assert!(rest.is_sorted() && rest.ends_with(&left), "{rest:?}");

    store.delete_stream("cart-1").unwrap();
    assert_eq!(beside.revision("cart-1").unwrap(), Revision::ABSENT);
    drop(store);
    let store = scratch.open();
    store.append("cart-1", NewEvent::new("added", "")).unwrap();
    assert_eq!(beside.revision("cart-1").unwrap(), Revision::new(31), "also of the next writer");
}

#[test]
fn that_a_stream_was_deleted_outlives_the_segments_that_said_so() {
    let scratch = Scratch::new();
    let mut store = scratch.open();
    filled(&store, 90);
    // One whose stub goes with its segment, one that is hidden when it goes, and one that is deleted when nothing is left of it.
    store.append("late", NewEvent::new("added", "")).unwrap();
    store.append("hidden", NewEvent::new("added", "")).unwrap();
    store.delete_stream("cart-1").unwrap();
    store.purge().unwrap();
    store.delete_stream("hidden").unwrap();
    let all_but = |events| Retention::new().max_events(events);
    let fill = |store: &Store| {
        for _ in 0..90 {
            store.append("more", NewEvent::new("added", &[1; 4_000])).unwrap();
        }
    };
    fill(&store);
    assert!(store.retain(&all_but(20)).unwrap().segments > 0);
    assert!(store.oldest() > Position::new(92), "control: all of it went");
    assert_eq!(store.revision("late").unwrap(), Revision::new(1), "control: it stands where it stood");
    store.delete_stream("late").unwrap();
    for round in 0..3 {
        store.purge().unwrap();
        for name in ["cart-1", "hidden", "late"] {
            assert_eq!(store.revision(name).unwrap(), Revision::ABSENT, "{name} in round {round}");
        }
        assert_eq!(store.revision("order-1").unwrap(), Revision::new(60), "control: it was not deleted");
        store.close().unwrap();
        store = scratch.open();
        if round == 1 {
            fill(&store);
            store.retain(&all_but(20)).unwrap();
        }
    }
    for (name, stood) in [("cart-1", 30), ("hidden", 1), ("late", 1)] {
        let mut commit = Commit::new();
        commit.event(name, NewEvent::new("added", "")).expect(name, Expected::Exact(Revision::new(stood)));
        let refused = store.commit(&commit);
        assert!(matches!(refused, Err(Error::Conflict { actual: Revision::ABSENT, .. })), "{refused:?}");
        let mut commit = Commit::new();
        commit.event(name, NewEvent::new("added", "")).expect(name, Expected::Absent);
        assert_eq!(store.commit(&commit).unwrap().revision().get(), stood + 1, "{name}");
    }
    assert!(inspect::verify(scratch.store_path(), |_| ()).unwrap().ok);
}

#[test]
fn a_stream_that_was_deleted_is_not_where_it_was_for_who_knew_it() {
    let scratch = Scratch::new();
    let store = scratch.open();
    filled(&store, 9);
    let expecting = |revision| {
        let mut commit = Commit::new();
        commit.event("cart-1", NewEvent::new("added", "")).expect("cart-1", Expected::Exact(Revision::new(revision)));
        store.commit(&commit).map(|receipt| receipt.revision().get())
    };
    assert_eq!(expecting(3).unwrap(), 4, "control: it stands there");
    store.delete_stream("cart-1").unwrap();
    for _ in 0..2 {
        assert!(matches!(expecting(4), Err(Error::Conflict { actual: Revision::ABSENT, .. })));
        store.purge().unwrap();
    }
    store.append("cart-1", NewEvent::new("added", "")).unwrap();
    assert_eq!(expecting(5).unwrap(), 6);
}

#[test]
fn who_stands_in_the_middle_of_what_was_removed_goes_on_behind_it_and_is_told_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    for _ in 0..30 {
        store.append("cart-1", NewEvent::new("added", &[1; 4_000])).unwrap();
    }
    let last = store.append("order-1", NewEvent::new("added", "")).unwrap().last();
    let mut cursor = store.cursor("mail").start(Start::Beginning).open().unwrap();
    let batch = cursor.pull_batch(10, Duration::ZERO).unwrap();
    assert_eq!(batch.len(), 10);
    drop(batch);
    let group = store.group("group").start(Start::Beginning).open().unwrap();
    let mut member = group.member().unwrap();
    for delivery in member.pull_batch(10, Duration::ZERO).unwrap().iter() {
        member.settle(delivery.token(), Settlement::Done).unwrap();
    }
    member.flush().unwrap();
    drop((member, group));
    store.truncate_stream("cart-1", Revision::new(26)).unwrap();
    store.purge().unwrap();
    // The batch from before can be acknowledged, and the checkpoint stands on what is gone.
    cursor.acknowledge(Position::new(10)).unwrap();
    cursor.flush().unwrap();
    drop(cursor);
    store.close().unwrap();

    let store = scratch.open();
    let expected: Vec<u64> = (26..=last.get()).collect();
    let mut cursor = store.cursor("mail").open().unwrap();
    let place = store.consumers().unwrap().into_iter().find(|consumer| consumer.name == "mail").unwrap().position;
    assert_eq!(place, Position::new(11), "control: it stands where nothing is");
    let batch = cursor.pull_batch(90, Duration::ZERO).unwrap();
    let handed: Vec<u64> = batch.iter().map(|event| event.position().get()).collect();
    assert_eq!((handed, batch.skipped()), (expected.clone(), 0));
    let group = store.group("group").open().unwrap();
    let mut member = group.member().unwrap();
    let batch = member.pull_batch(90, Duration::ZERO).unwrap();
    assert_eq!(batch.iter().map(|delivery| delivery.event().position().get()).collect::<Vec<_>>(), expected);
}

#[test]
fn copies_of_a_store_whose_segments_were_written_again_are_whole() {
    let scratch = Scratch::new();
    let store = scratch.open();
    filled(&store, 120);
    store.delete_stream("cart-1").unwrap();
    store.purge().unwrap();
    assert!(!stands_in_files(&scratch, 3), "control: segments were written again");
    store.truncate_stream("order-1", Revision::new(11)).unwrap();
    let expected = positions(store.read(Query::new()));
    assert!(expected.len() > 60);
    let at = |name: &str| scratch.store_path().with_file_name(name);
    let same = |name: &str, upto: u64| {
        let verdict = inspect::verify_to(at(name), inspect::Depth::Deep, |_| ()).unwrap();
        assert!(verdict.ok, "{name}: {verdict:?}");
        let copy = Store::open_read_only(at(name)).unwrap();
        let expected: Vec<u64> = expected.iter().copied().filter(|position| *position <= upto).collect();
        assert_eq!(positions(copy.read(Query::new())), expected, "{name}");
    };
    store.backup(at("backup")).unwrap();
    same("backup", u64::MAX);
    store.backup(at("backup")).unwrap();
    same("backup", u64::MAX);
    copies::restore(at("backup"), at("restored"), |_| ()).unwrap();
    same("restored", u64::MAX);
    for upto in [20, 61, 100] {
        // What was removed by now does not come back where the history is cut.
        let name = format!("fork-{upto}");
        store.fork(at(&name), Position::new(upto)).unwrap();
        same(&name, upto);
        let fork = Store::open(at(&name)).unwrap();
        fork.append("order-1", NewEvent::new("added", "")).unwrap();
        assert_eq!(fork.read(Query::new().stream("order-1")).last().unwrap().unwrap().type_name(), "added", "{upto}");
    }
    store.close().unwrap();
    let repaired = copies::repair(scratch.store_path(), at("repaired"), |_| ());
    assert!(repaired.is_ok(), "{repaired:?}");
    same("repaired", u64::MAX);
}
