//! The one error type. Each variant answers "what does the caller do next".

use std::io;
use std::path::{Path, PathBuf};

use crate::event::draft::Expected;
use crate::id::{EventId, Position, Revision};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused. Look at `source`; the store is unchanged.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: `open`, `read`, `rename`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: SharedIo,
    },
    /// No room for this. Of a commit nothing was written; reads go on, and appends work again once there is room. Of a copy that was
    /// to be made ([`copies`](crate::copies)) nothing has taken its place; what there was room for stands in `TO.part`. A backup and a
    /// restored store go on with that the next time, a fork and a repaired store are begun anew.
    #[error("no room for {needed} bytes in {}; free some space there and try again", path.display())]
    DiskFull {
        /// The store, or the file.
        path: PathBuf,
        /// The bytes that were asked for.
        needed: u64,
    },
    /// The store has as many bytes as [`Options::limit_bytes`](crate::Options::limit_bytes) lets it have. Nothing of the commit was
    /// written; reads and settlements go on, and appends work again once old events were let go of
    /// ([`Store::retain`](crate::Store::retain)).
    #[error(
        "no room for {needed} bytes in {}, which has {used} of the {limit} bytes it may have; let go of old events and append again",
        path.display()
    )]
    StoreFull {
        /// The store.
        path: PathBuf,
        /// The bytes that it may have.
        limit: u64,
        /// The bytes that it has.
        used: u64,
        /// The bytes that were asked for: those of the commit, or of another segment for it.
        needed: u64,
    },
    /// Another writer has this store open.
    #[error("store {} is locked by {}; open it read-only, or stop that process", path.display(), holder_text(*holder))]
    Locked {
        /// The store.
        path: PathBuf,
        /// The process that holds the lock, where it is known.
        holder: Option<u32>,
    },
    /// What stands there is not a store, or not the one that its other files belong to. Nothing was changed.
    #[error("{} is not part of a sound store: {why}", path.display())]
    NotAStore {
        /// The file or directory that does not fit.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// Written by another version, or with something this build cannot read.
    #[error("{} has {what} {found}, which this build does not read; use a newer towpath", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is unknown.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// Bytes that were stored and are not whole any more. Reading goes on behind them.
    #[error("{0}")]
    Damaged(Damage),
    /// The stream is not where the commit expects it. Nothing of the commit was written.
    #[error("stream {stream} is at revision {actual}, expected {expected}; read what is new and try again")]
    Conflict {
        /// The stream.
        stream: String,
        /// What the commit expected.
        expected: Expected,
        /// Where the stream stands.
        actual: Revision,
    },
    /// An event that the commit's condition rules out stands in the log. Nothing of the commit was written.
    #[error(
        "an event matching the append condition stands at position {found}, after {after}; read it and decide again"
    )]
    ConditionFailed {
        /// The condition's position.
        after: Position,
        /// The first matching event behind it.
        found: Position,
    },
    /// The commit's rule refused it. Nothing was written.
    #[error("the rule refused the commit: {reason}")]
    Refused {
        /// What the rule said, or that it panicked.
        reason: String,
    },
    /// The idempotency key stands in the log already, with other content. Nothing was written.
    #[error("idempotency key {key:?} was used for other content at position {first}")]
    KeyReused {
        /// The key.
        key: String,
        /// The first event that was written with it.
        first: Position,
    },
    /// Larger than allowed. Nothing was written.
    #[error("{what} has {size} bytes or items, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A value that cannot be taken as it is. Nothing was changed.
    #[error("{what} {value:?} cannot be used: {why}")]
    Invalid {
        /// What kind of value.
        what: &'static str,
        /// The value, cut after 80 characters.
        value: String,
        /// Why not.
        why: &'static str,
    },
    /// A write or sync failed and the writer stopped for good. Reads go on; reopen to find out what survived.
    #[error("the writer has stopped: {why}; reopen the store to go on")]
    Stopped {
        /// What failed.
        why: String,
    },
    /// The staging buffer is full; only [`try_submit`](crate::Store::try_submit) says so.
    #[error("the staging buffer is full; wait for a ticket, then submit again")]
    Busy,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The store was opened read-only; or this process was forked from the one that opened it; or a commit's rule is running
    /// on this thread, which may not wait for the writer. `why` says which. A medium that cannot be written gives
    /// [`Error::Io`].
    #[error("the store cannot be written here: {why}")]
    ReadOnly {
        /// Why not.
        why: &'static str,
    },
    /// The position lies before the oldest event that is kept.
    #[error("position {asked} is not kept any more, the oldest is {oldest}; go on from there")]
    Expired {
        /// What was asked for.
        asked: Position,
        /// The oldest event that is kept.
        oldest: Position,
    },
    /// A store that was opened read-only has shown events that the log does not hold any more: its writer ended before they
    /// were on stable storage, and the one that came after it found less. Other events stand at these positions now, or will.
    /// Only [`Durability::Os`](crate::Durability::Os), `Every`, and what had not been acknowledged yet can come to this. Lasting: drop
    /// what came behind `kept`, open the store again, and go on there.
    #[error(
        "in {} events behind position {kept} were withdrawn, up to {seen}: they were lost in a crash; drop them and open the store again",
        path.display()
    )]
    Withdrawn {
        /// The store.
        path: PathBuf,
        /// The last position that was known here.
        seen: Position,
        /// The last position that still is what it was.
        kept: Position,
    },
    /// An event cannot be read as the type asked for.
    #[error("event {} of type {type_name:?} does not decode{}: {why}", place_text(*position), field_text(field))]
    Decode {
        /// Where it stands; [`Position::START`] when it does not come from a log.
        position: Position,
        /// Its type name.
        type_name: String,
        /// The field that does not fit, where it is known.
        field: Option<String>,
        /// What does not fit.
        why: String,
    },
    /// A value cannot be written as an event.
    #[error("a value of {type_name} cannot become an event: {why}")]
    Encode {
        /// The Rust type.
        type_name: &'static str,
        /// Why not.
        why: String,
    },
    /// A second consumer under this name, which has an owner.
    #[error("consumer {name:?} is in use; drop the other one first")]
    ConsumerBusy {
        /// The name.
        name: String,
    },
    /// An acknowledgement beyond what was handed out. The checkpoint is unchanged.
    #[error("{asked} was never handed out to consumer {name:?}, the last was {last}")]
    NotDelivered {
        /// The consumer.
        name: String,
        /// What was acknowledged.
        asked: Position,
        /// The last that was handed out.
        last: Position,
    },
    /// A delivery that is not this consumer's to settle. Nothing has changed.
    #[error("the delivery of position {position} by {name:?} cannot be settled: {why}")]
    NotHeld {
        /// The consumer.
        name: String,
        /// The event.
        position: Position,
        /// Why not: it is settled already, its lease ran out, somebody else has it, it was never handed out.
        why: &'static str,
    },
    /// A consumer of this name exists and is another one. Use another name, or what it was made with.
    #[error("consumer {name:?} exists with {what}; open it as it was made, or use another name")]
    ConsumerDiffers {
        /// The name.
        name: String,
        /// What differs, and how it stands.
        what: String,
    },
    /// The store remembers no consumer of this name.
    #[error("there is no consumer {name:?}; `Store::consumers` lists them")]
    UnknownConsumer {
        /// The name.
        name: String,
    },
    /// This canal does not do that; its [`Promises`](crate::Promises) say so.
    #[error("a {canal} does not promise {what}")]
    NotPromised {
        /// What kind of canal it is.
        canal: &'static str,
        /// What was asked of it.
        what: &'static str,
    },
    /// An event that was not handled: its handler failed or did not return, or its sink refused it. What came before it is
    /// settled; the event comes again.
    #[error("the event at position {position} was not handled: {why}")]
    Handler {
        /// The event.
        position: Position,
        /// What the handler said.
        why: String,
    },
    /// The chain of causes comes back to itself.
    #[error("the causes of event {at} lead back to it")]
    CausalLoop {
        /// The event that is its own cause.
        at: EventId,
    },
}

/// A stretch of a file that is not what was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file's name within the store.
    pub segment: String,
    /// Where the stretch begins, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes it has; up to the next sound frame, or the end.
    pub length: u64,
    /// The position of the first event that is lost in it.
    pub position: Position,
    /// What was found.
    pub what: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage { segment, offset, length, position, what } = self;
        write!(f, "{segment} is damaged at offset {offset} for {length} bytes, from position {position}: {what}")
    }
}

/// An [`io::Error`] that can be cloned, because one failure may answer many callers.
#[derive(Clone, Debug)]
pub struct SharedIo(std::sync::Arc<io::Error>);

impl SharedIo {
    /// The kind of the error.
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind()
    }
}

impl std::fmt::Display for SharedIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedIo {}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Io { action, path: path.to_owned(), source: SharedIo(std::sync::Arc::new(source.into())) }
    }

    pub(crate) fn invalid(what: &'static str, value: &str, why: &'static str) -> Self {
        Error::Invalid { what, value: value.chars().take(80).collect(), why }
    }

    pub(crate) fn not_a_store(path: &Path, why: impl Into<String>) -> Self {
        Error::NotAStore { path: path.to_owned(), why: why.into() }
    }
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

fn place_text(position: Position) -> String {
    if position == Position::START { "payload".to_owned() } else { format!("at position {position}") }
}

fn field_text(field: &Option<String>) -> String {
    field.as_ref().map(|field| format!(" at field {field:?}")).unwrap_or_default()
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("something that is no text")
}
