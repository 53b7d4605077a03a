//! The live consumer: from now on, skips that are told, waiting in a crowd, and what it costs others (L6, L8–L10).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, mpsc};
use std::time::Duration;

use towpath::{
    Batch, Canal, Commit, Durability, Error, NewEvent, Promises, Query, Reason, Settlement, Store, Subscription, limits,
};

use crate::support::{Scratch, files, small};

/// Longer than any test runs: who waits this long was not woken.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Appends so many events in commits of ten, each with a tag that says whether its position is a tenth one.
fn append(store: &Store, events: u64) {
    let next = store.head().next().get();
    let mut commit = Commit::new();
    for position in next..next + events {
        let tag = if position % 10 == 0 { "tenth" } else { "other" };
        commit.event("cart-1", NewEvent::new("item added", &position.to_le_bytes()).tag(tag));
        if commit.len() == 10 || position == next + events - 1 {
            store.submit(&commit).unwrap();
            commit.clear();
        }
    }
    store.sync().unwrap();
}

fn positions(batch: &Batch) -> Vec<u64> {
    batch.iter().map(|event| event.position().get()).collect()
}

/// What there is now, and what was skipped before it.
fn pull(canal: &mut impl Canal, max: usize) -> (u64, Vec<u64>) {
    let batch = canal.pull_batch(max, Duration::ZERO).unwrap();
    (batch.skipped(), positions(&batch))
}

fn tenths() -> Query {
    Query::new().tags(["tenth"])
}

#[test]
fn a_subscription_begins_with_what_comes_after_it_was_opened() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut before = store.subscribe().open().unwrap();
    append(&store, 25);
    let mut between = store.subscribe().open().unwrap();
    let mut filtered = store.subscribe().filter(tenths()).open().unwrap();
    append(&store, 10);

    assert_eq!(pull(&mut before, 100), (0, (1..=35).collect()));
    assert_eq!(pull(&mut between, 4), (0, vec![26, 27, 28, 29]));
    assert_eq!(pull(&mut between, 100), (0, (30..=35).collect()));
    assert_eq!(pull(&mut filtered, 100), (0, vec![30]));
    assert_eq!(pull(&mut between, 0), (0, vec![]));
    // Nothing is kept of it.
    assert_eq!(store.consumers().unwrap(), []);
}

/// L9.
#[test]
fn who_falls_behind_is_told_how_many_were_skipped_and_goes_on() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut slow = store.subscribe().capacity(20).open().unwrap();
    append(&store, 20);
    assert_eq!(pull(&mut slow, 3), (0, vec![1, 2, 3]), "as far behind as it may be");

    append(&store, 100);
    // 117 positions behind: ten of them are left.
    assert_eq!(pull(&mut slow, 4), (107, vec![111, 112, 113, 114]));
    assert_eq!(pull(&mut slow, 100), (0, (115..=120).collect()), "told once");
    append(&store, 20);
    assert_eq!(pull(&mut slow, 100), (0, (121..=140).collect()));

    // The control: who may fall that far behind is not passed over.
    let mut patient = store.subscribe().capacity(100).open().unwrap();
    append(&store, 100);
    assert_eq!(pull(&mut patient, 1_000), (0, (141..=240).collect()));
    let mut hasty = store.subscribe().capacity(0).open().unwrap();
    append(&store, 1);
    assert_eq!(pull(&mut hasty, 1_000), (0, vec![241]));
    append(&store, 2);
    assert_eq!(pull(&mut hasty, 1_000), (1, vec![243]));
}

/// Whether what was skipped and what came make up a log of so many events, in order.
fn add_up(pulled: &[(u64, Vec<u64>)], events: u64) -> bool {
    let mut next = 1;
    for (skipped, positions) in pulled {
        next += skipped;
        if !positions.iter().copied().eq(next..next + positions.len() as u64) {
            return false;
        }
        next += positions.len() as u64;
    }
    next == events + 1
}

/// L9: across segments, and at any pace.
#[test]
fn what_comes_and_what_is_skipped_add_up_to_the_log_beside_a_racing_writer() {
    const EVENTS: u64 = 30_000;
    let dir = Scratch::new();
    let store = dir.open();
    let mut all = store.subscribe().capacity(500).open().unwrap();
    let mut pulled = Vec::new();
    std::thread::scope(|threads| {
        threads.spawn(|| append(&store, EVENTS));
        let mut reached = 0;
        while reached < EVENTS {
            let batch = all.pull_batch(97, FOR_EVER).unwrap();
            reached += batch.skipped() + batch.len() as u64;
            pulled.push((batch.skipped(), positions(&batch)));
        }
    });
    assert!(files::segments(&dir.store_path()).len() > 1, "a test of one segment only");
    assert!(add_up(&pulled, EVENTS));
    assert_eq!(pull(&mut all, 10), (0, vec![]));

    // The control: a skip that is told wrongly, a gap, a duplicate, an event too few.
    let right = [(0, vec![1, 2]), (3, vec![6, 7]), (1, vec![])];
    assert!(add_up(&right, 8));
    for (at, wrong) in
        [(1, (2, vec![6, 7])), (1, (4, vec![6, 7])), (1, (3, vec![6, 8])), (1, (3, vec![5, 6])), (2, (0, vec![]))]
    {
        let mut pulled = right.clone();
        pulled[at] = wrong;
        assert!(!add_up(&pulled, 8));
    }
}

/// L9.
#[test]
fn a_skip_is_told_though_no_event_follows_that_is_meant() {
    let dir = Scratch::new();
    let store = dir.open();
    let never = |pattern: &str| store.subscribe().filter(Query::new().subject(pattern)).capacity(20).open().unwrap();
    let (mut scanning, mut fast) = (never("no.*"), never("no.*"));
    let mut picking = store.subscribe().filter(Query::new().types(["never"])).capacity(20).open().unwrap();
    for _ in 0..10 {
        append(&store, 10);
        assert_eq!(pull(&mut fast, 10), (0, vec![]), "the control: who keeps up is told of no skip");
    }

    for slow in [&mut scanning, &mut picking] {
        let batch = slow.pull_batch(10, FOR_EVER).unwrap();
        assert_eq!((batch.skipped(), batch.len()), (90, 0));
        assert_eq!(pull(slow, 10), (0, vec![]), "told once");
    }
}

/// L8: counted, in what the store keeps, and in the order of things: nobody pulls, and everything is written.
#[test]
fn subscriptions_that_are_never_pulled_from_hold_nobody_up() {
    let dir = Scratch::new();
    let store = small().durability(Durability::Os).staging_bytes(64 << 10).open(dir.store_path()).unwrap();
    let mut idle: Vec<Subscription> = (0..1_000).map(|_| store.subscribe().capacity(100).open().unwrap()).collect();
    let mut quick = store.subscribe().open().unwrap();

    // Far more than may be staged: a queue of a subscription that fills up would stop this.
    append(&store, 5_000);
    assert_eq!(pull(&mut quick, 5_000), (0, (1..=5_000).collect()));
    for subscription in &mut idle {
        assert_eq!(pull(subscription, 1), (4_950, vec![4_951]));
    }

    // The control: a consumer with a queue of its own, of the same capacity, is full by then.
    let (queue, _never_read) = mpsc::sync_channel(100);
    let refused = (1..=5_000).filter(|position| queue.try_send(*position).is_err()).count();
    assert_eq!(refused, 4_900);
}

/// L6: a crowd gets every single append, whoever leads it, beside subscriptions that never get anything and that come
/// and go.
#[test]
fn a_crowd_of_waiting_subscriptions_is_woken_by_every_append() {
    let rounds = if std::env::var_os("TOWPATH_LONG").is_some() { 20_000 } else { 2_000 };
    let dir = Scratch::new();
    let store = small().segment_bytes(1 << 20).durability(Durability::Os).open(dir.store_path()).unwrap();
    let got: [AtomicU64; 3] = Default::default();
    let done = AtomicBool::new(false);
    let begun = Barrier::new(6);
    std::thread::scope(|threads| {
        for got in &got {
            let (store, begun) = (&store, &begun);
            threads.spawn(move || {
                let mut subscription = store.subscribe().open().unwrap();
                begun.wait();
                while got.load(Ordering::Relaxed) < rounds {
                    let batch = subscription.pull_batch(1, FOR_EVER).unwrap();
                    assert!(!batch.is_empty(), "not woken");
                    let position = batch.get(0).unwrap().position().get();
                    assert_eq!(position, got.load(Ordering::Relaxed) + 1);
                    got.store(position, Ordering::Release);
                }
            });
        }
        for patience in [1, 150] {
            let (store, begun, done) = (&store, &begun, &done);
            threads.spawn(move || {
                let mut deaf = store.subscribe().filter(Query::new().types(["never"])).open().unwrap();
                begun.wait();
                while !done.load(Ordering::Relaxed) {
                    let batch = deaf.pull_batch(1, Duration::from_micros(patience)).unwrap();
                    assert!(batch.is_empty());
                }
            });
        }
        begun.wait();
        for round in 1..=rounds {
            // Now they are parked, now they are about to be, now they still look.
            (0..round * 37 % 400).for_each(|_| std::hint::spin_loop());
            store.append("cart-1", NewEvent::new("item added", "")).unwrap();
            while got.iter().any(|got| got.load(Ordering::Acquire) < round) {
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    // The control: a lost wake-up ends in an empty batch, as for those who wait for what never comes.
    let mut deaf = store.subscribe().open().unwrap();
    assert!(deaf.pull_batch(1, Duration::from_millis(1)).unwrap().is_empty());
}

/// L10.
#[test]
fn closing_hands_out_what_was_there_first() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut all = store.subscribe().open().unwrap();
    let mut slow = store.subscribe().capacity(4).filter(Query::new().types(["never"])).open().unwrap();
    append(&store, 9);
    assert_eq!(pull(&mut all, 2), (0, vec![1, 2]));

    store.close().unwrap();

    assert_eq!(pull(&mut all, 4), (0, vec![3, 4, 5, 6]));
    assert_eq!(pull(&mut all, 4), (0, vec![7, 8, 9]));
    assert_eq!(pull(&mut slow, 4), (7, vec![]), "a skip is told before the end, too");
    for canal in [&mut all, &mut slow] {
        for _ in 0..2 {
            assert!(matches!(canal.pull_batch(4, FOR_EVER), Err(Error::Closed)));
        }
    }
}

/// L10: nobody is left waiting, whether it waits for events or pauses after some that were not meant.
#[test]
fn a_waiting_crowd_is_told_that_the_store_was_closed() {
    let dir = Scratch::new();
    let store = dir.open();
    let begun = Barrier::new(9);
    let was_closed = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                threads.spawn(|| {
                    let mut subscription = store.subscribe().filter(Query::new().types(["never"])).open().unwrap();
                    begun.wait();
                    let told = subscription.pull_batch(1, FOR_EVER);
                    (matches!(told, Err(Error::Closed)), was_closed.load(Ordering::Acquire))
                })
            })
            .collect();
        begun.wait();
        append(&store, 50);
        was_closed.store(true, Ordering::Release);
        store.clone().close().unwrap();
        waiting.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), (true, true)));
    });
}

/// R5, for those who subscribe beside the writer.
#[test]
fn a_subscription_on_a_read_only_store_follows_the_writer() {
    let dir = Scratch::new();
    let store = dir.open();
    append(&store, 10);
    let beside = Store::open_read_only(dir.store_path()).unwrap();
    append(&store, 10);
    let open = || beside.subscribe().capacity(50).open().unwrap();
    let (mut all, mut other) = (open(), open());
    std::thread::scope(|threads| {
        let waiting =
            [&mut all, &mut other].map(|one| threads.spawn(|| positions(&one.pull_batch(1, FOR_EVER).unwrap())));
        append(&store, 1);
        waiting.into_iter().for_each(|thread| assert_eq!(thread.join().unwrap(), [21]));
    });
    append(&store, 100);
    assert_eq!(pull(&mut all, 1), (75, vec![97]));
    // The control: what is not published does not come.
    assert_eq!(pull(&mut store.subscribe().open().unwrap(), 1), (0, vec![]));
}

#[test]
fn there_is_nothing_to_settle_and_what_is_not_promised_is_refused() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut subscription = store.subscribe().open().unwrap();
    let mut other = store.subscribe().open().unwrap();
    append(&store, 5);
    let first = subscription.pull_batch(2, Duration::ZERO).unwrap().last().unwrap();
    let beyond = other.pull_batch(5, Duration::ZERO).unwrap().last().unwrap();

    let Promises { ordered, lossless, cumulative, remembered, counted, leased, rejects, .. } = subscription.promises();
    assert!(ordered && ![lossless, cumulative, remembered, counted, leased, rejects].contains(&true));
    for _ in 0..2 {
        subscription.settle(first, Settlement::Done).unwrap();
    }
    match subscription.settle(beyond, Settlement::Done) {
        Err(Error::NotHeld { position, .. }) => assert_eq!(position.get(), 5),
        other => panic!("{other:?}"),
    }
    for refused in [
        Settlement::Release,
        Settlement::Retry { after: None, why: "busy".to_owned() },
        Settlement::Reject { reason: Reason::Rejected, why: "no".to_owned() },
    ] {
        assert!(matches!(subscription.settle(first, refused), Err(Error::NotPromised { canal: "subscription", .. })));
    }
    assert!(matches!(subscription.extend(first, FOR_EVER), Err(Error::NotPromised { .. })));
    subscription.flush().unwrap();
    assert_eq!(pull(&mut subscription, 10), (0, vec![3, 4, 5]), "nothing of that changed anything");

    let over = store.subscribe().capacity(limits::SUBSCRIPTION + 1).open();
    assert!(matches!(over, Err(Error::TooLarge { limit: limits::SUBSCRIPTION, .. })));
    drop(store.subscribe().capacity(limits::SUBSCRIPTION).open().unwrap());
}
