//! All parts of a store at once, for three seconds, or as many as `TOWPATH_SOAK` says: writers, a cursor, a group with dead
//! letters and redrives, a reactor that answers exactly once, a forwarder with its files, a follower that reads only,
//! retention, streams that are truncated, deleted and compacted, and backups. In the end every event has been everywhere it
//! has to be, and on the way memory, open files and threads stay as they are.

#![cfg(all(target_os = "linux", feature = "sink-file"))]

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use towpath::{
    Canal, Commit, Delivery, Durability, Error, Failure, FileSink, Forwarder, Group, NewEvent, Options, Order, Query,
    Reactor, Reason, Retention, Retry, Settlement, Start, Stop, Store, inspect,
};

/// How long a consumer waits before it looks whether it is over.
const PATIENCE: Duration = Duration::from_millis(20);
/// No writer gets further ahead of a consumer than this.
const AHEAD: u64 = 4_000;
/// Bytes that retention keeps.
const KEPT: u64 = 1 << 20;
/// How often, at least, what has to go goes: a long run does the same for longer, and not more at a time.
const ROUND: Duration = Duration::from_millis(200);

/// Streams whose events are removed again.
const NOTES: [&str; 3] = ["note-1", "note-2", "note-3"];

/// What the parts have done.
#[derive(Debug, Default)]
struct Done {
    over: AtomicBool,
    written: AtomicU64,
    read: AtomicU64,
    read_orders: AtomicU64,
    settled: AtomicU64,
    rejected: AtomicU64,
    redriven: AtomicU64,
    dropped: AtomicU64,
    forwarded: AtomicU64,
    followed: AtomicU64,
    expired: AtomicU64,
    removed: AtomicU64,
    purged: AtomicU64,
    backups: AtomicU64,
}

fn add(counter: &AtomicU64, number: usize) {
    counter.fetch_add(number as u64, Ordering::Relaxed);
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Done {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// What the process holds at one time.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Memory that no file stands behind, in KiB.
    memory: u64,
    files: u64,
    threads: u64,
}

impl Held {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
        };
        let files = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        Self { memory: number("RssAnon"), files, threads: number("Threads") }
    }
}

/// One of the numbers.
type Of = fn(&Held) -> u64;

/// Whether the last third of the samples is as high as the second one, up to some slack.
fn is_flat(samples: &[Held]) -> Result<(), String> {
    let (second, last) = (samples.len() / 3, samples.len() * 2 / 3);
    let most = |samples: &[Held], of: Of| samples.iter().map(of).max().unwrap_or(0);
    let kinds: [(&str, Of, u64); 3] = [
        ("KiB of memory", |held| held.memory, 16 << 10),
        ("open files", |held| held.files, 64),
        ("threads", |held| held.threads, 4),
    ];
    for (what, of, slack) in kinds {
        let (before, after) = (most(&samples[second..last], of), most(&samples[last..], of));
        if after > before + before / 10 + slack {
            return Err(format!("{what}: {before}, then {after}"));
        }
    }
    Ok(())
}

fn write(store: &Store, done: &Done, writer: u64) {
    let mut number = 0u64;
    while !done.is_over() {
        let mut commit = Commit::new();
        for event in 0..1 + number % 3 {
            let payload = vec![writer as u8; [20, 200, 2_000][(number % 3) as usize]];
            commit.event(&format!("order-{}", (number + event) % 40), NewEvent::new("placed", &payload).tag("sku:tea"));
        }
        if number.is_multiple_of(5) {
            commit.key(&format!("{writer}-{number}"));
        }
        let receipt = store.commit(&commit).unwrap();
        add(&done.written, (1 + receipt.last().get() - receipt.first().get()) as usize);
        let note = format!("key-{}", number % 7);
        store.append(NOTES[number as usize % NOTES.len()], NewEvent::new("noted", &note).tag(&note)).unwrap();
        number += 1;
        // The load is to last, not to be as high as can be.
        thread::park_timeout(Duration::from_millis(2));
        while !done.is_over() && store.consumers().unwrap().iter().any(|consumer| consumer.lag > AHEAD) {
            thread::park_timeout(PATIENCE);
        }
    }
}

/// What somebody reads who gets everything: the revisions of each stream, none left out and none twice.
#[derive(Default)]
struct Revisions(HashMap<String, u64>);

impl Revisions {
    /// Whether it is one that has to arrive.
    fn check(&mut self, event: &Delivery<'_>) -> bool {
        if event.type_name() == "noted" {
            return false;
        }
        let revision = event.revision().get();
        match self.0.get_mut(event.stream()) {
            Some(last) if *last + 1 == revision => *last = revision,
            Some(last) => panic!("{}: {revision} behind {last}", event.stream()),
            None => drop(self.0.insert(event.stream().to_owned(), revision)),
        }
        true
    }
}

/// Reads everything that is asked for, in order.
fn read(store: &Store, name: &str, query: Query, read: &AtomicU64, stop: &Stop) {
    let mut cursor = store.cursor(name).start(Start::Beginning).filter(query).open().unwrap();
    let mut revisions = Revisions::default();
    loop {
        let batch = cursor.pull_batch(500, PATIENCE).unwrap();
        add(read, batch.iter().filter(|event| revisions.check(event)).count());
        match batch.last() {
            Some(last) => cursor.settle(last, Settlement::Done).unwrap(),
            None if stop.is_stopped() => return cursor.flush().unwrap(),
            None => {}
        }
    }
}

fn mail(store: &Store) -> Group {
    let group = store.group("mail").start(Start::Beginning).order(Order::Stream);
    group.filter(Query::new().category("order")).retry(Retry::fixed(Duration::ZERO).attempts(3)).open().unwrap()
}

/// Works for a group: some come again, some are rejected.
fn work(group: &Group, done: &Done, stop: &Stop) {
    let mut member = group.member().unwrap();
    loop {
        let batch = member.pull_batch(100, PATIENCE).unwrap();
        for delivery in &batch {
            let position = delivery.position().get();
            let why = || "as its number says".to_owned();
            let settlement = match position {
                _ if position % 97 == 0 => Settlement::Reject { reason: Reason::Rejected, why: why() },
                _ if position % 31 == 0 && delivery.attempt() == 1 => Settlement::Retry { after: None, why: why() },
                _ => Settlement::Done,
            };
            let kind = if matches!(settlement, Settlement::Reject { .. }) { &done.rejected } else { &done.settled };
            let again = matches!(settlement, Settlement::Retry { .. });
            match member.settle(delivery.token(), settlement) {
                Ok(()) => add(kind, usize::from(!again)),
                // Behind one of its stream that comes again.
                Err(Error::NotHeld { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        member.flush().unwrap();
        if batch.is_empty() && stop.is_stopped() {
            return;
        }
    }
}

/// Removes notes in all three ways.
fn forget(store: &Store, done: &Done) {
    let [compacted, truncated, deleted] = NOTES;
    store.compact_stream(compacted, |note| note.tags().next().map(str::to_owned)).unwrap();
    store.truncate_stream(truncated, store.revision(truncated).unwrap()).unwrap();
    store.delete_stream(deleted).unwrap();
    add(&done.purged, store.purge().unwrap().events as usize);
}

/// What a rejected order came to: it is redriven once, and dropped when it is there again.
fn tidy(store: &Store, done: &Done) -> bool {
    let letters = store.dead_letters("mail").unwrap();
    let mut is_any = false;
    for letter in letters.iter().unwrap() {
        let letter = letter.unwrap();
        is_any = true;
        match letter.replaces() {
            _ if letter.is_redriven() => {}
            None => add(&done.redriven, letters.redrive([&letter]).unwrap().moved as usize),
            Some(_) => add(&done.dropped, letters.drop_letters([&letter]).unwrap().moved as usize),
        }
    }
    is_any
}

fn answer(_order: &Delivery<'_>, commit: &mut Commit) -> Result<(), Failure> {
    commit.event("answers", NewEvent::new("answered", ""));
    Ok(())
}

/// Reads along without a checkpoint, from a store that is open for reading only.
fn follow(path: &Path, done: &Done) {
    let store = Store::open_read_only(path).unwrap();
    let mut cursor = store.follow().open().unwrap();
    let mut revisions = Revisions::default();
    while !done.is_over() {
        match cursor.pull_batch(1_000, PATIENCE) {
            Ok(batch) => {
                add(&done.followed, batch.iter().filter(|event| revisions.check(event)).count());
            }
            Err(Error::Expired { oldest, .. }) => {
                add(&done.expired, 1);
                cursor.seek(oldest).unwrap();
                revisions = Revisions::default();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// One at a time: what a process holds is measured.
static ALONE: Mutex<()> = Mutex::new(());

/// Ends the process when any of the threads panics: the others would wait for it.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|why| {
        // Not by `eprintln!`, which the test harness keeps to itself.
        let _nobody_listens = writeln!(std::io::stderr(), "{why}");
        std::process::abort();
    }));
}

/// Runs everything for so long, and gives what the process held on the way. `hoards`: a part that never lets go of anything.
fn soak(path: &Path, lasting: Duration, hoards: bool) -> (Done, Vec<Held>) {
    let _alone = ALONE.lock().unwrap();
    abort_on_panic();
    let place = path.join("orders.towpath");
    let options = Options::new().segment_bytes(256 << 10).durability(Durability::Every(Duration::from_millis(20)));
    let store = options.open(&place).unwrap();
    let (done, writers, stop) = (Done::default(), AtomicU64::new(2), Stop::new());
    let mut samples = Vec::new();
    let mail = mail(&store);
    thread::scope(|scope| {
        let (store, mail, done, writers, stop, place) = (&store, &mail, &done, &writers, &stop, &place);
        for writer in 0..2 {
            scope.spawn(move || {
                write(store, done, writer);
                writers.fetch_sub(1, Ordering::Relaxed);
            });
        }
        let placed = || Query::new().types(["placed"]).category("order");
        scope.spawn(move || read(store, "ledger", Query::new(), &done.read, stop));
        scope.spawn(move || read(store, "orders", placed(), &done.read_orders, stop));
        for _ in 0..2 {
            scope.spawn(move || work(mail, done, stop));
        }
        let answering = scope.spawn(move || {
            let cursor = store.cursor("answers").start(Start::Beginning).filter(placed()).open().unwrap();
            Reactor::exactly_once(cursor, answer).run(stop).unwrap();
        });
        let sink = FileSink::new(path.join("archive.ndjson")).unwrap().rotate_bytes(1 << 20).keep_files(2);
        let archive = store.cursor("archive").start(Start::Beginning).filter(placed()).open().unwrap();
        let mut forwarder = Forwarder::new(archive, sink);
        let watch = forwarder.watch();
        let forwarding = scope.spawn(move || forwarder.run(stop).unwrap());
        scope.spawn(move || follow(place, done));

        let (begun, mut hoard) = (Instant::now(), Vec::new());
        for round in 0u64.. {
            thread::park_timeout(ROUND.min(lasting / 100));
            samples.push(Held::now());
            let before = store.oldest();
            store.retain(&Retention::new().max_bytes(KEPT)).unwrap();
            add(&done.removed, (store.oldest().get() - before.get()) as usize);
            tidy(store, done);
            if hoards {
                hoard.push(vec![1u8; 2 << 20]);
            }
            if round % 10 == 5 {
                forget(store, done);
            }
            if round % 20 == 3 {
                let copy = path.join("copy.towpath");
                store.backup(&copy).unwrap();
                assert!(inspect::verify(&copy, |_| {}).unwrap().ok, "a backup is sound");
                add(&done.backups, 1);
            }
            if begun.elapsed() >= lasting {
                break;
            }
        }
        done.over.store(true, Ordering::Relaxed);
        // Everybody comes to the end of what is there.
        let placed = || count(&done.written);
        while count(writers) > 0
            || count(&done.read) < 2 * placed()
            || count(&done.read_orders) < placed()
            || store.revision("answers").unwrap().get() < placed()
            || watch.counters().forwarded < placed()
            || count(&done.settled) + count(&done.rejected) < placed() + count(&done.redriven)
            || tidy(store, done)
        {
            thread::park_timeout(PATIENCE);
        }
        done.forwarded.store(watch.counters().forwarded, Ordering::Relaxed);
        stop.stop();
        answering.join().unwrap();
        forwarding.join().unwrap();
    });
    let placed = count(&done.written);
    assert_eq!(store.revision("answers").unwrap().get(), placed, "each order is answered once");
    assert_eq!(count(&done.forwarded), placed, "each is in the archive");
    assert_eq!(count(&done.read), 2 * placed, "orders and answers");
    assert_eq!(count(&done.read_orders), placed, "orders by themselves");
    assert_eq!(store.unsettled("mail").unwrap(), []);
    // A letter that was redriven is settled once more, rejected again, and dropped.
    assert_eq!(count(&done.rejected), count(&done.redriven) + count(&done.dropped), "{done:?}");
    assert_eq!(count(&done.settled) + count(&done.rejected), placed + count(&done.redriven), "{done:?}");
    drop(mail);
    store.close().unwrap();
    assert!(inspect::verify(&place, |_| {}).unwrap().ok);
    (done, samples)
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("towpath-soak-{name}-{}", std::process::id()));
    let _none_yet = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    path
}

#[test]
fn with_all_parts_at_once_everything_arrives_and_memory_stays_flat() {
    let seconds = std::env::var("TOWPATH_SOAK").map_or(3, |seconds| seconds.parse().expect("TOWPATH_SOAK is seconds"));
    let path = scratch("all");
    let (done, samples) = soak(&path, Duration::from_secs(seconds), false);
    let (first, last) = (samples[samples.len() / 3], samples[samples.len() - 1]);
    println!("{seconds} s: {done:?}\nafter a third: {first:?}, at the end: {last:?}");
    is_flat(&samples).unwrap();
    // Control: every part had something to do.
    let counts = [
        &done.written,
        &done.settled,
        &done.rejected,
        &done.redriven,
        &done.dropped,
        &done.followed,
        &done.removed,
        &done.backups,
    ];
    assert!(counts.into_iter().all(|counter| count(counter) > 0), "{done:?}");
    std::fs::remove_dir_all(&path).unwrap();
}

/// The control: a part that keeps everything is noticed.
#[test]
fn a_part_that_never_lets_go_is_noticed() {
    let path = scratch("hoard");
    let (_, samples) = soak(&path, Duration::from_secs(1), true);
    assert!(is_flat(&samples).is_err_and(|why| why.contains("memory")), "{samples:?}");
    std::fs::remove_dir_all(&path).unwrap();
}
