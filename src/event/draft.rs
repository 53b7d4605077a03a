//! An event before it is written.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::error::Result;
use crate::event::codec::Codec;
use crate::event::typed;
use crate::id::{EventId, Revision, Timestamp};

/// An event to be appended: a type name, a payload, and what else is known about it.
///
/// Sizes are checked when it is added to a commit; the limits are in [`limits`](crate::limits).
///
/// ```
/// use towpath::NewEvent;
/// let event = NewEvent::new("door.opened", b"front").tag("floor:1").header("by", "key 17");
/// assert_eq!(event.type_name(), "door.opened");
/// ```
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    pub(crate) type_name: Cow<'a, str>,
    pub(crate) codec: Codec,
    pub(crate) payload: Cow<'a, [u8]>,
    pub(crate) id: Option<u128>,
    pub(crate) occurred: Option<Timestamp>,
    pub(crate) schema_version: Option<u32>,
    pub(crate) correlation: Option<Cow<'a, str>>,
    pub(crate) causation: Option<EventId>,
    pub(crate) tags: Vec<Cow<'a, str>>,
    pub(crate) headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> NewEvent<'a> {
    /// An event with bytes that this crate does not interpret ([`Codec::Raw`]).
    pub fn new<P: AsRef<[u8]> + ?Sized>(type_name: impl Into<Cow<'a, str>>, payload: &'a P) -> Self {
        Self::encoded(type_name, Codec::Raw, payload.as_ref())
    }

    /// An event whose payload is encoded already. The bytes are taken as they are.
    pub fn encoded(type_name: impl Into<Cow<'a, str>>, codec: Codec, payload: impl Into<Cow<'a, [u8]>>) -> Self {
        Self {
            type_name: type_name.into(),
            codec,
            payload: payload.into(),
            id: None,
            occurred: None,
            schema_version: None,
            correlation: None,
            causation: None,
            tags: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// An event from a value of a serde enum, as MessagePack with field names: the variant's name becomes the event
    /// type, its content the payload. A struct gives its own name.
    ///
    /// # Errors
    /// [`Error::Encode`](crate::Error::Encode) when the value is neither an enum nor a struct, or its `Serialize` fails.
    pub fn typed<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Self::typed_as(value, Codec::MessagePack)
    }

    /// The same with another codec.
    ///
    /// # Errors
    /// As [`typed`](NewEvent::typed), and for [`Codec::Raw`], which cannot hold a value.
    pub fn typed_as<T: Serialize + ?Sized>(value: &T, codec: Codec) -> Result<Self> {
        let (name, payload) = typed::encode(value, codec)?;
        Ok(Self::encoded(name, codec, payload))
    }

    /// The type name.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// The encoded payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Gives the event an id of its own, such as a UUID. Without one it has its place as id. Ids are not checked for
    /// being unique; for that use [`Commit::key`](crate::Commit::key).
    #[must_use]
    pub fn id(mut self, id: u128) -> Self {
        self.id = Some(id);
        self
    }

    /// When it happened in the user's world. The log keeps its own time beside it.
    #[must_use]
    pub fn occurred(mut self, time: Timestamp) -> Self {
        self.occurred = Some(time);
        self
    }

    /// A version of the payload's shape, for [`Upcasters`](crate::Upcasters). Without one it is 0.
    #[must_use]
    pub fn schema_version(mut self, version: u32) -> Self {
        self.schema_version = Some(version);
        self
    }

    /// What this event belongs to: any text that all events of one request or process share.
    #[must_use]
    pub fn correlation(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.correlation = Some(id.into());
        self
    }

    /// The event that brought this one about.
    #[must_use]
    pub fn causation(mut self, cause: EventId) -> Self {
        self.causation = Some(cause);
        self
    }

    /// Adds a tag, to be found by.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<Cow<'a, str>>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// Adds several tags.
    #[must_use]
    pub fn tags<T: Into<Cow<'a, str>>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.tags.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Adds a header: text that travels with the event and is not indexed.
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Where a stream has to stand for a commit to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Anywhere.
    #[default]
    Any,
    /// It must not exist yet. Of several racing writers exactly one succeeds.
    Absent,
    /// Its last event must have exactly this revision. [`Revision::ABSENT`] means the same as [`Expected::Absent`].
    Exact(Revision),
}

impl Expected {
    /// Whether a stream at `actual` is where it should be.
    pub(crate) fn allows(self, actual: Revision) -> bool {
        match self {
            Expected::Any => true,
            Expected::Absent => actual == Revision::ABSENT,
            Expected::Exact(revision) => actual == revision,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expected::Any => f.write_str("any revision"),
            Expected::Absent => f.write_str("no such stream"),
            Expected::Exact(revision) => write!(f, "revision {revision}"),
        }
    }
}
