//! walrus: a write-ahead log with topics, of which one is used here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use walrus_rust::{FsyncSchedule, ReadConsistency};

use crate::events::Commit;
use crate::store::{Durability, Producer, Profile, Purpose, Store, Tail, Visitor, Waits, poll};
use crate::stores::commitlog::Bytes;

const TOPIC: &str = "log";
/// Bytes that are read together: about as many events of 100 bytes as it hands out at most, 2,000.
const READ: usize = 320 << 10;
/// Where its files are: it takes no directory otherwise.
pub const DIRECTORY: &str = "WALRUS_DATA_DIR";

#[derive(Clone)]
pub struct Walrus {
    log: Arc<walrus_rust::Walrus>,
}

impl Store for Walrus {
    type Producer = Self;
    type Tail = Self;

    const PROFILE: Profile = Profile {
        key: "walrus",
        name: "walrus",
        package: "walrus-rust",
        kind: "plain log",
        checks: Some("FNV-1a of every entry"),
        unsynced_batches: false,
        unsynced_singles: true,
        synced: true,
        pipelined: false,
        producers: true,
        streams: false,
        revisions: false,
        replays_again: false,
        waits: Waits::Polls,
        settings: &[
            "`append_for_topic` for one event, with `FsyncSchedule::NoFsync` for unsynced and `SyncEach` for synced.",
            "`batch_append_for_topic` for commits of several events, which syncs once whatever the schedule (under `SyncEach` it would sync each entry, too).",
            "The default backend: file descriptors, io_uring for batches.",
            "`ReadConsistency::AtLeastOnce` that never persists its place; `batch_read_for_topic` of 320 KiB.",
            "Payloads only, in one topic: a topic takes blocks of 10 MiB, so it cannot stand for a stream.",
        ],
    };

    fn open(dir: &Path, purpose: Purpose) -> Result<Self> {
        let set = std::env::var_os(DIRECTORY).context("walrus takes its directory from the environment")?;
        ensure!(Path::new(&set) == dir, "walrus was told another directory");
        let schedule = match purpose.durability {
            Durability::Sync if !purpose.batches => FsyncSchedule::SyncEach,
            // Batches end with a sync whatever the schedule, and would sync each of their entries besides.
            _ => FsyncSchedule::NoFsync,
        };
        let consistency = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
        let log = walrus_rust::Walrus::with_consistency_and_schedule(consistency, schedule)?;
        Ok(Self { log: Arc::new(log) })
    }

    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        if let Some(event) = commit.only() {
            return Ok(self.log.append_for_topic(TOPIC, event.payload)?);
        }
        let payloads: Vec<&[u8]> = commit.payloads().collect();
        Ok(self.log.batch_append_for_topic(TOPIC, &payloads)?)
    }

    fn replay(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        loop {
            let entries = self.log.batch_read_for_topic(TOPIC, READ, true)?;
            if entries.is_empty() {
                return Ok(());
            }
            entries.iter().for_each(|entry| visitor.event(&Bytes(&entry.data)));
        }
    }

    fn stream(&mut self, _name: &str, _visitor: &mut impl Visitor) -> Result<()> {
        bail!("walrus knows topics, and no streams within them")
    }

    fn producer(&mut self) -> Result<Self> {
        Ok(self.clone())
    }

    fn tail(&mut self) -> Result<Self> {
        Ok(self.clone())
    }

    fn close(self) -> Result<()> {
        Ok(())
    }
}

impl Producer for Walrus {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        Store::append(self, commit)
    }
}

impl Tail for Walrus {
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        poll(patience, || {
            let entries = self.log.batch_read_for_topic(TOPIC, READ, true)?;
            entries.iter().for_each(|entry| payload(&entry.data));
            Ok(entries.len() as u64)
        })
    }
}
