//! Whole stores on a scheduler that chooses at each lock, atomic and wait which thread goes on (`cfg(shuttle)`): staging,
//! publishing, rolling and sealing under readers, claims of groups. A failing order is printed and can be replayed. Memory
//! orders are not tried here, the loom tests of `sync::gate` do that.
//!
//! So many orders are tried as `TOWPATH_ORDERS` says, 100 without.

use std::path::PathBuf;
use std::time::Duration;

use shuttle::scheduler::RandomScheduler;
use shuttle::{Config, Runner, thread};

use crate::canal::{Canal, Settlement};
use crate::error::Error;
use crate::event::draft::{Expected, NewEvent};
use crate::event::query::Query;
use crate::id::{Position, Revision};
use crate::store::{Options, Store};
use crate::sync::primitive::atomic::{AtomicU64, Ordering};
use crate::sync::primitive::{Arc, Mutex};
use crate::writer::commit::Commit;
use crate::writer::durability::Durability;

/// With payloads of this size the smallest segment has room for two events.
const LARGE: usize = 25 << 10;

/// Tries a story in many orders, each with an empty store.
fn in_many_orders(story: impl Fn(Store) + Send + Sync + 'static) {
    let orders = std::env::var("TOWPATH_ORDERS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let mut config = Config::new();
    // Of each task's own stack; opening a store takes more than the default.
    config.stack_size = 1 << 20;
    config.max_steps = shuttle::MaxSteps::FailAfter(10_000_000);
    // What is static all stories share, and an atomic of the scheduler's is for one scheduler at a time.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Runner::new(RandomScheduler::new(orders), config).run(move || {
        let directory = Directory::new();
        let options = Options::new().durability(Durability::Os).segment_bytes(64 << 10).staging_bytes(4 << 10);
        let store = options.open(&directory.0).unwrap();
        story(store.clone());
        let _closed_by_the_story = store.close();
    });
}

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let memory = std::path::Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self(parent.join(format!("towpath-orders-{}-{number}", std::process::id())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a story in a thread of its own with a handle of the store.
fn beside(store: &Store, story: impl FnOnce(&Store) + Send + 'static) -> thread::JoinHandle<()> {
    let store = store.clone();
    thread::spawn(move || story(&store))
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// What is read: stream and revision of each event, checked to be dense.
fn read(store: &Store) -> Vec<(String, u64)> {
    let events = store.read(Query::new()).map(|event| event.unwrap());
    let told: Vec<_> =
        events.map(|event| (event.position().get(), event.stream().to_owned(), event.revision().get())).collect();
    assert!(told.iter().map(|(position, ..)| *position).eq(1..=told.len() as u64), "{told:?}");
    told.into_iter().map(|(_, stream, revision)| (stream, revision)).collect()
}

/// W9, W13: with room for little in the staging buffer.
#[test]
fn producers_lose_nothing_and_keep_their_order() {
    in_many_orders(|store| {
        let producers = (0..3).map(|number| {
            beside(&store, move |store| {
                let stream = format!("stream-{number}");
                let mut tickets = Vec::new();
                for event in 1..=3 {
                    let mut commit = Commit::new();
                    commit.event(&stream, NewEvent::new("made", &vec![event; 1500]));
                    match event {
                        3 => assert_eq!(store.commit(&commit).unwrap().revision(), Revision::new(3)),
                        _ => tickets.push(store.submit(&commit).unwrap()),
                    }
                }
                let revisions: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap().revision()).collect();
                assert_eq!(revisions, [Revision::new(1), Revision::new(2)]);
            })
        });
        join(producers.collect::<Vec<_>>());
        assert_eq!(read(&store).len(), 9);
    });
}

/// W9: what was submitted before is written, what comes later is told so, and nobody waits for ever.
#[test]
fn closing_beside_producers_leaves_nobody_waiting() {
    in_many_orders(|store| {
        let written = Arc::new(AtomicU64::new(0));
        let producers = (0..2).map(|number| {
            let written = written.clone();
            beside(&store, move |store| {
                for _ in 0..3 {
                    match store.append(&format!("stream-{number}"), NewEvent::new("made", b"")) {
                        Ok(_) => _ = written.fetch_add(1, Ordering::Relaxed),
                        Err(Error::Closed) => return,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        let producers: Vec<_> = producers.collect();
        let reader = store.clone();
        store.close().unwrap();
        join(producers);
        assert_eq!(read(&reader).len() as u64, written.load(Ordering::Relaxed));
    });
}

/// L1, L6, R3: a waiting reader sees everything once, in order, while segments are rolled, sealed and indexed.
#[test]
fn a_reader_that_waits_sees_every_event_once_across_segments() {
    in_many_orders(|store| {
        let reader = beside(&store, |store| {
            let (mut cursor, mut seen) = (store.follow().open().unwrap(), Vec::new());
            while seen.len() < 6 {
                let batch = cursor.pull_batch(4, Duration::MAX).unwrap();
                seen.extend(batch.iter().map(|delivery| delivery.position().get()));
            }
            assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
        });
        let looker = beside(&store, |store| {
            for _ in 0..2 {
                let head = store.head();
                assert!(read(store).len() as u64 >= head.get(), "what was published can be read");
                let found = store.revision("cart").unwrap().get();
                assert!(found >= head.get(), "the index leaves nothing out");
            }
        });
        for number in 1..=6 {
            store.append("cart", NewEvent::new("added", &vec![number; LARGE])).unwrap();
        }
        join([reader, looker]);
        assert_eq!(store.event_at("cart", Revision::new(1)).unwrap().unwrap().position(), Position::new(1));
    });
}

/// W3: what is expected is exact, so nobody overwrites anybody. The control: without it somebody does.
#[test]
fn of_two_who_expect_the_same_revision_one_is_refused() {
    let overtaken = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = overtaken.clone();
    in_many_orders(move |store| {
        let results = Arc::new(Mutex::new(Vec::new()));
        let both = (0..2).map(|_| {
            let results = results.clone();
            beside(&store, move |store| {
                let mut commit = Commit::new();
                commit.event("cart", NewEvent::new("opened", b"")).expect("cart", Expected::Absent);
                let first = store.commit(&commit).is_ok();
                let seen = store.revision("plain").unwrap();
                let written = store.append("plain", NewEvent::new("opened", b"")).unwrap().revision();
                crate::sync::guard(&results).push((first, written.get() > seen.get() + 1));
            })
        });
        join(both.collect::<Vec<_>>());
        let results = crate::sync::guard(&results);
        assert_eq!(results.iter().filter(|(first, _)| *first).count(), 1);
        let plain = results.iter().filter(|(_, overtaken)| *overtaken).count();
        counted.fetch_add(plain as u64, std::sync::atomic::Ordering::Relaxed);
    });
    let overtaken = overtaken.load(std::sync::atomic::Ordering::Relaxed);
    assert!(overtaken > 0, "the control: the scheduler lets one come between the look and the append of another");
}

/// G1, G9: two members share what there is, each delivery goes to one of them, and all are settled.
#[test]
fn members_of_a_group_never_have_the_same_delivery() {
    in_many_orders(|store| {
        let group = store.group("mailer").max_in_flight(2).open().unwrap();
        let handled = Arc::new(Mutex::new(Vec::new()));
        let members = (0..2).map(|_| {
            let (group, handled) = (group.clone(), handled.clone());
            thread::spawn(move || {
                let mut member = group.member().unwrap();
                while crate::sync::guard(&handled).len() < 5 {
                    let batch = member.pull_batch(2, Duration::ZERO).unwrap();
                    for delivery in &batch {
                        crate::sync::guard(&handled).push(delivery.position().get());
                        member.settle(delivery.token(), Settlement::Done).unwrap();
                    }
                    member.flush().unwrap();
                    thread::yield_now();
                }
            })
        });
        let members: Vec<_> = members.collect();
        for number in 1..=5 {
            store.append("cart", NewEvent::new("added", &[number])).unwrap();
        }
        join(members);
        let mut handled = crate::sync::guard(&handled).clone();
        handled.sort_unstable();
        assert_eq!(handled, [1, 2, 3, 4, 5]);
        assert_eq!((group.in_flight(), group.lag()), (0, 0));
    });
}
