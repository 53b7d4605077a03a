//! Many threads append, each waiting for one synced event after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::events::{Commits, Names};
use crate::measure::{self, Samples, Values};
use crate::store::{Durability, Producer, Purpose, Store};
use crate::work::Work;
use crate::workload::Payload;

/// The first number of each producer's events is so far from that of the one before.
const APART: u64 = 1 << 32;

pub fn producers<S: Store>(work: &Work<'_>, names: &Names) -> Result<Values> {
    let mut store = S::open(work.dir, Purpose::new(Durability::Sync, false))?;
    let handles: Vec<_> = (0..work.sizes.producers).map(|_| store.producer()).collect::<Result<_>>()?;
    let over = AtomicBool::new(false);
    let started = Instant::now();
    let (events, mut samples, time) = thread::scope(|scope| {
        let over = &over;
        let running: Vec<_> = (0..)
            .zip(handles)
            .map(|(number, handle)| scope.spawn(move || produce(handle, number * APART, names, over)))
            .collect();
        thread::sleep(work.sizes.append_time);
        over.store(true, Ordering::Relaxed);
        let (mut events, mut samples) = (0, Samples::new());
        for producer in running {
            let (count, times) = producer.join().map_err(|_| anyhow!("a producer panicked"))??;
            events += count;
            samples.merge(times);
        }
        Ok::<_, anyhow::Error>((events, samples, started.elapsed()))
    })?;
    let mut values = Values::new();
    measure::rate(&mut values, events, time);
    samples.tell(&mut values);
    store.close()?;
    Ok(values)
}

fn produce(mut handle: impl Producer, first: u64, names: &Names, over: &AtomicBool) -> Result<(u64, Samples)> {
    let mut commits = Commits::new(names, 1, Payload::Small as usize, first);
    let (mut events, mut samples) = (0, Samples::new());
    while !over.load(Ordering::Relaxed) {
        let commit = commits.next();
        let called = Instant::now();
        handle.append(&commit)?;
        samples.push(called.elapsed());
        events += 1;
    }
    Ok((events, samples))
}
