//! Reading what `fill` made, and opening it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::events::{Names, number};
use crate::measure::{self, OPEN, RATE_AGAIN, Values};
use crate::stats::Summary;
use crate::store::{Purpose, Seen, Store, Visitor};
use crate::work::Work;

/// Passes after the first, at most, and how long they may take before there is not another one.
const AGAIN: usize = 3;
const AGAIN_TIME: Duration = Duration::from_secs(1);

/// Counts events and adds their numbers up, so that each payload has been looked at and none can be missing.
#[derive(Default)]
struct Count {
    events: u64,
    sum: u64,
}

impl Visitor for Count {
    #[inline]
    fn event(&mut self, event: &impl Seen) {
        self.events += 1;
        self.sum = self.sum.wrapping_add(number(event.payload()));
    }
}

/// Everything, in the order of the log: once after opening, and then again.
pub fn replay<S: Store>(work: &Work<'_>) -> Result<Values> {
    let mut store = S::open(work.dir, Purpose::READING)?;
    let expected = (work.stored, work.stored * (work.stored - 1) / 2);
    let values = passes::<S>(|| {
        let mut count = Count::default();
        let started = Instant::now();
        store.replay(&mut count)?;
        let time = started.elapsed();
        ensure!((count.events, count.sum) == expected, "{} of {} events came back", count.events, work.stored);
        Ok((count.events, time))
    })?;
    store.close()?;
    Ok(values)
}

/// All events of some streams, one stream after the other, the streams spread over all of them.
pub fn streams<S: Store>(work: &Work<'_>, names: &Names) -> Result<Values> {
    let mut store = S::open(work.dir, Purpose::READING)?;
    let step = names.len() / work.sizes.streams_read;
    let in_each = work.stored / names.len() as u64;
    let values = passes::<S>(|| {
        let mut count = Count::default();
        let started = Instant::now();
        for place in (0..names.len()).step_by(step) {
            store.stream(names.get(place), &mut count)?;
        }
        let time = started.elapsed();
        let expected = in_each * work.sizes.streams_read as u64;
        ensure!(count.events == expected, "{} of {expected} events came back", count.events);
        Ok((count.events, time))
    })?;
    store.close()?;
    Ok(values)
}

/// One opening, by a process that did nothing before.
pub fn reopen<S: Store>(work: &Work<'_>) -> Result<Values> {
    let started = Instant::now();
    let store = S::open(work.dir, Purpose::READING)?;
    let time = started.elapsed();
    let mut values = Values::from([(OPEN.into(), time.as_secs_f64() * 1e3)]);
    measure::memory(&mut values);
    store.close()?;
    Ok(values)
}

fn passes<S: Store>(mut pass: impl FnMut() -> Result<(u64, Duration)>) -> Result<Values> {
    let mut values = Values::new();
    let (events, time) = pass()?;
    measure::rate(&mut values, events, time);
    measure::memory(&mut values);
    if S::PROFILE.replays_again {
        let (mut rates, started) = (Vec::new(), Instant::now());
        while rates.is_empty() || (rates.len() < AGAIN && started.elapsed() < AGAIN_TIME) {
            let (events, time) = pass()?;
            rates.push(events as f64 / time.as_secs_f64());
        }
        values.extend(Summary::of(rates).map(|summary| (RATE_AGAIN.into(), summary.median)));
    }
    Ok(values)
}
