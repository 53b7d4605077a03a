//! Times, what they come to, and how that is printed.

use std::time::Duration;

use serde::Serialize;

use crate::failure::Result;
use crate::out::Out;

/// Samples that are kept.
const SAMPLES_MAX: usize = 1 << 18;

/// What a workload did.
pub(crate) struct Measured {
    pub(crate) events: u64,
    pub(crate) time: Duration,
    pub(crate) samples: Samples,
}

/// Times of single calls. When there are too many, every second is dropped, and from then on every second only is kept.
pub(crate) struct Samples {
    nanos: Vec<u32>,
    seen: u64,
    keep_every: u64,
    max: Duration,
}

/// The field names are fixed: scripts rely on them.
#[derive(Serialize)]
pub(crate) struct Line {
    workload: String,
    events: u64,
    seconds: f64,
    events_per_s: u64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    /// None where the system does not tell.
    anon_mib: Option<f64>,
    disk_bytes_per_event: f64,
}

impl Samples {
    pub(crate) fn new() -> Self {
        Self { nanos: Vec::new(), seen: 0, keep_every: 1, max: Duration::ZERO }
    }

    pub(crate) fn push(&mut self, time: Duration) {
        self.max = self.max.max(time);
        if self.seen.is_multiple_of(self.keep_every) {
            self.nanos.push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
        }
        self.seen += 1;
        if self.nanos.len() == SAMPLES_MAX {
            let mut places = 0..;
            self.nanos.retain(|_| places.next().is_some_and(|place: u64| place.is_multiple_of(2)));
            self.keep_every *= 2;
        }
    }

    /// Adds those of another thread that did the same.
    pub(crate) fn merge(mut self, other: Samples) -> Self {
        self.nanos.extend(other.nanos);
        self.seen += other.seen;
        self.max = self.max.max(other.max);
        self
    }

    /// The median, the 99th percentile and the largest, in µs.
    fn figures(mut self) -> [f64; 3] {
        self.nanos.sort_unstable();
        let at = |percent: usize| {
            let place = (self.nanos.len() * percent / 100).min(self.nanos.len().saturating_sub(1));
            self.nanos.get(place).map_or(0.0, |nanos| f64::from(*nanos) / 1e3)
        };
        [at(50), at(99), self.max.as_nanos() as f64 / 1e3]
    }
}

impl Line {
    pub(crate) fn new(workload: String, measured: Measured, anon_mib: Option<f64>, disk: f64) -> Self {
        let seconds = measured.time.as_secs_f64();
        let [p50_us, p99_us, max_us] = measured.samples.figures();
        Self {
            workload,
            events: measured.events,
            seconds: round(seconds, 1e6),
            events_per_s: if seconds > 0.0 { (measured.events as f64 / seconds).round() as u64 } else { 0 },
            p50_us,
            p99_us,
            max_us,
            anon_mib: anon_mib.map(|mib| round(mib, 10.0)),
            disk_bytes_per_event: round(disk, 10.0),
        }
    }

    /// Prints it at once, for those who watch.
    pub(crate) fn print(&self, out: &mut Out) -> Result<()> {
        if out.is_json() {
            out.object(self)?;
        } else {
            out.line(&self.text())?;
        }
        out.flush()
    }

    fn text(&self) -> String {
        let Line { workload, events, seconds, events_per_s, p50_us, p99_us, max_us, .. } = self;
        let (anon, disk) = (self.anon_mib.unwrap_or(f64::NAN), self.disk_bytes_per_event);
        let counts = format!("{workload:<23} {events:>12} {seconds:>10.3} {events_per_s:>13}");
        format!("{counts} {p50_us:>10.2} {p99_us:>10.2} {max_us:>11.2} {anon:>9.1} {disk:>11.1}")
    }
}

pub(crate) fn heading() -> String {
    let counts = format!("{:<23} {:>12} {:>10} {:>13}", "workload", "events", "seconds", "events/s");
    format!("{counts} {:>10} {:>10} {:>11} {:>9} {:>11}", "p50 µs", "p99 µs", "max µs", "anon MiB", "disk B/ev")
}

/// Anonymous memory of this process; none where the system does not tell.
pub(crate) fn anonymous_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

fn round(number: f64, parts: f64) -> f64 {
    (number * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_all_samples() {
        let mut samples = Samples::new();
        (1..=100).rev().for_each(|micros| samples.push(Duration::from_micros(micros)));
        assert_eq!(samples.figures(), [51.0, 100.0, 100.0]);
        assert_eq!(Samples::new().figures(), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn samples_are_thinned_out_evenly_and_the_largest_is_kept() {
        let mut samples = Samples::new();
        (0..1_000_001).for_each(|nanos| samples.push(Duration::from_nanos(nanos)));
        assert!(samples.nanos.len() < SAMPLES_MAX);
        let [p50, p99, max] = samples.figures();
        assert!((p50 - 500.0).abs() < 1.0 && (p99 - 990.0).abs() < 1.0, "{p50} {p99}");
        assert_eq!(max, 1_000.0);
    }
}
