//! fjall: a keyspace for the log, and one for the index by stream and revision.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::events::Commit;
use crate::store::{Durability, Producer, Profile, Purpose, Seen, Store, Tail, Visitor, Waits, poll};
use crate::stores::heads::Heads;
use crate::stores::record::{self, Record};

#[derive(Clone)]
pub struct Fjall {
    database: Database,
    log: Keyspace,
    index: Keyspace,
    durability: Durability,
    writer: Arc<Mutex<Writer>>,
}

#[derive(Default)]
struct Writer {
    heads: Heads,
    record: Vec<u8>,
    key: Vec<u8>,
    next: Option<u64>,
}

impl Store for Fjall {
    type Producer = Self;
    type Tail = Polling;

    const PROFILE: Profile = Profile {
        key: "fjall",
        name: "fjall",
        package: "fjall",
        kind: "key-value store",
        checks: Some("XXH3 of every block"),
        unsynced_batches: true,
        unsynced_singles: true,
        synced: true,
        pipelined: false,
        producers: true,
        streams: true,
        revisions: true,
        replays_again: true,
        waits: Waits::Polls,
        settings: &[
            "A write batch a commit; `PersistMode::Buffer` for unsynced, `SyncData` for synced.",
            "A block cache of 512 MiB: its documentation advises 20 to 25 % of memory, or more if all data fit.",
            "`expect_point_read_hits` for the log: every position in the index is there.",
            "Big-endian keys; defaults otherwise, LZ4 included.",
        ],
    };

    fn open(dir: &Path, purpose: Purpose) -> Result<Self> {
        let durability = purpose.durability;
        let database = Database::builder(dir).cache_size(512 << 20).open()?;
        let log = database.keyspace("log", || KeyspaceCreateOptions::default().expect_point_read_hits(true))?;
        let index = database.keyspace("index", KeyspaceCreateOptions::default)?;
        Ok(Self { database, log, index, durability, writer: Arc::default() })
    }

    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.write(&mut writer, commit);
        if done.is_err() {
            writer.heads.forget();
            writer.next = None;
        }
        done
    }

    fn replay(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        for entry in self.log.iter() {
            visitor.event(&Record(&entry.value()?));
        }
        Ok(())
    }

    fn stream(&mut self, name: &str, visitor: &mut impl Visitor) -> Result<()> {
        let mut prefix = name.as_bytes().to_vec();
        prefix.push(0);
        for entry in self.index.prefix(&prefix) {
            let position = entry.value()?;
            let record = self.log.get(&position)?.context("an event of the index is not in the log")?;
            visitor.event(&Record(&record));
        }
        Ok(())
    }

    fn producer(&mut self) -> Result<Self> {
        Ok(self.clone())
    }

    fn tail(&mut self) -> Result<Polling> {
        Ok(Polling { log: self.log.clone(), next: next_position(&self.log)? })
    }

    fn close(self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }
}

impl Fjall {
    fn write(&self, writer: &mut Writer, commit: &Commit<'_>) -> Result<()> {
        let Writer { heads, record, key, next } = writer;
        let time = record::now();
        let mut position = match *next {
            Some(next) => next,
            None => next_position(&self.log)?,
        };
        let mode = match self.durability {
            Durability::Os => PersistMode::Buffer,
            Durability::Sync => PersistMode::SyncData,
        };
        let mut batch = self.database.batch().durability(Some(mode));
        for event in commit.events() {
            let revision = heads.take(event.stream, || self.last(event.stream))?;
            record::encode(record, &event, revision, time);
            record::index_key(key, event.stream, revision);
            batch.insert(&self.log, position.to_be_bytes(), record.as_slice());
            batch.insert(&self.index, key.as_slice(), position.to_be_bytes());
            position += 1;
        }
        batch.commit()?;
        *next = Some(position);
        Ok(())
    }

    fn last(&self, stream: &str) -> Result<Option<u64>> {
        let mut prefix = stream.as_bytes().to_vec();
        prefix.push(0);
        let last = self.index.prefix(&prefix).next_back().map(|entry| entry.key()).transpose()?;
        Ok(last.map(|key| record::revision_of_key(&key)))
    }
}

impl Producer for Fjall {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        Store::append(self, commit)
    }
}

pub struct Polling {
    log: Keyspace,
    next: u64,
}

impl Tail for Polling {
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        poll(patience, || {
            let mut count = 0;
            while let Some(record) = self.log.get(self.next.to_be_bytes())? {
                payload(Record(&record).payload());
                self.next += 1;
                count += 1;
            }
            Ok(count)
        })
    }
}

fn next_position(log: &Keyspace) -> Result<u64> {
    let last = log.last_key_value().map(|entry| entry.key()).transpose()?;
    Ok(last.map_or(0, |key| record::revision_of_key(&key) + 1))
}
