//! C3, C5: a process that writes under load.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use towpath::{Commit, Durability, Error, NewEvent, Options, Position, Query, Store};

use crate::random::Random;
use crate::{child, kills_and_seed, read_and_say, run_and_kill, say, scratch};

const TEST: &str = "writer::a_killed_writer_loses_nothing_that_it_acknowledged";
const BLOCKING: u64 = 2;
const CONSUMER: &str = "reader";

#[test]
fn a_killed_writer_loses_nothing_that_it_acknowledged() {
    if let Some((store, round)) = child() {
        return write_until_killed(&store, round);
    }
    let (kills, seed) = kills_and_seed();
    let path = scratch("writer");

    let mut random = Random(seed);
    let mut known = Known::default();
    let mut acknowledged = 0;
    for round in 0..kills {
        let heard = Heard::of(run_and_kill(TEST, &path, round, random.below(600)));
        acknowledged += heard.events.len();
        known.check(&path, round, &heard).unwrap_or_else(|why| panic!("round {round}, seed {seed}: {why}"));
    }
    assert!(acknowledged as u64 > kills * 20, "control: something was acknowledged: {acknowledged}");

    // Controls: the check misses an event that was acknowledged and is not there, and one that is there twice.
    let mut invented = Heard::default();
    invented.events.push(Acknowledged { producer: 0, number: 0, position: u64::MAX });
    assert!(known.clone().check(&path, kills, &invented).is_err());
    let store = Options::new().open(&path).unwrap();
    let (last, payload) = (store.head(), payload(kills, 0, 0));
    store.append("p-0", NewEvent::new("n", &payload)).unwrap();
    store.append("p-0", NewEvent::new("n", &payload)).unwrap();
    drop(store);
    assert!(last.get() > 0 && known.check(&path, kills, &Heard::default()).is_err());

    let verdict = towpath::inspect::verify(&path, |_| {}).unwrap();
    assert!(verdict.ok, "{verdict:?}");
    std::fs::remove_dir_all(&path).unwrap();
}

fn durability(round: u64) -> Durability {
    [Durability::Sync, Durability::Os, Durability::Every(Duration::from_millis(2))][round as usize % 3]
}

fn open(path: &Path, round: u64) -> towpath::Result<Store> {
    Options::new().segment_bytes(128 << 10).durability(durability(round)).open(path)
}

fn payload(round: u64, producer: u64, number: u64) -> Vec<u8> {
    let mut payload: Vec<u8> = [round, producer, number].iter().flat_map(|part| part.to_le_bytes()).collect();
    // Some are longer than a sector or a page.
    payload.resize(24 + [0, 100, 700, 5000][number as usize % 4], number as u8);
    payload
}

/// The child: two threads that wait for each event, one that submits, one that reads and keeps a checkpoint. Each says
/// what was acknowledged.
fn write_until_killed(path: &Path, round: u64) {
    let store = open(path, round).unwrap();
    std::thread::scope(|scope| {
        for producer in 0..BLOCKING {
            let store = &store;
            scope.spawn(move || {
                for number in 0.. {
                    let payload = payload(round, producer, number);
                    let receipt = store.append(&format!("p-{producer}"), NewEvent::new("n", &payload)).unwrap();
                    say(format!("E {producer} {number} {}", receipt.first()));
                }
            });
        }
        scope.spawn(|| {
            let producer = BLOCKING;
            for batch in 0.. {
                let numbers = batch * 10..(batch + 1) * 10u64;
                let submit = |number| {
                    let payload = payload(round, producer, number);
                    let mut commit = Commit::new();
                    commit.event(&format!("p-{producer}"), NewEvent::new("n", &payload));
                    (number, store.submit(&commit).unwrap())
                };
                let tickets: Vec<_> = numbers.map(submit).collect();
                for (number, ticket) in tickets {
                    say(format!("E {producer} {number} {}", ticket.wait().unwrap().first()));
                }
            }
        });
        scope.spawn(|| read_and_say(&store, CONSUMER));
    });
}

#[derive(Clone, Debug)]
struct Acknowledged {
    producer: u64,
    number: u64,
    position: u64,
}

/// What a child said before it was killed.
#[derive(Clone, Debug, Default)]
struct Heard {
    events: Vec<Acknowledged>,
    checkpoint: u64,
}

impl Heard {
    fn of(lines: Vec<String>) -> Self {
        let mut heard = Self::default();
        for line in lines {
            let fields: Vec<&str> = line.split(' ').collect();
            let field = |at: usize| fields[at].parse::<u64>().unwrap();
            match fields[0] {
                "E" => heard.events.push(Acknowledged { producer: field(1), number: field(2), position: field(3) }),
                _ => heard.checkpoint = field(1),
            }
        }
        heard
    }
}

/// What is known of the store from the rounds before.
#[derive(Clone, Debug, Default)]
struct Known {
    head: u64,
    checkpoint: u64,
    /// By round and producer: the number that comes next.
    next: BTreeMap<(u64, u64), u64>,
}

impl Known {
    /// Checks everything that came since the last check: dense positions, each producer's numbers in order and once,
    /// everything acknowledged in its place, the checkpoint neither behind what was acknowledged nor beyond the log.
    fn check(&mut self, path: &Path, round: u64, heard: &Heard) -> Result<(), String> {
        // The store is recovered here in one round of three; otherwise the next child finds it as it was left.
        let opened = if round % 3 == 1 { open(path, round) } else { Store::open_read_only(path) };
        let store = match opened {
            Ok(store) => store,
            // Killed before there was a store.
            Err(Error::Io { .. } | Error::NotAStore { .. })
                if round < 3 && self.head == 0 && heard.events.is_empty() =>
            {
                return Ok(());
            }
            Err(error) => return Err(error.to_string()),
        };
        let mut at = BTreeMap::new();
        let before = self.head;
        for event in store.read(Query::new()).after(Position::new(before)) {
            let event = event.map_err(|error| error.to_string())?;
            if event.position().get() != self.head + 1 {
                return Err(format!("{} follows {}", event.position(), self.head));
            }
            self.head += 1;
            let part = |at: usize| u64::from_le_bytes(event.payload()[at * 8..at * 8 + 8].try_into().unwrap());
            let (of_round, producer, number) = (part(0), part(1), part(2));
            if event.payload() != payload(of_round, producer, number) || event.stream() != format!("p-{producer}") {
                return Err(format!("{event:?} was never written so"));
            }
            let next = self.next.entry((of_round, producer)).or_default();
            if number != *next {
                return Err(format!("number {number} of producer {producer}, round {of_round}, expected {next}"));
            }
            *next += 1;
            at.insert((producer, number), event.position().get());
        }
        if store.head().get() != self.head {
            return Err(format!("the head is {}, the last event {}", store.head(), self.head));
        }
        for Acknowledged { producer, number, position } in &heard.events {
            if at.get(&(*producer, *number)) != Some(position) {
                let found = at.get(&(*producer, *number));
                return Err(format!("number {number} of producer {producer} was at {position}, is at {found:?}"));
            }
        }
        let consumers = store.consumers().map_err(|error| error.to_string())?;
        let checkpoint = consumers.iter().find(|c| c.name == CONSUMER).map_or(0, |c| c.position.get());
        let least = self.checkpoint.max(heard.checkpoint);
        if checkpoint < least || checkpoint > self.head + 1 {
            return Err(format!("the checkpoint is {checkpoint}, acknowledged {least}, head {}", self.head));
        }
        self.checkpoint = checkpoint;
        Ok(())
    }
}
