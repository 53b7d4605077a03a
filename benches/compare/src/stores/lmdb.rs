//! LMDB through heed: a log with integer keys, and an index by stream and revision.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use heed::byteorder::NativeEndian;
use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, IntegerComparator, PutFlags, RoTxn, WithoutTls};

use crate::events::{Commit, Draft};
use crate::store::{Durability, Producer, Profile, Purpose, Store, Tail, Visitor, Waits, poll};
use crate::stores::heads::Heads;
use crate::stores::record::{self, Record};

/// Address space, not memory.
const MAP: usize = 64 << 30;

type Log = Database<'static, U64<NativeEndian>, Bytes, IntegerComparator>;
type Index = Database<'static, Bytes, U64<NativeEndian>>;

#[derive(Clone)]
pub struct Lmdb {
    env: Env<WithoutTls>,
    log: Log,
    index: Index,
    writer: Arc<Mutex<Writer>>,
}

#[derive(Default)]
struct Writer {
    heads: Heads,
    record: Vec<u8>,
    key: Vec<u8>,
    /// The next position, once it has been looked up.
    next: Option<u64>,
}

impl Store for Lmdb {
    type Producer = Self;
    type Tail = Polling;

    const PROFILE: Profile = Profile {
        key: "lmdb",
        name: "LMDB",
        package: "heed",
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
            "`MDB_NOSYNC` and `MDB_WRITEMAP` for unsynced: writes go straight into the map; neither for synced, where the map wins nothing.",
            "`MDB_NOTLS` and `MDB_NOMEMINIT`: readers not bound to threads, pages not zeroed first.",
            "`MDB_INTEGERKEY` and `MDB_APPEND` for the log: keys compared as numbers, leaf pages filled whole.",
        ],
    };

    fn open(dir: &Path, purpose: Purpose) -> Result<Self> {
        let durability = purpose.durability;
        std::fs::create_dir_all(dir)?;
        let flags = match durability {
            Durability::Os => EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP | EnvFlags::NO_MEM_INIT,
            Durability::Sync => EnvFlags::NO_MEM_INIT,
        };
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP).max_dbs(2);
        // SAFETY: the directory is this process's own, so nobody else changes the file under the map; NO_SYNC gives up
        // what survives a power cut, and no code here writes through stray pointers into a writable map.
        let env = unsafe { options.flags(flags).open(dir) }?;
        let (log, index) = env
            .create_databases_and_commit(env.write_txn()?, |opener, transaction| {
                let options = opener.database_options().types::<U64<NativeEndian>, Bytes>();
                let mut options = options.key_comparator::<IntegerComparator>();
                let log = options.name("log").create(transaction)?;
                let index = opener.create_database::<Bytes, U64<NativeEndian>>(transaction, Some("index"))?;
                heed::Result::Ok(CommitOrAbort::<_, ()>::Commit((log, index)))
            })?
            .unwrap_commit();
        Ok(Self { env, log, index, writer: Arc::default() })
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
        let transaction = self.env.read_txn()?;
        for entry in self.log.iter(&transaction)? {
            visitor.event(&Record(entry?.1));
        }
        Ok(())
    }

    fn stream(&mut self, name: &str, visitor: &mut impl Visitor) -> Result<()> {
        let transaction = self.env.read_txn()?;
        let mut prefix = name.as_bytes().to_vec();
        prefix.push(0);
        for entry in self.index.prefix_iter(&transaction, &prefix)? {
            let (_, position) = entry?;
            let record = self.log.get(&transaction, &position)?.context("an event of the index is not in the log")?;
            visitor.event(&Record(record));
        }
        Ok(())
    }

    fn producer(&mut self) -> Result<Self> {
        Ok(self.clone())
    }

    fn tail(&mut self) -> Result<Polling> {
        let transaction = self.env.read_txn()?;
        let next = next_position(&self.log, &transaction)?;
        Ok(Polling { env: self.env.clone(), log: self.log, next })
    }

    fn close(self) -> Result<()> {
        self.env.force_sync()?;
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

impl Lmdb {
    fn write(&self, writer: &mut Writer, commit: &Commit<'_>) -> Result<()> {
        let time = record::now();
        let mut transaction = self.env.write_txn()?;
        let mut position = match writer.next {
            Some(next) => next,
            None => next_position(&self.log, &transaction)?,
        };
        for event in commit.events() {
            let revision = writer.heads.take(event.stream, || self.last(&transaction, &event))?;
            record::encode(&mut writer.record, &event, revision, time);
            record::index_key(&mut writer.key, event.stream, revision);
            self.log.put_with_flags(&mut transaction, PutFlags::APPEND, &position, &writer.record)?;
            self.index.put(&mut transaction, &writer.key, &position)?;
            position += 1;
        }
        transaction.commit()?;
        writer.next = Some(position);
        Ok(())
    }

    fn last(&self, transaction: &RoTxn<'_>, event: &Draft<'_>) -> Result<Option<u64>> {
        let mut key = Vec::new();
        record::index_key(&mut key, event.stream, u64::MAX);
        let below = self.index.get_lower_than_or_equal_to(transaction, &key)?;
        let prefix = &key[..=event.stream.len()];
        Ok(below.filter(|(key, _)| key.starts_with(prefix)).map(|(key, _)| record::revision_of_key(key)))
    }
}

impl Producer for Lmdb {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        Store::append(self, commit)
    }
}

pub struct Polling {
    env: Env<WithoutTls>,
    log: Log,
    next: u64,
}

impl Tail for Polling {
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        poll(patience, || {
            let transaction = self.env.read_txn()?;
            let mut count = 0;
            while let Some(record) = self.log.get(&transaction, &self.next)? {
                payload(crate::store::Seen::payload(&Record(record)));
                self.next += 1;
                count += 1;
            }
            Ok(count)
        })
    }
}

fn next_position(log: &Log, transaction: &RoTxn<'_>) -> Result<u64> {
    Ok(log.last(transaction)?.map_or(0, |(position, _)| position + 1))
}
