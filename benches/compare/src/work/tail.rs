//! From the append of an event to a second thread that waits for it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::events::{Commits, Names, number};
use crate::measure::{Samples, Values};
use crate::store::{Durability, Purpose, Store, Tail};
use crate::work::Work;
use crate::workload::Payload;

/// Between one answer and the next append: long enough for the consumer to be waiting again.
const PACE: Duration = Duration::from_micros(20);
/// Without an event for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn tail<S: Store>(work: &Work<'_>, names: &Names) -> Result<Values> {
    let mut store = S::open(work.dir, Purpose::new(Durability::Os, false))?;
    let tail = store.tail()?;
    let base = Instant::now();
    let mut samples = thread::scope(|scope| {
        let consumer = scope.spawn(move || receive(tail, work.sizes.tail, base));
        let sent = send(&mut store, names, work.sizes.tail, base);
        let received = consumer.join().map_err(|_| anyhow!("the consumer panicked"))?;
        sent.and(received)
    })?;
    let mut values = Values::new();
    samples.tell(&mut values);
    store.close()?;
    Ok(values)
}

fn send<S: Store>(store: &mut S, names: &Names, events: u64, base: Instant) -> Result<()> {
    let mut commits = Commits::new(names, 1, Payload::Small as usize, 0);
    for _ in 0..events {
        store.append(&commits.stamped(base.elapsed().as_nanos() as u64))?;
        let answered = Instant::now();
        while answered.elapsed() < PACE {
            // There may be fewer cores than threads: let the consumer have this one.
            thread::yield_now();
        }
    }
    Ok(())
}

fn receive(mut tail: impl Tail, events: u64, base: Instant) -> Result<Samples> {
    let (mut samples, mut received) = (Samples::new(), 0);
    while received < events {
        let count = tail.next(PATIENCE, &mut |payload| {
            let sent = Duration::from_nanos(number(payload));
            samples.push(base.elapsed().saturating_sub(sent));
        })?;
        ensure!(count > 0, "{received} of {events} events came, then none for {} s", PATIENCE.as_secs());
        received += count;
    }
    Ok(samples)
}
