//! Readers beside a writer: in the same process (R3), and in another one (R5).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use towpath::{Canal, Commit, Durability, Error, Event, NewEvent, Query, Receipt, Store};

use crate::support::helper::{Helper, wait_for_the_end};
use crate::support::{Scratch, child, files, small};

/// Events of one commit in these tests.
const COMMIT: u64 = 3;

/// Appends one commit of three events over three streams, each with its position as payload.
fn append(store: &Store) -> Receipt {
    // No other thread appends.
    let next = store.head().next().get();
    let mut commit = Commit::new();
    for position in next..next + COMMIT {
        let mut payload = position.to_le_bytes().to_vec();
        payload.resize(200, 0);
        commit.event(&format!("cart-{}", position % COMMIT), NewEvent::new("item added", &payload));
    }
    store.commit(&commit).unwrap()
}

/// What is wrong with the events of a log that were read from its beginning, in order: position, payload, and whether
/// the commit goes on.
#[derive(Default)]
struct Prefix {
    last: u64,
    goes_on: bool,
}

impl Prefix {
    fn take_in(&mut self, event: &Event<'_>) -> Result<(), String> {
        self.see(event.position().get(), event.payload(), event.commit_goes_on())
    }

    fn see(&mut self, position: u64, payload: &[u8], goes_on: bool) -> Result<(), String> {
        if position != self.last + 1 {
            return Err(format!("{position} after {}", self.last));
        }
        if payload.get(..8) != Some(&position.to_le_bytes()) {
            return Err(format!("{position} bears another's payload"));
        }
        (self.last, self.goes_on) = (position, goes_on);
        Ok(())
    }

    fn ends_whole(&self) -> Result<(), String> {
        if self.goes_on { Err(format!("a commit ends in its middle, at {}", self.last)) } else { Ok(()) }
    }
}

/// Everything that a reader sees now.
fn read_all(store: &Store) -> Result<u64, String> {
    let mut prefix = Prefix::default();
    let mut reader = store.read(Query::new());
    while let Some(event) = reader.next_borrowed() {
        prefix.take_in(&event.map_err(|error| error.to_string())?)?;
    }
    prefix.ends_whole()?;
    Ok(prefix.last)
}

/// R3.
#[test]
fn reads_during_writes_see_a_prefix_of_whole_commits() {
    let dir = Scratch::new();
    let store = dir.open();
    let beside = Store::open_read_only(dir.store_path()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for reading in [&store, &beside] {
            threads.spawn(|| {
                let (mut seen, mut looks) = (0, 0);
                while !done.load(Ordering::Acquire) || looks < 3 {
                    let last = read_all(reading).unwrap();
                    assert!(last >= seen, "the log became shorter: {seen}, then {last}");
                    (seen, looks) = (last, looks + 1);
                }
            });
        }
        (0..1_000).for_each(|_| {
            append(&store);
        });
        done.store(true, Ordering::Release);
    });
    assert_eq!((read_all(&store), read_all(&beside)), (Ok(1_000 * COMMIT), Ok(1_000 * COMMIT)));

    // The control: a hole, a foreign payload, part of a commit.
    let mut prefix = Prefix::default();
    prefix.see(1, &1u64.to_le_bytes(), true).unwrap();
    assert!(prefix.see(3, &3u64.to_le_bytes(), false).is_err());
    assert!(prefix.see(2, &7u64.to_le_bytes(), false).is_err());
    assert!(prefix.ends_whole().is_err());
}

fn follower(store: &Path) -> Helper {
    Helper::start("following::child_of_these_tests", "follower", store)
}

fn writer(store: &Path) -> Helper {
    Helper::start("following::child_of_these_tests", "writer", store)
}

/// Not a test by itself: what the other processes of these tests do.
#[test]
fn child_of_these_tests() {
    match child::role() {
        Some((role, store)) if role == "follower" => follow(&store),
        Some((role, store)) if role == "writer" => write(&store),
        _ => {}
    }
}

/// Follows a store from its beginning, and says each position, and each new end.
fn follow(path: &Path) {
    let store = Store::open_read_only(path).unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let end = ended.clone();
    // Not joined: when something is wrong this process has to end, though nobody asked for it.
    std::thread::spawn(move || {
        wait_for_the_end();
        end.store(true, Ordering::Release);
    });
    let mut cursor = store.follow().open().unwrap();
    let (mut prefix, mut head) = (Prefix::default(), store.head());
    while !ended.load(Ordering::Acquire) {
        let batch = cursor.pull_batch(64, Duration::from_millis(20)).unwrap();
        for event in &batch {
            prefix.take_in(&event).unwrap();
            child::say(format_args!("saw {}", prefix.last));
        }
        let now = store.head();
        assert!(now >= head && now.get() >= prefix.last, "the end moved back: {head}, then {now}");
        if now > head {
            child::say(format_args!("end {now}"));
        }
        head = now;
    }
    assert_eq!(read_all(&store).unwrap(), prefix.last);
}

/// Writes into a store, says how far, and keeps it open.
fn write(path: &Path) {
    let store = small().durability(Durability::Os).open(path).unwrap();
    let mut receipt = append(&store);
    for _ in 0..300 {
        receipt = append(&store);
    }
    child::say(format_args!("wrote {}", receipt.last()));
    wait_for_the_end();
    store.close().unwrap();
}

/// R5: over segments that follow each other, a writer that closes and one that is killed.
#[test]
fn a_reader_in_another_process_follows_the_writers_of_a_store() {
    let dir = Scratch::new();
    let path = dir.store_path();
    let store = dir.open();
    let last = append(&store).last();
    let mut following = follower(&path);
    following.says(&format!("saw {last}"));

    let last = append(&store).last();
    following.says(&format!("saw {last}"));
    let segments = files::segments(&path).len();
    (0..800).for_each(|_| {
        append(&store);
    });
    let last = append(&store).last();
    assert!(files::segments(&path).len() >= segments + 3, "the segments did not follow each other");
    following.says(&format!("end {last}"));
    following.says(&format!("saw {last}"));

    // The reader takes nothing from the writer, and lets nobody else in.
    match small().open(&path) {
        Err(Error::Locked { holder, .. }) => assert_eq!(holder, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    let last = append(&store).last();
    following.says(&format!("saw {last}"));

    // A writer that closes, and another one in this process.
    store.close().unwrap();
    let store = dir.open();
    assert!(store.recovery().clean);
    let last = append(&store).last();
    following.says(&format!("saw {last}"));
    store.close().unwrap();

    // One that is killed, and one that comes after it.
    let mut writing = writer(&path);
    let last = last.get() + 301 * COMMIT;
    writing.says(&format!("wrote {last}"));
    following.says(&format!("saw {last}"));
    assert!(matches!(small().open(&path), Err(Error::Locked { holder: Some(pid), .. }) if pid == writing.id()));
    writing.kill();
    let store = dir.open();
    assert!(!store.recovery().clean);
    assert_eq!(store.head().get(), last, "a killed process loses nothing");
    let last = append(&store).last();
    following.says(&format!("saw {last}"));

    following.ends_well();
    store.close().unwrap();
}

/// R5: readers hold no lock, whatever they hold.
#[test]
fn a_store_can_be_opened_for_writing_while_readers_of_other_processes_hold_it_open() {
    let dir = Scratch::new();
    let store = dir.open();
    let last = append(&store).last();
    store.close().unwrap();
    let mut followers: Vec<_> = (0..2).map(|_| follower(&dir.store_path())).collect();
    followers.iter_mut().for_each(|following| following.says(&format!("saw {last}")));

    for _ in 0..3 {
        let store = dir.open();
        let last = append(&store).last();
        followers.iter_mut().for_each(|following| following.says(&format!("saw {last}")));
        store.close().unwrap();
    }
    followers.into_iter().for_each(Helper::ends_well);

    // The control: a writer does hold it.
    let mut writing = writer(&dir.store_path());
    writing.says(&format!("wrote {}", 4 * COMMIT + 301 * COMMIT));
    assert!(matches!(small().open(dir.store_path()), Err(Error::Locked { .. })));
    writing.ends_well();
    assert!(dir.open().recovery().clean);
}

/// The control of the two above: a follower that sees something wrong ends badly, and that is noticed.
#[test]
fn a_follower_that_finds_a_foreign_payload_ends_badly() {
    let dir = Scratch::new();
    let store = dir.open();
    append(&store);
    let mut following = follower(&dir.store_path());
    following.says("saw 3");
    store.append("cart-1", NewEvent::new("item added", "not its position")).unwrap();
    assert!(!following.ends().success());
}
