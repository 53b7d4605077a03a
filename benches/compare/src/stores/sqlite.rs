//! SQLite in WAL mode: one table, one index by stream and revision.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::events::{Commit, Draft, TYPE};
use crate::store::{Durability, Producer, Profile, Purpose, Seen, Store, Tail, Visitor, Waits, poll};
use crate::stores::heads::Heads;
use crate::stores::record;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS events (
        position INTEGER PRIMARY KEY,
        stream TEXT NOT NULL,
        revision INTEGER NOT NULL,
        type TEXT NOT NULL,
        time INTEGER NOT NULL,
        payload BLOB NOT NULL
    );
    CREATE UNIQUE INDEX IF NOT EXISTS by_stream ON events (stream, revision);";
const INSERT: &str = "INSERT INTO events (stream, revision, type, time, payload) VALUES (?1, ?2, ?3, ?4, ?5)";
const LAST: &str = "SELECT max(revision) FROM events WHERE stream = ?1";

pub struct Sqlite {
    writer: Arc<Mutex<Writer>>,
    path: PathBuf,
    durability: Durability,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Locking {
    Exclusive,
    Shared,
}

pub struct Writer {
    connection: Connection,
    heads: Heads,
}

impl Store for Sqlite {
    type Producer = Arc<Mutex<Writer>>;
    type Tail = Polling;

    const PROFILE: Profile = Profile {
        key: "sqlite",
        name: "SQLite",
        package: "rusqlite",
        kind: "SQL database",
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
            "`journal_mode=WAL`; `synchronous=OFF` for unsynced (`NORMAL` would still sync at each checkpoint), `FULL` for synced.",
            "`cache_size` of 64 MiB and `mmap_size` of 2 GiB: fewer reads and copies.",
            "`locking_mode=EXCLUSIVE`, which saves a lock and an unlock a commit; not where a second connection reads as a consumer.",
            "Prepared statements; a commit of one event is one INSERT without BEGIN and COMMIT.",
            "Threads share one connection behind a mutex, which is quicker than one each and `busy_timeout`.",
        ],
    };

    fn open(dir: &Path, purpose: Purpose) -> Result<Self> {
        let durability = purpose.durability;
        std::fs::create_dir_all(dir)?;
        let path = dir.join("events.sqlite");
        let connection = connect(&path, durability, Locking::Exclusive)?;
        connection.execute_batch(TABLES)?;
        let writer = Writer { connection, heads: Heads::default() };
        Ok(Self { writer: Arc::new(Mutex::new(writer)), path, durability })
    }

    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        locked(&self.writer, |writer| writer.append(commit))
    }

    fn replay(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        locked(&self.writer, |writer| {
            let mut all =
                writer.connection.prepare_cached("SELECT stream, revision, payload FROM events ORDER BY position")?;
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                visitor.event(&Event::of(row)?);
            }
            Ok(())
        })
    }

    fn stream(&mut self, name: &str, visitor: &mut impl Visitor) -> Result<()> {
        const STREAM: &str = "SELECT stream, revision, payload FROM events WHERE stream = ?1 ORDER BY revision";
        locked(&self.writer, |writer| {
            let mut stream = writer.connection.prepare_cached(STREAM)?;
            let mut rows = stream.query([name])?;
            while let Some(row) = rows.next()? {
                visitor.event(&Event::of(row)?);
            }
            Ok(())
        })
    }

    fn producer(&mut self) -> Result<Self::Producer> {
        Ok(Arc::clone(&self.writer))
    }

    fn tail(&mut self) -> Result<Polling> {
        // Two connections need a lock that is given back, and shared memory.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = Connection::open_in_memory()?;
        std::mem::replace(&mut writer.connection, unused).close().map_err(|(_, error)| error)?;
        writer.connection = connect(&self.path, self.durability, Locking::Shared)?;
        let connection = connect(&self.path, self.durability, Locking::Shared)?;
        let seen = connection.query_row("SELECT coalesce(max(position), 0) FROM events", [], |row| row.get(0))?;
        Ok(Polling { connection, seen })
    }

    fn close(self) -> Result<()> {
        if let Some(writer) = Arc::into_inner(self.writer) {
            let writer = writer.into_inner().unwrap_or_else(PoisonError::into_inner);
            writer.connection.close().map_err(|(_, error)| error)?;
        }
        Ok(())
    }
}

impl Writer {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        let done = self.try_append(commit);
        if done.is_err() {
            self.heads.forget();
        }
        done
    }

    fn try_append(&mut self, commit: &Commit<'_>) -> Result<()> {
        let time = record::now();
        if let Some(event) = commit.only() {
            return insert(&self.connection, &mut self.heads, &event, time);
        }
        let transaction = self.connection.transaction()?;
        for event in commit.events() {
            insert(&transaction, &mut self.heads, &event, time)?;
        }
        Ok(transaction.commit()?)
    }
}

impl Producer for Arc<Mutex<Writer>> {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        locked(self, |writer| writer.append(commit))
    }
}

pub struct Polling {
    connection: Connection,
    seen: i64,
}

impl Tail for Polling {
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        let Self { connection, seen } = self;
        poll(patience, || {
            let mut after = connection
                .prepare_cached("SELECT position, payload FROM events WHERE position > ?1 ORDER BY position")?;
            let mut rows = after.query([*seen])?;
            let mut count = 0;
            while let Some(row) = rows.next()? {
                *seen = row.get(0)?;
                payload(row.get_ref(1)?.as_blob()?);
                count += 1;
            }
            Ok(count)
        })
    }
}

struct Event<'a> {
    row: &'a Row<'a>,
    payload: &'a [u8],
}

impl<'a> Event<'a> {
    fn of(row: &'a Row<'a>) -> Result<Self> {
        Ok(Self { row, payload: row.get_ref(2)?.as_blob()? })
    }
}

impl Seen for Event<'_> {
    fn payload(&self) -> &[u8] {
        self.payload
    }

    fn stream(&self) -> Option<&str> {
        self.row.get_ref(0).ok()?.as_str().ok()
    }

    fn revision(&self) -> Option<u64> {
        self.row.get_ref(1).ok()?.as_i64().ok().map(|revision| revision as u64)
    }
}

fn insert(connection: &Connection, heads: &mut Heads, event: &Draft<'_>, time: u64) -> Result<()> {
    let revision = heads.take(event.stream, || {
        let last: Option<Option<i64>> =
            connection.prepare_cached(LAST)?.query_row([event.stream], |row| row.get(0)).optional()?;
        Ok(last.flatten().map(|last| last as u64))
    })?;
    let row = params![event.stream, revision as i64, TYPE, time as i64, event.payload];
    connection.prepare_cached(INSERT)?.execute(row)?;
    Ok(())
}

fn connect(path: &Path, durability: Durability, locking: Locking) -> Result<Connection> {
    let connection = Connection::open(path)?;
    let synchronous = match durability {
        Durability::Os => "OFF",
        Durability::Sync => "FULL",
    };
    if locking == Locking::Exclusive {
        // Before WAL mode is entered, so that it is entered without shared memory.
        connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "cache_size", -(64 << 10))?;
    connection.pragma_update_and_check(None, "mmap_size", 2_i64 << 30, |_| Ok(()))?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

fn locked<T>(writer: &Mutex<Writer>, work: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
    work(&mut writer.lock().unwrap_or_else(PoisonError::into_inner))
}
