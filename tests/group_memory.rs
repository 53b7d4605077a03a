//! What a group with many unsettled deliveries takes of memory: 64 bytes for each, and as much again in passing when a new
//! segment begins. A hundred thousand of them; as many as `TOWPATH_UNSETTLED` says.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use towpath::{Canal as _, Commit, Durability, Group, Member, NewEvent, Options, Order, Retry, Store};

static TAKEN: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// Counts what is allocated and not freed.
struct Counting;

fn add(bytes: usize) {
    let taken = TAKEN.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(taken, Ordering::Relaxed);
}

// SAFETY: it does what the system's allocator does, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Where it has to move, both are there for a moment.
        add(size);
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that are taken by what `made` gives, for as long as it is there, and at most on the way.
fn measured<T>(made: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = TAKEN.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let made = made();
    let taken = TAKEN.load(Ordering::Relaxed).saturating_sub(before);
    (made, taken, MOST.load(Ordering::Relaxed).saturating_sub(before))
}

fn group(store: &Store, order: Order) -> Group {
    let group = store.group("mail").order(order).max_in_flight(u32::MAX).lease(Duration::from_secs(3600));
    group.retry(Retry::fixed(Duration::ZERO).attempts(100)).open().unwrap()
}

/// Pulls until so many are in hand.
fn pull_all(member: &mut Member, events: usize, most: usize) {
    let mut pulled = 0;
    while pulled < events {
        let batch = member.pull_batch(most, Duration::ZERO).unwrap();
        assert!(!batch.is_empty(), "{pulled} came");
        pulled += batch.len();
    }
}

#[test]
fn an_unsettled_delivery_takes_sixty_four_bytes() {
    let events: usize = std::env::var("TOWPATH_UNSETTLED").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let allowed = events * 64;
    for order in [Order::None, Order::Stream] {
        let path = std::env::temp_dir().join(format!("towpath-memory-{}", std::process::id()));
        let _none_yet = std::fs::remove_dir_all(&path);
        let open = || Options::new().segment_bytes(16 << 20).durability(Durability::Os).open(&path).unwrap();
        let store = open();
        let mut commit = Commit::new();
        for event in 0..events {
            // One stream after the other: whoever has some of a stream has all of it.
            commit.event(&format!("cart-{}", event / 100), NewEvent::new("added", &[5; 100]));
            if commit.len() == 1000 {
                store.commit(&commit).unwrap();
                commit.clear();
            }
        }
        drop(commit);
        let opened = group(&store, order.clone());
        let mut member = opened.member().unwrap();
        // What the store itself takes for looking at its segments is not the group's.
        assert_eq!(store.read(towpath::Query::new()).count(), events);
        let most = if order == Order::None { 1000 } else { 50_000 };
        let ((), live, peak) = measured(|| pull_all(&mut member, events, most));
        assert_eq!(opened.in_flight() as usize, events);
        println!("{order:?}: {events} in hand take {live} bytes, {peak} at most");
        if live > allowed {
            println!("OVER");
        }
        assert!(live > events * 8, "control: what is in hand is counted");

        // A new segment carries all of it.
        let ((), _, rolled) = measured(|| {
            for _ in 0..20 {
                store.append("blob", NewEvent::new("b", &[0; 1 << 20])).unwrap();
            }
        });
        println!("{order:?}: new segments take {rolled} bytes at most");
        if rolled > allowed {
            println!("OVER");
        }

        drop((member, opened, store));
        let (store, _, opening) = measured(open);
        drop(store);
        let ((store, opened, mut member), live, peak) = measured(|| {
            let store = open();
            let opened = group(&store, order.clone());
            let member = opened.member().unwrap();
            (store, opened, member)
        });
        println!("{order:?}: opened again they take {live} bytes, {peak} at most, {opening} of them to open the store");
        // The store has a megabyte or two of its own.
        assert!(peak <= allowed + (2 << 20), "{order:?}: opened again they take {live} bytes, {peak} at most");
        let again = member.pull_batch(1000, Duration::ZERO).unwrap();
        assert_eq!((again.len(), again.get(0).unwrap().attempt()), (1, 2));
        drop((again, member, opened, store));
        std::fs::remove_dir_all(&path).unwrap();
    }
}
