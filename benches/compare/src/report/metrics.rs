//! What the tables show: which value of which workload, and which way is better.

use crate::measure::{DISK, MEMORY, OPEN, P50, P99, RATE, RATE_AGAIN};
use crate::store::Durability;
use crate::workload::{Append, Events, Payload, Way, Workload};

pub struct Metric {
    pub workload: Workload,
    pub value: &'static str,
    pub title: String,
    pub unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    EventsPerSecond,
    Micros,
    Millis,
    Mebibytes,
    Bytes,
}

/// A table, and a chart of those of its columns that tell most.
pub struct Group {
    /// The name of the chart's file.
    pub key: &'static str,
    pub title: &'static str,
    pub metrics: Vec<Metric>,
    /// Places of the columns in the chart.
    pub charted: &'static [usize],
}

impl Unit {
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::EventsPerSecond)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::EventsPerSecond => "events/s",
            Self::Micros => "µs",
            Self::Millis => "ms",
            Self::Mebibytes => "MiB",
            Self::Bytes => "bytes",
        }
    }

    pub fn better(self, one: f64, other: f64) -> bool {
        if self.more_is_better() { one > other } else { one < other }
    }

    /// Three digits that count, with k and M for rates.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::EventsPerSecond if value >= 999_500.0 => format!("{} M", three(value / 1e6)),
            Self::EventsPerSecond if value >= 999.5 => format!("{} k", three(value / 1e3)),
            _ => three(value),
        }
    }
}

impl Metric {
    fn new(workload: Workload, value: &'static str, title: impl Into<String>, unit: Unit) -> Self {
        Self { workload, value, title: title.into(), unit }
    }

    pub fn rate(workload: Workload, title: impl Into<String>) -> Self {
        Self::new(workload, RATE, title, Unit::EventsPerSecond)
    }
}

pub fn groups() -> Vec<Group> {
    vec![
        appending(Durability::Os, "append", "Appending, not synced"),
        appending(Durability::Sync, "append-synced", "Appending, synced before the answer"),
        Group {
            key: "reading",
            title: "Reading 1,000,000 events",
            metrics: vec![
                Metric::rate(Workload::Replay, "replay, first pass"),
                Metric::new(Workload::Replay, RATE_AGAIN, "replay, later passes", Unit::EventsPerSecond),
                Metric::rate(Workload::Streams, "1,000 streams, first pass"),
                Metric::new(Workload::Streams, RATE_AGAIN, "1,000 streams, later passes", Unit::EventsPerSecond),
                Metric::new(Workload::Tail, P50, "append → consumer, p50 µs", Unit::Micros),
                Metric::new(Workload::Tail, P99, "append → consumer, p99 µs", Unit::Micros),
            ],
            charted: &[0, 1, 2, 4],
        },
        Group {
            key: "opening",
            title: "Opening, memory and disk",
            metrics: vec![
                Metric::new(Workload::Reopen, OPEN, "open, 1 M events, ms", Unit::Millis),
                Metric::new(Workload::ReopenLarge, OPEN, "open, 10 M events, ms", Unit::Millis),
                Metric::new(Workload::Fill, MEMORY, "memory, 1 M appended, MiB", Unit::Mebibytes),
                Metric::new(Workload::FillLarge, MEMORY, "memory, 10 M appended, MiB", Unit::Mebibytes),
                Metric::new(Workload::Replay, MEMORY, "memory after a replay, MiB", Unit::Mebibytes),
                Metric::new(Workload::FillLarge, DISK, "disk, bytes an event of 100", Unit::Bytes),
            ],
            charted: &[1, 3, 4, 5],
        },
    ]
}

fn appending(durability: Durability, key: &'static str, title: &'static str) -> Group {
    let append = |events, payload, way| Workload::Append(Append { events, payload, durability, way });
    let rate = |events, payload, way| {
        let size = if payload == Payload::Small { "100 B" } else { "1 KiB" };
        let way_name = if way == Way::Pipelined { "pipelined" } else { "blocking" };
        Metric::rate(append(events, payload, way), format!("{} × {size}, {way_name}", events as u64))
    };
    let mut metrics = vec![
        rate(Events::Hundred, Payload::Small, Way::Pipelined),
        rate(Events::Hundred, Payload::Small, Way::Blocking),
        rate(Events::One, Payload::Small, Way::Pipelined),
        rate(Events::One, Payload::Small, Way::Blocking),
    ];
    let single = append(Events::One, Payload::Small, Way::Blocking);
    metrics.push(Metric::new(single, P50, "1 × 100 B, blocking, p50 µs", Unit::Micros));
    metrics.push(Metric::new(single, P99, "1 × 100 B, blocking, p99 µs", Unit::Micros));
    for events in [Events::Hundred, Events::One] {
        for way in [Way::Pipelined, Way::Blocking] {
            metrics.push(rate(events, Payload::Large, way));
        }
    }
    if durability == Durability::Os {
        return Group { key, title, metrics, charted: &[0, 2, 4, 6] };
    }
    metrics.push(Metric::rate(Workload::Producers, "64 threads, 1 × 100 B each"));
    Group { key, title, metrics, charted: &[1, 2, 3, 10] }
}

fn three(value: f64) -> String {
    match value.abs() {
        0.0..0.9995 => format!("{value:.2}"),
        0.9995..9.995 => format!("{value:.2}"),
        9.995..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits_that_count() {
        let rate = |value| Unit::EventsPerSecond.show(value);
        assert_eq!(
            [rate(13_720_000.0), rate(999_600.0), rate(56_300.0), rate(420.0)],
            ["13.7 M", "1.00 M", "56.3 k", "420"]
        );
        assert_eq!(Unit::Micros.show(1.254), "1.25");
    }

    #[test]
    fn less_is_better_but_for_rates() {
        assert!(Unit::EventsPerSecond.better(2.0, 1.0) && Unit::Micros.better(1.0, 2.0));
        assert!(!Unit::EventsPerSecond.better(1.0, 2.0) && !Unit::Micros.better(2.0, 1.0));
    }

    #[test]
    fn charts_show_columns_that_are_there() {
        for group in groups() {
            assert!(group.charted.iter().all(|place| *place < group.metrics.len()), "{}", group.key);
        }
    }
}
