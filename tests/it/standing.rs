//! R2, L1, N1: a store that keeps to a retention by itself. When that is, what it leaves alone, and what it tells.

use std::sync::Arc;
use std::time::Duration;

use towpath::{
    Canal, Counters, Error, ManualClock, Need, NewEvent, Plan, Position, Query, Retention, Store, Timestamp, inspect,
};

use crate::support::files;
use crate::support::orders::{PAYLOAD, fill};
use crate::support::{Scratch, os, positions};

const DAY: Duration = Duration::from_secs(86_400);

/// What came of it once there is nothing more to seal or to let go of.
fn told(store: &Store, is_it: impl Fn(&Plan, &Counters) -> bool) -> Plan {
    loop {
        let counters = store.counters();
        if let Some(plan) = store.last_retention().transpose().unwrap()
            && counters.segments_sealed == counters.segments_begun
            && is_it(&plan, &counters)
        {
            return plan;
        }
        std::thread::yield_now();
    }
}

/// Bytes of segments and index files, and the names of those that are older than what is kept.
fn on_disk(store: &Store) -> (u64, Vec<String>) {
    let (mut bytes, mut old) = (0, Vec::new());
    let path = store.path();
    for file in [files::segments(path), files::indexes(path)].concat() {
        // One may go between the look and this.
        let Ok(metadata) = std::fs::metadata(&file) else { continue };
        bytes += metadata.len();
        let name = files::name(&file);
        if name.split('.').next().unwrap().parse::<u64>().unwrap() < store.oldest().get() {
            old.push(name);
        }
    }
    (bytes, old)
}

#[test]
fn old_segments_go_as_new_ones_are_sealed_and_what_went_is_counted() {
    const KEPT: u64 = 400 << 10;
    let scratch = Scratch::new();
    let store = os().retain(Retention::new().max_bytes(KEPT)).open(scratch.store_path()).unwrap();
    for _ in 0..10 {
        fill(&store, 100);
        let plan = told(&store, |plan, _| plan.segments == 0 || store.oldest() == plan.keeps_from);
        assert_eq!(plan.held, []);
    }
    told(&store, |_, counters| {
        let (bytes, old) = on_disk(&store);
        let is_counted = counters.events_let_go == store.oldest().get() - 1;
        is_counted && bytes <= KEPT + (64 << 10) && old.is_empty()
    });
    let counters = store.counters();
    assert!(counters.segments_let_go > 35 && counters.bytes_let_go > 800 * 3_000, "{counters:?}");
    store.close().unwrap();
    assert!(inspect::verify(scratch.store_path(), |_| {}).unwrap().ok);

    // The control: without being told a store lets go of nothing.
    let store = os().open(scratch.store_path()).unwrap();
    let oldest = store.oldest().get();
    assert!(oldest > 800 && oldest <= 1_000, "{oldest}");
    assert_eq!(positions(store.read(Query::new())), (oldest..=1_000).collect::<Vec<_>>());
    fill(&store, 300);
    assert!(store.oldest().get() == oldest && store.last_retention().is_none());
    store.close().unwrap();
    // What is too much when it is opened goes then.
    let store = os().retain(Retention::new().max_bytes(KEPT)).open(scratch.store_path()).unwrap();
    let plan = told(&store, |_, _| true);
    assert!(plan.segments > 10 && store.oldest() == plan.keeps_from, "{plan:?}");
}

#[test]
fn an_age_is_looked_at_by_the_stores_clock_when_a_segment_is_sealed() {
    let scratch = Scratch::new();
    let clock = Arc::new(ManualClock::at(Timestamp::from_nanos(1 << 60)));
    let store = os().clock(clock.clone()).open(scratch.store_path()).unwrap();
    fill(&store, 100);
    store.close().unwrap();
    let options = os().clock(clock.clone()).retain(Retention::new().max_age(2 * DAY));
    let store = options.open(scratch.store_path()).unwrap();
    let plan = told(&store, |_, _| true);
    clock.set(Timestamp::from_nanos((1 << 60) + 3 * DAY.as_nanos() as u64));
    assert_eq!((plan.segments, store.oldest().get()), (0, 1), "they are young, and nothing was sealed since");
    fill(&store, 100);
    told(&store, |_, counters| counters.segments_let_go > 0);
    let oldest = store.oldest().get();
    assert!(oldest > 60 && oldest <= 101, "{oldest}");
}

#[test]
fn what_a_consumer_needs_stays_and_who_keeps_it_is_told() {
    let scratch = Scratch::new();
    let retention = Retention::new().max_events(20).even_from("post");
    let store = os().retain(retention).open(scratch.store_path()).unwrap();
    let mut mail = store.cursor("mail").open().unwrap();
    fill(&store, 10);
    mail.pull_batch(5, Duration::ZERO).unwrap();
    mail.acknowledge(Position::new(5)).unwrap();
    mail.flush().unwrap();
    // It is named before it is there, and needs everything.
    let _post = store.cursor("post").open().unwrap();
    fill(&store, 190);
    let plan = told(&store, |plan, _| !plan.held.is_empty() && store.counters().segments_begun > 8);
    let held = (plan.held.len(), plan.held[0].consumer.as_str(), plan.held[0].need, plan.held[0].position.get());
    assert_eq!((held, store.oldest().get()), ((1, "mail", Need::Unread, 6), 1));

    while let Some(batch) = Some(mail.pull_batch(64, Duration::ZERO).unwrap()).filter(|batch| !batch.is_empty()) {
        mail.acknowledge(batch.iter().last().unwrap().position()).unwrap();
    }
    mail.flush().unwrap();
    fill(&store, 40);
    // At the latest for the last of these segments.
    told(&store, |_, _| store.oldest().get() > 150);
}

#[test]
fn a_store_with_a_limit_that_keeps_to_a_retention_takes_appends_for_ever() {
    const LIMIT: u64 = 1 << 20;
    let scratch = Scratch::new();
    let options = os().limit_bytes(LIMIT).retain(Retention::new().max_bytes(LIMIT / 2));
    let store = options.open(scratch.store_path()).unwrap();
    // Somebody keeps it back until it is full.
    let mut mail = store.cursor("mail").open().unwrap();
    let append = || store.append("order-1", NewEvent::new("placed", &PAYLOAD));
    let full = (0..1_000).find_map(|_| append().err()).expect("it is never full");
    assert!(matches!(full, Error::StoreFull { limit: LIMIT, .. }), "{full}");
    while let Some(batch) = Some(mail.pull_batch(64, Duration::ZERO).unwrap()).filter(|batch| !batch.is_empty()) {
        mail.acknowledge(batch.iter().last().unwrap().position()).unwrap();
    }
    mail.flush().unwrap();
    drop(mail);
    store.remove_consumer("mail").unwrap();

    // Nothing is sealed any more: it is the refused append that has room made.
    let mut refused = 0;
    for _ in 0..2_000 {
        while let Err(error) = append() {
            assert!(matches!(error, Error::StoreFull { .. }), "{error}");
            refused += 1;
            std::thread::yield_now();
        }
    }
    assert!(refused > 0, "control: it was full");
    assert!(store.oldest().get() > 1_000);
}

#[test]
fn a_damaged_segment_is_not_let_go_of_and_that_is_told() {
    let scratch = Scratch::new();
    let store = os().open(scratch.store_path()).unwrap();
    fill(&store, 200);
    store.close().unwrap();
    let second = &files::segments(&scratch.store_path())[1];
    let frame = files::frames(second).into_iter().find(|frame| !frame.is_control && frame.position > 25).unwrap();
    files::flip(second, frame.offset + 60, 3);
    let everything = Retention::new().max_events(0);

    let store = os().open(scratch.store_path()).unwrap();
    for _ in 0..2 {
        let Error::Damaged(damage) = store.retain(&everything).unwrap_err() else { panic!("it went") };
        assert_eq!(damage.segment, files::name(second));
        assert!(damage.what.contains("repair"), "{damage}");
        assert_eq!(store.oldest().get(), 1, "nothing went, not even what is sound before it");
    }
    assert_eq!(store.append("order-1", NewEvent::new("placed", "")).unwrap().first().get(), 201);
    store.close().unwrap();
    let store = os().retain(everything).open(scratch.store_path()).unwrap();
    let last = loop {
        match store.last_retention() {
            Some(last) => break last,
            None => std::thread::yield_now(),
        }
    };
    assert!(matches!(last, Err(Error::Damaged(damage)) if damage.segment == files::name(second)));
    assert!(files::with_extension(&scratch.store_path(), "heads").is_empty(), "nothing is left of the attempts");
    // The control: what lies behind it or before it may go by itself.
    assert!(store.retain(&Retention::new().max_events(185)).is_ok());
}
