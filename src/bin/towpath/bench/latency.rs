//! The workloads at a rate: how late an event is appended, or in a reader's hands.

use std::thread;
use std::time::Duration;

use serde::Serialize;
use towpath::{Canal, Counters, Cursor, Start, Store};

use crate::args::Workload;
use crate::bench::rated::{Schedule, Sent, Times, send, stamps};
use crate::bench::{Plan, workload_name};
use crate::failure::{Failure, Result};
use crate::out::Out;

/// Events of a batch of the reader at most.
const BATCH: usize = 1_024;
/// Without an event for so long, something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
struct Report {
    workload: String,
    rate: u64,
    seconds: f64,
    events: u64,
    events_per_s: u64,
    event: Figures,
    call: Figures,
    rolled: Figures,
    segments_begun: u64,
    segments_sealed: u64,
}

#[derive(Serialize)]
struct Figures {
    count: u64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

/// Runs one of the two at each rate, each time on the store opened for it.
pub(crate) fn run(plan: &Plan<'_>, workload: Workload, out: &mut Out) -> Result<()> {
    for rate in &plan.args.rates {
        let store = plan.open()?;
        let schedule = Schedule::new(*rate, plan.args.seconds);
        let sent = match workload {
            Workload::LatencyConsumer => consumer(plan, &store, schedule)?,
            _ => send(plan, &store, schedule)?,
        };
        let counters = store.counters();
        store.close()?;
        Report::new(workload, *rate, &sent, counters).print(out)?;
    }
    Ok(())
}

fn consumer(plan: &Plan<'_>, store: &Store, schedule: Schedule) -> Result<Sent> {
    let mut cursor = store.follow().start(Start::End).open()?;
    thread::scope(|scope| {
        let reader = scope.spawn(move || receive(&mut cursor, schedule));
        let sent = send(plan, store, schedule);
        let received = reader.join().map_err(|_| Failure::new("the reader panicked"))?;
        let (sent, (events, calls)) = (sent?, received?);
        Ok(Sent { events, calls, ..sent })
    })
}

/// From when an event was due, and from when its call began, to in the reader's hands.
fn receive(cursor: &mut Cursor, schedule: Schedule) -> Result<(Times, Times)> {
    let (mut events, mut calls) = (Times::new()?, Times::new()?);
    while events.count() < schedule.events {
        let batch = cursor.pull_batch(BATCH, PATIENCE)?;
        let now = schedule.now();
        for (due, called) in batch.iter().filter_map(|event| stamps(event.payload())) {
            events.push(now.saturating_sub(due));
            calls.push(now.saturating_sub(called));
        }
        if batch.is_empty() {
            let (came, all) = (events.count(), schedule.events);
            return Err(Failure::new(format!("{came} of {all} events came, then none for {PATIENCE:?}")));
        }
    }
    Ok((events, calls))
}

impl Report {
    fn new(workload: Workload, rate: u64, sent: &Sent, counters: Counters) -> Self {
        let (seconds, events) = (sent.time.as_secs_f64(), sent.events.count());
        Self {
            workload: workload_name(workload),
            rate,
            seconds,
            events,
            events_per_s: (events as f64 / seconds).round() as u64,
            event: Figures::of(&sent.events),
            call: Figures::of(&sent.calls),
            rolled: Figures::of(&sent.rolled),
            segments_begun: counters.segments_begun,
            segments_sealed: counters.segments_sealed,
        }
    }

    fn print(&self, out: &mut Out) -> Result<()> {
        if out.is_json() {
            out.object(self)?;
        } else {
            let Report { workload, rate, seconds, events_per_s, segments_begun, segments_sealed, .. } = self;
            out.line(&format!(
                "{workload} at {rate}/s: {events_per_s}/s for {seconds:.1} s, {segments_begun} segments begun, \
                 {segments_sealed} sealed"
            ))?;
            out.line(&format!(
                "{:<23} {:>12} {:>10} {:>10} {:>10} {:>11}",
                "", "count", "p50 µs", "p99 µs", "p99.9 µs", "max µs"
            ))?;
            for (name, figures) in [("event", &self.event), ("call", &self.call), ("rolled", &self.rolled)] {
                out.line(&figures.text(name))?;
            }
        }
        out.flush()
    }
}

impl Figures {
    fn of(times: &Times) -> Self {
        let [p50_us, p99_us, p999_us, max_us] = times.figures();
        Self { count: times.count(), p50_us, p99_us, p999_us, max_us }
    }

    fn text(&self, name: &str) -> String {
        let Figures { count, p50_us, p99_us, p999_us, max_us } = self;
        format!("  {name:<21} {count:>12} {p50_us:>10.2} {p99_us:>10.2} {p999_us:>10.2} {max_us:>11.2}")
    }
}
