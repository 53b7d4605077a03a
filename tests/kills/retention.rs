//! C3, C5, R2, L1, W1: a process that lets go of old segments, and merges the indexes of those that it keeps, while others append
//! and read.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use towpath::{Durability, Error, NewEvent, Options, Position, Query, Retention, Revision, Store, inspect};

use crate::random::Random;
use crate::{child, kills_and_seed, read_and_say, run_and_kill, say, scratch};

const TEST: &str =
    "retention::a_process_killed_while_it_lets_go_of_old_events_keeps_what_it_is_to_keep_and_nothing_else";
const CONSUMER: &str = "mail";
/// Some forty segments: enough for their indexes to be merged.
const KEPT: u64 = 1_500;
/// Every so many an event comes alone in its stream.
const ALONE: u64 = 50;

fn open(path: &Path, round: u64) -> towpath::Result<Store> {
    let durability = [Durability::Os, Durability::Sync, Durability::Every(Duration::from_millis(2))];
    let options = Options::new().segment_bytes(64 << 10).durability(durability[round as usize % 3]);
    // In some rounds it does so by itself, too.
    let standing = Retention::new().max_bytes(3 << 20);
    if round.is_multiple_of(2) { options.retain(standing) } else { options }.open(path)
}

/// What stands at a position follows from it, and so does its revision: there is one who appends.
fn stream(position: u64) -> String {
    match position % ALONE {
        0 => format!("once-{position}"),
        _ => format!("order-{}", position % 7),
    }
}

fn revision(position: u64) -> u64 {
    let rest = position % 7;
    // How many numbers up to this one leave the same rest. Those that come alone do so for the fiftieth part of them.
    let up_to = |number: u64| if rest == 0 { number / 7 } else { (number + 7 - rest) / 7 };
    const { assert!(ALONE % 7 == 1) };
    if position.is_multiple_of(ALONE) { 1 } else { up_to(position) - up_to(position / ALONE) }
}

fn payload(position: u64) -> Vec<u8> {
    let mut payload = position.to_le_bytes().to_vec();
    payload.resize(8 + [100, 700, 3000][position as usize % 3], position as u8);
    payload
}

#[test]
fn a_process_killed_while_it_lets_go_of_old_events_keeps_what_it_is_to_keep_and_nothing_else() {
    if let Some((store, round)) = child() {
        return retain_until_killed(&store, round);
    }
    let (kills, seed) = kills_and_seed();
    let path = scratch("retention");
    let (mut random, mut known) = (Random(seed), Known::default());
    for round in 0..kills {
        let lines = random.below(300);
        known.hear(run_and_kill(TEST, &path, round, lines));
        known.look_at_files(&path);
        known.check(&path, round).unwrap_or_else(|why| panic!("round {round}, seed {seed}: {why}"));
    }
    println!(
        "kills: retention: {kills} kills, {} of them while it let go, {} left an index or a merge half made; {} events, kept from {}",
        known.in_retention, known.half_made, known.head, known.oldest
    );
    // Controls: it is killed where it is to be, and old events do go.
    assert!(known.in_retention > kills / 20, "killed while it let go {} times", known.in_retention);
    assert!(known.tiers > 0 && known.oldest > KEPT, "{known:?}");
    for wrong in [
        Known { appended: known.head + 1, ..known.clone() },
        Known { oldest: known.oldest + 100_000, ..known.clone() },
        Known { checkpoint: known.head + 2, ..known.clone() },
    ] {
        assert!(wrong.clone().check(&path, 0).is_err(), "{wrong:?}");
    }
    // Those before it may be on their way out.
    std::fs::remove_file(path.join(format!("{:020}.seg", known.oldest))).unwrap();
    assert!(known.check(&path, 0).is_err(), "a segment is missing");
    std::fs::remove_dir_all(&path).unwrap();
}

/// The child: one appends, one reads and keeps a checkpoint, one lets go. Each says what was answered.
fn retain_until_killed(path: &Path, round: u64) {
    let store = open(path, round).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                let position = store.head().get() + 1;
                let receipt = store.append(&stream(position), NewEvent::new("n", &payload(position))).unwrap();
                assert_eq!((receipt.first().get(), receipt.revision().get()), (position, revision(position)));
                if position.is_multiple_of(10) {
                    say(format!("E {position}"));
                }
                // Not further ahead than the others can follow.
                while store.consumers().unwrap().iter().any(|consumer| consumer.lag > 500) {
                    std::thread::yield_now();
                }
            }
        });
        scope.spawn(|| read_and_say(&store, CONSUMER));
        scope.spawn(|| {
            loop {
                say("B");
                let plan = store.retain(&Retention::new().max_events(KEPT)).unwrap();
                say(format!("K {}", plan.keeps_from));
                let head = store.head().get();
                while store.head().get() < head + 30 {
                    std::thread::yield_now();
                }
            }
        });
    });
}

fn files(path: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What children have said, and what was seen.
#[derive(Clone, Debug, Default)]
struct Known {
    appended: u64,
    oldest: u64,
    checkpoint: u64,
    head: u64,
    in_retention: u64,
    half_made: u64,
    tiers: u64,
}

impl Known {
    fn hear(&mut self, lines: Vec<String>) {
        let mut letting_go = false;
        for line in lines {
            let (kind, number) = line.split_once(' ').unwrap_or((&line, "0"));
            let number: u64 = number.parse().unwrap();
            match kind {
                "E" => self.appended = self.appended.max(number),
                "C" => self.checkpoint = self.checkpoint.max(number),
                "K" => self.oldest = self.oldest.max(number),
                _ => {}
            }
            letting_go = if kind == "B" || kind == "K" { kind == "B" } else { letting_go };
        }
        self.in_retention += u64::from(letting_go);
    }

    fn look_at_files(&mut self, path: &Path) {
        let files = files(path);
        self.tiers += files.iter().filter(|name| name.ends_with(".tier")).count() as u64;
        let is_half = |name: &&String| name.ends_with(".idx.tmp") || name.ends_with(".tier.tmp");
        self.half_made += u64::from(files.iter().any(|name| is_half(&name)));
    }

    fn check(&mut self, path: &Path, round: u64) -> Result<(), String> {
        let text = |error: Error| error.to_string();
        // The store is recovered here in one round of three; otherwise the next child finds it as it was left.
        let writes = round % 3 == 1;
        let store = match if writes { open(path, 1) } else { Store::open_read_only(path) } {
            Ok(store) => store,
            // Killed before there was a store.
            Err(Error::Io { .. } | Error::NotAStore { .. }) if round < 3 && self.appended == 0 => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let (oldest, head) = (store.oldest().get(), store.head().get());
        if head < self.appended || oldest < self.oldest {
            return Err(format!("{oldest} to {head}, but appended {}, kept from {}", self.appended, self.oldest));
        }
        let consumers = store.consumers().map_err(text)?;
        let checkpoint = consumers.iter().find(|consumer| consumer.name == CONSUMER).map_or(1, |c| c.position.get());
        if checkpoint < self.checkpoint || checkpoint > head + 1 || oldest > checkpoint {
            return Err(format!("the checkpoint is {checkpoint}, was {}, kept {oldest} to {head}", self.checkpoint));
        }
        let mut next = oldest;
        for event in store.read(Query::new()) {
            let event = event.map_err(text)?;
            let at = event.position().get();
            let is_right = event.stream() == stream(at) && event.payload() == payload(at);
            if at != next || !is_right || event.revision().get() != revision(at) {
                return Err(format!("{event:?} stands where {next} is to be"));
            }
            next += 1;
        }
        if next != head + 1 {
            return Err(format!("it ends before {next}, the head is {head}"));
        }
        // By the indexes: one stream, and where streams stand whose events are gone.
        let found = store.read(Query::new().stream("order-3")).map(|event| event.map(|event| event.position().get()));
        let found = found.collect::<towpath::Result<Vec<_>>>().map_err(text)?;
        let expected: Vec<u64> = (oldest..=head).filter(|at| stream(*at) == "order-3").collect();
        if found != expected {
            return Err(format!("{} events of a stream are found, not {}", found.len(), expected.len()));
        }
        let alone = (ALONE..=head).step_by(ALONE as usize);
        for (name, expected) in alone.map(|at| (stream(at), 1)).chain([("order-x".to_owned(), 0)]) {
            let stands = store.revision(&name).map_err(text)?;
            if stands != Revision::new(expected) {
                return Err(format!("{name} stands at {stands}"));
            }
        }
        if oldest > 1 && store.event(Position::new(oldest - 1)).is_ok() {
            return Err("what is gone is not told".to_owned());
        }
        if writes {
            // What was left half done is cleared away.
            drop(store);
            let is_old = |name: &String| {
                let first = name.split(['.', '-']).next().and_then(|first| first.parse::<u64>().ok());
                first.is_some_and(|first| first < oldest) && (name.ends_with(".seg") || name.ends_with(".idx"))
            };
            let left: Vec<_> = files(path).into_iter().filter(|name| is_old(name) || name.ends_with(".tmp")).collect();
            if !left.is_empty() {
                return Err(format!("kept from {oldest}, and there still are {left:?}"));
            }
        }
        if round.is_multiple_of(5) {
            let verdict = inspect::verify(path, |_| {}).map_err(text)?;
            if !verdict.ok {
                return Err(format!("{:?}", verdict.damage));
            }
        }
        (self.oldest, self.head, self.checkpoint) = (oldest, head, checkpoint);
        Ok(())
    }
}
