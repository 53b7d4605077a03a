//! A sink that appends to a stream.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::canal::batch::Delivery;
use crate::error::{Error, Result};
use crate::event::draft::NewEvent;
use crate::format::names;
use crate::sink::{Refusal, Sink};
use crate::store::Store;
use crate::writer::commit::Commit;
use crate::writer::ticket::Ticket;

/// More than this many copies on their way are waited for, flush or not.
const ON_THE_WAY: usize = 4096;

/// Appends a copy of each record to a stream, of the store it comes from or of another one. Each copy is written once,
/// however often its record comes, for as long as the copy is kept.
///
/// A copy has the type, payload, codec, schema version, tags, headers and correlation of its event. The event is its cause, and the event's
/// time is when it occurred, unless it had such a time of its own. It has no id of its own. What stands in the target stream already
/// is refused, so that a sink which reads what it wrote does not go on for ever.
///
/// Copies stand in the order of their records, and are written and synced together.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-stream-sink-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// # std::fs::create_dir(&dir).unwrap();
/// use std::time::Duration;
/// use towpath::{Forwarder, NewEvent, Query, Store, StreamSink};
///
/// let (live, archive) = (Store::open(dir.join("live"))?, Store::open(dir.join("archive"))?);
/// live.append("cart-1", NewEvent::new("opened", ""))?;
/// let sink = StreamSink::new(&archive, "all-carts")?;
/// Forwarder::new(live.cursor("archive").open()?, sink).turn(Duration::ZERO)?;
/// assert_eq!(archive.read(Query::new().stream("all-carts")).count(), 1);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
#[derive(Debug)]
pub struct StreamSink {
    store: Store,
    stream: String,
    name: String,
    /// Copies on their way, in their order.
    on_the_way: VecDeque<Ticket>,
    /// The key of the last copy since the last flush.
    before: Option<String>,
    /// How many since the last flush were waited for.
    written: usize,
    /// What stopped that; nothing more is taken before the next flush has told it.
    failed: Option<Refusal>,
}

impl StreamSink {
    /// A sink that appends to a stream of this store.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::TooLarge`] for a name that no stream of a user may have, [`Error::ReadOnly`] for
    /// a store that was opened read-only.
    pub fn new(store: &Store, stream: impl Into<String>) -> Result<Self> {
        let stream = stream.into();
        names::check_users("stream name", &stream)?;
        store.writer()?;
        Ok(Self {
            name: format!("stream {stream}"),
            store: store.clone(),
            stream,
            on_the_way: VecDeque::new(),
            before: None,
            written: 0,
            failed: None,
        })
    }

    /// Sends a copy on its way, behind those that are on it already.
    fn submit(&mut self, record: &Delivery<'_>) -> Result<()> {
        let key = record.idempotency_key();
        let mut commit = copy(record, &self.stream);
        commit.key(&key);
        if let Some(before) = self.before.take() {
            // One that fails must not be overtaken by the next, which is on its way by then.
            commit.rule(move |_, view| match view.has_key(&before) {
                Ok(true) => Ok(()),
                Ok(false) => Err("the record before it was not written".to_owned()),
                Err(error) => Err(error.to_string()),
            });
        }
        self.on_the_way.push_back(self.store.submit(&commit)?);
        self.before = Some(key);
        Ok(())
    }

    /// Waits for all that are on their way, up to the first that fails.
    fn wait(&mut self) {
        while let Some(ticket) = self.on_the_way.pop_front() {
            if let Err(error) = ticket.wait() {
                self.failed = Some(refusal(&error));
                // Those behind it are not written without it.
                self.on_the_way.clear();
                return;
            }
            self.written += 1;
        }
    }

    fn is_own(&self, record: &Delivery<'_>) -> bool {
        record.stream() == self.stream && record.event().store() == self.store.id()
    }
}

impl Sink for StreamSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, records: &[Delivery<'_>]) -> Result<(), Refusal> {
        for (taken, record) in records.iter().enumerate() {
            if self.on_the_way.len() >= ON_THE_WAY {
                self.wait();
            }
            if let Some(failed) = &self.failed {
                return Err(Refusal::again(taken, failed.why.clone()));
            }
            if self.is_own(record) {
                return Err(Refusal::refused(taken, "it stands in the target stream already"));
            }
            self.submit(record).map_err(|error| refusal(&error).at(taken))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        if self.failed.is_none() {
            self.wait();
        }
        self.before = None;
        let (written, failed) = (std::mem::take(&mut self.written), self.failed.take());
        // Copies that were written are durable only now, whatever the store's own durability.
        if written > 0 {
            self.store.sync().map_err(|error| refusal(&error))?;
        }
        failed.map_or(Ok(()), |refusal| Err(refusal.at(written)))
    }
}

/// The record as it is appended.
fn copy(record: &Delivery<'_>, stream: &str) -> Commit {
    let mut event = NewEvent::encoded(record.type_name(), record.codec(), record.payload())
        .schema_version(record.schema_version())
        .causation(record.id())
        .occurred(record.occurred().unwrap_or(record.time()))
        .tags(record.tags());
    if let Some(correlation) = record.correlation() {
        event = event.correlation(correlation);
    }
    for (name, value) in record.headers() {
        event = event.header(name, value);
    }
    let mut commit = Commit::new();
    commit.event(stream, event);
    commit
}

/// What an append failed with, as a sink says it.
fn refusal(error: &Error) -> Refusal {
    let why: Cow<'static, str> = match error {
        Error::DiskFull { .. } | Error::StoreFull { .. } => "no room in the target store".into(),
        other => other.to_string().into(),
    };
    match error {
        // They are about this record, and will be as true tomorrow.
        Error::KeyReused { .. } | Error::TooLarge { .. } | Error::Invalid { .. } => Refusal::refused(0, why),
        _ => Refusal::again(0, why),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::canal::Canal;
    use crate::event::query::Query;

    #[test]
    fn a_copy_does_not_overtake_one_that_was_not_written() {
        let dir = std::env::temp_dir().join(format!("towpath-overtake-{}", std::process::id()));
        let store = Store::open(&dir).unwrap();
        let receipt = store.append("s", NewEvent::new("t", "x")).unwrap();
        let batch = store.follow().open().unwrap().pull_batch(1, Duration::ZERO).unwrap();
        let records: Vec<Delivery<'_>> = batch.iter().collect();
        let mut sink = StreamSink::new(&store, "copies").unwrap();

        // As if the one before it were on its way, and failed.
        sink.before = Some("never written".to_owned());
        sink.write(&records).unwrap();
        let refusal = sink.flush().unwrap_err();
        assert!(!refusal.is_final() && refusal.taken == 0, "{refusal}");
        assert_eq!(store.head(), receipt.last());

        sink.write(&records).unwrap();
        sink.flush().unwrap();
        assert_eq!(store.read(Query::new().stream("copies")).count(), 1);
        drop((store, sink));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
