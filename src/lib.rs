//! A synchronous embedded event-sourcing store: one directory, one writer, memory-mapped segments of checksummed events,
//! and canals that feed the caller's own threads in batches. No async runtime.
//!
//! Start with [`Store`]; the [`guide`] explains how it works, what it promises, and how common things are done.

#[cfg(not(unix))]
compile_error!("towpath's door to the file system is written for Unix so far");

mod canal;
mod clock;
pub mod copies;
mod error;
mod event;
mod format;
mod forward;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
mod id;
pub mod inspect;
#[cfg(all(test, shuttle))]
mod interleaved;
mod log;
mod reactor;
mod segment;
#[cfg(all(feature = "simulation", target_os = "linux"))]
#[doc(hidden)]
pub mod simulation;
mod sink;
mod store;
mod sync;
mod writer;

pub use canal::batch::{Batch, Deliveries, Delivery};
pub use canal::breaker::{Breaker, Circuit};
pub use canal::consumers::{Consumer, ConsumerKind, Unsettled};
pub use canal::cursor::{Cursor, CursorBuilder};
pub use canal::dead::{DeadLetter, DeadLetters, Moved};
pub use canal::group::{Group, GroupBuilder, Member, OnFailure, Order};
pub use canal::retry::Retry;
pub use canal::subscription::{Subscription, SubscriptionBuilder};
pub use canal::{Canal, Promises, Reason, Settlement, Start, Token, Transact};
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Damage, Error, Result, SharedIo};
pub use event::codec::Codec;
pub use event::draft::{Expected, NewEvent};
pub use event::query::{Condition, Query};
pub use event::upcast::{Encoded, Upcasters};
pub use format::VERSION as FORMAT_VERSION;
pub use format::limits;
pub use forward::counters::{ForwardCounters, Watch};
pub use forward::{Forwarded, Forwarder, OnRefusal};
pub use id::{EventId, Position, Revision, StoreId, Timestamp};
pub use log::cost::ReadCost;
pub use log::event::Event;
pub use log::purge::Purged;
pub use log::reader::{Ended, Reader};
pub use log::recover::{Quarantined, Recovery};
pub use log::retain::{Hold, Need, Plan, Retention};
pub use reactor::Reactor;
pub use reactor::failure::Failure;
pub use reactor::handler::Handler;
pub use reactor::notice::{Notice, Turn};
pub use reactor::spawned::Handle;
pub use reactor::stop::Stop;
pub use sink::cascade::{Cascade, Fall};
#[cfg(feature = "sink-file")]
pub use sink::file::FileSink;
#[cfg(feature = "sink-http")]
pub use sink::http::HttpSink;
#[cfg(feature = "sink-kafka")]
pub use sink::kafka::KafkaSink;
pub use sink::memory::MemorySink;
#[cfg(feature = "json")]
pub use sink::record::{Fit, JsonRecord};
#[cfg(feature = "sink-redis")]
pub use sink::redis::RedisSink;
pub use sink::stream::StreamSink;
pub use sink::tally::{SinkCounts, Tally};
pub use sink::{Refusal, RefusalKind, Sink};
pub use store::{Compacted, Counters, InOrder, Options, Store};
pub use writer::commit::Commit;
pub use writer::durability::Durability;
pub use writer::ticket::{Receipt, Ticket};
pub use writer::view::{Proposal, Proposed, View};

/// The program in the README runs as it stands.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
