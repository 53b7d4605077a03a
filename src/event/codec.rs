//! How payloads are encoded, and the only place where a codec's library is called.

use std::cell::Cell;
use std::fmt;

use serde::Serialize;
use serde::de::{self, DeserializeSeed, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// How a payload is encoded. Every event names its codec, so one stream may hold several.
///
/// | codec | a field added with `#[serde(default)]` | bytes | readable by other programs |
/// | --- | --- | --- | --- |
/// | [`Raw`](Codec::Raw) | your affair | yours | your affair |
/// | [`MessagePack`](Codec::MessagePack) | history stays readable | small, with field names | yes |
/// | [`Json`](Codec::Json) | history stays readable | larger, plain text | yes |
/// | [`Bincode`](Codec::Bincode) | **history becomes unreadable** | smallest | no |
///
/// Whatever the codec, values that nest deeper than 128 levels can be written and not be read back; a struct, sequence,
/// map, enum, newtype or `Some` is one level each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// Bytes that this crate does not look into. Typed events cannot be written with it. Of an enum, only unit variants
    /// can be read from it, as they need no content; that includes a `#[serde(other)]` variant.
    Raw,
    /// MessagePack with field names, by `rmp-serde`. The default of typed events.
    ///
    /// The names cost their length in every event. For that, fields are found by name: a field added anywhere with
    /// `#[serde(default)]` keeps all history readable, and so does a renamed one with `#[serde(alias = "…")]`.
    /// `Some(None)` and `Some(())` read back as `None`, because both are written as nil.
    MessagePack,
    /// JSON, by `serde_json`. Needs the feature `json`; without it such events are kept and not decoded.
    ///
    /// Survives added fields as MessagePack does; costs more bytes and more time. As in JSON itself, infinity and NaN
    /// become `null`, which does not read back as a number, `Some(None)` reads back as `None`, and map keys must be
    /// strings or numbers.
    Json,
    /// bincode 2. Needs the feature `bincode`; without it such events are kept and not decoded.
    ///
    /// **Warning.** Fields are found by their place and nothing else:
    ///
    /// - **Adding a field makes every old event of that type unreadable**, even at the end and with `#[serde(default)]`.
    ///   Reordering fields of one type, or nested variants, reads wrong values without an error. Only an
    ///   [upcaster](crate::Upcasters) from the old shape helps.
    /// - `#[serde(flatten, skip_serializing_if, tag, untagged)]` do not work with it.
    /// - bincode 2.0.1 is its last real release (3.0.0 is an empty crate that refuses to build), and it carries an
    ///   "unmaintained" advisory.
    /// - Left to itself it aborts the process on a forged length, when the allocation fails. Here it decodes with a limit
    ///   of 256 MiB, by its own count, in which a number of 16 bytes may stand for one byte of a payload of 16 MiB.
    Bincode,
}

impl Codec {
    /// What stands for it on disk. FORMAT.md, "Codec".
    pub(crate) const fn id(self) -> u8 {
        match self {
            Codec::Raw => 0,
            Codec::MessagePack => 1,
            Codec::Json => 2,
            Codec::Bincode => 3,
        }
    }

    /// The codec with this number on disk.
    pub(crate) const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Codec::Raw),
            1 => Some(Codec::MessagePack),
            2 => Some(Codec::Json),
            3 => Some(Codec::Bincode),
            _ => None,
        }
    }

    /// Encodes one value, or says why it cannot.
    pub(crate) fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, String> {
        match self {
            Codec::Raw => Err("the raw codec holds bytes only; give them to NewEvent::new".to_owned()),
            Codec::MessagePack => rmp_serde::to_vec_named(value).map_err(|e| e.to_string()),
            Codec::Json => encode_json(value),
            Codec::Bincode => encode_bincode(value),
        }
    }

    /// Decodes one value, which has to fill the payload, or says why it cannot. A seed that has no use for the content
    /// sets `ignored`; then anything may stand there.
    ///
    /// Lengths that the payload claims for itself cost no more memory than it has bytes. The depth is for the seed to
    /// bound: `rmp-serde` does not count enums in its own limit of 1024, and bincode has none.
    pub(crate) fn decode<'de, S>(self, payload: &'de [u8], seed: S, ignored: &Cell<bool>) -> Result<S::Value, String>
    where
        S: DeserializeSeed<'de>,
    {
        match self {
            Codec::Raw => decode_opaque("its payload is raw bytes, which have no fields; use Event::payload", seed),
            Codec::MessagePack => decode_message_pack(payload, seed, ignored),
            Codec::Json => decode_json(payload, seed, ignored),
            Codec::Bincode => decode_bincode(payload, seed, ignored),
        }
    }

    /// Whether the payload is just the codec's nil, which is what a unit variant writes.
    pub(crate) fn is_nil(self, payload: &[u8]) -> bool {
        match self {
            Codec::MessagePack => payload == [0xc0],
            Codec::Json => payload.trim_ascii() == b"null",
            Codec::Raw | Codec::Bincode => false,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Codec::Raw => "raw",
            Codec::MessagePack => "messagepack",
            Codec::Json => "json",
            Codec::Bincode => "bincode",
        })
    }
}

fn decode_message_pack<'de, S>(payload: &'de [u8], seed: S, ignored: &Cell<bool>) -> Result<S::Value, String>
where
    S: DeserializeSeed<'de>,
{
    use rmp_serde::decode::Error;

    let mut content = rmp_serde::Deserializer::from_read_ref(payload);
    let value = seed.deserialize(&mut content).map_err(|e| match e {
        Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_) => "the payload ends within a value".to_owned(),
        Error::TypeMismatch(marker) => format!("a value of MessagePack type {marker:?} stands where it does not fit"),
        other => other.to_string(),
    })?;
    // There is no way to ask for what is left. Reading one more number fails at its marker only at the end.
    let at_end = matches!(<bool as de::Deserialize>::deserialize(&mut content), Err(Error::InvalidMarkerRead(_)));
    if at_end || ignored.get() { Ok(value) } else { Err(TRAILING.to_owned()) }
}

#[cfg(feature = "json")]
fn encode_json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, String> {
    serde_json::to_vec(value).map_err(|e| e.to_string())
}

#[cfg(feature = "json")]
fn decode_json<'de, S>(payload: &'de [u8], seed: S, ignored: &Cell<bool>) -> Result<S::Value, String>
where
    S: DeserializeSeed<'de>,
{
    let mut content = serde_json::Deserializer::from_slice(payload);
    let value = seed.deserialize(&mut content).map_err(|e| e.to_string())?;
    if ignored.get() || content.end().is_ok() { Ok(value) } else { Err(TRAILING.to_owned()) }
}

#[cfg(not(feature = "json"))]
fn encode_json<T: Serialize + ?Sized>(_value: &T) -> Result<Vec<u8>, String> {
    Err(NO_JSON.to_owned())
}

#[cfg(not(feature = "json"))]
fn decode_json<'de, S>(_payload: &'de [u8], seed: S, _ignored: &Cell<bool>) -> Result<S::Value, String>
where
    S: DeserializeSeed<'de>,
{
    decode_opaque(NO_JSON, seed)
}

/// What bincode may claim while decoding, in bytes. It counts a number at its full size, where the payload may hold it in
/// one byte: so it is the largest payload, 16 MiB, times the 16 bytes of a `u128`. Nothing is allocated on such a claim,
/// as strings and bytes are always lent from the payload.
#[cfg(feature = "bincode")]
const BINCODE_LIMIT: usize = 16 * (16 << 20);

#[cfg(feature = "bincode")]
fn encode_bincode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, String> {
    use bincode::error::EncodeError;

    bincode::serde::encode_to_vec(value, bincode::config::standard()).map_err(|e| match e {
        EncodeError::OtherString(why) => why,
        other => other.to_string(),
    })
}

#[cfg(feature = "bincode")]
fn decode_bincode<'de, S>(payload: &'de [u8], seed: S, ignored: &Cell<bool>) -> Result<S::Value, String>
where
    S: DeserializeSeed<'de>,
{
    use bincode::error::DecodeError;

    let config = bincode::config::standard().with_limit::<BINCODE_LIMIT>();
    let (value, read) = bincode::serde::seed_decode_from_slice(seed, payload, config).map_err(|e| match e {
        DecodeError::OtherString(why) => why,
        DecodeError::UnexpectedEnd { .. } => "the payload ends within a value".to_owned(),
        DecodeError::Serde(_) => {
            "bincode does not say what stands where; read it as the type it was written from".to_owned()
        }
        DecodeError::LimitExceeded => format!("it claims more than {BINCODE_LIMIT} bytes"),
        other => other.to_string(),
    })?;
    if ignored.get() || read == payload.len() { Ok(value) } else { Err(TRAILING.to_owned()) }
}

#[cfg(not(feature = "bincode"))]
fn encode_bincode<T: Serialize + ?Sized>(_value: &T) -> Result<Vec<u8>, String> {
    Err(NO_BINCODE.to_owned())
}

#[cfg(not(feature = "bincode"))]
fn decode_bincode<'de, S>(_payload: &'de [u8], seed: S, _ignored: &Cell<bool>) -> Result<S::Value, String>
where
    S: DeserializeSeed<'de>,
{
    decode_opaque(NO_BINCODE, seed)
}

const TRAILING: &str = "bytes are left over behind the value";
#[cfg(not(feature = "json"))]
const NO_JSON: &str = "its codec is JSON; build towpath with the feature `json`";
#[cfg(not(feature = "bincode"))]
const NO_BINCODE: &str = "its codec is bincode; build towpath with the feature `bincode`";

fn decode_opaque<'de, S: DeserializeSeed<'de>>(why: &'static str, seed: S) -> Result<S::Value, String> {
    seed.deserialize(Opaque(why)).map_err(|e| e.to_string())
}

/// A payload that cannot be looked into: fails when asked for anything. Unit variants never ask.
struct Opaque(&'static str);

impl<'de> Deserializer<'de> for Opaque {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom(self.0))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_is_found_again_by_its_number_on_disk() {
        for (id, codec) in [Codec::Raw, Codec::MessagePack, Codec::Json, Codec::Bincode].into_iter().enumerate() {
            assert_eq!(usize::from(codec.id()), id);
            assert_eq!(Codec::from_id(codec.id()), Some(codec));
        }
        assert!((4..=u8::MAX).all(|id| Codec::from_id(id).is_none()));
    }
}
