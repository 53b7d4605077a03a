//! What a caller's rule sees: the proposed commit, and the log up to it.

use std::sync::Arc;

use crate::error::Result;
use crate::event::codec::Codec;
use crate::event::query::Query;
use crate::event::typed;
use crate::format::frame::{Frame, Staged};
use crate::format::term::Kind;
use crate::id::{Position, Revision};
use crate::log::Log;
use crate::log::parts::Part;
use crate::log::reader::Reader;
use crate::log::terms::Filter;
use crate::log::walk::latest;

/// The events of a commit that is about to be written.
#[derive(Debug)]
pub struct Proposal<'a> {
    frames: &'a [u8],
}

/// One event of a [`Proposal`].
#[derive(Clone, Copy, Debug)]
pub struct Proposed<'a> {
    frame: Frame<'a>,
}

/// The log as it stands before a proposed commit, earlier commits of the same moment included.
#[derive(Debug)]
pub struct View<'a> {
    log: &'a Arc<Log>,
    head: Position,
}

impl<'a> Proposal<'a> {
    pub(crate) fn new(frames: &'a [u8]) -> Self {
        Self { frames }
    }

    /// The events, in their order.
    pub fn events(&self) -> impl Iterator<Item = Proposed<'a>> {
        frames(self.frames).filter(|frame| !frame.is_control()).map(|frame| Proposed { frame })
    }
}

impl<'a> Proposed<'a> {
    /// The stream it is for.
    pub fn stream(&self) -> &'a str {
        self.frame.stream()
    }

    /// Its type.
    pub fn type_name(&self) -> &'a str {
        self.frame.type_name()
    }

    /// Its payload, encoded by [`codec`](Proposed::codec).
    pub fn payload(&self) -> &'a [u8] {
        self.frame.payload()
    }

    /// What the payload is encoded with.
    pub fn codec(&self) -> Codec {
        self.frame.codec()
    }

    /// Its tags.
    pub fn tags(&self) -> impl Iterator<Item = &'a str> {
        self.frame.extras().tags()
    }

    /// The value it was made from.
    ///
    /// # Errors
    /// As [`Event::decode`](crate::Event::decode).
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        typed::decode(self.type_name(), self.codec(), self.payload(), Position::START)
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(log: &'a Arc<Log>, head: Position) -> Self {
        Self { log, head }
    }

    /// The last position before the proposed commit.
    pub fn head(&self) -> Position {
        self.head
    }

    /// Where a stream stands; [`Revision::ABSENT`] when it does not exist.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) when its last event may stand in a damaged stretch. When a segment cannot be opened.
    pub fn revision(&self, stream: &str) -> Result<Revision> {
        revision(self.log, stream, self.head)
    }

    /// Whether a commit with this idempotency key was written.
    ///
    /// # Errors
    /// As [`revision`](View::revision).
    pub fn has_key(&self, key: &str) -> Result<bool> {
        Ok(with_key(self.log, key, self.head)?.is_some())
    }

    /// Reads events.
    pub fn read(&self, query: Query) -> Reader {
        Reader::new(self.log.clone(), Filter::Query(query), self.head)
    }
}

/// The first event of the latest commit with an idempotency key. One that was lost with its key may be written again.
pub(crate) fn with_key(log: &Log, key: &str, until: Position) -> Result<Option<(Arc<Part>, u64, u32)>> {
    let latest = log.costs.of(|| latest::latest_seen(log, Kind::Key, key.as_bytes(), until))?;
    Ok(latest.unless_damaged()?.sound)
}

/// Where a stream stands at `until`, by asking the indexes. One whose events are all gone does not exist.
pub(crate) fn revision(log: &Log, stream: &str, until: Position) -> Result<Revision> {
    let standing = log.costs.of(|| latest::standing(log, stream, until))?;
    Ok(if standing.is_gone { Revision::ABSENT } else { standing.revision })
}

/// The staged frames, one after the other.
pub(crate) fn frames(staged: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let here = (at < staged.len()).then(|| Staged::at(staged, at))?;
        at += here.stride();
        Some(here.frame())
    })
}
