//! batpak: a journal whose events are chained by hashes; the stream is an entity.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use batpak::coordinate::{Coordinate, Region};
use batpak::event::{EventKind, StoredEvent};
use batpak::store::stats::WatermarkKind;
use batpak::store::{
    AppendOptions, AppendTicket, BatchAppendItem, BatchAppendTicket, Canal, CanalBatch, CausationRef, Cursor,
    DurabilityGate, IndexEntry, Open, StoreConfig, SyncMode,
};
use serde_bytes::Bytes;

use crate::events::Commit;
use crate::store::{Durability, Producer, Profile, Purpose, Seen, Store, Tail, Visitor, Waits};

const KIND: EventKind = EventKind::custom(0xF, 1);
const SCOPE: &str = "bench";
/// Index entries that are read together.
const PAGE: usize = 1_000;
/// Tickets that are kept before the oldest is waited for.
const TICKETS: usize = 4_000;
/// How long an append waits until it is durable.
const GATE: Duration = Duration::from_secs(30);

type Inner = batpak::store::Store<Open>;

pub struct Batpak {
    handle: Handle,
    waiting: VecDeque<Ticket>,
}

#[derive(Clone)]
pub struct Handle {
    store: Arc<Inner>,
    durability: Durability,
    /// Streams that were named before.
    coordinates: HashMap<Box<str>, Coordinate>,
}

enum Ticket {
    One(AppendTicket),
    Batch(BatchAppendTicket),
}

impl Store for Batpak {
    type Producer = Handle;
    type Tail = Following;

    const PROFILE: Profile = Profile {
        key: "batpak",
        name: "batpak",
        package: "batpak",
        kind: "event store",
        checks: Some("CRC-32 of every frame; Blake3 on request"),
        unsynced_batches: false,
        unsynced_singles: true,
        synced: true,
        pipelined: true,
        producers: true,
        streams: true,
        revisions: true,
        replays_again: true,
        waits: Waits::Woken,
        settings: &[
            "`SyncMode::SyncData`; `sync_every_n_events` of 1 for synced, `u32::MAX` for unsynced.",
            "Batches are synced whatever the setting.",
            "A single synced append carries a gate that waits until it is durable: without one it is answered before its sync.",
            "Reading asks the index in memory, page by page, and then the disk for each payload (`read_raw`).",
        ],
    };

    fn open(dir: &Path, purpose: Purpose) -> Result<Self> {
        let durability = purpose.durability;
        std::fs::create_dir_all(dir)?;
        let every = match durability {
            Durability::Os => u32::MAX,
            Durability::Sync => 1,
        };
        let config = StoreConfig::new(dir).with_sync_mode(SyncMode::SyncData).with_sync_every_n_events(every);
        let store = Arc::new(batpak::store::Store::open(config)?);
        Ok(Self { handle: Handle { store, durability, coordinates: HashMap::new() }, waiting: VecDeque::new() })
    }

    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        Producer::append(&mut self.handle, commit)
    }

    fn submit(&mut self, commit: &Commit<'_>) -> Result<()> {
        let ticket = match commit.only() {
            Some(event) => {
                let coordinate = self.handle.coordinate(event.stream)?;
                Ticket::One(self.handle.store.submit(&coordinate, KIND, &Bytes::new(event.payload))?)
            }
            None => {
                let items = self.handle.items(commit)?;
                Ticket::Batch(self.handle.store.submit_batch(items)?)
            }
        };
        self.waiting.push_back(ticket);
        if self.waiting.len() > TICKETS {
            self.waiting.pop_front().map(Ticket::wait).transpose()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.waiting.drain(..).try_for_each(Ticket::wait)
    }

    fn replay(&mut self, visitor: &mut impl Visitor) -> Result<()> {
        let store = &self.handle.store;
        let region = Region::scope(SCOPE);
        let mut after = None;
        loop {
            let page = store.query_entries_after(&region, after, PAGE);
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.global_sequence());
            for entry in &page {
                visitor.event(&Event::read(store, entry)?);
            }
        }
    }

    fn stream(&mut self, name: &str, visitor: &mut impl Visitor) -> Result<()> {
        for entry in self.handle.store.by_entity(name) {
            visitor.event(&Event::read(&self.handle.store, &entry)?);
        }
        Ok(())
    }

    fn producer(&mut self) -> Result<Handle> {
        Ok(self.handle.clone())
    }

    fn tail(&mut self) -> Result<Following> {
        let store = Arc::clone(&self.handle.store);
        let mut cursor = store.cursor_guaranteed(&Region::scope(SCOPE));
        while !cursor.poll_batch(PAGE).is_empty() {}
        Ok(Following { store, cursor })
    }

    fn close(self) -> Result<()> {
        Arc::into_inner(self.handle.store).context("batpak is still in use")?.close()?;
        Ok(())
    }
}

impl Handle {
    fn coordinate(&mut self, stream: &str) -> Result<Coordinate> {
        if let Some(known) = self.coordinates.get(stream) {
            return Ok(known.clone());
        }
        let coordinate = Coordinate::new(stream, SCOPE)?;
        self.coordinates.insert(stream.into(), coordinate.clone());
        Ok(coordinate)
    }

    fn items(&mut self, commit: &Commit<'_>) -> Result<Vec<BatchAppendItem>> {
        let item = |event: crate::events::Draft<'_>| {
            let (options, cause) = (AppendOptions::new(), CausationRef::None);
            let coordinate = self.coordinate(event.stream)?;
            Ok(BatchAppendItem::new(coordinate, KIND, &Bytes::new(event.payload), options, cause)?)
        };
        commit.events().map(item).collect()
    }
}

impl Producer for Handle {
    fn append(&mut self, commit: &Commit<'_>) -> Result<()> {
        let Some(event) = commit.only() else {
            let items = self.items(commit)?;
            self.store.append_batch(items)?;
            return Ok(());
        };
        let coordinate = self.coordinate(event.stream)?;
        let payload = &Bytes::new(event.payload);
        let receipt = match self.durability {
            Durability::Os => self.store.append(&coordinate, KIND, payload)?,
            Durability::Sync => {
                let gate = DurabilityGate::new(WatermarkKind::Durable, GATE);
                self.store.append_with_options(&coordinate, KIND, payload, AppendOptions::new().with_gate(gate))?
            }
        };
        drop(receipt);
        Ok(())
    }
}

impl Ticket {
    fn wait(self) -> Result<()> {
        match self {
            Self::One(ticket) => ticket.wait().map(drop)?,
            Self::Batch(ticket) => ticket.wait().map(drop)?,
        }
        Ok(())
    }
}

pub struct Following {
    store: Arc<Inner>,
    cursor: Cursor,
}

impl Tail for Following {
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        let entries = match self.cursor.pull_batch(64, patience)? {
            CanalBatch::Empty => Vec::new(),
            CanalBatch::One(entry) => vec![entry],
            CanalBatch::Many(entries) => entries,
        };
        for entry in &entries {
            payload(Event::read(&self.store, entry)?.payload());
        }
        Ok(entries.len() as u64)
    }
}

struct Event<'a> {
    entry: &'a IndexEntry,
    stored: StoredEvent<Vec<u8>>,
    /// Where the bytes begin, behind their length in MessagePack.
    begin: usize,
}

impl<'a> Event<'a> {
    fn read(store: &Inner, entry: &'a IndexEntry) -> Result<Self> {
        let stored = store.read_raw(entry.event_id())?;
        let begin = match stored.event.payload.first() {
            Some(0xc4) => 2,
            Some(0xc5) => 3,
            Some(0xc6) => 5,
            other => anyhow::bail!("a payload that is no byte string begins with {other:?}"),
        };
        Ok(Self { entry, stored, begin })
    }
}

impl Seen for Event<'_> {
    fn payload(&self) -> &[u8] {
        &self.stored.event.payload[self.begin..]
    }

    fn stream(&self) -> Option<&str> {
        Some(self.entry.coord().entity())
    }

    fn revision(&self) -> Option<u64> {
        Some(u64::from(self.entry.clock()))
    }
}
