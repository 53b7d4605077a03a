//! commitlog: a plain log of bytes in segments, each message with an offset and a checksum.

use std::path::Path;

use anyhow::{Result, bail};
use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use crate::events::Commit;
use crate::store::{Durability, Never, Profile, Purpose, Seen, Store, Visitor, Waits};

/// Bytes that are read together.
const READ: usize = 256 << 10;

pub struct Commitlog {
    log: CommitLog,
    /// Filled anew for each commit.
    messages: MessageBuf,
}

impl Store for Commitlog {
    type Producer = Never;
    type Tail = Never;

    const PROFILE: Profile = Profile {
        key: "commitlog",
        name: "commitlog",
        package: "commitlog",
        kind: "plain log",
        checks: Some("CRC-32C of every message"),
        unsynced_batches: true,
        unsynced_singles: true,
        synced: false,
        pipelined: false,
        producers: false,
        streams: false,
        revisions: false,
        replays_again: true,
        waits: Waits::No,
        settings: &[
            "Defaults (segments of 1 GB); one reused buffer a commit; read 256 KiB at a time.",
            "No synced class: its `flush` does not sync the log file.",
            "One handle for reading and writing, which is not shared: no producers, no consumer beside the writer.",
            "Payloads only: no streams, types, times or index.",
        ],
    };

    fn open(dir: &Path, purpose: Purpose) -> Result<Self> {
        let durability = purpose.durability;
        if durability == Durability::Sync {
            bail!("commitlog never syncs");
        }
        Ok(Self { log: CommitLog::new(LogOptions::new(dir))?, messages: MessageBuf::default() })
    }

    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        self.messages.clear();
        for event in commit.events() {
            self.messages.push(event.payload).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        }
        self.log.append(&mut self.messages)?;
        Ok(())
    }

    fn replay(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        let mut next = 0;
        loop {
            // Reading verifies the checksum of each message.
            let messages = self.log.read(next, ReadLimit::max_bytes(READ))?;
            let mut last = None;
            for message in messages.iter() {
                last = Some(message.offset());
                visitor.event(&Bytes(message.payload()));
            }
            let Some(last) = last else { return Ok(()) };
            next = last + 1;
        }
    }

    fn stream(&mut self, _name: &str, _visitor: &mut impl Visitor) -> Result<()> {
        bail!("commitlog knows no streams")
    }

    fn producer(&mut self) -> Result<Never> {
        bail!("a commitlog has one writer")
    }

    fn tail(&mut self) -> Result<Never> {
        bail!("a commitlog cannot be read beside its writer")
    }

    fn close(mut self) -> Result<()> {
        Ok(self.log.flush()?)
    }
}

/// A payload, and nothing else.
pub struct Bytes<'a>(pub &'a [u8]);

impl Seen for Bytes<'_> {
    fn payload(&self) -> &[u8] {
        self.0
    }

    fn stream(&self) -> Option<&str> {
        None
    }

    fn revision(&self) -> Option<u64> {
        None
    }
}
