//! redb: a log table, and an index table by stream and revision.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use crate::events::Commit;
use crate::store::{Durability, Producer, Profile, Purpose, Seen, Store, Tail, Visitor, Waits, poll};
use crate::stores::heads::Heads;
use crate::stores::record::{self, Record};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const INDEX: TableDefinition<'_, &[u8], u64> = TableDefinition::new("index");

#[derive(Clone)]
pub struct Redb {
    database: Arc<Database>,
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

impl Store for Redb {
    type Producer = Self;
    type Tail = Polling;

    const PROFILE: Profile = Profile {
        key: "redb",
        name: "redb",
        package: "redb",
        kind: "key-value store",
        checks: None,
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
            "`Durability::None` for unsynced (it stays in the process's memory: a killed process loses it), `Immediate` for synced.",
            "Defaults otherwise: a cache of 1 GiB, commits in one phase.",
            "Its hashes of pages are checked by recovery and not by reading.",
        ],
    };

    fn open(dir: &Path, purpose: Purpose) -> Result<Self> {
        let durability = purpose.durability;
        std::fs::create_dir_all(dir)?;
        let path = dir.join("events.redb");
        let new = !path.exists();
        let database = Database::create(path)?;
        if new {
            let transaction = database.begin_write()?;
            transaction.open_table(LOG)?;
            transaction.open_table(INDEX)?;
            transaction.commit()?;
        }
        Ok(Self { database: Arc::new(database), durability, writer: Arc::default() })
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
        let log = self.database.begin_read()?.open_table(LOG)?;
        for entry in log.iter()? {
            visitor.event(&Record(entry?.1.value()));
        }
        Ok(())
    }

    fn stream(&mut self, name: &str, visitor: &mut impl Visitor) -> Result<()> {
        let transaction = self.database.begin_read()?;
        let (log, index) = (transaction.open_table(LOG)?, transaction.open_table(INDEX)?);
        let (mut first, mut last) = (Vec::new(), Vec::new());
        record::index_key(&mut first, name, 0);
        record::index_key(&mut last, name, u64::MAX);
        for entry in index.range(first.as_slice()..=last.as_slice())? {
            let record = log.get(entry?.1.value())?.context("an event of the index is not in the log")?;
            visitor.event(&Record(record.value()));
        }
        Ok(())
    }

    fn producer(&mut self) -> Result<Self> {
        Ok(self.clone())
    }

    fn tail(&mut self) -> Result<Polling> {
        let log = self.database.begin_read()?.open_table(LOG)?;
        let next = next_position(&log)?;
        Ok(Polling { database: Arc::clone(&self.database), next })
    }

    fn close(self) -> Result<()> {
        // Makes durable what was not.
        self.database.begin_write()?.commit()?;
        Ok(())
    }
}

impl Redb {
    fn write(&self, writer: &mut Writer, commit: &Commit<'_>) -> Result<()> {
        let Writer { heads, record, key, next } = writer;
        let time = record::now();
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(match self.durability {
            Durability::Os => redb::Durability::None,
            Durability::Sync => redb::Durability::Immediate,
        })?;
        {
            let (mut log, mut index) = (transaction.open_table(LOG)?, transaction.open_table(INDEX)?);
            let mut position = match *next {
                Some(next) => next,
                None => next_position(&log)?,
            };
            for event in commit.events() {
                let revision = heads.take(event.stream, || last(&index, event.stream))?;
                record::encode(record, &event, revision, time);
                record::index_key(key, event.stream, revision);
                log.insert(position, record.as_slice())?;
                index.insert(key.as_slice(), position)?;
                position += 1;
            }
            *next = Some(position);
        }
        Ok(transaction.commit()?)
    }
}

impl Producer for Redb {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        Store::append(self, commit)
    }
}

pub struct Polling {
    database: Arc<Database>,
    next: u64,
}

impl Tail for Polling {
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        poll(patience, || {
            let log = self.database.begin_read()?.open_table(LOG)?;
            let mut count = 0;
            while let Some(record) = log.get(self.next)? {
                payload(Record(record.value()).payload());
                self.next += 1;
                count += 1;
            }
            Ok(count)
        })
    }
}

fn next_position(log: &impl ReadableTable<u64, &'static [u8]>) -> Result<u64> {
    Ok(log.last()?.map_or(0, |(position, _)| position.value() + 1))
}

fn last(index: &Table<'_, &'static [u8], u64>, stream: &str) -> Result<Option<u64>> {
    let (mut first, mut last) = (Vec::new(), Vec::new());
    record::index_key(&mut first, stream, 0);
    record::index_key(&mut last, stream, u64::MAX);
    let entry = index.range(first.as_slice()..=last.as_slice())?.next_back().transpose()?;
    Ok(entry.map(|(key, _)| record::revision_of_key(key.value())))
}
