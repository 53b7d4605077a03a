//! What a child does with a store while calls fail, and what has to be true of the store afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use towpath::{
    Canal as _, Commit, Durability, Error, Group, NewEvent, Options, Query, Receipt, Retry, Settlement, Store, Ticket,
};

use crate::support::child::say;

/// Only so many calls fail in a run: one in each thread.
const TRIES: usize = 6;
const VISITS: u64 = 3;
const COMMITS: u64 = 12;

/// How a child is weakened, for controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weakness {
    None,
    /// It acknowledges before the store answers.
    Hasty,
    /// It takes every answer for a good one.
    Deaf,
}

pub(super) fn options(durability: &str) -> Options {
    let durability = match durability {
        "sync" => Durability::Sync,
        "every" => Durability::Every(Duration::from_millis(1)),
        "os" => Durability::Os,
        other => panic!("{other}"),
    };
    Options::new().segment_bytes(64 << 10).durability(durability)
}

fn mail(store: &Store) -> towpath::Result<Group> {
    store.group("mail").retry(Retry::fixed(Duration::ZERO).attempts(u32::MAX)).open()
}

/// Bytes that say where they belong: commit, place in it, and how many there are.
fn payload(commit: u64, at: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = [commit, at, events(commit)].iter().flat_map(|part| part.to_le_bytes()).collect();
    // Large ones do not fit into what is left of a segment, small ones behind them would.
    bytes.resize(24 + [200, 15_000, 30, 21_000][commit as usize % 4], commit as u8);
    bytes
}

fn events(commit: u64) -> u64 {
    commit % 3 + 1
}

/// A commit with this number: one to three events over two streams.
fn commit(number: u64) -> Commit {
    let mut commit = Commit::new();
    for at in 0..events(number) {
        commit.event(&format!("s-{}", at % 2), NewEvent::new("t", &payload(number, at)));
    }
    commit
}

/// The child: opens a store several times, appends, settles, reads, closes, and says what was acknowledged. The last time it
/// ends without closing.
pub(super) fn play(path: &Path, durability: &str, weakness: Weakness) {
    let mut acknowledged: BTreeMap<u64, Receipt> = BTreeMap::new();
    let mut number = 0;
    for visit in 1..=VISITS {
        let Some(store) = insist("open", || options(durability).open(path)) else { panic!("it cannot be opened") };
        let mut runs = true;
        for _ in 0..COMMITS {
            number += 1;
            if weakness == Weakness::Hasty {
                say(format_args!("acknowledged {number} 0"));
            }
            if !runs {
                assert!(matches!(store.commit(&commit(number)), Err(Error::Stopped { .. })), "stopped is for good");
                continue;
            }
            match insist("commit", || append(&store, number)) {
                Some(Answer::Written(receipt)) => {
                    say(format_args!("acknowledged {number} {}", receipt.first()));
                    acknowledged.insert(number, receipt);
                }
                _ if weakness == Weakness::Deaf => say(format_args!("acknowledged {number} 0")),
                Some(Answer::Refused) => say(format_args!("refused {number}")),
                Some(Answer::Stopped) => runs = false,
                None => panic!("it never works again"),
            }
        }
        // Several at once, which are one group, over two segments.
        let numbers = number + 1..=number + COMMITS;
        let submit = |number| (number, store.submit(&commit(number)));
        let tickets: Vec<_> = numbers.map(submit).collect();
        number += COMMITS;
        for (number, ticket) in tickets {
            match ticket.and_then(Ticket::wait) {
                Ok(receipt) => {
                    say(format_args!("acknowledged {number} {}", receipt.first()));
                    acknowledged.insert(number, receipt);
                }
                Err(error) => {
                    tell("submit", &error);
                    match error {
                        Error::Stopped { .. } => runs = false,
                        _ => say(format_args!("refused {number}")),
                    }
                }
            }
        }
        see_all(&store, &acknowledged);
        if runs {
            settle(&store);
        }
        if visit < VISITS {
            if let Err(error) = store.close() {
                tell("close", &error);
            }
        } else {
            std::mem::forget(store);
        }
    }
    say("done");
}

enum Answer {
    Written(Receipt),
    /// Nothing of it was written.
    Refused,
    /// It may be there or not.
    Stopped,
}

/// Appends a commit. Of those that the operating system refuses some are given up, others are tried again.
fn append(store: &Store, number: u64) -> towpath::Result<Answer> {
    match store.commit(&commit(number)) {
        Ok(receipt) => Ok(Answer::Written(receipt)),
        Err(error @ Error::Stopped { .. }) => {
            tell("commit", &error);
            Ok(Answer::Stopped)
        }
        Err(error) if number % 2 == 1 => {
            tell("commit", &error);
            Ok(Answer::Refused)
        }
        Err(error) => Err(error),
    }
}

/// Tries until it works. Each failure has to be one that the operating system is to blame for, and is told.
fn insist<T>(what: &str, mut act: impl FnMut() -> towpath::Result<T>) -> Option<T> {
    (0..TRIES).find_map(|_| act().map_err(|error| tell(what, &error)).ok())
}

fn tell(what: &str, error: &Error) {
    assert!(
        matches!(error, Error::Io { .. } | Error::DiskFull { .. } | Error::Stopped { .. }),
        "{what}: it is the operating system that failed, and not {error:?}"
    );
    say(format_args!("told {what}: {error}"));
}

/// Readers go on, whatever became of the writer.
fn see_all(store: &Store, acknowledged: &BTreeMap<u64, Receipt>) {
    for (number, receipt) in acknowledged {
        let event = insist("event", || store.event(receipt.first())).flatten();
        let payload = event.map(|event| event.payload().to_vec());
        assert!(payload == Some(self::payload(*number, 0)), "commit {number} is not to be read at {}", receipt.first());
    }
    let all = insist("read", || store.read(Query::new()).try_fold(0u64, |count, event| event.map(|_| count + 1)));
    assert!(all.is_some(), "it cannot be read");
}

/// Pulls some and settles them.
fn settle(store: &Store) {
    let member = insist("group", || mail(store).and_then(|group| group.member()));
    let Some(mut member) = member else { return };
    let Some(batch) = insist("pull", || member.pull_batch(7, Duration::ZERO)) else { return };
    let settled: Vec<_> = batch.iter().filter(|one| one.position().get() % 5 != 0).map(|one| one.token()).collect();
    let answer =
        settled.iter().try_for_each(|token| member.settle(*token, Settlement::Done)).and_then(|()| member.flush());
    match answer {
        Ok(()) => {
            let places =
                batch.iter().filter(|one| settled.contains(&one.token())).map(|one| one.position().to_string());
            say(format_args!("settled {}", places.collect::<Vec<_>>().join(" ")));
        }
        Err(error) => tell("settle", &error),
    }
}

/// Opens the store that a child left, where nothing fails any more, and looks for everything that it was told of.
pub(super) fn judge(path: &Path, durability: &str, said: &[String]) -> Result<(), String> {
    let text = |error: Error| error.to_string();
    for round in 0..2 {
        let store = options(durability).open(path).map_err(|error| format!("reopening: {error}"))?;
        let found = commits(&store)?;
        for line in said {
            let mut words = line.split(' ');
            let (kind, rest) = (words.next().unwrap_or_default(), words.map_while(|word| word.parse::<u64>().ok()));
            let numbers: Vec<u64> = rest.collect();
            if let ("acknowledged", [number, first]) = (kind, &numbers[..])
                && found.get(number).is_none_or(|found| found != first && *first != 0)
            {
                return Err(format!("{line:?}, and it stands at {:?}", found.get(number)));
            }
            if kind == "refused" && found.contains_key(&numbers[0]) {
                return Err(format!("{line:?}, and it stands there"));
            }
            if kind == "settled" {
                let unsettled = store.unsettled("mail").map_err(text)?;
                if let Some(one) = unsettled.iter().find(|one| numbers.contains(&one.position.get())) {
                    return Err(format!("{} was settled and comes again", one.position));
                }
            }
        }
        // It is a store like any other: written into, closed, opened.
        let last = 1_000_000 + round;
        let receipt = store.commit(&commit(last)).map_err(text)?;
        if receipt.first() != receipt.last() && events(last) == 1 {
            return Err("a commit of one event has several".to_owned());
        }
        store.close().map_err(text)?;
    }
    let verdict = towpath::inspect::verify(path, |_| {}).map_err(text)?;
    if verdict.ok { Ok(()) } else { Err(format!("{verdict:?}")) }
}

/// All commits, whole and once each, in the order they were written in, with where they begin.
fn commits(store: &Store) -> Result<BTreeMap<u64, u64>, String> {
    let mut found = BTreeMap::new();
    let (mut position, mut next): (u64, Option<(u64, u64)>) = (0, None);
    for event in store.read(Query::new()) {
        let event = event.map_err(|error| error.to_string())?;
        position += 1;
        let word = |at: usize| {
            event.payload().get(at * 8..at * 8 + 8).map(|word| u64::from_le_bytes(word.try_into().unwrap()))
        };
        let (Some(number), Some(at)) = (word(0), word(1)) else { return Err(format!("{event:?} was never written")) };
        if event.position().get() != position || event.payload() != payload(number, at) {
            return Err(format!("{position}: {event:?} was never written so"));
        }
        let expected = next.take().unwrap_or((number, 0));
        if expected != (number, at) || at == 0 && found.insert(number, position).is_some() {
            return Err(format!("event {at} of commit {number} stands at {position}, expected {expected:?}"));
        }
        if at == 0 && found.last_key_value().is_some_and(|(last, _)| *last != number) {
            return Err(format!("commit {number} stands behind a later one, at {position}"));
        }
        if event.commit_goes_on() != (at + 1 < events(number)) {
            return Err(format!("commit {number} ends at {position}, or does not"));
        }
        next = event.commit_goes_on().then_some((number, at + 1));
    }
    if next.is_some() { Err(format!("half a commit at the end, {position}")) } else { Ok(found) }
}
