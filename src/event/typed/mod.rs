//! Typed events without a second schema: a serde enum is the schema.
//!
//! The event type is the variant's serde name, the payload is the variant's content and nothing else, so
//! `#[serde(rename, alias, default, other)]` mean what they say, and a payload can be shown without the Rust type.
//!
//! | Rust value | event type | payload | read back as |
//! | --- | --- | --- | --- |
//! | `Order::Paid` | `Paid` | nil | any content will do, so that `#[serde(other)]` catches all |
//! | `Order::Noted(note)` | `Noted` | the note | the variant with this name |
//! | `Order::Moved(a, b)` | `Moved` | sequence of two | the variant with this name |
//! | `Order::Placed { sku, n }` | `Placed` | map with field names | the variant; nil stands for no fields |
//! | `struct Opened { by }` | `Opened` | map with field names | the struct, when its name is the event's type |
//! | `#[serde(transparent)]`, `Box`, `&T` | those of the inner value | | |
//! | enum with `#[serde(tag, content)]` | the enum's name | map of tag and content | the enum, when its name is the event's type |
//! | enum with `#[serde(tag)]` | the enum's name; of a newtype variant the inner struct's | map with tag | **without looking at the event's type** |
//! | enum with `#[serde(untagged)]` | the same; unit variants are refused | the content | **without looking at the event's type** |
//! | struct with `#[serde(flatten)]`, map, sequence, `Option`, number, string | refused: no name | | refused |
//!
//! Within variants everything is allowed, `flatten` too.

mod de;
mod guard;
mod ser;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::event::codec::Codec;
use crate::event::typed::de::{ContentSeed, EventSeed, Frame};
use crate::event::typed::guard::Track;
use crate::event::typed::ser::Content;
use crate::id::Position;

/// Type name and payload of a value. [`Error::Encode`] when it has no name or the codec cannot hold it.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T, codec: Codec) -> Result<(&'static str, Vec<u8>)> {
    let name = Cell::new(None);
    let refused = |why| Error::Encode { type_name: std::any::type_name::<T>(), why };
    let payload = codec.encode(&Content { value, name: &name }).map_err(refused)?;
    let name = name.get().ok_or_else(|| refused("it says nothing about itself".to_owned()))?;
    Ok((name, payload))
}

/// The value of an event. [`Error::Decode`] names the position, and the field that does not fit where it is known.
pub(crate) fn decode<T: DeserializeOwned>(
    type_name: &str,
    codec: Codec,
    payload: &[u8],
    position: Position,
) -> Result<T> {
    let track = Track::new(payload.len());
    let ignored = Cell::new(false);
    let frame = Frame { type_name, is_nil: codec.is_nil(payload), ignored: &ignored, track: &track };
    let value = codec.decode(payload, EventSeed(frame, PhantomData), &ignored);
    value.map_err(|why| failed(type_name, position, &track, why))
}

/// The payload of an event as a plain value, whatever the event's type: no enum around it.
pub(crate) fn content<T: DeserializeOwned>(
    type_name: &str,
    codec: Codec,
    payload: &[u8],
    position: Position,
) -> Result<T> {
    let track = Track::new(payload.len());
    let value = codec.decode(payload, ContentSeed(&track, PhantomData), &Cell::new(false));
    value.map_err(|why| failed(type_name, position, &track, why))
}

/// The payload as JSON, for people and tools that do not have its type. Fails for codecs that do not describe
/// themselves (raw, bincode), and for what JSON has no words for (byte strings, keys that are no strings).
#[cfg(feature = "json")]
pub(crate) fn json(type_name: &str, codec: Codec, payload: &[u8], position: Position) -> Result<serde_json::Value> {
    content(type_name, codec, payload, position)
}

fn failed(type_name: &str, position: Position, track: &Track, why: String) -> Error {
    Error::Decode { position, type_name: type_name.to_owned(), field: track.field(&why), why }
}
