//! What appending allocates: nothing for an event, and nothing for a commit either, once everything has the size that it
//! needs. New segments cost a few allocations each, on whichever thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use towpath::{Commit, Durability, NewEvent, Options, Store, inspect};

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// Counts how often somebody asks for memory, on any thread.
struct Counting;

// SAFETY: it does what the system's allocator does, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const EVENTS: usize = 100_000;
const STREAMS: usize = 1_000;
const PAYLOAD: [u8; 100] = [b'.'; 100];

/// In so many is lost what threads behind the store do, and that more groups may be on their way at a time than before: it
/// is half of one for each commit of 100.
const ASIDE: usize = 500;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Appends all events in commits of so many through one builder, and waits for each or for the last.
fn append(store: &Store, names: &[String], events_a_commit: usize, is_blocking: bool) {
    let mut names = names.iter().cycle();
    let mut commit = Commit::new();
    let mut last = None;
    for _ in 0..EVENTS / events_a_commit {
        commit.clear();
        for name in names.by_ref().take(events_a_commit) {
            commit.event(name, NewEvent::new("bench.event", &PAYLOAD));
        }
        if is_blocking {
            store.commit(&commit).unwrap();
        } else {
            last = Some(store.submit(&commit).unwrap());
        }
    }
    last.map(|ticket| ticket.wait().unwrap());
}

#[test]
fn appending_allocates_nothing_for_an_event_or_a_commit() {
    let path = std::env::temp_dir().join(format!("towpath-allocations-{}", std::process::id()));
    let _none_yet = std::fs::remove_dir_all(&path);
    let store = Options::new().durability(Durability::Os).segment_bytes(1 << 30).open(&path).unwrap();
    let names: Vec<String> = (0..STREAMS).map(|number| format!("stream-{number}")).collect();
    // Segments are as large as all before them, so after this there is room for everything that is counted.
    while store.counters().segments_begun < 8 {
        store.append("large", NewEvent::new("large", &vec![0; 1 << 20])).unwrap();
    }
    store.append("large", NewEvent::new("large", &vec![0; 8 << 20])).unwrap();
    append(&store, &names, 100, true);
    append(&store, &names, 1, false);
    let begun = store.counters().segments_begun;
    // What merges their indexes allocates, too.
    while store.counters().segments_sealed < begun || inspect::summary(&path).unwrap().index_files >= 8 {
        std::thread::yield_now();
    }

    for (events_a_commit, is_blocking) in [(100, true), (100, false), (1, true), (1, false)] {
        let counted = allocations(|| append(&store, &names, events_a_commit, is_blocking));
        println!("{events_a_commit} a commit, blocking: {is_blocking}: {counted} allocations for {EVENTS} events");
        assert!(counted <= ASIDE, "{events_a_commit} a commit, blocking: {is_blocking}: {counted} allocations");
    }
    assert_eq!(store.counters().segments_begun, begun, "what was counted stands in one segment");

    let counted = allocations(|| {
        for name in names.iter().cycle().take(EVENTS / 100) {
            // A builder that is not used again.
            store.append(name, NewEvent::new("bench.event", &PAYLOAD)).unwrap();
        }
    });
    assert!(counted >= EVENTS / 100, "control: an append that allocates is counted, and was {counted} times");
    store.close().unwrap();
    std::fs::remove_dir_all(&path).unwrap();
}
