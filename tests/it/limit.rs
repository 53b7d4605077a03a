//! N1, W4, W7, W11, D1: a store that may have so many bytes and no more. What is refused then, what goes on, and how it comes to have
//! room again.

use std::fs;
use std::time::Duration;

use towpath::{
    Canal, Commit, Durability, Error, NewEvent, Options, Query, Reason, Receipt, Result, Retention, Settlement, Store,
    inspect,
};

use crate::support::{Scratch, positions};

const LIMIT: u64 = 1 << 20;
const PAYLOAD: [u8; 1_000] = [7; 1_000];

fn limited() -> Options {
    Options::new().segment_bytes(1 << 20).durability(Durability::Os).limit_bytes(LIMIT)
}

fn append(store: &Store) -> Result<Receipt> {
    store.append("order-1", NewEvent::new("placed", &PAYLOAD))
}

/// Appends until there is no room, and gives what was said then.
fn fill(store: &Store) -> Error {
    (0..5_000).find_map(|_| append(store).err()).expect("it is never full")
}

/// Until nothing is cut or indexed any more.
fn settled(store: &Store) {
    while store.counters().segments_sealed < store.counters().segments_begun {
        std::thread::yield_now();
    }
}

fn bytes(scratch: &Scratch) -> u64 {
    inspect::summary(scratch.store_path()).unwrap().bytes
}

fn is_full(error: &Error) -> bool {
    matches!(error, Error::StoreFull { limit: LIMIT, .. })
}

#[test]
fn a_full_store_refuses_appends_whole_until_old_events_were_let_go_of() {
    let scratch = Scratch::new();
    let store = limited().open(scratch.store_path()).unwrap();
    for round in 0..5 {
        let error = fill(&store);
        settled(&store);
        let Error::StoreFull { path, limit, used, needed } = &error else { panic!("{error:?}") };
        assert_eq!((path, *limit), (&scratch.store_path(), LIMIT));
        assert!(used + needed > LIMIT && *used < LIMIT * 9 / 8, "{error}");
        let has = bytes(&scratch);
        assert!(has > LIMIT * 3 / 4, "{has}: control: it is full");
        // Its index files come later than its events.
        assert!(has < LIMIT * 9 / 8, "{has}");

        // Refused as a whole, time and again, and without a trace.
        let head = store.head();
        let mut two = Commit::new();
        two.event("order-1", NewEvent::new("placed", "")).event("order-2", NewEvent::new("placed", &[7; 300 << 10]));
        for _ in 0..3 {
            assert!(is_full(&store.commit(&two).unwrap_err()));
            assert!(is_full(&append(&store).unwrap_err()));
        }
        assert_eq!((store.head(), store.revision("order-2").unwrap().get()), (head, 0));
        assert_eq!(positions(store.read(Query::new())).last(), Some(&head.get()));
        assert!(is_full(&fill(&Store::clone(&store))));

        let plan = store.retain(&Retention::new().max_bytes(LIMIT / 2)).unwrap();
        assert!(plan.segments > 0, "round {round}");
        assert_eq!(append(&store).unwrap().first(), head.next());
    }
    store.close().unwrap();
    assert!(inspect::verify(scratch.store_path(), |_| {}).unwrap().ok);
    // The control: without the limit there is room.
    let store = Options::new().durability(Durability::Os).open(scratch.store_path()).unwrap();
    assert!((0..1_000).all(|_| append(&store).is_ok()));
}

#[test]
fn a_full_store_is_read_and_settled_and_so_it_can_be_emptied() {
    let scratch = Scratch::new();
    let store = limited().open(scratch.store_path()).unwrap();
    let group = store.group("mail").open().unwrap();
    fill(&store);
    let head = store.head().get();
    let nothing = store.retain(&Retention::new().max_events(0)).unwrap();
    assert_eq!((nothing.segments, nothing.held[0].consumer.as_str()), (0, "mail"), "somebody needs it");

    // Far more settlements than the newest segment has room for.
    let mut member = group.member().unwrap();
    let mut cursor = store.cursor("ship").open().unwrap();
    let mut rejected = 0;
    while let Some(batch) = Some(member.pull_batch(5, Duration::ZERO).unwrap()).filter(|batch| !batch.is_empty()) {
        for delivery in &batch {
            let settlement = match delivery.position().get() % 50 {
                0 => Settlement::Reject { reason: Reason::Rejected, why: "no".to_owned() },
                _ => Settlement::Done,
            };
            rejected += u64::from(settlement != Settlement::Done);
            member.settle(delivery.token(), settlement).unwrap();
            member.flush().unwrap();
            let read = cursor.pull_batch(1, Duration::ZERO).unwrap();
            cursor.acknowledge(read.iter().next().unwrap().position()).unwrap();
            cursor.flush().unwrap();
        }
        assert!(is_full(&append(&store).unwrap_err()), "what settlements have room in is not for appends");
    }
    let letters = store.dead_letters("mail").unwrap();
    assert_eq!((rejected, letters.iter().unwrap().count() as u64), (head / 50, head / 50));
    assert!(bytes(&scratch) < LIMIT * 3 / 2, "{}", bytes(&scratch));

    // As it is found by the next one, too.
    drop((member, cursor, group));
    store.close().unwrap();
    let store = limited().open(scratch.store_path()).unwrap();
    assert!(is_full(&append(&store).unwrap_err()));
    for name in ["mail", "ship"] {
        store.remove_consumer(name).unwrap();
    }
    assert!(store.retain(&Retention::new().max_events(0)).unwrap().segments > 0);
    append(&store).unwrap();
}

#[test]
fn what_was_written_before_is_answered_by_a_full_store() {
    let scratch = Scratch::new();
    let store = limited().open(scratch.store_path()).unwrap();
    let mut first = Commit::new();
    first.event("order-7", NewEvent::new("placed", "")).key("k");
    let receipt = store.commit(&first).unwrap();
    fill(&store);
    // Many small ones, until nothing at all fits.
    while store.append("order-1", NewEvent::new("placed", "")).is_ok() {}
    let again = store.commit(&first).unwrap();
    assert_eq!((again.first(), again.is_duplicate()), (receipt.first(), true));
    let mut late = Commit::new();
    late.event("order-7", NewEvent::new("placed", "")).expect("order-7", towpath::Expected::Absent);
    assert!(matches!(store.commit(&late), Err(Error::Conflict { .. })), "what is wrong with it comes first");
}

#[test]
fn a_limit_below_what_there_is_refuses_from_the_beginning() {
    let scratch = Scratch::new();
    let store = Options::new().segment_bytes(256 << 10).durability(Durability::Os).open(scratch.store_path()).unwrap();
    assert!((0..2_000).all(|_| append(&store).is_ok()));
    store.close().unwrap();
    let has = bytes(&scratch);
    assert!(has > LIMIT, "{has}");
    let store = limited().open(scratch.store_path()).unwrap();
    assert!(is_full(&append(&store).unwrap_err()));
    assert_eq!(positions(store.read(Query::new())).len(), 2_000);
    // Too little goes, and then enough.
    store.retain(&Retention::new().max_bytes(has - (300 << 10))).unwrap();
    assert!(is_full(&append(&store).unwrap_err()));
    store.retain(&Retention::new().max_bytes(LIMIT / 2)).unwrap();
    append(&store).unwrap();
    assert!(store.oldest().get() > 1);
}

#[test]
fn segments_under_a_limit_are_small_enough_for_old_ones_to_go() {
    let scratch = Scratch::new();
    let store = limited().open(scratch.store_path()).unwrap();
    fill(&store);
    let largest = |scratch: &Scratch| {
        crate::support::files::segments(&scratch.store_path())
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .max()
            .unwrap()
    };
    assert!(largest(&scratch) <= LIMIT / 4);
    // The control: without the limit one would have been larger.
    let other = Scratch::new();
    let store = Options::new().segment_bytes(1 << 20).durability(Durability::Os).open(other.store_path()).unwrap();
    assert!((0..900).all(|_| append(&store).is_ok()));
    assert!(largest(&other) > LIMIT / 4);
}
