//! Ways in which somebody broke an early version through its public API; each holds now.

use std::sync::mpsc;
use std::time::Duration;

use towpath::{Canal, Commit, Cursor, NewEvent, Position, Query, Store};

use crate::support::Scratch;

/// Far longer than any of this takes: reached only when something hangs.
const NEVER: Duration = Duration::from_secs(60);

fn event() -> NewEvent<'static> {
    NewEvent::new("seen", "")
}

/// A rule is kept no longer than its commit needs it, whichever thread ran it.
#[test]
fn a_rule_that_holds_the_last_handle_of_a_store_does_not_keep_it_open() {
    for blocking in [true, false] {
        let scratch = Scratch::new();
        let store = scratch.open();
        let (dropped, gone) = mpsc::channel::<()>();
        let mut commit = Commit::new();
        let held = (store.clone(), dropped);
        commit.event("a-1", event()).rule(move |_, _| {
            let _kept = &held;
            Ok(())
        });
        if blocking {
            store.commit(&commit).unwrap();
        } else {
            store.submit(&commit).unwrap();
        }
        drop((commit, store));
        // The rule goes, and then the store closes, maybe on a thread of its own.
        assert_eq!(gone.recv_timeout(NEVER), Err(mpsc::RecvTimeoutError::Disconnected), "blocking: {blocking}");
        let again = (0..100_000).find_map(|_| {
            std::thread::yield_now();
            towpath::Options::new().open(scratch.store_path()).ok()
        });
        assert_eq!(again.unwrap().head(), Position::new(1), "blocking: {blocking}");
    }
}

/// The same when the rule itself lets the last handle go, in the middle of the writer's turn.
#[test]
fn a_store_whose_last_handle_is_dropped_inside_a_rule_closes() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let last = std::sync::Mutex::new(Some(store.clone()));
    let (let_go, gone) = mpsc::channel::<()>();
    let (outside, inside) = mpsc::channel::<()>();
    let inside = std::sync::Mutex::new(inside);
    let mut commit = Commit::new();
    commit.event("a-1", event()).rule(move |_, _| {
        let _closed = inside.lock().unwrap().recv();
        drop(last.lock().unwrap().take());
        let _heard = let_go.send(());
        Ok(())
    });
    let ticket = store.submit(&commit).unwrap();
    drop((commit, store));
    drop(outside);
    gone.recv_timeout(NEVER).unwrap();
    assert_eq!(ticket.wait().unwrap().first(), Position::new(1));
    let again = (0..1_000_000).find_map(|_| {
        std::thread::yield_now();
        towpath::Options::new().open(scratch.store_path()).ok()
    });
    assert_eq!(again.unwrap().head(), Position::new(1));
}

/// The control state is carried into each new segment; one that it fills would be full at once.
#[test]
fn many_consumers_with_long_names_do_not_fill_every_new_segment() {
    let scratch = Scratch::new();
    let store = towpath::Options::new().durability(towpath::Durability::Os).segment_bytes(64 << 10);
    let store = store.open(scratch.store_path()).unwrap();
    for n in 0..500 {
        store.seek(&format!("{n}-{}", "x".repeat(200)), Position::new(1)).unwrap();
    }
    (0..200).for_each(|_| assert!(store.append("a-1", event()).is_ok()));
    let files = std::fs::read_dir(scratch.store_path()).unwrap().count();
    assert!(files < 10, "{files} files");
    assert_eq!(store.consumers().unwrap().len(), 500);
}

/// L4.
#[test]
fn a_seek_wakes_a_cursor_that_waits_at_the_end() {
    let scratch = Scratch::new();
    let store = scratch.open();
    (0..3).for_each(|_| assert!(store.append("a-1", event()).is_ok()));
    let mut cursor: Cursor = store.cursor("x").open().unwrap();
    assert_eq!(cursor.pull_batch(10, Duration::ZERO).unwrap().len(), 3);
    let (pulled, waiting) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let again = cursor.pull_batch(10, NEVER).unwrap().len();
        pulled.send(again).unwrap();
    });
    store.seek("x", Position::new(2)).unwrap();
    assert_eq!(waiting.recv_timeout(NEVER / 2), Ok(2));
    reader.join().unwrap();
}

/// R5: a reader need not be looking while a writer lives.
#[test]
fn a_reader_sees_what_writers_wrote_that_came_and_went_between_two_looks() {
    let scratch = Scratch::new();
    scratch.open().close().unwrap();
    let reader = Store::open_read_only(scratch.store_path()).unwrap();
    let mut follower = reader.follow().open().unwrap();
    assert_eq!((reader.head(), reader.consumers().unwrap().len()), (Position::START, 0));
    for round in 1..=3 {
        let store = scratch.open();
        store.append("a-1", event()).unwrap();
        let mut cursor = store.cursor("mail").open().unwrap();
        cursor.pull_batch(1, Duration::ZERO).unwrap();
        cursor.acknowledge(Position::new(round)).unwrap();
        drop(cursor);
        store.close().unwrap();

        assert_eq!(reader.head(), Position::new(round));
        assert_eq!(reader.read(Query::new()).count() as u64, round);
        assert_eq!(follower.pull_batch(10, Duration::ZERO).unwrap().len(), 1);
        assert_eq!(reader.consumers().unwrap()[0].position, Position::new(round + 1));
    }
}

/// W7: also when the first commit of the key is finished and not written yet.
#[test]
fn a_key_that_comes_twice_in_one_group_is_written_once() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let mut commit = Commit::new();
    commit.event("a-1", event()).key("once");
    let tickets: Vec<_> = (0..200).map(|_| store.submit(&commit).unwrap()).collect();
    let duplicates = tickets.into_iter().map(|ticket| ticket.wait().unwrap());
    let duplicates = duplicates.filter(|receipt| receipt.first() == Position::new(1) && receipt.is_duplicate()).count();
    assert_eq!((duplicates, store.head()), (199, Position::new(1)));
}
