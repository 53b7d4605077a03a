//! The ordered consumer: starts, checkpoints, seeks, waiting, closing, and what a pull costs (L1–L7, L10, L11, R2).

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use towpath::{
    Batch, Canal, Commit, Cursor, Ended, Error, ManualClock, NewEvent, Options, Position, Promises, Query, Result,
    Settlement, Start, Store, Timestamp, Token,
};

use crate::support::{Scratch, files, small};

/// Longer than any test runs: who waits this long was not woken.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Appends events until the store has so many, a hundred a commit, each with its own position as payload.
fn fill(store: &Store, upto: u64) {
    let mut next = store.head().next().get();
    while next <= upto {
        let mut commit = Commit::new();
        for position in next..=upto.min(next + 99) {
            let tag = if position % 10 == 0 { "tenth" } else { "other" };
            commit.event("cart-1", NewEvent::new("item added", &position.to_le_bytes()).tag(tag));
        }
        next += commit.len() as u64;
        store.submit(&commit).unwrap();
    }
    // Returns when what was submitted is written.
    store.sync().unwrap();
}

/// A barrier for what waits for its answer, too: who drops the tickets has nothing else to wait for.
#[test]
fn what_was_submitted_before_a_sync_is_there_after_it() {
    let dir = Scratch::new();
    let store = dir.open();
    for round in 1..=200 {
        let mut commit = Commit::new();
        drop(store.submit(commit.event("cart-1", NewEvent::new("item added", ""))).unwrap());
        store.sync().unwrap();
        assert_eq!((store.head().get(), store.durable().get()), (round, round));
    }
}

fn positions(batch: &Batch) -> Vec<u64> {
    batch.iter().map(|event| event.position().get()).collect()
}

/// What there is now.
fn pull(canal: &mut impl Canal, max: usize) -> Vec<u64> {
    positions(&canal.pull_batch(max, Duration::ZERO).unwrap())
}

fn next_of(store: &Store, name: &str) -> u64 {
    let consumers = store.consumers().unwrap();
    consumers.iter().find(|consumer| consumer.name == name).map_or(0, |consumer| consumer.position.get())
}

fn is_gapless(from: u64, positions: &[u64]) -> bool {
    positions.iter().copied().eq(from..from + positions.len() as u64)
}

/// L1.
#[test]
fn a_cursor_that_starts_while_a_writer_races_gets_every_event_once_and_in_order() {
    const EVENTS: u64 = 20_000;
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 1_000);
    let (mut all, mut tenths) = (Vec::new(), Vec::new());
    std::thread::scope(|threads| {
        threads.spawn(|| fill(&store, EVENTS));
        threads.spawn(|| {
            let mut cursor = store.follow().open().unwrap();
            while all.len() < EVENTS as usize {
                all.extend(positions(&cursor.pull_batch(97, FOR_EVER).unwrap()));
            }
        });
        threads.spawn(|| {
            let mut cursor = store.follow().filter(Query::new().tags(["tenth"])).open().unwrap();
            while tenths.len() < EVENTS as usize / 10 {
                tenths.extend(positions(&cursor.pull_batch(97, FOR_EVER).unwrap()));
            }
        });
    });
    assert!(is_gapless(1, &all));
    assert!(tenths.iter().copied().eq((10..=EVENTS).step_by(10)));

    // The control: what a gap, a duplicate and a swap would look like.
    for wrong in [&[1, 2, 4][..], &[1, 2, 2, 3], &[1, 3, 2], &[2, 3]] {
        assert!(!is_gapless(1, wrong));
    }
}

/// L2: five events, recorded at 10, 20, 20, 30 and 40 ns.
#[test]
fn a_cursor_begins_where_it_is_told_and_a_position_is_inclusive_everywhere() {
    let dir = Scratch::new();
    let clock = Arc::new(ManualClock::default());
    let store = small().clock(clock.clone()).open(dir.store_path()).unwrap();
    for time in [10, 20, 20, 30, 40] {
        clock.set(Timestamp::from_nanos(time));
        store.append("cart-1", NewEvent::new("item added", "")).unwrap();
    }
    let first = |start: Start| pull(&mut store.follow().start(start).open().unwrap(), 10).first().copied();
    let at_time = |nanos: u64| first(Start::Time(Timestamp::from_nanos(nanos)));

    assert_eq!(first(Start::default()), Some(1));
    assert_eq!(first(Start::Beginning), Some(1));
    assert_eq!(first(Start::End), None);
    for position in 1..=5 {
        let start = Position::new(position);
        assert_eq!(first(Start::At(start)), Some(position));
        assert_eq!(store.read(Query::new()).from(start).next().unwrap().unwrap().position(), start);
        let mut sought = store.cursor("sought").open().unwrap();
        sought.seek(start).unwrap();
        assert_eq!(pull(&mut sought, 1), [position]);
    }
    assert_eq!(first(Start::At(Position::START)), Some(1));
    assert_eq!([0, 10, 11, 20, 21, 40].map(|nanos| at_time(nanos).unwrap()), [1, 1, 2, 2, 4, 5]);
    assert_eq!(at_time(41), None);

    // What comes next is the first for those who began behind the last.
    let mut at_end = store.follow().start(Start::End).open().unwrap();
    let mut later = store.follow().start(Start::Time(Timestamp::from_nanos(41))).open().unwrap();
    store.append("cart-1", NewEvent::new("item added", "")).unwrap();
    assert_eq!((pull(&mut at_end, 10), pull(&mut later, 10)), (vec![6], vec![6]));
}

/// L2: the start only counts for a consumer that has no checkpoint.
#[test]
fn a_consumer_with_a_checkpoint_goes_on_there_wherever_it_is_told_to_begin() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 5);
    let mut cursor = store.cursor("mail").start(Start::At(Position::new(2))).open().unwrap();
    assert_eq!(pull(&mut cursor, 2), [2, 3]);
    cursor.acknowledge(Position::new(2)).unwrap();
    drop(cursor);
    store.close().unwrap();

    let store = dir.open();
    for start in [Start::Beginning, Start::End, Start::At(Position::new(5))] {
        let mut cursor = store.cursor("mail").start(start).open().unwrap();
        assert_eq!(cursor.checkpoint(), Position::new(3));
        assert_eq!(pull(&mut cursor, 10), [3, 4, 5]);
    }
    // The control: another name has no checkpoint.
    assert_eq!(pull(&mut store.cursor("other").start(Start::End).open().unwrap(), 10), [0; 0]);
}

/// L3.
#[test]
fn a_checkpoint_moves_forward_by_acknowledging_and_by_nothing_else() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 5);
    let mut cursor = store.cursor("mail").open().unwrap();
    assert_eq!(pull(&mut cursor, 3), [1, 2, 3]);
    cursor.flush().unwrap();
    assert_eq!(next_of(&store, "mail"), 0, "handing out is not acknowledging");

    cursor.acknowledge(Position::new(2)).unwrap();
    cursor.flush().unwrap();
    assert_eq!((cursor.checkpoint().get(), next_of(&store, "mail")), (3, 3));

    for older in [0, 1, 2] {
        cursor.acknowledge(Position::new(older)).unwrap();
        cursor.flush().unwrap();
        assert_eq!((cursor.checkpoint().get(), next_of(&store, "mail")), (3, 3));
    }
    for beyond in [4, 5, 999] {
        match cursor.acknowledge(Position::new(beyond)) {
            Err(Error::NotDelivered { name, asked, last }) => {
                assert_eq!((&name[..], asked.get(), last.get()), ("mail", beyond, 3));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((cursor.checkpoint().get(), next_of(&store, "mail")), (3, 3));
    }
    store.append("cart-1", NewEvent::new("item added", "")).unwrap();
    assert_eq!(pull(&mut cursor, 10), [4, 5, 6], "the refused acknowledgements silenced nobody");
}

/// L3: of settlements, too.
#[test]
fn releasing_what_was_acknowledged_hands_it_out_again_and_leaves_the_checkpoint() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 4);
    let mut cursor = store.cursor("mail").open().unwrap();
    let batch = cursor.pull_batch(4, Duration::ZERO).unwrap();
    let tokens: Vec<Token> = batch.iter().map(|event| event.token()).collect();
    cursor.settle(tokens[2], Settlement::Done).unwrap();

    cursor.settle(tokens[0], Settlement::Release).unwrap();
    assert_eq!(pull(&mut cursor, 2), [1, 2]);
    cursor.settle(tokens[1], Settlement::Done).unwrap();
    cursor.flush().unwrap();

    assert_eq!((cursor.checkpoint().get(), next_of(&store, "mail")), (4, 4));
}

/// L4.
#[test]
fn a_live_cursor_notices_a_seek_from_outside() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 9);
    let mut cursor = store.cursor("mail").open().unwrap();
    assert_eq!(pull(&mut cursor, 5), [1, 2, 3, 4, 5]);
    cursor.acknowledge(Position::new(5)).unwrap();

    store.seek("mail", Position::new(2)).unwrap();
    assert_eq!(pull(&mut cursor, 3), [2, 3, 4]);
    assert_eq!((cursor.checkpoint().get(), next_of(&store, "mail")), (2, 2));

    store.seek("mail", Position::new(8)).unwrap();
    assert_eq!(cursor.acknowledge(Position::new(4)).map_err(|error| error.to_string()), Ok(()), "older: a no-op");
    assert_eq!(next_of(&store, "mail"), 8);
    assert_eq!(pull(&mut cursor, 10), [8, 9]);

    store.seek("mail", Position::new(10)).unwrap();
    assert_eq!(pull(&mut cursor, 10), [0; 0]);
    assert!(matches!(store.seek("mail", Position::new(11)), Err(Error::NotDelivered { last, .. }) if last.get() == 9));
    assert!(matches!(cursor.seek(Position::new(11)), Err(Error::NotDelivered { last, .. }) if last.get() == 9));

    // The control: a seek of another name leaves it where it is.
    store.seek("other", Position::new(1)).unwrap();
    assert_eq!(pull(&mut cursor, 10), [0; 0]);
    cursor.seek(Position::new(9)).unwrap();
    cursor.flush().unwrap();
    assert_eq!((pull(&mut cursor, 10), next_of(&store, "mail")), (vec![9], 9));
}

/// L4: a consumer that nobody has open now begins where it was put.
#[test]
fn a_seek_counts_for_a_consumer_that_is_opened_later_and_after_reopening() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 5);
    store.seek("mail", Position::new(4)).unwrap();
    assert_eq!(pull(&mut store.cursor("mail").open().unwrap(), 10), [4, 5]);
    store.close().unwrap();
    assert_eq!(pull(&mut dir.open().cursor("mail").open().unwrap(), 10), [4, 5]);
}

/// L5: the disk keeps any first part of the newest segment; the checkpoint may be older then, and never newer than what
/// is left.
#[test]
fn after_a_power_cut_no_checkpoint_points_past_what_survived() {
    let dir = Scratch::new();
    let store = dir.open();
    let mut cursor = store.cursor("mail").open().unwrap();
    for _ in 0..12 {
        store.append("cart-1", NewEvent::new("item added", "a pot of tea")).unwrap();
        let position = *pull(&mut cursor, 1).first().unwrap();
        cursor.acknowledge(Position::new(position)).unwrap();
        cursor.flush().unwrap();
    }
    let acknowledged = cursor.checkpoint();
    let frames = files::frames(&files::newest(&store_path(&store)));
    let copy = dir.path().join("copy");

    let mut past = 0;
    for cut in frames.iter().skip(1).flat_map(|frame| [frame.offset, frame.offset + 16]) {
        files::copy(&store_path(&store), &copy);
        files::blank_from(&files::newest(&copy), cut);
        let after = small().open(&copy).unwrap();
        let head = after.head();
        assert!(next_of(&after, "mail") <= head.next().get(), "cut at {cut}");
        past += u64::from(acknowledged > head.next());

        // What comes next is handed out, and not passed over.
        after.append("cart-1", NewEvent::new("item added", "a new one")).unwrap();
        let mut cursor = after.cursor("mail").open().unwrap();
        let handed_out = std::iter::repeat_with(|| pull(&mut cursor, 100)).take_while(|batch| !batch.is_empty());
        assert_eq!(handed_out.flatten().last(), Some(head.next().get()), "cut at {cut}");
        after.close().unwrap();
    }
    // The control: a checkpoint that is kept elsewhere, such as the one of the live cursor, would point past the end.
    assert!(past > 10, "{past}");
}

fn store_path(store: &Store) -> std::path::PathBuf {
    store.path().to_owned()
}

/// One append against one waiting consumer, again and again. Gives how often the consumer was not woken.
fn not_woken(
    rounds: u64,
    store: &Store,
    canal: &mut impl Canal,
    patience: Duration,
    may_append: impl Fn() + Sync,
) -> u64 {
    let handed_out = AtomicU64::new(0);
    let (mut missed, mut next) = (0, 1);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for round in 1..=rounds {
                may_append();
                // Now it is parked, now it is about to be, now it still looks.
                (0..round * 37 % 400).for_each(|_| std::hint::spin_loop());
                store.append("cart-1", NewEvent::new("item added", "")).unwrap();
                while handed_out.load(Ordering::Acquire) < round {
                    std::thread::yield_now();
                }
            }
        });
        while next <= rounds {
            let batch = canal.pull_batch(1, patience).unwrap();
            missed += u64::from(batch.is_empty());
            for event in &batch {
                assert_eq!(event.position().get(), next);
                next += 1;
            }
            handed_out.store(next - 1, Ordering::Release);
        }
    });
    missed
}

/// L6.
#[test]
fn a_waiting_consumer_is_woken_by_every_single_append() {
    let rounds = if is_long() { 100_000 } else { 20_000 };
    let dir = Scratch::new();
    let store = small().segment_bytes(1 << 20).durability(towpath::Durability::Os).open(dir.store_path()).unwrap();
    let mut cursor = store.follow().open().unwrap();
    assert_eq!(not_woken(rounds, &store, &mut cursor, FOR_EVER, || {}), 0);
}

/// Looks once and then sleeps, deaf to all wake-ups: what a lost one looks like.
struct Deaf {
    cursor: Cursor,
    looked: mpsc::Sender<()>,
}

impl Canal for Deaf {
    fn pull_batch(&mut self, max: usize, patience: Duration) -> Result<Batch> {
        let batch = self.cursor.pull_batch(max, Duration::ZERO)?;
        if batch.is_empty() {
            let _appended = self.looked.send(());
            std::thread::park_timeout(patience);
        }
        Ok(batch)
    }

    fn settle(&mut self, token: Token, settlement: Settlement) -> Result<()> {
        self.cursor.settle(token, settlement)
    }

    fn extend(&mut self, token: Token, lease: Duration) -> Result<()> {
        self.cursor.extend(token, lease)
    }

    fn flush(&mut self) -> Result<()> {
        self.cursor.flush()
    }

    fn promises(&self) -> Promises {
        self.cursor.promises()
    }
}

/// The control of L6.
#[test]
fn a_consumer_that_is_not_woken_is_noticed() {
    let dir = Scratch::new();
    let store = dir.open();
    let (looked, has_looked) = mpsc::channel();
    let mut deaf = Deaf { cursor: store.follow().open().unwrap(), looked };
    let has_looked = std::sync::Mutex::new(has_looked);
    let missed = not_woken(5, &store, &mut deaf, Duration::from_millis(1), || {
        has_looked.lock().unwrap().recv().unwrap();
    });
    assert!(missed >= 5, "{missed}");
}

fn is_long() -> bool {
    std::env::var_os("TOWPATH_LONG").is_some()
}

/// KiB of the store's segments that this process has touched through its maps.
#[cfg(target_os = "linux")]
fn touched_kib(store: &Path) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut ours = false;
    let mut touched = 0;
    for line in maps.lines() {
        match line.strip_prefix("Rss:") {
            Some(size) if ours => touched += size.trim().trim_end_matches(" kB").parse::<u64>().unwrap(),
            // Other lines about a mapping have a name and a colon; its head has addresses.
            None if line.split(' ').next().is_some_and(|start| start.contains('-')) => {
                ours = line.contains(store.to_str().unwrap()) && line.ends_with(".seg");
            }
            _ => {}
        }
    }
    touched
}

/// L7, counted in memory of segment files that a pull looks at. A store that was opened anew has looked at none but the
/// newest segment.
#[cfg(target_os = "linux")]
#[test]
fn a_pull_costs_the_batch_and_not_the_history() {
    /// What reading ahead may take, and a little more.
    const MOST_KIB: u64 = 4 << 10;
    let events = if is_long() { 1_000_000 } else { 150_000 };
    let dir = Scratch::new();
    let options = || Options::new().durability(towpath::Durability::Os).segment_bytes(16 << 20);
    let store = options().open(dir.store_path()).unwrap();
    fill(&store, events);
    store.close().unwrap();

    let store = options().open(dir.store_path()).unwrap();
    for start in [1, events / 3, events / 2, events - 64] {
        let before = touched_kib(&dir.store_path());
        let mut cursor = store.follow().start(Start::At(Position::new(start))).open().unwrap();
        let batch = cursor.pull_batch(64, Duration::ZERO).unwrap();
        assert!(is_gapless(start, &positions(&batch)) && !batch.is_empty());
        let cost = touched_kib(&dir.store_path()) - before;
        assert!(cost <= MOST_KIB, "64 events from {start} on cost {cost} KiB");

        // The same for a member of a group, whose claim is written, too.
        let before = touched_kib(&dir.store_path());
        let group = store.group(format!("from {start}")).start(Start::At(Position::new(start))).open().unwrap();
        let batch = group.member().unwrap().pull_batch(64, Duration::ZERO).unwrap();
        assert!(is_gapless(start, &positions(&batch)) && !batch.is_empty());
        let cost = touched_kib(&dir.store_path()) - before;
        assert!(cost <= MOST_KIB, "64 deliveries from {start} on cost {cost} KiB");
    }
    store.close().unwrap();

    // The control: who goes through the history pays for it.
    let store = options().open(dir.store_path()).unwrap();
    assert_eq!(store.read(Query::new()).count() as u64, events);
    let cost = touched_kib(&dir.store_path());
    assert!(cost > 2 * MOST_KIB, "the whole history cost {cost} KiB");
}

/// L10.
#[test]
fn closing_hands_out_what_was_there_first() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 9);
    let mut cursor = store.cursor("mail").open().unwrap();
    assert_eq!(pull(&mut cursor, 2), [1, 2]);

    store.close().unwrap();

    assert_eq!(pull(&mut cursor, 4), [3, 4, 5, 6]);
    assert_eq!(pull(&mut cursor, 4), [7, 8, 9]);
    for _ in 0..2 {
        assert!(matches!(cursor.pull_batch(4, FOR_EVER), Err(Error::Closed)));
    }
}

/// L10: nobody is left waiting.
#[test]
fn a_waiting_consumer_is_told_that_the_store_was_closed() {
    let dir = Scratch::new();
    let store = dir.open();
    let begun = Barrier::new(2);
    let was_closed = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| {
            let mut cursor = store.follow().open().unwrap();
            begun.wait();
            let told = cursor.pull_batch(1, FOR_EVER);
            (told.map(|batch| positions(&batch)), was_closed.load(Ordering::Acquire))
        });
        begun.wait();
        was_closed.store(true, Ordering::Release);
        store.clone().close().unwrap();
        assert!(matches!(waiting.join().unwrap(), (Err(Error::Closed), true)));
    });
}

/// L11.
#[test]
fn a_name_has_one_owner_at_a_time() {
    let dir = Scratch::new();
    let store = dir.open();
    let first = store.cursor("mail").open().unwrap();
    let clone = store.clone();
    for _ in 0..2 {
        assert!(matches!(clone.cursor("mail").open(), Err(Error::ConsumerBusy { name }) if name == "mail"));
    }
    drop(clone.cursor("other").open().unwrap());
    drop(first);
    drop(clone.cursor("mail").open().unwrap());

    let begin = Barrier::new(8);
    let owners: Vec<Option<Cursor>> = std::thread::scope(|threads| {
        let racing: Vec<_> = (0..8)
            .map(|_| {
                threads.spawn(|| {
                    begin.wait();
                    store.cursor("mail").open().ok()
                })
            })
            .collect();
        racing.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(owners.iter().flatten().count(), 1);
}

#[test]
fn names_that_cannot_be_used_are_refused_and_nothing_is_kept_of_them() {
    let dir = Scratch::new();
    let store = dir.open();
    let long = "x".repeat(1025);
    assert!(matches!(store.cursor("").open(), Err(Error::Invalid { .. })));
    assert!(matches!(store.cursor("$mail").open(), Err(Error::Invalid { .. })));
    assert!(matches!(store.cursor("a\nb").open(), Err(Error::Invalid { .. })));
    assert!(matches!(store.cursor(&long[..]).open(), Err(Error::TooLarge { size: 1025, limit: 1024, .. })));
    assert!(matches!(store.seek("", Position::new(1)), Err(Error::Invalid { .. })));
    assert_eq!(store.consumers().unwrap(), []);

    let reading = Store::open_read_only(dir.store_path()).unwrap();
    assert!(matches!(reading.cursor("mail").open(), Err(Error::ReadOnly { .. })));
    assert!(matches!(reading.seek("mail", Position::new(1)), Err(Error::ReadOnly { .. })));
    drop(reading.follow().open().unwrap());
}

/// R2, as far as it applies: nothing is retired yet, so the oldest event kept is always the first.
#[test]
fn reading_past_the_end_yields_nothing_and_says_so() {
    let dir = Scratch::new();
    let store = dir.open();
    fill(&store, 5);
    let ended = |from: u64| {
        let mut reader = store.read(Query::new()).from(Position::new(from));
        let events = reader.by_ref().count();
        (events, reader.ended())
    };
    let past = |asked: u64| Ended::PastHead { asked: Position::new(asked), head: Position::new(5) };

    assert_eq!(ended(7), (0, past(7)));
    assert_eq!(ended(u64::MAX), (0, past(u64::MAX)));
    // The control: those that come to the end in good order say something else.
    assert_eq!(ended(5), (1, Ended::AtHead));
    assert_eq!(ended(1), (5, Ended::AtHead));
    assert_eq!(store.oldest(), Position::new(1));

    let mut cursor = store.follow().start(Start::At(Position::new(8))).open().unwrap();
    assert_eq!(pull(&mut cursor, 10), [0; 0]);
    fill(&store, 9);
    assert_eq!(pull(&mut cursor, 10), [8, 9]);
}
