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
