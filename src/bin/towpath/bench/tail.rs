//! How long an event takes from its append to a reader that waits for it.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use towpath::{Canal, Cursor, Delivery, Reactor, Start, Store};

use crate::bench::measure::{Measured, Samples};
use crate::bench::{Plan, event};
use crate::failure::{Failure, Result};

const EVENTS: u64 = 20_000;
/// Between one answer and the next append: long enough for the reader to be waiting again.
const PACE: Duration = Duration::from_micros(20);
/// Without an event for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the time of the append stands in the payload.
const STAMP: usize = 8;

pub(crate) fn latency(plan: &Plan<'_>, store: &Store) -> Result<Measured> {
    let events = plan.args.events.min(EVENTS);
    let mut cursor = store.follow().start(Start::End).open()?;
    let base = Instant::now();
    let samples = thread::scope(|scope| {
        let reader = scope.spawn(move || receive(&mut cursor, events, base));
        let sent = send(plan, store, events, base);
        let received = reader.join().map_err(|_| Failure::new("the reader panicked"))?;
        sent.and(received)
    })?;
    Ok(Measured { events, time: base.elapsed(), samples })
}

/// The same to the handler of a reactor over a group, which writes down its claim before it hands an event out.
pub(crate) fn reactor(plan: &Plan<'_>, store: &Store) -> Result<Measured> {
    let events = plan.args.events.min(EVENTS);
    let group = store.group("bench-latency").start(Start::End).open()?;
    let base = Instant::now();
    let (tell, told) = mpsc::channel();
    let handler = move |event: &Delivery<'_>| {
        let now = base.elapsed();
        tell.send(now.saturating_sub(sent_at(event.payload())))
    };
    let running = Reactor::new(group.member()?, handler).spawn()?;
    let sent = send(plan, store, events, base);
    let mut samples = Samples::new();
    let received = (0..events).try_for_each(|number| match told.recv_timeout(PATIENCE) {
        Ok(time) => {
            samples.push(time);
            Ok(())
        }
        Err(_) => Err(Failure::new(format!("{number} of {events} events came, then none for 5 s"))),
    });
    running.stop_and_join(PATIENCE)?;
    sent.and(received)?;
    Ok(Measured { events, time: base.elapsed(), samples })
}

fn send(plan: &Plan<'_>, store: &Store, events: u64, base: Instant) -> Result<()> {
    let mut payload = vec![b'.'; plan.payload.len().max(STAMP)];
    for stream in (0..plan.names.len()).cycle().take(events as usize) {
        let now = base.elapsed().as_nanos() as u64;
        payload[..STAMP].copy_from_slice(&now.to_le_bytes());
        store.append(plan.names.get(stream), event(&payload))?;
        let answered = Instant::now();
        while answered.elapsed() < PACE {
            // There may be fewer cores than threads: let the reader have this one.
            thread::yield_now();
        }
    }
    Ok(())
}

fn receive(cursor: &mut Cursor, events: u64, base: Instant) -> Result<Samples> {
    let mut samples = Samples::new();
    let mut received = 0;
    while received < events {
        let batch = cursor.pull_batch(1, PATIENCE)?;
        let now = base.elapsed();
        for event in batch.iter() {
            samples.push(now.saturating_sub(sent_at(event.payload())));
            received += 1;
        }
        if batch.is_empty() {
            return Err(Failure::new(format!("{received} of {events} events came, then none for 5 s")));
        }
    }
    Ok(samples)
}

fn sent_at(payload: &[u8]) -> Duration {
    let stamp = payload.first_chunk::<STAMP>();
    stamp.map_or(Duration::ZERO, |stamp| Duration::from_nanos(u64::from_le_bytes(*stamp)))
}
