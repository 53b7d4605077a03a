//! Latencies, memory and disk of the process that measures.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::stats;

/// Samples that are kept: enough for a 99th percentile, few enough not to show in the memory.
const SAMPLES_MAX: usize = 1 << 16;

/// What a measurement came to, by name.
pub type Values = BTreeMap<String, f64>;

pub const EVENTS: &str = "events";
pub const RATE: &str = "events_per_s";
/// The rate when the same is read once more by the same process.
pub const RATE_AGAIN: &str = "events_per_s_again";
pub const P50: &str = "p50_us";
pub const P99: &str = "p99_us";
pub const MEMORY: &str = "anonymous_mib";
pub const DISK: &str = "disk_bytes_per_event";
pub const OPEN: &str = "open_ms";

/// Times of single calls. When there are too many, every other one is forgotten, and from then on every other one kept.
pub struct Samples {
    nanos: Vec<u32>,
    keep_every: u32,
    seen: u32,
}

impl Samples {
    pub fn new() -> Self {
        Self { nanos: Vec::with_capacity(SAMPLES_MAX), keep_every: 1, seen: 0 }
    }

    pub fn push(&mut self, time: Duration) {
        self.seen += 1;
        if self.seen < self.keep_every {
            return;
        }
        self.seen = 0;
        if self.nanos.len() == SAMPLES_MAX {
            let mut place = 0;
            self.nanos.retain(|_| {
                place += 1;
                place % 2 == 0
            });
            self.keep_every *= 2;
        }
        self.nanos.push(time.as_nanos().try_into().unwrap_or(u32::MAX));
    }

    pub fn merge(&mut self, other: Self) {
        self.nanos.extend(other.nanos);
    }

    /// Puts the median and the 99th percentile among the values, in µs.
    pub fn tell(&mut self, values: &mut Values) {
        self.nanos.sort_unstable();
        for (name, percent) in [(P50, 50), (P99, 99)] {
            if let Some(nanos) = stats::percentile(&self.nanos, percent) {
                values.insert(name.into(), f64::from(nanos) / 1e3);
            }
        }
    }
}

pub fn rate(values: &mut Values, events: u64, time: Duration) {
    values.insert(EVENTS.into(), events as f64);
    values.insert(RATE.into(), events as f64 / time.as_secs_f64().max(1e-9));
}

/// Anonymous memory of this process in MiB, where the system tells it.
pub fn memory(values: &mut Values) {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return };
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<f64>().ok());
    if let Some(kib) = kib {
        values.insert(MEMORY.into(), kib / 1024.0);
    }
}

/// Bytes that the directory takes of the disk, which is less than its files are long where these have holes.
pub fn disk(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { disk(&entry.path())? } else { about.blocks() * 512 };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_all_samples_also_when_these_are_thinned_out() {
        let figures = |count: u64| {
            let (mut samples, mut values) = (Samples::new(), Values::new());
            (0..count).rev().for_each(|nanos| samples.push(Duration::from_nanos(nanos * 1_000_000 / count)));
            assert!(samples.nanos.len() <= SAMPLES_MAX);
            samples.tell(&mut values);
            (values[P50], values[P99])
        };
        for count in [100, 1_000_000] {
            let (p50, p99) = figures(count);
            assert!((p50 - 500.0).abs() < 11.0 && (p99 - 990.0).abs() < 11.0, "{count}: {p50} {p99}");
        }
        let mut none = Values::new();
        Samples::new().tell(&mut none);
        assert_eq!(none, Values::new());
    }
}
