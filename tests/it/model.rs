//! The whole store beside a model of it: any order of commits, consuming, closing and crashes, and after each of them
//! the store says what the model says. W1, W3–W5, W7, W8, R1, R4, C3, L2–L4.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use towpath::{
    Canal, Commit, Condition, Cursor, Durability, Error, Expected, NewEvent, Position, Query, Receipt, Revision, Store,
    inspect,
};

#[cfg(test)]
use crate::support;
use crate::support::told::{self, Told};
use crate::support::{Scratch, small};

const STREAMS: [&str; 5] = ["cart-1", "cart-2", "cart", "order-1", "order-1-a"];
const TAGS: [&str; 3] = ["red", "green", "blue"];
const CONSUMERS: [&str; 2] = ["mailer", "ledger"];
/// A rule lets no stream of its commit grow beyond this.
const FULL: u64 = 9;

/// One thing that is done to the store.
#[derive(Clone, Debug)]
enum Step {
    /// Commits that are submitted one after the other and then waited for.
    Commits(Vec<Planned>),
    /// A consumer takes up to so many events, and acknowledges the one so many before the last.
    Consume {
        name: &'static str,
        most: usize,
        back: usize,
    },
    /// A consumer is sent to another position.
    Seek {
        name: &'static str,
        to: u64,
    },
    Sync,
    /// Closed, or dropped, and opened again.
    Reopen {
        close: bool,
        durability: Durability,
    },
    /// The process is killed, and another one goes on.
    Crash(Durability),
}

/// A commit whose details depend on where the store is by then.
#[derive(Clone, Debug)]
struct Planned {
    events: Vec<Draft>,
    expect: Option<(&'static str, Guess)>,
    /// Refused if a red, green or blue one stands behind the position so many before the head.
    unless: Option<(&'static str, u64)>,
    ruled: bool,
    key: Option<u8>,
    /// If its key is known, the same content as then.
    again: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Draft {
    stream: &'static str,
    tag: &'static str,
    payload: u8,
    size: usize,
}

#[derive(Clone, Copy, Debug)]
enum Guess {
    Right,
    Absent,
    OneMore,
}

/// What a commit has to be answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Written { first: u64, last: u64, revision: u64, duplicate: bool },
    Conflict { stream: String, expected: Expected, actual: u64 },
    ConditionFailed { after: u64, found: u64 },
    KeyReused { key: String, first: u64 },
    Refused,
}

/// What has to be there.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Without times.
    log: Vec<Told>,
    revisions: HashMap<&'static str, u64>,
    keys: HashMap<u8, (Vec<Draft>, Answer)>,
    /// The next position of each consumer.
    checkpoints: BTreeMap<&'static str, u64>,
}

impl Model {
    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn revision(&self, stream: &str) -> u64 {
        self.revisions.get(stream).copied().unwrap_or(0)
    }

    /// Makes a commit of a plan, does what the store has to do with it, and tells the answer.
    fn commit(&mut self, planned: &Planned) -> (Commit, Answer) {
        let known = planned.key.and_then(|key| self.keys.get(&key));
        let events = known.filter(|_| planned.again).map_or(&planned.events, |(events, _)| events).clone();
        let mut commit = Commit::new();
        for event in &events {
            let payload = vec![event.payload; event.size];
            commit.event(event.stream, NewEvent::new("painted", &payload).tag(event.tag));
        }
        if let Some(key) = planned.key {
            commit.key(&key_name(key));
        }
        let expected = planned.expect.map(|(stream, guess)| {
            let actual = self.revision(stream);
            let expected = match guess {
                Guess::Right => Expected::Exact(Revision::new(actual)),
                Guess::Absent => Expected::Absent,
                Guess::OneMore => Expected::Exact(Revision::new(actual + 1)),
            };
            commit.expect(stream, expected);
            (stream, expected, actual)
        });
        let condition = planned.unless.map(|(tag, back)| {
            let after = self.head().saturating_sub(back);
            commit.condition(Condition::unless(Query::new().tags([tag])).after(Position::new(after)));
            (tag, after)
        });
        if planned.ruled {
            commit.rule(|proposal, view| {
                let full = |stream| view.revision(stream).unwrap().get() >= FULL;
                if proposal.events().any(|event| full(event.stream())) { Err("full".to_owned()) } else { Ok(()) }
            });
        }

        if let Some((key, (content, answer))) = planned.key.and_then(|key| Some((key, self.keys.get(&key)?))) {
            let Answer::Written { first, last, revision, .. } = *answer else { unreachable!("it was written") };
            let answer = match *content == events {
                true => Answer::Written { first, last, revision, duplicate: true },
                false => Answer::KeyReused { key: key_name(key), first },
            };
            return (commit, answer);
        }
        if let Some((stream, expected, actual)) = expected {
            let right = match expected {
                Expected::Absent => actual == 0,
                Expected::Exact(revision) => revision.get() == actual,
                Expected::Any => true,
            };
            if !right {
                return (commit, Answer::Conflict { stream: stream.to_owned(), expected, actual });
            }
        }
        if let Some((tag, after)) = condition
            && let Some(found) = self.log[after as usize..].iter().find(|event| event.tags == [tag])
        {
            return (commit, Answer::ConditionFailed { after, found: found.position });
        }
        if planned.ruled && events.iter().any(|event| self.revision(event.stream) >= FULL) {
            return (commit, Answer::Refused);
        }
        (commit, self.write(planned.key, events))
    }

    fn write(&mut self, key: Option<u8>, events: Vec<Draft>) -> Answer {
        let first = self.head() + 1;
        let mut last_revision = 0;
        for event in &events {
            let revision = self.revisions.entry(event.stream).or_default();
            *revision += 1;
            last_revision = *revision;
            let position = self.log.len() as u64 + 1;
            self.log.push(Told {
                position,
                stream: event.stream.to_owned(),
                revision: *revision,
                type_name: "painted".to_owned(),
                payload: vec![event.payload; event.size],
                time: 0,
                tags: vec![event.tag.to_owned()],
                key: key.filter(|_| position == first).map(key_name),
            });
        }
        let answer = Answer::Written { first, last: self.head(), revision: last_revision, duplicate: false };
        if let Some(key) = key {
            self.keys.insert(key, (events, answer.clone()));
        }
        answer
    }

    /// Compares everything that can be asked of a store.
    fn check(&self, store: &Store) -> Result<(), String> {
        let timeless = |mut all: Vec<Told>| {
            all.iter_mut().for_each(|event| event.time = 0);
            all
        };
        same("head", store.head().get(), self.head())?;
        let all = told::all(store);
        same("order of time", all.is_sorted_by_key(|event| event.time), true)?;
        same("log", &timeless(all), &self.log)?;
        for stream in STREAMS {
            same(stream, store.revision(stream).unwrap().get(), self.revision(stream))?;
            let (found, errors) = told::read(store, Query::new().stream(stream));
            same(stream, errors.len(), 0)?;
            let expected: Vec<Told> = self.log.iter().filter(|event| event.stream == stream).cloned().collect();
            same(stream, timeless(found), expected)?;
        }
        for tag in TAGS {
            let found = told::read(store, Query::new().tags([tag]).category("cart")).0;
            let cart = |event: &&Told| event.tags == [tag] && event.stream.starts_with("cart");
            same(tag, timeless(found), self.log.iter().filter(cart).cloned().collect())?;
        }
        for known in self.log.iter().rev().step_by(7) {
            let event = store.event(Position::new(known.position)).unwrap();
            same("event", timeless(event.iter().map(Told::of).collect()), vec![known.clone()])?;
        }
        let consumers =
            store.consumers().unwrap().into_iter().map(|found| (found.name, found.position.get(), found.lag));
        let known = self.checkpoints.iter().map(|(name, next)| ((*name).to_owned(), *next, self.head() + 1 - next));
        same("consumers", consumers.collect::<Vec<_>>(), known.collect())
    }
}

fn key_name(key: u8) -> String {
    format!("key {key}")
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let shown: String = format!("{what}: found {found:?}, expected {expected:?}").chars().take(2_000).collect();
    Err(shown)
}

fn answer(outcome: towpath::Result<Receipt>) -> Result<Answer, String> {
    Ok(match outcome {
        Ok(receipt) => Answer::Written {
            first: receipt.first().get(),
            last: receipt.last().get(),
            revision: receipt.revision().get(),
            duplicate: receipt.is_duplicate(),
        },
        Err(Error::Conflict { stream, expected, actual }) => {
            Answer::Conflict { stream, expected, actual: actual.get() }
        }
        Err(Error::ConditionFailed { after, found }) => {
            Answer::ConditionFailed { after: after.get(), found: found.get() }
        }
        Err(Error::KeyReused { key, first }) => Answer::KeyReused { key, first: first.get() },
        Err(Error::Refused { reason }) if reason == "full" => Answer::Refused,
        Err(other) => return Err(other.to_string()),
    })
}

/// A store, and the model of it.
struct Pair {
    model: Model,
    /// The open cursors, and what they hand out next. Above the store, as they are to go before it.
    cursors: HashMap<&'static str, (Cursor, u64)>,
    store: Store,
    dir: Scratch,
}

impl Pair {
    fn new() -> Self {
        let dir = Scratch::new();
        Self { model: Model::default(), cursors: HashMap::new(), store: open(&dir, Durability::Os), dir }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Commits(planned) => self.commits(planned)?,
            Step::Consume { name, most, back } => self.consume(name, *most, *back)?,
            Step::Seek { name, to } => self.seek(name, *to)?,
            Step::Sync => {
                self.store.sync().unwrap();
                same("durable", self.store.durable().get(), self.model.head())?;
            }
            Step::Reopen { close, durability } => {
                self.cursors.clear();
                if *close {
                    self.store.clone().close().unwrap();
                }
                self.store = reopened(&mut self.store, &self.dir, *durability);
                same("a clean end", self.store.recovery().clean, true)?;
                self.check()?;
            }
            Step::Crash(durability) => {
                let left = self.dir.as_if_killed();
                self.cursors.clear();
                self.store = open(&left, *durability);
                self.dir = left;
                same("a clean end", self.store.recovery().clean, false)?;
                same("cut off", self.store.recovery().quarantined.len(), 0)?;
                self.check()?;
            }
        }
        same("head", self.store.head().get(), self.model.head())
    }

    fn check(&self) -> Result<(), String> {
        self.model.check(&self.store)?;
        self.model.check(&Store::open_read_only(self.dir.store_path()).unwrap())
    }

    fn verify(&self) -> Result<(), String> {
        let verdict = inspect::verify(self.dir.store_path(), |_| {}).unwrap();
        same("verdict", (verdict.ok, verdict.events), (true, self.model.head()))
    }

    fn commits(&mut self, planned: &[Planned]) -> Result<(), String> {
        let mut due = Vec::new();
        for planned in planned {
            let (commit, expected) = self.model.commit(planned);
            due.push((self.store.submit(&commit).unwrap(), expected));
        }
        due.into_iter().try_for_each(|(ticket, expected)| same("answer", answer(ticket.wait())?, expected))
    }

    fn consume(&mut self, name: &'static str, most: usize, back: usize) -> Result<(), String> {
        let checkpoint = self.model.checkpoints.get(name).copied().unwrap_or(1);
        let (cursor, next) =
            self.cursors.entry(name).or_insert_with(|| (self.store.cursor(name).open().unwrap(), checkpoint));
        same("checkpoint", cursor.checkpoint().get(), checkpoint)?;
        let mut handed_out = Vec::new();
        while handed_out.len() < most {
            let batch = cursor.pull_batch(most - handed_out.len(), Duration::ZERO).unwrap();
            if batch.is_empty() {
                break;
            }
            handed_out.extend(batch.iter().map(|event| event.position().get()));
        }
        let due: Vec<u64> = (*next..=self.model.head()).take(most).collect();
        same("handed out", &handed_out, &due)?;
        *next += due.len() as u64;
        if let Some(last) = due.last() {
            let acknowledged = last.saturating_sub(back as u64);
            cursor.acknowledge(Position::new(acknowledged)).unwrap();
            cursor.flush().unwrap();
            // An older one than the checkpoint changes nothing.
            if acknowledged >= checkpoint {
                self.model.checkpoints.insert(name, acknowledged + 1);
            }
            let beyond = cursor.acknowledge(Position::new(last + 1));
            same("beyond", matches!(beyond, Err(Error::NotDelivered { .. })), true)?;
        }
        Ok(())
    }

    fn seek(&mut self, name: &'static str, to: u64) -> Result<(), String> {
        let to = 1 + to % (self.model.head() + 1);
        self.store.seek(name, Position::new(to)).unwrap();
        self.model.checkpoints.insert(name, to);
        if let Some((cursor, next)) = self.cursors.get_mut(name) {
            *next = to;
            // An open cursor notices with its next call.
            cursor.acknowledge(Position::START).unwrap();
        }
        Ok(())
    }
}

fn open(dir: &Scratch, durability: Durability) -> Store {
    // So small that commits follow each other over many segments, and some need one of their own size.
    small().segment_bytes(64 << 10).durability(durability).open(dir.store_path()).unwrap()
}

/// Opens a store again whose last handle is the given one.
fn reopened(store: &mut Store, dir: &Scratch, durability: Durability) -> Store {
    // The old one has to go before, and something has to stand in its place.
    let elsewhere = Scratch::new();
    drop(std::mem::replace(store, open(&elsewhere, Durability::Os)));
    open(dir, durability)
}

fn draft() -> impl Strategy<Value = Draft> {
    let size = prop_oneof![15 => 0..50_usize, 4 => 2_000..4_000_usize, 1 => Just(30_000_usize)];
    (select(&STREAMS), select(&TAGS), any::<u8>(), size).prop_map(|(stream, tag, payload, size)| Draft {
        stream,
        tag,
        payload,
        size,
    })
}

fn planned() -> impl Strategy<Value = Planned> {
    let guess = prop_oneof![3 => Just(Guess::Right), 1 => Just(Guess::Absent), 1 => Just(Guess::OneMore)];
    let expect = option::weighted(0.3, (select(&STREAMS), guess));
    let unless = option::weighted(0.2, (select(&TAGS), 0..6_u64));
    let key = option::weighted(0.3, 0..6_u8);
    let ruled = prop::bool::weighted(0.15);
    (vec(draft(), 1..5), expect, unless, ruled, key, prop::bool::weighted(0.7))
        .prop_map(|(events, expect, unless, ruled, key, again)| Planned { events, expect, unless, ruled, key, again })
}

fn step() -> impl Strategy<Value = Step> {
    let durability = || {
        let every = Durability::Every(Duration::from_millis(1));
        prop_oneof![3 => Just(Durability::Os), 1 => Just(every), 1 => Just(Durability::Sync)]
    };
    prop_oneof![
        6 => vec(planned(), 1..2).prop_map(Step::Commits),
        3 => vec(planned(), 2..12).prop_map(Step::Commits),
        4 => (select(&CONSUMERS), 1..12_usize, 0..4_usize)
            .prop_map(|(name, most, back)| Step::Consume { name, most, back }),
        1 => (select(&CONSUMERS), any::<u64>()).prop_map(|(name, to)| Step::Seek { name, to }),
        1 => Just(Step::Sync),
        1 => (any::<bool>(), durability()).prop_map(|(close, durability)| Step::Reopen { close, durability }),
        1 => durability().prop_map(Step::Crash),
    ]
}

/// Goes through all steps, and says where the two differ.
fn walk(steps: &[Step]) -> Result<(), String> {
    let mut pair = Pair::new();
    steps.iter().try_for_each(|step| pair.step(step))?;
    pair.check().and_then(|()| pair.verify())?;
    pair.step(&Step::Crash(Durability::Os))
}

/// What the fuzz target `store_model` does: its input spells steps.
pub(crate) fn run(input: &[u8]) {
    let mut script = Script(input);
    let mut steps = Vec::new();
    while !script.0.is_empty() && steps.len() < 30 {
        steps.push(script.step());
    }
    walk(&steps).unwrap_or_else(|why| panic!("{why}, after {steps:#?}"));
}

/// Bytes that steps are read from; zeroes behind the last one.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(byte) % end
    }

    fn is(&mut self) -> bool {
        self.below(2) == 1
    }

    fn step(&mut self) -> Step {
        match self.below(8) {
            0..=2 => Step::Commits((0..=self.below(8)).map(|_| self.planned()).collect()),
            3 | 4 => Step::Consume {
                name: CONSUMERS[self.below(CONSUMERS.len())],
                most: 1 + self.below(12),
                back: self.below(4),
            },
            5 => Step::Seek { name: CONSUMERS[self.below(CONSUMERS.len())], to: self.below(256) as u64 },
            6 if self.is() => Step::Crash(self.durability()),
            6 => Step::Reopen { close: self.is(), durability: self.durability() },
            _ => Step::Sync,
        }
    }

    fn durability(&mut self) -> Durability {
        [Durability::Os, Durability::Every(Duration::from_millis(1)), Durability::Sync][self.below(3)]
    }

    fn planned(&mut self) -> Planned {
        let events = (0..=self.below(4)).map(|_| self.draft()).collect();
        let guess = [Guess::Right, Guess::Absent, Guess::OneMore];
        let expect = self.is().then(|| (STREAMS[self.below(STREAMS.len())], guess[self.below(3)]));
        let unless = self.is().then(|| (TAGS[self.below(TAGS.len())], self.below(6) as u64));
        let key = self.is().then(|| self.below(6) as u8);
        Planned { events, expect, unless, ruled: self.is(), key, again: self.is() }
    }

    fn draft(&mut self) -> Draft {
        Draft {
            stream: STREAMS[self.below(STREAMS.len())],
            tag: TAGS[self.below(TAGS.len())],
            payload: self.below(256) as u8,
            size: [0, 7, 50, 3_000, 30_000][self.below(5)],
        }
    }
}

#[test]
fn the_store_does_what_its_model_does() {
    let config = ProptestConfig { cases: support::cases(64), failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in vec(step(), 1..30))| {
        walk(&steps).map_err(TestCaseError::fail)?;
    });
}

/// The control: whatever the model and the store do not agree on is noticed.
#[test]
fn a_store_that_differs_from_its_model_is_noticed() {
    let plain = |stream, payload, key| Planned {
        events: vec![Draft { stream, tag: "red", payload, size: 10 }],
        expect: Some((stream, Guess::Right)),
        unless: None,
        ruled: false,
        key,
        again: true,
    };
    let story = || {
        let mut pair = Pair::new();
        let commits = vec![plain("cart-1", 1, Some(1)), plain("cart-2", 2, None), plain("cart-1", 3, None)];
        pair.step(&Step::Commits(commits)).unwrap();
        pair.step(&Step::Consume { name: "mailer", most: 2, back: 0 }).unwrap();
        pair.step(&Step::Crash(Durability::Os)).unwrap();
        pair
    };
    story().check().and_then(|()| story().verify()).unwrap();
    let differences: [fn(&mut Model); 8] = [
        |model| drop(model.log.pop()),
        |model| model.log.swap(0, 1),
        |model| model.log[1].payload[3] ^= 1,
        |model| model.log[2].revision += 1,
        |model| model.log[0].key = None,
        |model| model.revisions.clear(),
        |model| model.checkpoints.extend([("mailer", 2)]),
        |model| model.checkpoints.clear(),
    ];
    for (n, differ) in differences.iter().enumerate() {
        let mut pair = story();
        differ(&mut pair.model);
        assert!(pair.check().is_err(), "difference {n}");
    }

    // What only an answer can show.
    let again = Step::Commits(vec![plain("cart-1", 1, Some(1))]);
    let mut pair = story();
    pair.step(&again).unwrap();
    pair.model.keys.clear();
    assert!(pair.step(&again).is_err(), "a forgotten key");
    let mut pair = story();
    pair.model.revisions.insert("cart-1", 1);
    assert!(pair.step(&Step::Commits(vec![plain("cart-1", 4, None)])).is_err(), "a revision that burnt");
    let mut conditional = plain("order-1", 5, None);
    conditional.unless = Some(("red", 9));
    let mut pair = story();
    pair.step(&Step::Commits(vec![conditional.clone()])).unwrap();
    pair.model.log.iter_mut().for_each(|event| event.tags = vec!["blue".to_owned()]);
    assert!(pair.step(&Step::Commits(vec![conditional])).is_err(), "a condition that was not heeded");
}
