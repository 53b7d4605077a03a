//! What a frame holds beside names and payload: id, times, correlation, causation, tags, headers, idempotency key.
//! FORMAT.md, "Extras".

use crate::event::draft::NewEvent;
use crate::format::{limits, names, u16_at, u32_at, u64_at};
use crate::id::{EventId, Position, StoreId, Timestamp};

const ID: u16 = 1 << 8;
const OCCURRED: u16 = 1 << 9;
const SCHEMA_VERSION: u16 = 1 << 10;
const CORRELATION: u16 = 1 << 11;
const CAUSATION: u16 = 1 << 12;
const TAGS: u16 = 1 << 13;
const HEADERS: u16 = 1 << 14;
pub(crate) const KEY: u16 = 1 << 15;

const CAUSE_OWN: u8 = 1; // 16 bytes follow
const CAUSE_PLACE: u8 = 2; // store id and position, 24 bytes follow

/// Which extras an event has.
#[inline]
pub(crate) fn flags(event: &NewEvent<'_>) -> u16 {
    let is = |there: bool, flag: u16| if there { flag } else { 0 };
    is(event.id.is_some(), ID)
        | is(event.occurred.is_some(), OCCURRED)
        | is(event.schema_version.is_some(), SCHEMA_VERSION)
        | is(event.correlation.is_some(), CORRELATION)
        | is(event.causation.is_some(), CAUSATION)
        | is(!event.tags.is_empty(), TAGS)
        | is(!event.headers.is_empty(), HEADERS)
}

/// Appends the extras of an event.
pub(crate) fn put(out: &mut Vec<u8>, event: &NewEvent<'_>) {
    if let Some(id) = event.id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    if let Some(time) = event.occurred {
        out.extend_from_slice(&time.as_nanos().to_le_bytes());
    }
    if let Some(version) = event.schema_version {
        out.extend_from_slice(&version.to_le_bytes());
    }
    if let Some(correlation) = &event.correlation {
        put_text(out, correlation);
    }
    if let Some(cause) = &event.causation {
        put_cause(out, cause);
    }
    if !event.tags.is_empty() {
        out.extend_from_slice(&(event.tags.len() as u16).to_le_bytes());
        event.tags.iter().for_each(|tag| put_text(out, tag));
    }
    if !event.headers.is_empty() {
        out.extend_from_slice(&(event.headers.len() as u16).to_le_bytes());
        for (name, value) in &event.headers {
            put_text(out, name);
            put_text(out, value);
        }
    }
}

/// The bytes that [`put`] would append, and [`put_text`] for a key.
pub(crate) fn size(event: &NewEvent<'_>) -> usize {
    let fixed = 16 * usize::from(event.id.is_some())
        + 8 * usize::from(event.occurred.is_some())
        + 4 * usize::from(event.schema_version.is_some());
    let cause = event.causation.map_or(0, |cause| if matches!(cause, EventId::Own(_)) { 17 } else { 25 });
    let texts = |texts: usize, count: usize| if count == 0 { 0 } else { 2 + texts };
    let tags = event.tags.iter().map(|tag| 2 + tag.len()).sum();
    let headers = event.headers.iter().map(|(name, value)| 4 + name.len() + value.len()).sum();
    fixed
        + cause
        + event.correlation.as_ref().map_or(0, |text| 2 + text.len())
        + texts(tags, event.tags.len())
        + texts(headers, event.headers.len())
}

/// Appends a text behind its length.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends an event id as a cause.
pub(crate) fn put_cause(out: &mut Vec<u8>, cause: &EventId) {
    match cause {
        EventId::Own(id) => {
            out.push(CAUSE_OWN);
            out.extend_from_slice(&id.to_be_bytes());
        }
        EventId::Place { store, position } => {
            out.push(CAUSE_PLACE);
            out.extend_from_slice(store.as_bytes());
            out.extend_from_slice(&position.get().to_le_bytes());
        }
    }
}

/// The extras of a stored frame. Each accessor walks from the start; most frames have few.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extras<'a> {
    flags: u16,
    bytes: &'a [u8],
}

/// Where each part stands, `None` where it is absent.
#[derive(Default)]
struct Parts<'a> {
    id: Option<u128>,
    occurred: Option<Timestamp>,
    schema_version: Option<u32>,
    correlation: Option<&'a str>,
    cause: Option<(EventId, &'a [u8])>,
    tags: Texts<'a>,
    headers: Texts<'a>,
    key: Option<&'a str>,
    rest: &'a [u8],
}

impl<'a> Extras<'a> {
    pub(crate) fn new(flags: u16, bytes: &'a [u8]) -> Self {
        Self { flags, bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flags == 0
    }

    pub(crate) fn id(&self) -> Option<u128> {
        self.part(ID, |parts| parts.id)
    }

    pub(crate) fn occurred(&self) -> Option<Timestamp> {
        self.part(OCCURRED, |parts| parts.occurred)
    }

    pub(crate) fn schema_version(&self) -> Option<u32> {
        self.part(SCHEMA_VERSION, |parts| parts.schema_version)
    }

    pub(crate) fn correlation(&self) -> Option<&'a str> {
        self.part(CORRELATION, |parts| parts.correlation)
    }

    /// The causing event's id.
    pub(crate) fn causation(&self) -> Option<EventId> {
        self.part(CAUSATION, |parts| parts.cause.map(|(id, _)| id))
    }

    /// The same as it is stored, to be hashed.
    pub(crate) fn causation_bytes(&self) -> Option<&'a [u8]> {
        self.part(CAUSATION, |parts| parts.cause.map(|(_, bytes)| bytes))
    }

    pub(crate) fn key(&self) -> Option<&'a str> {
        self.part(KEY, |parts| parts.key)
    }

    pub(crate) fn tags(&self) -> Texts<'a> {
        self.part(TAGS, |parts| Some(parts.tags)).unwrap_or_default()
    }

    /// Name, value, name, value.
    pub(crate) fn headers(&self) -> Texts<'a> {
        self.part(HEADERS, |parts| Some(parts.headers)).unwrap_or_default()
    }

    /// Whether these bytes could have been written.
    pub(crate) fn is_sound(&self) -> bool {
        let Some(parts) = self.parts() else { return false };
        let name = |text: Option<&str>| text.is_none_or(|text| names::is_sound(text.as_bytes()));
        parts.rest.is_empty()
            && name(parts.correlation)
            && name(parts.key)
            && parts.tags.left <= limits::TAGS
            && parts.tags.clone().all(|tag| names::is_sound(tag.as_bytes()))
            && parts.headers.clone().step_by(2).all(|header| names::is_sound(header.as_bytes()))
    }

    fn part<T>(&self, flag: u16, choose: impl FnOnce(Parts<'a>) -> Option<T>) -> Option<T> {
        if self.flags & flag == 0 {
            return None;
        }
        self.parts().and_then(choose)
    }

    fn parts(&self) -> Option<Parts<'a>> {
        let mut rest = self.bytes;
        let mut parts = Parts::default();
        let has = |flag: u16| self.flags & flag != 0;
        if has(ID) {
            parts.id = Some(u128::from_be_bytes(take(&mut rest, 16)?.try_into().ok()?));
        }
        if has(OCCURRED) {
            parts.occurred = Some(Timestamp::from_nanos(u64_at(take(&mut rest, 8)?, 0)));
        }
        if has(SCHEMA_VERSION) {
            parts.schema_version = Some(u32_at(take(&mut rest, 4)?, 0));
        }
        if has(CORRELATION) {
            parts.correlation = Some(take_text(&mut rest)?);
        }
        if has(CAUSATION) {
            parts.cause = Some(take_cause(&mut rest)?);
        }
        if has(TAGS) {
            parts.tags = take_texts(&mut rest, 1)?;
        }
        if has(HEADERS) {
            parts.headers = take_texts(&mut rest, 2)?;
        }
        if has(KEY) {
            parts.key = Some(take_text(&mut rest)?);
        }
        parts.rest = rest;
        Some(parts)
    }
}

/// Several texts, one behind the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Texts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        take_text(&mut self.bytes)
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// Reads a text behind its length, and moves behind it.
pub(crate) fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let len = u16_at(take(bytes, 2)?, 0) as usize;
    std::str::from_utf8(take(bytes, len)?).ok()
}

fn take_cause<'a>(bytes: &mut &'a [u8]) -> Option<(EventId, &'a [u8])> {
    let whole = *bytes;
    let id = match take(bytes, 1)?[0] {
        CAUSE_OWN => EventId::Own(u128::from_be_bytes(take(bytes, 16)?.try_into().ok()?)),
        CAUSE_PLACE => EventId::Place {
            store: StoreId(take(bytes, 16)?.try_into().ok()?),
            position: Position::new(u64_at(take(bytes, 8)?, 0)),
        },
        _ => return None,
    };
    Some((id, &whole[..whole.len() - bytes.len()]))
}

fn take_texts<'a>(bytes: &mut &'a [u8], texts_an_item: usize) -> Option<Texts<'a>> {
    let left = u16_at(take(bytes, 2)?, 0) as usize * texts_an_item;
    let start = *bytes;
    for _ in 0..left {
        take_text(bytes)?;
    }
    Some(Texts { bytes: &start[..start.len() - bytes.len()], left })
}
