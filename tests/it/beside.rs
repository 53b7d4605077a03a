//! R5 and what may happen to the writer and its files meanwhile: segments follow each other, are sealed, indexed and merged, old
//! ones go, the writer is killed and comes back. Every reader is a process of its own.

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use towpath::{
    Batch, Canal, Commit, Cursor, Durability, Error, Event, NewEvent, Position, Query, Reader, Retention, Revision,
    Start, Store,
};

use crate::support::helper::Helper;
use crate::support::{Scratch, child, files, small};

/// Events of one commit, over as many streams.
pub(crate) const COMMIT: u64 = 3;
/// Tags are numbered modulo this.
const TAGS: u64 = 7;
/// So many events fill a dozen segments.
const MANY: u64 = 2_000 * COMMIT;
/// So many are kept.
const KEPT: u64 = 2_000;

/// How often the writer is killed: `TOWPATH_BESIDE=N`.
fn rounds() -> u32 {
    std::env::var("TOWPATH_BESIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

pub(crate) fn helper(role: &str, store: &Path) -> Helper {
    Helper::start("beside::child_of_these_tests", role, store)
}

/// Not a test by itself: what the other processes of these tests do.
#[test]
fn child_of_these_tests() {
    let Some((role, path)) = child::role() else { return };
    match role.as_str() {
        "writer" => write(&path),
        "follower" => follow(&path, None, 1),
        "follower of a stream" => follow(&path, Some(1), 1),
        "follower that skips" => follow(&path, None, 2),
        "follower that repeats" => follow(&path, None, 0),
        "sleeper" => sleep_and_go_on(&path),
        "looker" => look(&path),
        _ => {}
    }
}

// The writer.

/// The event at a position bears its number in all that it can be found by.
pub(crate) fn append(store: &Store) -> Position {
    let next = store.head().next().get();
    let mut commit = Commit::new();
    for position in next..next + COMMIT {
        let mut payload = position.to_le_bytes().to_vec();
        payload.resize(200, 0);
        let event = NewEvent::new(format!("added-{}", position % 2), &payload);
        commit.event(&stream(position), event.tag(format!("n:{}", position % TAGS)).id(u128::from(position)));
    }
    store.commit(&commit).unwrap().last()
}

pub(crate) fn stream(position: u64) -> String {
    format!("cart-{}", position % COMMIT)
}

pub(crate) fn revision(position: u64) -> Revision {
    Revision::new((position - 1) / COMMIT + 1)
}

/// Does as it is told, and says when it has.
fn write(path: &Path) {
    let store = small().durability(Durability::Os).open(path).unwrap();
    child::say(format_args!("at {}", store.head()));
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("append", events) => {
                (0..events.parse::<u64>().unwrap() / COMMIT).for_each(|_| _ = append(&store));
                child::say(format_args!("wrote {}", store.head()));
            }
            ("retain", events) => {
                let retention = Retention::new().max_events(events.parse().unwrap());
                child::say(format_args!("keeps from {}", store.retain(&retention).unwrap().keeps_from));
            }
            ("write", "on") => loop {
                append(&store);
            },
            other => panic!("{other:?}"),
        }
    }
    store.close().unwrap();
}

// The readers.

/// Whether an event is what was appended at its position.
pub(crate) fn check(event: &Event<'_>) -> Result<u64, String> {
    let position = event.position().get();
    let is_right = event.payload().get(..8) == Some(&position.to_le_bytes())
        && event.payload().len() == 200
        && event.stream() == stream(position)
        && event.revision() == revision(position)
        && event.own_id() == Some(u128::from(position));
    if is_right { Ok(position) } else { Err(format!("the event at {position} is another one: {event:?}")) }
}

/// Events that have to come one after the other, `step` positions apart.
struct Sequence {
    last: u64,
    step: u64,
}

impl Sequence {
    fn take_in(&mut self, event: &Event<'_>) -> Result<(), String> {
        let position = check(event)?;
        if position != self.last + self.step {
            return Err(format!("{position} after {}", self.last));
        }
        self.last = position;
        Ok(())
    }
}

/// The lines that the parent says.
fn orders() -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _gone = tell.send(line);
        }
    });
    told
}

fn has_ended(orders: &mpsc::Receiver<String>) -> bool {
    matches!(orders.try_recv(), Err(mpsc::TryRecvError::Disconnected))
}

/// Follows a store, or one stream of it, from its beginning. The one that goes on at another place than the `next` one after
/// its tenth batch is to be caught.
fn follow(path: &Path, only: Option<u64>, next: u64) {
    let store = Store::open_read_only(path).unwrap();
    let orders = orders();
    let query = only.map_or(Query::new(), |number| Query::new().stream(stream(number)));
    let (last, step) = only.map_or((0, 1), |number| (0, number * COMMIT));
    let mut sequence = Sequence { last, step };
    if only.is_some() {
        // The first of the stream stands at position 1.
        sequence.last = 1u64.wrapping_sub(COMMIT);
    }
    let mut cursor = store.follow().filter(query).open().unwrap();
    let mut batches = 0;
    while !has_ended(&orders) {
        let batch = cursor.pull_batch(64, Duration::from_millis(20)).unwrap();
        for event in &batch {
            if only.is_some() && event.position().get() == 1 {
                check(&event).unwrap();
                sequence.last = 1;
            } else {
                sequence.take_in(&event).unwrap();
            }
        }
        if batch.is_empty() {
            continue;
        }
        child::say(format_args!("saw {}", sequence.last));
        batches += 1;
        if batches == 10 && next != 1 {
            cursor = store.follow().start(Start::At(Position::new(sequence.last + next))).open().unwrap();
        }
    }
}

/// Follows a store only when told to, and then up to its head. What went meanwhile has to be told, from the first position on that
/// it could not read any more; what it still holds stays what it was.
fn sleep_and_go_on(path: &Path) {
    let store = Store::open_read_only(path).unwrap();
    let mut cursor = store.follow().open().unwrap();
    let mut sequence = Sequence { last: 0, step: 1 };
    let mut held = Vec::new();
    child::say("sleeps");
    for order in std::io::stdin().lines().map_while(Result::ok) {
        let head = store.head();
        if order == "look only" {
            child::say(format_args!("knows of {head}"));
            continue;
        }
        let slept_at = sequence.last;
        let mut told = None;
        while sequence.last < head.get() {
            match pull(&mut cursor) {
                Ok(batch) => {
                    batch.iter().for_each(|event| sequence.take_in(&event).unwrap());
                    held = vec![batch];
                }
                Err(Error::Expired { asked, oldest }) => {
                    assert_eq!(asked.get(), sequence.last + 1, "what it could read it read");
                    assert!(told.is_none() && oldest > asked);
                    told = Some((asked.get() - 1 - slept_at, oldest));
                    cursor = store.follow().start(Start::At(oldest)).open().unwrap();
                    sequence.last = oldest.previous().get();
                }
                Err(error) => panic!("{error}"),
            }
        }
        for batch in &held {
            batch.iter().for_each(|event| _ = check(&event).unwrap());
        }
        match told {
            Some((read, oldest)) => child::say(format_args!("read {read} more, then was told {oldest}")),
            None => child::say("missed nothing"),
        }
        child::say(format_args!("slept until {}", sequence.last));
    }
}

fn pull(cursor: &mut Cursor) -> towpath::Result<Batch> {
    cursor.pull_batch(64, Duration::from_secs(10))
}

/// Asks for everything in every way, over and over.
fn look(path: &Path) {
    let store = Store::open_read_only(path).unwrap();
    let orders = orders();
    let mut told = 0;
    while !has_ended(&orders) {
        let head = look_once(&store);
        if head > told {
            child::say(format_args!("looked {head}"));
        }
        told = head;
    }
}

/// Everything that can be asked for, up to the head as it is now.
fn look_once(store: &Store) -> u64 {
    let head = store.head().get();
    if head == 0 {
        return 0;
    }
    let until = Position::new(head);
    let read = |query: Query| store.read(query).until(until);
    let all = |_: u64| true;
    every(read(Query::new()), store, head, 1, all);
    every(read(Query::new().category("cart")), store, head, 1, all);
    every(read(Query::new().stream(stream(2))), store, head, COMMIT, |position| position % COMMIT == 2);
    every(read(Query::new().types(["added-1"])), store, head, 2, |position| position % 2 == 1);
    every(read(Query::new().tags(["n:3"])), store, head, TAGS, |position| position % TAGS == 3);

    // The newest, which no retention here lets go of.
    let newest: Vec<u64> = (head.saturating_sub(99).max(1)..=head).collect();
    let back = read(Query::new()).backwards().limit(newest.len() as u64);
    let mut found: Vec<u64> = back.map(|event| check(&event.unwrap()).unwrap()).collect();
    found.reverse();
    assert_eq!(found, newest);
    for position in [newest[0], newest[newest.len() / 2], head] {
        let place = Position::new(position);
        let found = [
            store.event(place).unwrap().unwrap(),
            store.event_at(&stream(position), revision(position)).unwrap().unwrap(),
            store.event_by_id(&towpath::EventId::Own(u128::from(position))).unwrap().unwrap(),
            store.event_by_id(&towpath::EventId::Place { store: store.id(), position: place }).unwrap().unwrap(),
        ];
        found.iter().for_each(|event| assert_eq!(check(event), Ok(position)));
        let time = found[0].time();
        let since = store.read(Query::new()).since(time).next().unwrap().unwrap();
        assert!(since.position() <= place && since.time() == time, "{position}: {since:?}");
    }
    assert!(store.revision(&stream(head)).unwrap() >= revision(head));
    head
}

/// Every event that is meant, up to `head`, from the oldest one that was kept at some time while it was read.
fn every(reader: Reader, store: &Store, head: u64, step: u64, is_meant: impl Fn(u64) -> bool) {
    let oldest = store.oldest().get();
    let mut sequence: Option<Sequence> = None;
    for event in reader {
        let event = match event {
            // The writer let go of it while it was read.
            Err(Error::Expired { asked, oldest: now }) if now.get() > oldest && asked < now => return,
            event => event.unwrap(),
        };
        assert!(is_meant(event.position().get()));
        match &mut sequence {
            Some(sequence) => sequence.take_in(&event).unwrap(),
            None => {
                let last = check(&event).unwrap();
                assert!(last < store.oldest().get() + step, "{last} is not the first");
                sequence = Some(Sequence { last, step });
            }
        }
    }
    let last = sequence.map_or(0, |sequence| sequence.last);
    assert!(last + step > head, "it ended at {last} of {head}");
}

// The tests.

/// R5, R2. The writer is killed while it writes, several times.
#[test]
fn readers_follow_through_rolls_merging_retention_and_kills_of_the_writer() {
    let dir = Scratch::new();
    let path = dir.store_path();
    small().durability(Durability::Os).open(&path).unwrap().close().unwrap();
    let roles = ["follower", "follower", "follower of a stream", "looker"];
    let [mut first, mut second, mut of_stream, mut looker] = roles.map(|role| helper(role, &path));
    let mut sleeper = helper("sleeper", &path);
    sleeper.says("sleeps");
    let mut read_what_was_gone = 0;
    for round in 0..rounds() {
        let mut writer = helper("writer", &path);
        writer.says_next("at ");
        writer.hears(format_args!("append {MANY}"));
        let head: u64 = writer.says_next("wrote ").parse().unwrap();
        [&mut first, &mut second].iter_mut().for_each(|follower| follower.says(&format!("saw {head}")));
        of_stream.says(&format!("saw {}", (head - 1) / COMMIT * COMMIT + 1));
        looker.says(&format!("looked {head}"));
        assert!(files::segments(&path).len() > 10);
        // Merged on a thread of the writer's.
        while files::with_extension(&path, "tier").is_empty() {
            std::thread::yield_now();
        }

        sleeper.hears("look only");
        sleeper.says(&format!("knows of {head}"));
        writer.hears(format_args!("retain {KEPT}"));
        let oldest: u64 = writer.says_next("keeps from ").parse().unwrap();
        assert!(oldest > head - KEPT - 1_000 && oldest <= head - KEPT + 1, "{oldest} of {head}");
        writer.hears(format_args!("append {}", 2 * COMMIT));
        let head: u64 = writer.says_next("wrote ").parse().unwrap();
        first.says(&format!("saw {head}"));
        sleeper.hears("go on");
        let told = sleeper.says_next("read ");
        assert!(told.ends_with(&format!("told {oldest}")), "round {round}: {told}");
        read_what_was_gone += told.split_once(' ').unwrap().0.parse::<u64>().unwrap();
        sleeper.says(&format!("slept until {head}"));

        writer.hears("write on");
        (0..5).for_each(|_| _ = second.says_next("saw "));
        writer.kill();
    }
    assert!(read_what_was_gone > 0, "what it had mapped stayed readable");
    let store = dir.open();
    let head = append(&store);
    [first, second].into_iter().for_each(|mut follower| {
        follower.says(&format!("saw {head}"));
        follower.ends_well();
    });
    of_stream.says(&format!("saw {}", (head.get() - 1) / COMMIT * COMMIT + 1));
    looker.says(&format!("looked {head}"));
    [of_stream, looker].into_iter().for_each(Helper::ends_well);
    sleeper.ends_well();
    store.close().unwrap();
}

/// The control: a follower that leaves one out, and one that sees one twice.
#[test]
fn a_follower_that_skips_or_repeats_an_event_ends_badly() {
    let dir = Scratch::new();
    let store = dir.open();
    (0..500).for_each(|_| _ = append(&store));
    for role in ["follower that skips", "follower that repeats"] {
        assert!(!helper(role, &dir.store_path()).ends().success(), "{role}");
    }
}
