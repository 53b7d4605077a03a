//! G3, G8, G11, G12, D2, X2: a process whose groups are at work, or one that ends itself in the middle of a batch.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use towpath::{
    Canal as _, Commit, Durability, Error, Group, Member, NewEvent, OnFailure, Options, Order, Query, Reason, Retry,
    Settlement, Store, Transact as _,
};

use crate::random::Random;
use crate::{ROUND, STORE, child, command, kills_and_seed, run_and_kill, say, scratch};

const TEST: &str = "groups::a_killed_process_settles_nothing_twice_and_loses_no_delivery";
const WORK: &str = "work";
const ACKS: &str = "acks";

fn open(path: &Path, round: u64) -> towpath::Result<Store> {
    let durability = [Durability::Os, Durability::Sync, Durability::Every(Duration::from_millis(2))];
    Options::new().segment_bytes(128 << 10).durability(durability[round as usize % 3]).open(path)
}

/// Results are appended with the settlement; some are tried three times, some rejected.
fn work(store: &Store) -> Group {
    let retry = Retry::fixed(Duration::ZERO).attempts(u32::MAX);
    let group = store.group(WORK).order(Order::Stream).on_failure(OnFailure::Hold).retry(retry);
    group.filter(Query::new().category("p")).open().unwrap()
}

/// Everything is settled as done, the last one first.
fn acks(store: &Store) -> Group {
    let retry = Retry::fixed(Duration::ZERO).attempts(u32::MAX);
    store.group(ACKS).retry(retry).filter(Query::new().category("p")).open().unwrap()
}

#[test]
fn a_killed_process_settles_nothing_twice_and_loses_no_delivery() {
    if let Some((store, round)) = child() {
        return work_until_killed(&store, round);
    }
    let (kills, seed) = kills_and_seed();
    let path = scratch("groups");

    let (mut random, mut known) = (Random(seed), Known::default());
    for round in 0..kills {
        let lines = random.below(400);
        known.hear(run_and_kill(TEST, &path, round, lines)).unwrap_or_else(|why| panic!("{round}, seed {seed}: {why}"));
        known.check(&path, round).unwrap_or_else(|why| panic!("round {round}, seed {seed}: {why}"));
    }
    let heard = [known.results.len(), known.rejected.len(), known.acknowledged.len(), known.attempts.len()];
    assert!(heard.iter().all(|count| *count as u64 > kills), "control: much was heard: {heard:?}");
    // A kill does not always meet a delivery in hand: of thirty, six were seen to.
    assert!(known.again > kills / 20, "control: some came again: {}", known.again);

    // In the end everything that there is has ended, once.
    let store = open(&path, 0).unwrap();
    let mut member = work(&store).member().unwrap();
    while let Some(batch) = Some(member.pull_batch(100, Duration::ZERO).unwrap()).filter(|batch| !batch.is_empty()) {
        handle(&mut member, &batch, &|_| {});
    }
    drop(member);
    let mut member = acks(&store).member().unwrap();
    while let Some(batch) = Some(member.pull_batch(100, Duration::ZERO).unwrap()).filter(|batch| !batch.is_empty()) {
        for delivery in &batch {
            assert!(!known.acknowledged.contains(&delivery.position().get()), "{delivery:?} was settled before");
            member.settle(delivery.token(), Settlement::Done).unwrap();
        }
    }
    drop(member);
    let ended = Ended::of(&store).unwrap();
    let all: BTreeSet<u64> =
        store.read(Query::new().category("p")).map(|event| event.unwrap().position().get()).collect();
    assert_eq!(ended.results.union(&ended.letters).copied().collect::<BTreeSet<_>>(), all, "seed {seed}");
    assert_eq!((store.unsettled(WORK).unwrap(), store.unsettled(ACKS).unwrap()), (vec![], vec![]));

    // Controls: a result that was told and is not there, one that is there twice, one of what is a dead letter.
    let letter = *ended.letters.first().unwrap();
    store.append("results", NewEvent::new("p-0", &letter.to_le_bytes())).unwrap();
    assert!(Ended::of(&store).is_err());
    drop(store);
    known.results.insert(u64::MAX);
    assert!(known.check(&path, kills).is_err());
    std::fs::remove_dir_all(&path).unwrap();
}

/// The child: one thread appends, two work for one group, and one for the other. Each says what was answered.
fn work_until_killed(path: &Path, round: u64) {
    let store = open(path, round).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0u64.. {
                let payload = vec![3; [10, 100, 3000][number as usize % 3]];
                store.append(&format!("p-{}", number % 5), NewEvent::new("n", &payload)).unwrap();
                // Not further ahead than the others can follow.
                while store.consumers().unwrap().iter().any(|consumer| consumer.lag > 500) {
                    std::thread::yield_now();
                }
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut member = work(&store).member().unwrap();
                loop {
                    let batch = member.pull_batch(10, Duration::from_secs(1)).unwrap();
                    handle(&mut member, &batch, &|line| say(line));
                }
            });
        }
        scope.spawn(|| {
            let mut member = acks(&store).member().unwrap();
            loop {
                let batch = member.pull_batch(16, Duration::from_secs(1)).unwrap();
                for delivery in &batch {
                    say(format!("H {} {}", delivery.position(), delivery.attempt()));
                }
                let mut settled = Vec::new();
                // One of them stays in hand for a while.
                let mut deliveries: Vec<_> = batch.iter().skip(usize::from(batch.len() > 3)).collect();
                deliveries.reverse();
                for delivery in deliveries {
                    member.settle(delivery.token(), Settlement::Done).unwrap();
                    settled.push(delivery.position().to_string());
                }
                member.flush().unwrap();
                say(format!("A {}", settled.join(" ")));
                if let Some(first) = batch.get(0).filter(|_| batch.len() > 3) {
                    member.settle(first.token(), Settlement::Done).unwrap();
                }
            }
        });
    });
}

/// What is done with a delivery hangs on nothing but its position and attempt.
fn handle(member: &mut Member, batch: &towpath::Batch, say: &dyn Fn(String)) {
    let mut held_up = BTreeSet::new();
    for delivery in batch {
        let position = delivery.position().get();
        if held_up.contains(&delivery.order_key()) {
            let told = member.settle(delivery.token(), Settlement::Done);
            assert!(matches!(told, Err(Error::NotHeld { .. })), "it would overtake: {told:?}");
        } else if position % 7 == 0 {
            let settlement = Settlement::Reject { reason: Reason::Rejected, why: "no".to_owned() };
            member.settle(delivery.token(), settlement).unwrap();
            if position % 2 == 0 {
                member.flush().unwrap();
                say(format!("L {position}"));
            }
        } else if position % 11 == 0 && delivery.attempt() < 3 {
            let settlement = Settlement::Retry { after: Some(Duration::ZERO), why: "busy".to_owned() };
            member.settle(delivery.token(), settlement).unwrap();
            held_up.insert(delivery.order_key());
        } else {
            let mut commit = Commit::new();
            commit.event("results", NewEvent::new(delivery.stream(), &position.to_le_bytes()));
            member.commit_and_settle(&mut commit, &[delivery.token()]).unwrap();
            say(format!("R {position}"));
        }
    }
}

/// What children have said.
#[derive(Clone, Debug, Default)]
struct Known {
    results: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    /// The last attempt of each that was heard of.
    attempts: BTreeMap<u64, u64>,
    again: u64,
}

impl Known {
    fn hear(&mut self, lines: Vec<String>) -> Result<(), String> {
        for line in lines {
            let mut fields = line.split(' ');
            let kind = fields.next().unwrap_or_default();
            let numbers: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
            match kind {
                "R" => self.results.extend(numbers),
                "L" => self.rejected.extend(numbers),
                "A" => self.acknowledged.extend(numbers),
                "H" => {
                    let [position, attempt] = numbers[..] else { return Err(line) };
                    if self.acknowledged.contains(&position) {
                        return Err(format!("{position} came again, attempt {attempt}, though it was settled"));
                    }
                    let before = self.attempts.insert(position, attempt);
                    self.again += u64::from(attempt > 1);
                    if before >= Some(attempt) || before.is_none() && attempt == 0 {
                        return Err(format!("{position} came with attempt {attempt} after {before:?}"));
                    }
                }
                _ => return Err(line),
            }
        }
        Ok(())
    }

    fn check(&self, path: &Path, round: u64) -> Result<(), String> {
        // The store is recovered here in one round of three; otherwise the next child finds it as it was left.
        let store = match if round % 3 == 1 { open(path, round) } else { Store::open_read_only(path) } {
            Ok(store) => store,
            // Killed before there was a store.
            Err(Error::Io { .. } | Error::NotAStore { .. }) if round < 3 && self.results.is_empty() => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        if !store.consumers().map_err(|error| error.to_string())?.iter().any(|consumer| consumer.name == WORK) {
            return if self.results.is_empty() { Ok(()) } else { Err("the group is gone".to_owned()) };
        }
        let ended = Ended::of(&store)?;
        let missing = |told: &BTreeSet<u64>, there: &BTreeSet<u64>| told.difference(there).next().copied();
        if let Some(lost) = missing(&self.results, &ended.results).or(missing(&self.rejected, &ended.letters)) {
            return Err(format!("what became of {lost} was told and is not there"));
        }
        // What has ended is not unsettled.
        for one in store.unsettled(WORK).map_err(|error| error.to_string())? {
            let position = one.position.get();
            if ended.results.contains(&position) || ended.letters.contains(&position) {
                return Err(format!("{one:?} has ended"));
            }
        }
        for one in store.unsettled(ACKS).unwrap_or_default() {
            if self.acknowledged.contains(&one.position.get()) {
                return Err(format!("{one:?} was settled"));
            }
        }
        Ok(())
    }
}

/// What stands in the store.
struct Ended {
    results: BTreeSet<u64>,
    letters: BTreeSet<u64>,
}

impl Ended {
    /// Each source has one result or one dead letter, and those of one stream have their results in order.
    fn of(store: &Store) -> Result<Self, String> {
        let (mut results, mut letters, mut last) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        for result in store.read(Query::new().stream("results")) {
            let result = result.map_err(|error| error.to_string())?;
            let source = u64::from_le_bytes(result.payload().try_into().unwrap());
            if !results.insert(source) {
                return Err(format!("{source} has two results"));
            }
            let before = last.insert(result.type_name().to_owned(), source);
            if before > Some(source) {
                return Err(format!("{source} was overtaken by {before:?}"));
            }
        }
        for letter in store.dead_letters(WORK).unwrap().iter().unwrap() {
            let letter = letter.map_err(|error| error.to_string())?;
            let source = letter.source_position().get();
            if !letters.insert(source) || results.contains(&source) || letter.reason() != Reason::Rejected {
                return Err(format!("{source} has another end than {letter:?}"));
            }
        }
        Ok(Self { results, letters })
    }
}

const RUNS: &str = "TOWPATH_KILLS_RUNS";
const ATTEMPTS: &str = "TOWPATH_KILLS_ATTEMPTS";
const POISON: u64 = 5;

/// G11.
#[test]
fn a_handler_that_ends_the_process_has_its_attempts_and_its_neighbours_do_not_pay_for_it() {
    const NAME: &str = "groups::a_handler_that_ends_the_process_has_its_attempts_and_its_neighbours_do_not_pay_for_it";
    if let (Some(store), Some(runs)) = (std::env::var_os(STORE), std::env::var_os(RUNS)) {
        return handle_until_poisoned(Path::new(&store), Path::new(&runs));
    }
    for (attempts, order, dead) in [
        (2, "none", vec![POISON]),
        (3, "none", vec![POISON]),
        (2, "stream", vec![POISON]),
        (4, "stream", vec![POISON]),
        // The control: with one attempt there is no second one to find out who it was.
        (1, "none", (1..=10).collect()),
    ] {
        let path = scratch("poison");
        let runs = path.with_extension("runs");
        let store = open(&path, 0).unwrap();
        for number in 0..12 {
            store.append(&format!("p-{}", number % 2), NewEvent::new("n", "")).unwrap();
        }
        drop(store);
        let mut ends = 0;
        loop {
            let status = command(NAME, &path, order)
                .env(RUNS, &runs)
                .env(ATTEMPTS, attempts.to_string())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            if status.success() {
                break;
            }
            ends += 1;
            assert!(ends <= attempts, "{attempts} attempts, {order}: it ran more often");
        }
        assert_eq!(ends, attempts);
        let text = std::fs::read_to_string(&runs).unwrap();
        let ran = |position: u64| text.lines().filter(|line| **line == position.to_string()).count();
        assert_eq!(ran(POISON), attempts as usize, "{attempts} attempts, {order}");
        let store = open(&path, 0).unwrap();
        let letters: Vec<_> = store.dead_letters(WORK).unwrap().iter().unwrap().map(Result::unwrap).collect();
        let sources: Vec<u64> = letters.iter().map(|letter| letter.source_position().get()).collect();
        assert_eq!(sources, dead, "{attempts} attempts, {order}");
        assert!(letters.iter().all(|letter| letter.reason() == Reason::Attempts && letter.attempts() == attempts));
        assert_eq!(store.unsettled(WORK).unwrap(), []);
        drop(store);
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::remove_file(&runs).unwrap();
    }
}

fn handle_until_poisoned(path: &Path, runs: &Path) {
    let store = open(path, 0).unwrap();
    let order = if std::env::var(ROUND).unwrap() == "stream" { Order::Stream } else { Order::None };
    let attempts = std::env::var(ATTEMPTS).unwrap().parse().unwrap();
    let group = store.group(WORK).order(order).retry(Retry::fixed(Duration::ZERO).attempts(attempts));
    let mut member = group.filter(Query::new().category("p")).open().unwrap().member().unwrap();
    let mut runs = std::fs::OpenOptions::new().append(true).create(true).open(runs).unwrap();
    while let Some(batch) = Some(member.pull_batch(10, Duration::ZERO).unwrap()).filter(|batch| !batch.is_empty()) {
        for delivery in &batch {
            runs.write_all(format!("{}\n", delivery.position()).as_bytes()).unwrap();
            if delivery.position().get() == POISON {
                std::process::abort();
            }
        }
        let tokens: Vec<_> = batch.iter().map(|delivery| delivery.token()).collect();
        member.settle_all(&tokens).unwrap();
    }
    member.flush().unwrap();
}
