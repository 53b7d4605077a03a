//! batpak: a journal whose events are chained by hashes; the stream is an entity.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use batpak::coordinate::{Coordinate, Region};
use batpak::event::{EventKind, StoredEvent};
use batpak::store::stats::WatermarkKind;
use batpak::store::{
    AppendOptions, AppendTicket, BatchAppendItem, BatchAppendTicket, CausationRef, DurabilityGate, IndexEntry, Open,
    StoreConfig, Subscription, SyncMode,
};
use rustc_hash::FxHashMap;
use serde_bytes::Bytes;

use crate::events::Commit;
use crate::store::{Durability, Producer, Profile, Purpose, Seen, Store, Tail, Visitor, Waits};

const KIND: EventKind = EventKind::custom(0xF, 1);
const SCOPE: &str = "bench";
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
    coordinates: FxHashMap<Box<str>, Coordinate>,
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
            "Reading asks the index in memory for all entries at once (paged, each page walks the whole index), and then the disk for each payload (`read_raw`).",
            "The consumer is a lossy subscription, which is quicker than the ordered cursor.",
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
        Ok(Self { handle: Handle { store, durability, coordinates: FxHashMap::default() }, waiting: VecDeque::new() })
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
        for entry in store.query(&Region::scope(SCOPE)) {
            visitor.event(&Event::read(store, &entry)?);
        }
        Ok(())
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
        let subscription = self.handle.store.subscribe_lossy(&Region::scope(SCOPE));
        Ok(Following { store: Arc::clone(&self.handle.store), subscription })
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
    subscription: Subscription,
}

impl Tail for Following {
    fn next(&mut self, patience: Duration, payload: &mut impl FnMut(&[u8])) -> Result<u64> {
        let Ok(notice) = self.subscription.filtered_receiver().recv_timeout(patience) else { return Ok(0) };
        let stored = self.store.read_raw(notice.event_id)?;
        payload(bytes(&stored)?);
        Ok(1)
    }
}

struct Event<'a> {
    entry: &'a IndexEntry,
    stored: StoredEvent<Vec<u8>>,
}

impl<'a> Event<'a> {
    fn read(store: &Inner, entry: &'a IndexEntry) -> Result<Self> {
        Ok(Self { entry, stored: store.read_raw(entry.event_id())? })
    }
}

/// The payload, behind its length in MessagePack.
fn bytes(stored: &StoredEvent<Vec<u8>>) -> Result<&[u8]> {
    let payload = &stored.event.payload;
    let begin = match payload.first() {
        Some(0xc4) => 2,
        Some(0xc5) => 3,
        Some(0xc6) => 5,
        other => bail!("a payload that is no byte string begins with {other:?}"),
    };
    Ok(&payload[begin..])
}

impl Seen for Event<'_> {
    fn payload(&self) -> &[u8] {
        bytes(&self.stored).unwrap_or_default()
    }

    fn stream(&self) -> Option<&str> {
        Some(self.entry.coord().entity())
    }

    fn revision(&self) -> Option<u64> {
        Some(u64::from(self.entry.clock()))
    }
}
