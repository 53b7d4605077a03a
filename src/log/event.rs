//! A stored event: a view into the map of its segment, which it keeps alive.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::event::codec::Codec;
use crate::event::typed;
use crate::event::upcast::Upcasters;
use crate::format::frame::Frame;
use crate::id::{EventId, Position, Revision, StoreId, Timestamp};
use crate::segment::Segment;

/// A stored event. Reading it copies nothing.
///
/// An `Event<'static>` keeps its segment mapped for as long as it lives; a borrowed one costs not even the reference
/// count, and [`into_owned`](Event::into_owned) makes the one from the other.
#[derive(Clone)]
pub struct Event<'a>(Keep<'a>);

#[derive(Clone)]
enum Keep<'a> {
    Borrowed { segment: &'a Arc<Segment>, frame: Frame<'a>, offset: u64 },
    Owned { segment: Arc<Segment>, offset: u64, len: u32 },
}

impl<'a> Event<'a> {
    /// The event in a frame that was found sound.
    #[inline]
    pub(crate) fn borrowed(segment: &'a Arc<Segment>, offset: u64, len: u32) -> Self {
        Self(Keep::Borrowed { segment, frame: segment.frame(offset, len), offset })
    }

    /// The same event, keeping its segment alive by itself. Costs a reference count.
    pub fn into_owned(self) -> Event<'static> {
        Event(match self.0 {
            Keep::Borrowed { segment, frame, offset } => {
                Keep::Owned { segment: segment.clone(), offset, len: frame.len() as u32 }
            }
            Keep::Owned { segment, offset, len } => Keep::Owned { segment, offset, len },
        })
    }

    /// Its place in the log.
    #[inline]
    pub fn position(&self) -> Position {
        self.frame().position()
    }

    /// The stream it belongs to.
    #[inline]
    pub fn stream(&self) -> &str {
        self.frame().stream()
    }

    /// Its place in the stream, from 1.
    #[inline]
    pub fn revision(&self) -> Revision {
        self.frame().revision()
    }

    /// The event type, as its writer named it.
    #[inline]
    pub fn type_name(&self) -> &str {
        self.frame().type_name()
    }

    /// When the log recorded it. Never earlier than the event before it.
    #[inline]
    pub fn time(&self) -> Timestamp {
        self.frame().time()
    }

    /// The payload, encoded by [`codec`](Event::codec).
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.frame().payload()
    }

    /// What the payload is encoded with.
    #[inline]
    pub fn codec(&self) -> Codec {
        self.frame().codec()
    }

    /// Its id: the one it was given, or else its place.
    pub fn id(&self) -> EventId {
        match self.own_id() {
            Some(id) => EventId::Own(id),
            None => EventId::Place { store: self.segment().header.store, position: self.position() },
        }
    }

    /// The id that its writer gave it, if any.
    pub fn own_id(&self) -> Option<u128> {
        self.frame().extras().id()
    }

    /// When it happened in the user's world, if its writer said so.
    pub fn occurred(&self) -> Option<Timestamp> {
        self.frame().extras().occurred()
    }

    /// The version of its payload's shape; 0 unless its writer said otherwise.
    pub fn schema_version(&self) -> u32 {
        self.frame().extras().schema_version().unwrap_or(0)
    }

    /// What it belongs to, if its writer said so.
    pub fn correlation(&self) -> Option<&str> {
        self.frame().extras().correlation()
    }

    /// The event that brought it about, if its writer said so.
    pub fn causation(&self) -> Option<EventId> {
        self.frame().extras().causation()
    }

    /// The idempotency key of its commit, which the first event of the commit bears.
    pub fn key(&self) -> Option<&str> {
        self.frame().extras().key()
    }

    /// Its tags, in the order they were given.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.frame().extras().tags()
    }

    /// Its headers, name and value, in the order they were given.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = self.frame().extras().headers();
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }

    /// Whether its commit goes on with the next event.
    pub fn commit_goes_on(&self) -> bool {
        self.frame().has_more()
    }

    /// The value it was made from by [`NewEvent::typed`](crate::NewEvent::typed).
    ///
    /// # Errors
    /// [`Error::Decode`](crate::Error::Decode) for a type that `T` does not know and for a payload that does not fit,
    /// with type, position and field.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        typed::decode(self.type_name(), self.codec(), self.payload(), self.position())
    }

    /// The same, after the upcasters have brought it up to date.
    ///
    /// # Errors
    /// As [`decode`](Event::decode), and when an upcaster fails.
    pub fn decode_with<T: DeserializeOwned>(&self, upcasters: &Upcasters) -> Result<T> {
        let (codec, position) = (self.codec(), self.position());
        let new = upcasters.apply(self.type_name(), self.schema_version(), codec, self.payload(), position)?;
        typed::decode(&new.type_name, new.codec, &new.payload, position)
    }

    /// The payload as JSON, for people and tools that do not have its type.
    ///
    /// # Errors
    /// [`Error::Decode`](crate::Error::Decode) when the codec does not describe itself (raw bytes, bincode), and when
    /// the payload is not what its codec says.
    #[cfg(feature = "json")]
    pub fn json(&self) -> Result<serde_json::Value> {
        typed::json(self.type_name(), self.codec(), self.payload(), self.position())
    }

    /// The store it stands in.
    pub(crate) fn store(&self) -> StoreId {
        self.segment().header.store
    }

    #[inline]
    pub(crate) fn frame(&self) -> Frame<'_> {
        match &self.0 {
            Keep::Borrowed { frame, .. } => *frame,
            Keep::Owned { segment, offset, len } => segment.frame(*offset, *len),
        }
    }

    fn segment(&self) -> &Segment {
        match &self.0 {
            Keep::Borrowed { segment, .. } => segment,
            Keep::Owned { segment, .. } => segment,
        }
    }
}

impl fmt::Debug for Event<'_> {
    /// Shows what it is and where; never the payload, which may be secret or large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("position", &self.position().get())
            .field("stream", &self.stream())
            .field("revision", &self.revision().get())
            .field("type", &self.type_name())
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}
