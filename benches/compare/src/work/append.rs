//! One thread appends.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::events::{Commits, Names};
use crate::measure::{self, DISK, Samples, Values};
use crate::store::{Durability, Purpose, Store};
use crate::work::Work;
use crate::workload::{Append, Events, Payload, Way};

/// Of so many unsynced appends of one event, one is timed: asking for the time takes as long as the quickest of them.
const TIMED_EVERY: u64 = 8;
/// Of so many that are not waited for, after one it is asked whether the time is up.
const LOOKED_EVERY: u64 = 64;

/// As many events as are done in the time, up to the full size.
pub fn append<S: Store>(plan: Append, work: &Work<'_>, names: &Names) -> Result<Values> {
    let size = plan.payload as usize;
    let most = work.sizes.append_bytes / size as u64;
    let mut store = S::open(work.dir, Purpose::new(plan.durability, plan.events == Events::Hundred))?;
    let mut commits = Commits::new(names, plan.events as usize, size, 0);
    let mut samples = Samples::new();
    let every = match (plan.way, plan.durability, plan.events) {
        (Way::Pipelined, ..) => LOOKED_EVERY,
        (Way::Blocking, Durability::Os, Events::One) => TIMED_EVERY,
        (Way::Blocking, ..) => 1,
    };
    let (mut events, mut turn) = (0, 0);
    let started = Instant::now();
    while events < most {
        let commit = commits.next();
        let called = (turn % every == 0).then(Instant::now);
        match plan.way {
            Way::Pipelined => store.submit(&commit)?,
            Way::Blocking => store.append(&commit)?,
        }
        events += plan.events as u64;
        turn += 1;
        if let Some(called) = called {
            samples.push(called.elapsed());
            if started.elapsed() > work.sizes.append_time {
                break;
            }
        }
    }
    store.finish()?;
    let time = started.elapsed();
    let mut values = Values::new();
    measure::rate(&mut values, events, time);
    if plan.way == Way::Blocking {
        samples.tell(&mut values);
    }
    measure::memory(&mut values);
    store.close()?;
    Ok(values)
}

/// A store to be read: 100 events a commit, 100 bytes each, unsynced where the store can.
pub fn fill<S: Store>(work: &Work<'_>, names: &Names, most: u64, cap: Option<Duration>) -> Result<Values> {
    let mut store = S::open(work.dir, Purpose::new(Durability::Os, true))?;
    let mut commits = Commits::new(names, Events::Hundred as usize, Payload::Small as usize, 0);
    let mut events = 0;
    let started = Instant::now();
    while events < most && cap.is_none_or(|cap| started.elapsed() < cap) {
        let commit = commits.next();
        if S::PROFILE.pipelined {
            store.submit(&commit)?
        } else {
            store.append(&commit)?
        }
        events += Events::Hundred as u64;
    }
    store.finish()?;
    let mut values = Values::new();
    measure::rate(&mut values, events, started.elapsed());
    measure::memory(&mut values);
    store.close()?;
    values.insert(DISK.into(), measure::disk(work.dir)? as f64 / events as f64);
    Ok(values)
}
