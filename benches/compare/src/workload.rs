//! What is measured, how much of it, and which stores it fits.

use std::time::Duration;

use crate::store::{Durability, Profile, Waits};

/// One kind of measurement: a process of its own each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Workload {
    Append(Append),
    /// Many threads, each of which waits for one synced event after the other.
    Producers,
    /// From the append to a second thread that waits for the event.
    Tail,
    /// Makes the store that the next three read; tells its memory and its size.
    Fill,
    Replay,
    Streams,
    Reopen,
    /// The same with ten times as much.
    FillLarge,
    ReopenLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Append {
    pub events: Events,
    pub payload: Payload,
    pub durability: Durability,
    pub way: Way,
}

/// Events a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Events {
    Hundred = 100,
    One = 1,
}

/// Bytes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Payload {
    Small = 100,
    Large = 1024,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    Pipelined,
    Blocking,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub streams: usize,
    /// Streams that are read.
    pub streams_read: usize,
    /// Bytes of payloads that an append workload comes to at most.
    pub append_bytes: u64,
    /// How long it may take at most.
    pub append_time: Duration,
    pub fill: u64,
    pub fill_large: u64,
    pub fill_large_time: Duration,
    pub producers: u64,
    pub tail: u64,
}

impl Sizes {
    pub const FULL: Self = Self {
        streams: 10_000,
        streams_read: 1_000,
        append_bytes: 400_000_000,
        append_time: Duration::from_secs(1),
        fill: 1_000_000,
        fill_large: 10_000_000,
        fill_large_time: Duration::from_secs(20),
        producers: 64,
        tail: 20_000,
    };
    pub const QUICK: Self = Self {
        streams: 100,
        streams_read: 10,
        append_bytes: 500_000,
        append_time: Duration::from_millis(100),
        fill: 5_000,
        fill_large: 10_000,
        fill_large_time: Duration::from_secs(1),
        producers: 8,
        tail: 100,
    };
}

/// How a store comes to its figure for a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    Measured,
    /// It cannot do this; what stands there is what it does instead.
    Instead(Workload, Mark),
    Cannot(&'static str),
}

/// Why a figure is that of another workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// It has no pipelining: the calls wait.
    Blocking,
    /// It syncs whatever it is told.
    Synced,
}

impl Mark {
    pub const ALL: [Self; 2] = [Self::Blocking, Self::Synced];

    pub const fn sign(self) -> &'static str {
        match self {
            Self::Blocking => "ᵇ",
            Self::Synced => "ˢ",
        }
    }

    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Blocking => "has no pipelining: its blocking calls",
            Self::Synced => "cannot leave out the sync here: the same as in the synced class",
        }
    }
}

impl Workload {
    /// Every workload, in the order in which they are run.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for durability in [Durability::Os, Durability::Sync] {
            for payload in [Payload::Small, Payload::Large] {
                for events in [Events::Hundred, Events::One] {
                    for way in [Way::Pipelined, Way::Blocking] {
                        all.push(Self::Append(Append { events, payload, durability, way }));
                    }
                }
            }
        }
        all.extend([Self::Producers, Self::Tail]);
        all.extend([Self::Fill, Self::Replay, Self::Streams, Self::Reopen]);
        all.extend([Self::FillLarge, Self::ReopenLarge]);
        all
    }

    /// Also what the command line and the raw results call it.
    pub fn key(self) -> String {
        match self {
            Self::Append(Append { events, payload, durability, way }) => {
                let durability = if durability == Durability::Os { "os" } else { "sync" };
                let way = if way == Way::Pipelined { "pipelined" } else { "blocking" };
                format!("append-{}x{}-{durability}-{way}", events as u64, payload as u64)
            }
            Self::Producers => "producers".into(),
            Self::Tail => "tail".into(),
            Self::Fill => "fill".into(),
            Self::Replay => "replay".into(),
            Self::Streams => "streams".into(),
            Self::Reopen => "reopen".into(),
            Self::FillLarge => "fill-large".into(),
            Self::ReopenLarge => "reopen-large".into(),
        }
    }

    pub fn named(key: &str) -> Option<Self> {
        Self::all().into_iter().find(|workload| workload.key() == key)
    }

    /// The workload that makes what this one reads.
    pub fn reads(self) -> Option<Self> {
        match self {
            Self::Replay | Self::Streams | Self::Reopen => Some(Self::Fill),
            Self::ReopenLarge => Some(Self::FillLarge),
            _ => None,
        }
    }

    pub fn fit(self, store: &Profile) -> Fit {
        match self {
            Self::Append(append) => append.fit(store),
            Self::Producers if !store.producers => Fit::Cannot("one thread only"),
            Self::Producers if !store.synced => Fit::Cannot("never syncs"),
            Self::Tail if store.waits == Waits::No => Fit::Cannot("no reading beside the writer"),
            Self::Streams if !store.streams => Fit::Cannot("no streams"),
            _ => Fit::Measured,
        }
    }
}

impl Append {
    fn fit(self, store: &Profile) -> Fit {
        let unsynced = match self.events {
            Events::Hundred => store.unsynced_batches,
            Events::One => store.unsynced_singles,
        };
        match self.durability {
            _ if self.way == Way::Pipelined && !store.pipelined => {
                Fit::Instead(Workload::Append(Self { way: Way::Blocking, ..self }), Mark::Blocking)
            }
            Durability::Os if !unsynced => {
                Fit::Instead(Workload::Append(Self { durability: Durability::Sync, ..self }), Mark::Synced)
            }
            Durability::Sync if !store.synced => Fit::Cannot("never syncs"),
            _ => Fit::Measured,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::Name;

    #[test]
    fn keys_lead_back_to_their_workloads() {
        for workload in Workload::all() {
            assert_eq!(Workload::named(&workload.key()), Some(workload));
        }
        assert_eq!(Workload::named("append-7x100-os-blocking"), None);
    }

    #[test]
    fn what_a_store_cannot_do_is_told_and_what_it_does_instead_is_marked() {
        let pipelined = Append {
            events: Events::Hundred,
            payload: Payload::Small,
            durability: Durability::Os,
            way: Way::Pipelined,
        };
        let blocking = Workload::Append(Append { way: Way::Blocking, ..pipelined });
        let synced = Workload::Append(Append { durability: Durability::Sync, ..pipelined });
        let pipelined = Workload::Append(pipelined);
        assert_eq!(pipelined.fit(Name::Towpath.profile()), Fit::Measured);
        assert_eq!(pipelined.fit(Name::Lmdb.profile()), Fit::Instead(blocking, Mark::Blocking));
        assert_eq!(pipelined.fit(Name::Umadb.profile()), Fit::Instead(synced, Mark::Synced));
        assert_eq!(
            synced.fit(Name::Commitlog.profile()),
            Fit::Instead(Workload::named("append-100x100-sync-blocking").unwrap(), Mark::Blocking)
        );
        assert_eq!(Workload::Streams.fit(Name::Walrus.profile()), Fit::Cannot("no streams"));
    }
}
