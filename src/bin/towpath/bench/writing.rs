//! The workloads that append.

use std::thread;
use std::time::Instant;

use towpath::{Commit, Position, Store};

use crate::args::Lasting;
use crate::bench::Plan;
use crate::bench::measure::{Measured, Samples};
use crate::failure::{Failure, Result};

/// Blocking appends at most, and when each is synced.
const BLOCKING: u64 = 200_000;
const BLOCKING_SYNC: u64 = 20_000;
/// Events of which at least one call is timed: asking for the time costs as much as an event.
const TIMED_EVERY: u64 = 64;

/// Pipelined, from all producers. The time ends when the last commit is answered.
pub(crate) fn append(plan: &Plan<'_>, store: &Store) -> Result<Measured> {
    let before = store.head().get();
    let started = Instant::now();
    let samples = thread::scope(|scope| {
        let producers: Vec<_> =
            (0..plan.args.producers).map(|number| scope.spawn(move || produce(plan, store, number))).collect();
        producers.into_iter().try_fold(Samples::new(), |samples, producer| {
            let produced = producer.join().map_err(|_| Failure::new("a producer panicked"))?;
            Ok::<_, Failure>(samples.merge(produced?))
        })
    })?;
    let time = started.elapsed();
    expect_head(store, before + plan.args.events)?;
    Ok(Measured { events: plan.args.events, time, samples })
}

/// Single events, each waited for.
pub(crate) fn append_blocking(plan: &Plan<'_>, store: &Store) -> Result<Measured> {
    let most = if plan.args.durability == Lasting::Sync { BLOCKING_SYNC } else { BLOCKING };
    let events = plan.args.events.min(most);
    let mut samples = Samples::new();
    let started = Instant::now();
    for stream in (0..plan.names.len()).cycle().take(events as usize) {
        let called = Instant::now();
        store.append(plan.names.get(stream), plan.event())?;
        samples.push(called.elapsed());
    }
    Ok(Measured { events, time: started.elapsed(), samples })
}

/// One producer's share. Tickets but the last are dropped: they are answered in order.
fn produce(plan: &Plan<'_>, store: &Store, number: u64) -> Result<Samples> {
    let (events, producers, size) = (plan.args.events, plan.args.producers, plan.args.commit);
    let mut left = events / producers + u64::from(number < events % producers);
    let first = (plan.names.len() as u64 / producers * number) as usize;
    let mut streams = (0..plan.names.len()).cycle().skip(first);
    let (mut commit, mut samples, mut last) = (Commit::new(), Samples::new(), None);
    let timed_every = (TIMED_EVERY / size).max(1);
    for turn in 0.. {
        let count = left.min(size);
        if count == 0 {
            break;
        }
        left -= count;
        commit.clear();
        for stream in streams.by_ref().take(count as usize) {
            commit.event(plan.names.get(stream), plan.event());
        }
        let called = (turn % timed_every == 0).then(Instant::now);
        last = Some(store.submit(&commit)?);
        called.iter().for_each(|called| samples.push(called.elapsed()));
    }
    last.map(|ticket| ticket.wait()).transpose()?;
    Ok(samples)
}

fn expect_head(store: &Store, expected: u64) -> Result<()> {
    match store.head() {
        head if head == Position::new(expected) => Ok(()),
        head => Err(Failure::new(format!("{expected} events were submitted, {head} are in the log"))),
    }
}
