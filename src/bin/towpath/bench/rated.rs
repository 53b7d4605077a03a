//! Events that are due at a rate, appended by one thread as they become due, and how long that took.

use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use towpath::{Commit, Store};

use crate::bench::{Plan, event};
use crate::failure::{Failure, Result};

/// Until the first event is due: long enough for a reader to be waiting.
const HEAD_START: Duration = Duration::from_millis(20);
/// Longer times count as this one.
const LONGEST: Duration = Duration::from_secs(3600);
/// Digits of a time that are kept.
const DIGITS: u8 = 3;
/// Where an event was due, and when its call began, stands in the payload.
const DUE: Range<usize> = 0..8;
const CALLED: Range<usize> = 8..16;

/// Times, all of them counted.
pub(crate) struct Times(Histogram<u64>);

/// When events are due.
#[derive(Clone, Copy)]
pub(crate) struct Schedule {
    begin: Instant,
    rate: u64,
    pub(crate) events: u64,
}

/// What the thread that appends has seen.
pub(crate) struct Sent {
    /// From when an event was due to the return of its call.
    pub(crate) events: Times,
    pub(crate) calls: Times,
    /// Calls in which the store went on in a new segment.
    pub(crate) rolled: Times,
    pub(crate) time: Duration,
}

impl Times {
    pub(crate) fn new() -> Result<Self> {
        let histogram = Histogram::new_with_max(LONGEST.as_nanos() as u64, DIGITS);
        histogram.map(Self).map_err(|error| Failure::because("could not make a histogram".to_owned(), &error))
    }

    pub(crate) fn push(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// p50, p99, p99.9 and the largest, in µs.
    pub(crate) fn figures(&self) -> [f64; 4] {
        let at = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / 1e3;
        [at(0.5), at(0.99), at(0.999), self.0.max() as f64 / 1e3]
    }
}

impl Schedule {
    pub(crate) fn new(rate: u64, seconds: u64) -> Self {
        Self { begin: Instant::now() + HEAD_START, rate, events: rate * seconds }
    }

    /// Since the first event was due.
    pub(crate) fn now(&self) -> Duration {
        Instant::now().saturating_duration_since(self.begin)
    }

    /// How many events are due by then.
    fn due_by(&self, now: Duration) -> u64 {
        let due = now.as_nanos() * u128::from(self.rate) / 1_000_000_000;
        self.events.min(due as u64 + 1)
    }

    /// When an event is due, the first being number 0.
    fn due(&self, number: u64) -> Duration {
        Duration::from_nanos((u128::from(number) * 1_000_000_000 / u128::from(self.rate)) as u64)
    }
}

/// Appends everything as it becomes due, by blocking calls.
pub(crate) fn send(plan: &Plan<'_>, store: &Store, schedule: Schedule) -> Result<Sent> {
    let mut sent = Sent { events: Times::new()?, calls: Times::new()?, rolled: Times::new()?, time: Duration::ZERO };
    let mut payload = vec![b'.'; plan.payload.len().max(CALLED.end)];
    let mut streams = (0..plan.names.len()).cycle();
    let (mut commit, mut done) = (Commit::new(), 0);
    let mut begun = store.counters().segments_begun;
    while Instant::now() < schedule.begin {
        std::hint::spin_loop();
    }
    while done < schedule.events {
        let called = schedule.now();
        let due = schedule.due_by(called).min(done + plan.args.commit);
        if due == done {
            // There may be fewer cores than threads: let others have this one.
            std::thread::yield_now();
            continue;
        }
        commit.clear();
        for (number, stream) in (done..due).zip(&mut streams) {
            payload[DUE].copy_from_slice(&(schedule.due(number).as_nanos() as u64).to_le_bytes());
            payload[CALLED].copy_from_slice(&(called.as_nanos() as u64).to_le_bytes());
            commit.event(plan.names.get(stream), event(&payload));
        }
        store.commit(&commit)?;
        let answered = schedule.now();
        sent.calls.push(answered - called);
        (done..due).for_each(|number| sent.events.push(answered.saturating_sub(schedule.due(number))));
        done = due;
        let now_begun = store.counters().segments_begun;
        if now_begun != begun {
            begun = now_begun;
            sent.rolled.push(answered - called);
        }
    }
    sent.time = schedule.now();
    Ok(sent)
}

/// When an event of [`send`] was due, and when the call that appended it began.
pub(crate) fn stamps(payload: &[u8]) -> Option<(Duration, Duration)> {
    let stamp = |range: Range<usize>| -> Option<Duration> {
        Some(Duration::from_nanos(u64::from_le_bytes(payload.get(range)?.try_into().ok()?)))
    };
    Some((stamp(DUE)?, stamp(CALLED)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_evenly_and_none_too_many() {
        let schedule = Schedule::new(3, 2);
        assert_eq!(schedule.due(3), Duration::from_secs(1));
        assert_eq!(schedule.due_by(Duration::ZERO), 1);
        assert_eq!(schedule.due_by(Duration::from_millis(999)), 3);
        assert_eq!(schedule.due_by(Duration::from_millis(1_000)), 4);
        assert_eq!(schedule.due_by(Duration::from_secs(9)), 6);
    }

    #[test]
    fn a_rare_stall_shows_at_the_quantile_that_it_has() {
        let mut times = Times::new().unwrap();
        (0..9_980).for_each(|_| times.push(Duration::from_micros(2)));
        (0..20).for_each(|_| times.push(Duration::from_millis(5)));
        let [p50, p99, p999, max] = times.figures();
        assert!((p50 - 2.0).abs() < 0.01 && (p99 - 2.0).abs() < 0.01, "{p50} {p99}");
        assert!((p999 - 5_000.0).abs() < 10.0 && (max - 5_000.0).abs() < 10.0, "{p999} {max}");
    }
}
