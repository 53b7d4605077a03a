//! What users open.

mod counters;
mod graph;
pub(crate) mod options;
mod parallel;
mod removal;
mod retain;

pub use counters::Counters;
pub use options::Options;
pub use parallel::InOrder;
pub use removal::Compacted;

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::event::draft::NewEvent;
use crate::event::query::Query;
use crate::format::term::Kind;
use crate::id::{EventId, Position, Revision, StoreId};
use crate::log::event::Event;
use crate::log::reader::Reader;
use crate::log::recover::Recovery;
use crate::log::terms::Filter;
use crate::log::walk::{Step, latest, lookup};
use crate::log::{Log, parts::Part};
use crate::sync::gate::Crowd;
use crate::sync::owners::Owners;
use crate::sync::primitive::{Arc, Mutex, Weak};
use crate::writer::Writer;
use crate::writer::commit::Commit;
use crate::writer::staging::Patience;
use crate::writer::ticket::{Receipt, Ticket};
use crate::writer::view;

/// An event store: one directory, one writer, any number of readers.
///
/// It can be shared by threads, and cloning it costs a reference count; all clones are the same open store. The last one
/// to go closes it, without telling errors; [`close`](Store::close) tells them.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-store-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// use towpath::{NewEvent, Query, Store};
///
/// let store = Store::open(&dir)?;
/// store.append("cart-1", NewEvent::new("opened", ""))?;
/// store.append("cart-1", NewEvent::new("item added", "tea").tag("sku:tea"))?;
///
/// let types: Vec<String> = store
///     .read(Query::new().stream("cart-1"))
///     .map(|event| Ok(event?.type_name().to_owned()))
///     .collect::<towpath::Result<_>>()?;
/// assert_eq!(types, ["opened", "item added"]);
/// store.close()?;
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) log: Arc<Log>,
    /// `None` when it was opened read-only.
    writer: Option<Writer>,
    recovery: Recovery,
    /// Which consumer names have an owner, and what the owners were told.
    pub(crate) owners: Owners,
    pub(crate) clock: Arc<dyn Clock>,
    /// What several handles of one consumer name share in this process, by that name.
    pub(crate) shared: Mutex<HashMap<String, Weak<dyn Any + Send + Sync>>>,
    /// The subscriptions that wait for events.
    pub(crate) crowd: Crowd,
}

impl Inner {
    fn new(log: Arc<Log>, writer: Option<Writer>, recovery: Recovery, clock: Arc<dyn Clock>) -> Self {
        Self {
            log,
            writer,
            recovery,
            owners: Owners::default(),
            clock,
            shared: Mutex::default(),
            crowd: Crowd::default(),
        }
    }
}

impl Store {
    /// Opens a store, or makes one, with [`Durability::Sync`](crate::Durability::Sync). The same as
    /// `Options::new().open(path)`.
    ///
    /// # Errors
    /// [`Error::Locked`] when another writer has it open, [`Error::NotAStore`], [`Error::Unsupported`] and
    /// [`Error::Damaged`] when what stands there cannot be used as it is; no event is lost by that, though what
    /// was never whole may be in `quarantine/` already. [`Error::Io`] and [`Error::DiskFull`] from the operating system.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Opens a store for reading, beside a writer in this or another process, or without one. Holds no lock (it tries
    /// that of `LOCK` for an instant, to see whether a writer lives) and changes nothing. What the writer publishes later shows up in
    /// [`head`](Store::head), in new readers, and in cursors, and so does what the next writer does when this one has ended, however
    /// it did. The guide's page [`beside`](crate::guide::beside) tells what a reader may meet.
    ///
    /// # Errors
    /// As [`open`](Store::open), but for the lock. Damage in the newest segment is told by readers instead, unless it is a
    /// [backup](crate::copies::backup()) that has lost its end. Later, each read and each
    /// cursor of this store may say [`Error::Withdrawn`], and from then on nothing else.
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        options::open_read_only(path.as_ref())
    }

    /// The store's own id.
    pub fn id(&self) -> StoreId {
        self.inner.log.store
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.inner.log.directory.path()
    }

    /// What opening found: whether the store was closed in good order, and what was cut off if not.
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// The position of the last event that readers see; [`Position::START`] in an empty store. Beside a writer in another process
    /// it stands still once something that was shown here was [withdrawn](Error::Withdrawn); reads tell.
    pub fn head(&self) -> Position {
        self.look();
        self.inner.log.head()
    }

    /// The last position that a power cut cannot take.
    pub fn durable(&self) -> Position {
        self.look();
        self.inner.log.durable()
    }

    /// The position of the oldest event that is kept, or the first to come.
    pub fn oldest(&self) -> Position {
        let log = &self.inner.log;
        // What cannot be looked at now will be told by whoever reads there.
        log.oldest_now().unwrap_or_else(|_| log.oldest())
    }

    /// Appends one event to a stream and waits as the store's durability says.
    ///
    /// # Errors
    /// As [`commit`](Store::commit).
    pub fn append(&self, stream: &str, event: NewEvent<'_>) -> Result<Receipt> {
        self.commit(Commit::new().event(stream, event))
    }

    /// Writes a commit and waits as the store's durability says. When it returns, every reader of this process sees it.
    ///
    /// # Errors
    /// Nothing is written when it says: [`Error::Conflict`], [`Error::ConditionFailed`], [`Error::Refused`],
    /// [`Error::KeyReused`], [`Error::TooLarge`], [`Error::Invalid`], [`Error::DiskFull`], [`Error::StoreFull`], [`Error::ReadOnly`],
    /// [`Error::Closed`], and [`Error::Damaged`] when damage hides where a stream stands or whether an idempotency key or
    /// a condition's event is there. After [`Error::Stopped`] reopening tells whether it was.
    pub fn commit(&self, commit: &Commit) -> Result<Receipt> {
        self.writer()?.commit(commit)
    }

    /// Hands a commit to the writer and returns at once with a ticket for the answer. Commits of one thread are written
    /// in the order they were submitted. Waits only while the staging buffer is full.
    ///
    /// # Errors
    /// What can be told without the log: names, sizes, a closed or read-only store. The rest comes with the ticket.
    pub fn submit(&self, commit: &Commit) -> Result<Ticket> {
        self.writer()?.submit(commit, Patience::Wait)
    }

    /// The same, but refuses instead of waiting.
    ///
    /// # Errors
    /// As [`submit`](Store::submit), and [`Error::Busy`] when the staging buffer is full.
    pub fn try_submit(&self, commit: &Commit) -> Result<Ticket> {
        self.writer()?.submit(commit, Patience::Refuse)
    }

    /// Returns once everything that was appended or submitted before is on stable storage, whatever the durability.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the sync failed, now or before: the writer has stopped for good. [`Error::ReadOnly`] when it
    /// was opened read-only, in a forked child, and within a rule.
    pub fn sync(&self) -> Result<()> {
        self.writer()?.sync()
    }

    /// Writes everything that was submitted, syncs, and closes the store for all its clones. Consumers get what is
    /// there and then [`Error::Closed`]; events that were read stay readable.
    ///
    /// # Errors
    /// What went wrong on the way; the store is closed all the same. [`Error::Closed`] when it was already.
    /// [`Error::ReadOnly`] in a forked child and within a rule: it stays open then.
    pub fn close(self) -> Result<()> {
        match &self.inner.writer {
            Some(writer) => writer.close(),
            None if self.inner.log.is_closed() => Err(Error::Closed),
            None => {
                self.inner.log.close();
                Ok(())
            }
        }
    }

    /// Reads events: those that the query means, up to the head as it is now, in the order of the log. Narrow it with
    /// the methods of [`Reader`].
    pub fn read(&self, query: Query) -> Reader {
        self.read_filtered(Filter::Query(query))
    }

    /// The event at a position; `None` behind the head.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is, [`Error::Expired`] when it is not kept any more.
    pub fn event(&self, position: Position) -> Result<Option<Event<'static>>> {
        let (log, head) = (&self.inner.log, self.head_now()?);
        if position == Position::START || position > head {
            return Ok(None);
        }
        if position < log.oldest() {
            return Err(Error::Expired { asked: position, oldest: log.oldest() });
        }
        match log.costs.of(|| lookup::at(log, position))? {
            Some((part, Step::Event { offset, len, .. })) => Ok(Some(owned(&part, offset, len))),
            Some((_, Step::Damaged(damage))) => Err(Error::Damaged(*damage)),
            None => Ok(None),
        }
    }

    /// The event with a revision of a stream; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it could stand in a damaged stretch.
    pub fn event_at(&self, stream: &str, revision: Revision) -> Result<Option<Event<'static>>> {
        if revision == Revision::ABSENT {
            return Ok(None);
        }
        let (log, head) = (&self.inner.log, self.head_now()?);
        match log.costs.of(|| lookup::by_revision(log, stream, revision, head))? {
            Some((part, Step::Event { offset, len, .. })) => Ok(Some(owned(&part, offset, len))),
            Some((_, Step::Damaged(damage))) => Err(Error::Damaged(*damage)),
            None => Ok(None),
        }
    }

    /// The event with an id. An id that is a place in another store gives `None`; of several events that were given one
    /// id, the latest.
    ///
    /// # Errors
    /// As [`event`](Store::event).
    pub fn event_by_id(&self, id: &EventId) -> Result<Option<Event<'static>>> {
        match id {
            EventId::Place { store, position } if *store == self.id() => self.event(*position),
            EventId::Place { .. } => Ok(None),
            EventId::Own(id) => {
                let (log, head) = (&self.inner.log, self.head_now()?);
                let found = log.costs.of(|| latest::latest(log, Kind::Id, &id.to_be_bytes(), head))?;
                Ok(found.map(|(part, offset, len)| owned(&part, offset, len)))
            }
        }
    }

    /// Where a stream stands; [`Revision::ABSENT`] when it does not exist.
    ///
    /// # Errors
    /// [`Error::Damaged`] when its last event may stand in a damaged stretch. When a segment cannot be opened.
    pub fn revision(&self, stream: &str) -> Result<Revision> {
        view::revision(&self.inner.log, stream, self.head_now()?)
    }

    pub(crate) fn read_filtered(&self, filter: Filter) -> Reader {
        Reader::new(self.inner.log.clone(), filter, self.head())
    }

    /// Does one piece of the work that threads would do. `false`: there is none.
    #[cfg(feature = "simulation")]
    pub(crate) fn step(&self) -> Result<bool> {
        Ok(self.writer()?.step())
    }

    /// The writer, or why there is none.
    pub(crate) fn writer(&self) -> Result<&Writer> {
        self.inner.writer.as_ref().ok_or(Error::ReadOnly { why: "it was opened read-only" })
    }

    /// The head, unless what was shown here is not in the log any more.
    fn head_now(&self) -> Result<Position> {
        let head = self.head();
        self.inner.log.check_shown().map(|()| head)
    }

    /// On the reading side, takes in what is new. What cannot be read now will be told by whoever reads it.
    fn look(&self) {
        let _later = self.inner.log.refresh();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path())
            .field("head", &self.inner.log.head())
            .field("read_only", &self.inner.writer.is_none())
            .finish_non_exhaustive()
    }
}

fn owned(part: &Arc<Part>, offset: u64, len: u32) -> Event<'static> {
    Event::borrowed(&part.segment, offset, len).into_owned()
}
