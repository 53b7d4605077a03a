//! A commit before it is written: its events as staged frames, and what must hold for it.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::event::draft::{Expected, NewEvent};
use crate::event::query::Condition;
use crate::format::control::Control;
use crate::format::{extras, frame, limits, names};
use crate::writer::view::{Proposal, View};

/// One to many events, of one or several streams, written all or none.
///
/// It is a builder that can be used again: what was added stays until [`clear`](Commit::clear), so a loop allocates
/// nothing. A name or size that cannot be taken is remembered and comes back as the error of the append.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("towpath-commit-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// # let store = towpath::Store::open(&dir)?;
/// use towpath::{Commit, Expected, NewEvent};
/// let receipt = store.commit(
///     Commit::new()
///         .event("account-1", NewEvent::new("debited", "30 EUR"))
///         .event("account-2", NewEvent::new("credited", "30 EUR"))
///         .expect("account-1", Expected::Absent)
///         .key("transfer 17"),
/// )?;
/// assert_eq!((receipt.first().get(), receipt.last().get()), (1, 2));
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), towpath::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub(crate) frames: Vec<u8>,
    pub(crate) events: u32,
    pub(crate) conditions: Conditions,
    error: Option<Error>,
}

/// What must hold for a commit to be written.
#[derive(Clone, Default)]
pub(crate) struct Conditions {
    pub(crate) expected: Vec<(String, Expected)>,
    pub(crate) condition: Option<Condition>,
    pub(crate) key: Option<String>,
    pub(crate) rule: Option<Arc<Rule>>,
}

/// A caller's rule.
pub(crate) type Rule = dyn Fn(&Proposal<'_>, &View<'_>) -> Result<(), String> + Send + Sync;

impl Commit {
    /// An empty commit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event to a stream.
    pub fn event(&mut self, stream: &str, event: NewEvent<'_>) -> &mut Self {
        match check_event(stream, &event) {
            Ok(()) => {
                frame::stage_event(&mut self.frames, stream, &event);
                self.events += 1;
            }
            Err(error) => self.fail(error),
        }
        self
    }

    /// Refuses the commit unless a stream stands where it should. May be called for several streams.
    pub fn expect(&mut self, stream: &str, expected: Expected) -> &mut Self {
        if let Err(error) = names::check("stream name", stream) {
            self.fail(error);
        }
        if expected != Expected::Any {
            self.conditions.expected.push((stream.to_owned(), expected));
        }
        self
    }

    /// Refuses the commit if an event stands in the log that the condition rules out.
    pub fn condition(&mut self, condition: Condition) -> &mut Self {
        self.conditions.condition = Some(condition);
        self
    }

    /// Writes the commit only once: when the key stands in the log already, with the same content, the first receipt
    /// comes back and nothing is written; with other content the commit is refused. Checked before everything else, so
    /// a retry succeeds though the streams have moved on. Holds for as long as the first event is kept.
    ///
    /// The content is everything given with the events, [`occurred`](NewEvent::occurred) included.
    pub fn key(&mut self, key: &str) -> &mut Self {
        match names::check("idempotency key", key) {
            Ok(()) => self.conditions.key = Some(key.to_owned()),
            Err(error) => self.fail(error),
        }
        self
    }

    /// Has a function decide, at the moment of writing and with nobody writing in between. It sees the proposed events
    /// and the log up to them; its `Err` refuses the commit with [`Error::Refused`], and so does its panic.
    ///
    /// It holds up every writer while it runs. Whatever would wait for the writer is refused within it, with
    /// [`Error::ReadOnly`]: to append, sync, close, or wait for a ticket.
    pub fn rule(
        &mut self,
        rule: impl Fn(&Proposal<'_>, &View<'_>) -> Result<(), String> + Send + Sync + 'static,
    ) -> &mut Self {
        self.conditions.rule = Some(Arc::new(rule));
        self
    }

    /// Takes everything out, keeping the memory for the next events.
    pub fn clear(&mut self) -> &mut Self {
        self.frames.clear();
        self.events = 0;
        self.conditions = Conditions::default();
        self.error = None;
        self
    }

    /// How many events it has.
    pub fn len(&self) -> usize {
        self.events as usize
    }

    /// Whether it has no events.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// The first thing that could not be taken, which will refuse the commit.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Adds an event to one of the store's own streams. Its sizes are those of an event that was written before.
    pub(crate) fn own_event(&mut self, stream: &str, event: NewEvent<'_>) {
        frame::stage_event(&mut self.frames, stream, &event);
        self.events += 1;
    }

    /// Adds what another commit has. Neither may have conditions.
    pub(crate) fn append(&mut self, other: &Commit) {
        self.frames.extend_from_slice(&other.frames);
        self.events += other.events;
    }

    /// Some of what it has, as another commit without conditions: where their frames lie, and how many events they are.
    pub(crate) fn parts(&self, parts: impl Iterator<Item = (Range<usize>, u32)>) -> Commit {
        let mut commit = Commit::new();
        for (frames, events) in parts {
            commit.frames.extend_from_slice(&self.frames[frames]);
            commit.events += events;
        }
        commit
    }

    /// Adds a control record, to be written in the same commit.
    pub(crate) fn control(&mut self, record: &Control) -> &mut Self {
        frame::stage_control(&mut self.frames, &record.encode());
        self
    }

    /// Refuses what may not be written, before anything is staged.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        if self.frames.is_empty() {
            return Err(Error::invalid("commit", "", "it has no events"));
        }
        too_large("commit in bytes", self.frames.len(), limits::COMMIT)?;
        too_large("commit's events", self.len(), limits::COMMIT_EVENTS)?;
        too_large("commit's expected streams", self.conditions.expected.len(), limits::EXPECTATIONS)?;
        Ok(())
    }

    fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }
}

impl Conditions {
    /// Whether commits that are finished and not written yet have to be written before these can be looked at. Keys and
    /// expected revisions alone need that only when one of `keys` comes again.
    pub(crate) fn look_at_the_log(&self, keys: &HashSet<String>) -> bool {
        self.condition.is_some() || self.rule.is_some() || self.key.as_ref().is_some_and(|key| keys.contains(key))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.expected.is_empty() && self.condition.is_none() && self.key.is_none() && self.rule.is_none()
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conditions")
            .field("expected", &self.expected)
            .field("condition", &self.condition)
            .field("key", &self.key)
            .field("rule", &self.rule.is_some())
            .finish()
    }
}

fn check_event(stream: &str, event: &NewEvent<'_>) -> Result<()> {
    names::check_users("stream name", stream)?;
    names::check_users("event type", &event.type_name)?;
    too_large("payload", event.payload.len(), limits::PAYLOAD)?;
    if extras::flags(event) == 0 {
        return Ok(());
    }
    too_large("event's tags", event.tags.len(), limits::TAGS)?;
    if let Some(correlation) = &event.correlation {
        names::check("correlation id", correlation)?;
    }
    for tag in &event.tags {
        names::check("tag", tag)?;
    }
    for (name, _) in &event.headers {
        names::check("header name", name)?;
    }
    too_large("event's extras", extras::size(event), limits::EXTRAS)
}

#[inline]
fn too_large(what: &'static str, size: usize, limit: usize) -> Result<()> {
    if size > limit { Err(Error::TooLarge { what, size: size as u64, limit: limit as u64 }) } else { Ok(()) }
}
