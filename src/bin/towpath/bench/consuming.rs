//! The workloads that consume what is stored: cursors and groups.

use std::convert::Infallible;
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use towpath::{
    Batch, Canal, Commit, Delivery, FileSink, Forwarder, Group, NewEvent, Order, Query, Reactor, Store, Token,
};

use crate::bench::Plan;
use crate::bench::measure::{Measured, Samples};
use crate::failure::{Failure, Result};

/// Events of a batch, of a cursor.
const CURSOR_BATCH: usize = 64;
/// Events of a batch of a group, and after how many a cursor keeps its checkpoint.
const BATCH: usize = 256;
/// Records that are written to a file and synced together.
const SINK_BATCH: usize = 8_192;
/// Members of the ordered group.
const MEMBERS: usize = 4;

/// A cursor without a name over everything.
pub(crate) fn cursor(store: &Store) -> Result<Measured> {
    let mut cursor = store.follow().open()?;
    consume(|| Ok(cursor.pull_batch(CURSOR_BATCH, Duration::ZERO)?), |_| Ok(()))
}

/// A cursor with a name that keeps its checkpoint after each batch.
pub(crate) fn cursor_checkpoint(store: &Store) -> Result<Measured> {
    let mut cursor = store.cursor("bench-cursor").open()?;
    let mut settled = Vec::new();
    consume(
        || {
            if let Some(last) = settled.pop() {
                cursor.acknowledge(last)?;
            }
            let batch = cursor.pull_batch(BATCH, Duration::ZERO)?;
            settled.extend(batch.iter().last().map(|delivery| delivery.position()));
            Ok(batch)
        },
        |_| Ok(()),
    )
}

/// One member that settles each batch as a whole.
pub(crate) fn group(store: &Store) -> Result<Measured> {
    member(&store.group("bench-group").open()?)
}

/// Several members, ordered by stream.
pub(crate) fn group_ordered(store: &Store) -> Result<Measured> {
    let group = store.group("bench-group-ordered").order(Order::Stream).open()?;
    let started = Instant::now();
    let parts = thread::scope(|scope| {
        let members: Vec<_> = (0..MEMBERS).map(|_| scope.spawn(|| member(&group))).collect();
        let join = |member: thread::ScopedJoinHandle<'_, Result<Measured>>| {
            member.join().map_err(|_| Failure::new("a member panicked"))?
        };
        members.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let time = started.elapsed();
    let events = parts.iter().map(|part| part.events).sum();
    let samples = parts.into_iter().fold(Samples::new(), |all, part| all.merge(part.samples));
    Ok(Measured { events, time, samples })
}

/// A reactor over a group that appends an event for each it gets, in the same commit that settles it.
pub(crate) fn reactor_exactly_once(store: &Store) -> Result<Measured> {
    let group = store.group("bench-exactly-once").filter(Query::new().types(["bench.event"])).open()?;
    let handler = |event: &Delivery<'_>, commit: &mut Commit| -> Result<(), Infallible> {
        commit.event("bench-results", NewEvent::new("bench.result", &event.payload()[..event.payload().len().min(8)]));
        Ok(())
    };
    let mut reactor = Reactor::exactly_once(group.member()?, handler).batch(BATCH);
    let (mut events, mut samples) = (0, Samples::new());
    let started = Instant::now();
    loop {
        let called = Instant::now();
        match reactor.turn(Duration::ZERO)?.done {
            0 => break,
            done => events += done,
        }
        samples.push(called.elapsed());
    }
    Ok(Measured { events, time: started.elapsed(), samples })
}

/// A forwarder into a file of JSON lines beside the store, which is removed afterwards.
pub(crate) fn sink_ndjson(plan: &Plan<'_>, store: &Store) -> Result<Measured> {
    let path = plan.args.dir.with_extension("bench.ndjson");
    if path.exists() {
        return Err(Failure::new(format!("{} is there already; name another directory", path.display())));
    }
    let measured = forward(store, &path);
    std::fs::remove_file(&path)
        .map_err(|error| Failure::because(format!("could not remove {}", path.display()), &error))?;
    measured
}

fn forward(store: &Store, path: &Path) -> Result<Measured> {
    let cursor = store.cursor("bench-sink").filter(Query::new().types(["bench.event"])).open()?;
    let mut forwarder = Forwarder::new(cursor, FileSink::new(path)?).batch(SINK_BATCH);
    let (mut events, mut samples) = (0, Samples::new());
    let started = Instant::now();
    loop {
        let called = Instant::now();
        let turn = forwarder.turn(Duration::ZERO)?;
        if turn.released > 0 || turn.refused > 0 {
            return Err(Failure::new(format!("{} could not be written", path.display())));
        }
        if turn.forwarded == 0 {
            break;
        }
        events += turn.forwarded as u64;
        samples.push(called.elapsed());
    }
    Ok(Measured { events, time: started.elapsed(), samples })
}

fn member(group: &Group) -> Result<Measured> {
    let member = std::cell::RefCell::new(group.member()?);
    let mut tokens: Vec<Token> = Vec::new();
    let measured = consume(
        || loop {
            let batch = member.borrow_mut().pull_batch(BATCH, Duration::ZERO)?;
            // Nothing may be free while other members hold what comes first.
            if !batch.is_empty() || group.lag() == 0 {
                return Ok(batch);
            }
            thread::yield_now();
        },
        |batch| {
            tokens.clear();
            tokens.extend(batch.iter().map(|delivery| delivery.token()));
            match member.borrow_mut().settle_all(&tokens)?.into_iter().next() {
                None => Ok(()),
                Some(refused) => Err(refused.into()),
            }
        },
    );
    member.borrow_mut().flush()?;
    measured
}

/// Pulls until nothing comes, touching every payload; a sample is a batch.
fn consume(mut pull: impl FnMut() -> Result<Batch>, mut settle: impl FnMut(&Batch) -> Result<()>) -> Result<Measured> {
    let (mut events, mut sum, mut samples) = (0, 0, Samples::new());
    let started = Instant::now();
    loop {
        let called = Instant::now();
        let batch = pull()?;
        if batch.is_empty() {
            break;
        }
        for delivery in &batch {
            sum += delivery.payload().iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        settle(&batch)?;
        events += batch.len() as u64;
        samples.push(called.elapsed());
    }
    black_box(sum);
    Ok(Measured { events, time: started.elapsed(), samples })
}
