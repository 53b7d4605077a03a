//! Sinks: where events go when they leave the store.

pub(crate) mod cascade;
#[cfg(any(feature = "sink-http", feature = "sink-kafka", feature = "sink-redis"))]
mod fields;
#[cfg(feature = "sink-file")]
pub(crate) mod file;
#[cfg(feature = "sink-http")]
pub(crate) mod http;
#[cfg(feature = "sink-kafka")]
pub(crate) mod kafka;
pub(crate) mod memory;
#[cfg(feature = "json")]
pub(crate) mod record;
#[cfg(feature = "sink-redis")]
pub(crate) mod redis;
pub(crate) mod stream;
pub(crate) mod tally;
#[cfg(any(feature = "sink-http", feature = "sink-redis"))]
mod tls;
#[cfg(any(feature = "sink-http", feature = "sink-kafka", feature = "sink-redis"))]
mod url;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::canal::batch::Delivery;
use crate::sink::tally::SinkCounts;

/// Takes events out of the store, in order, to a place of its own: a file, a service, another stream.
///
/// A sink does not know where the events come from and keeps no progress: what feeds it settles what the sink has made
/// durable, and brings the rest again. So every record arrives at least once; a sink that can tell two arrivals of one record
/// apart ([`Delivery::idempotency_key`]) makes that exactly once.
///
/// The smallest useful one writes lines to a file and has the operating system make them last:
///
/// ```
/// use std::fs::File;
/// use std::io::Write;
/// use towpath::{Delivery, Refusal, Sink};
///
/// struct Lines(File);
///
/// impl Sink for Lines {
///     fn name(&self) -> &str {
///         "lines"
///     }
///
///     fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
///         for (taken, record) in records.iter().enumerate() {
///             // What will never fit is refused for good; it is counted, and the next one comes.
///             let Ok(text) = std::str::from_utf8(record.payload()) else {
///                 return Err(Refusal::refused(taken, "the payload is no text"));
///             };
///             // What may work later comes again later, and nothing behind it comes before.
///             writeln!(self.0, "{} {text:?}", record.position()).map_err(|e| Refusal::again(taken, e.to_string()))?;
///         }
///         Ok(())
///     }
///
///     fn flush(&mut self) -> Result<(), Refusal> {
///         // None of it is certain: all that was written since the last flush comes again.
///         self.0.sync_all().map_err(|e| Refusal::again(0, e.to_string()))
///     }
/// }
/// # let path = std::env::temp_dir().join(format!("towpath-sink-{}", std::process::id()));
/// # let mut sink = Lines(File::create(&path).unwrap());
/// # sink.flush().unwrap();
/// # std::fs::remove_file(&path).unwrap();
/// ```
pub trait Sink: Send {
    /// What errors and counters call it. Never a secret: a URL without its credentials.
    fn name(&self) -> &str;

    /// Takes records, in their order. `Ok`: all of them, though perhaps only into a buffer. It may block for as long as the
    /// sink's own limits on time allow, and must have such limits.
    ///
    /// # Errors
    /// A [`Refusal`] says how many of these records, from the front, were taken, and what is with the next one. None behind
    /// that one was taken.
    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal>;

    /// Waits until everything that was written is as durable as this sink can make it, and only then says `Ok`.
    ///
    /// # Errors
    /// A [`Refusal`] says how many of the records that were taken since the flush before this one are durable, counted from
    /// the front, and what is with the next one. The sink has forgotten the others: they are written again.
    fn flush(&mut self) -> Result<(), Refusal>;

    /// What happened to records other than being passed on whole, since the sink was made. Nothing, unless the sink says so.
    fn counts(&self) -> SinkCounts {
        SinkCounts::default()
    }
}

impl<S: Sink + ?Sized> Sink for Box<S> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        (**self).write(records)
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        (**self).flush()
    }

    fn counts(&self) -> SinkCounts {
        (**self).counts()
    }
}

/// How far a sink came, and why not further.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// How many records, from the front, are not concerned: taken, where `write` says it; durable, where `flush` does.
    pub taken: usize,
    /// What is with the record behind those.
    pub kind: RefusalKind,
    /// What failed, for people. Without secrets, and with the same words for the same cause, since it is counted by them.
    pub why: Cow<'static, str>,
}

/// What is with a record that a sink did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusalKind {
    /// It may be taken later. It comes again, with everything behind it.
    Again {
        /// Not before so long from now. `None`: whenever its feeder thinks fit.
        after: Option<Duration>,
    },
    /// This record will never be taken; the one behind it may be.
    Refused,
}

impl Refusal {
    /// The record behind the `taken` ones may be taken later.
    pub fn again(taken: usize, why: impl Into<Cow<'static, str>>) -> Self {
        Self { taken, kind: RefusalKind::Again { after: None }, why: why.into() }
    }

    /// The record behind the `taken` ones will never be taken.
    pub fn refused(taken: usize, why: impl Into<Cow<'static, str>>) -> Self {
        Self { taken, kind: RefusalKind::Refused, why: why.into() }
    }

    /// Makes it one that may be taken later, and not before so long from now. Zero asks for the records again at once, and
    /// is no failure; a sink that asks so twice without having got further waits like any other.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.kind = RefusalKind::Again { after: Some(wait) };
        self
    }

    /// The same, with another number of records before it.
    #[must_use]
    pub fn at(mut self, taken: usize) -> Self {
        self.taken = taken;
        self
    }

    /// Whether this record will never be taken.
    pub fn is_final(&self) -> bool {
        self.kind == RefusalKind::Refused
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { taken, why, .. } = self;
        match self.kind {
            RefusalKind::Refused => write!(f, "refused the record behind {taken}: {why}"),
            RefusalKind::Again { after: None } => write!(f, "could not take the record behind {taken} now: {why}"),
            RefusalKind::Again { after: Some(wait) } => {
                write!(f, "could not take the record behind {taken} now, but perhaps in {wait:?}: {why}")
            }
        }
    }
}

impl std::error::Error for Refusal {}
