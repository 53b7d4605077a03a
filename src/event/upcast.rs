//! Old events read as new ones.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::event::codec::Codec;
use crate::event::typed;
use crate::id::Position;

/// So many upcasters may follow one another for one event.
const MAX_STEPS: usize = 64;

/// A payload, and what has to be known to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded<'a> {
    /// The event's type name.
    pub type_name: Cow<'a, str>,
    /// The version of the payload's shape; 0 for events written without one.
    pub version: u32,
    /// How the payload is encoded.
    pub codec: Codec,
    /// The bytes.
    pub payload: Cow<'a, [u8]>,
}

/// Functions from old payloads to new ones, applied when events are read. What is stored never changes.
///
/// For small changes serde needs none of this: `#[serde(rename, alias, default)]` read old payloads as they are.
/// An upcaster is for the rest: fields that were split, merged or given another meaning.
///
/// Each is registered for one type name and one schema version, and makes of it another version or another type.
/// They are followed from one to the next until none fits, so each needs to know its successor only. An event written
/// without [`schema_version`](crate::NewEvent::schema_version) has version 0.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use towpath::Upcasters;
///
/// #[derive(Deserialize)]
/// struct RenamedV0 { name: String }
///
/// #[derive(Serialize, Deserialize)]
/// enum Person {
///     Renamed { first: String, last: String },
/// }
///
/// let upcasters = Upcasters::new().upcast("Renamed", 0, |old: RenamedV0| {
///     let (first, last) = old.name.split_once(' ').unwrap_or((&old.name, ""));
///     Person::Renamed { first: first.into(), last: last.into() }
/// });
/// ```
///
/// New events of a changed type must then be written with the new version, here
/// `NewEvent::typed(&event)?.schema_version(1)`; else they are taken for old ones.
///
/// A panic in an upcaster is not caught: it goes to whoever reads the event.
#[derive(Clone, Default)]
pub struct Upcasters {
    steps: HashMap<String, BTreeMap<u32, Arc<Step>>>,
}

type Step = dyn Fn(&Encoded<'_>, Position) -> Result<Encoded<'static>> + Send + Sync;

impl Upcasters {
    /// None; every event is read as it stands.
    pub fn new() -> Self {
        Self::default()
    }

    /// From the content of an old event to the new value: an enum or a struct, which gives the new type name.
    ///
    /// `Old` is the plain content, without an enum around it: a struct with the variant's fields, the inner type of a
    /// newtype variant, a tuple, `()`. The new payload has the codec of the old one, and the version is
    /// `from_version + 1` if the type name stays, or 0 if it becomes another one. (Where another version is wanted, use
    /// [`register`](Upcasters::register).) Raw payloads cannot be read this way.
    ///
    /// A second one for the same type name and version takes the place of the first.
    ///
    /// # Errors
    /// Reading an event fails with [`Error::Decode`] when its payload is no `Old`, or `New` cannot be encoded.
    #[must_use]
    pub fn upcast<Old: DeserializeOwned, New: Serialize>(
        self,
        type_name: impl Into<String>,
        from_version: u32,
        f: impl Fn(Old) -> New + Send + Sync + 'static,
    ) -> Self {
        self.step(type_name.into(), from_version, move |old, position| {
            let content = typed::content::<Old>(&old.type_name, old.codec, &old.payload, position)?;
            let (name, payload) =
                typed::encode(&f(content), old.codec).map_err(|e| failed(old, position, e.to_string()))?;
            let version = if name == old.type_name { old.version.saturating_add(1) } else { 0 };
            Ok(Encoded { type_name: name.into(), version, codec: old.codec, payload: payload.into() })
        })
    }

    /// From the bytes of an old event to those of a new one. It may change the type name, the version and the codec,
    /// and has to change the type name or the version, as it would be applied to its own result otherwise.
    ///
    /// A second one for the same type name and version takes the place of the first.
    ///
    /// # Errors
    /// Whatever `f` fails with becomes the reason in an [`Error::Decode`] for the event that is being read.
    #[must_use]
    pub fn register(
        self,
        type_name: impl Into<String>,
        from_version: u32,
        f: impl Fn(&Encoded<'_>) -> std::result::Result<Encoded<'static>, Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.step(type_name.into(), from_version, move |old, position| {
            f(old).map_err(|e| failed(old, position, e.to_string()))
        })
    }

    /// The newest form of an event. Borrows what came in when no upcaster fits.
    pub(crate) fn apply<'a>(
        &self,
        type_name: &'a str,
        version: u32,
        codec: Codec,
        payload: &'a [u8],
        position: Position,
    ) -> Result<Encoded<'a>> {
        let mut event =
            Encoded { type_name: Cow::Borrowed(type_name), version, codec, payload: Cow::Borrowed(payload) };
        let mut seen: Vec<*const ()> = Vec::new();
        while let Some(step) = self.find(&event) {
            let this = Arc::as_ptr(step).cast::<()>();
            if seen.contains(&this) || seen.len() == MAX_STEPS {
                let why = format!("its upcasters go in a circle, or beyond {MAX_STEPS} steps");
                return Err(failed(&event, position, why));
            }
            seen.push(this);
            event = step(&event, position)?;
        }
        Ok(event)
    }

    fn step(
        mut self,
        type_name: String,
        version: u32,
        step: impl Fn(&Encoded<'_>, Position) -> Result<Encoded<'static>> + Send + Sync + 'static,
    ) -> Self {
        self.steps.entry(type_name).or_default().insert(version, Arc::new(step));
        self
    }

    fn find(&self, event: &Encoded<'_>) -> Option<&Arc<Step>> {
        self.steps.get(&*event.type_name)?.get(&event.version)
    }
}

impl fmt::Debug for Upcasters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions = self.steps.iter().map(|(name, steps)| (name, steps.keys().collect::<Vec<_>>()));
        f.debug_map().entries(versions.collect::<BTreeMap<_, _>>()).finish()
    }
}

fn failed(event: &Encoded<'_>, position: Position, why: String) -> Error {
    let why = format!("upcasting version {}: {why}", event.version);
    Error::Decode { position, type_name: event.type_name.to_string(), field: None, why }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    const AT: Position = Position::new(5);

    #[derive(Serialize, Deserialize)]
    struct Named {
        name: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Person {
        Renamed { first: String, last: String },
        Moved { to: String },
    }

    fn split(old: Named) -> Person {
        let (first, last) = old.name.split_once(' ').unwrap_or((&old.name, ""));
        Person::Renamed { first: first.into(), last: last.into() }
    }

    fn named(name: &str) -> Vec<u8> {
        typed::encode(&Named { name: name.into() }, Codec::MessagePack).unwrap().1
    }

    fn to(type_name: &'static str, version: u32) -> Encoded<'static> {
        Encoded { type_name: type_name.into(), version, codec: Codec::Raw, payload: Cow::Borrowed(b"") }
    }

    fn reason(result: Result<Encoded<'_>>) -> String {
        match result.unwrap_err() {
            Error::Decode { position, why, .. } => {
                assert_eq!(position, AT);
                why
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_old_payload_becomes_a_new_value() {
        let upcasters = Upcasters::new().upcast("Renamed", 0, split);
        let payload = named("Ada Lovelace");
        let new = upcasters.apply("Renamed", 0, Codec::MessagePack, &payload, AT).unwrap();
        assert_eq!((&*new.type_name, new.version), ("Renamed", 1));
        let person: Person = typed::decode(&new.type_name, new.codec, &new.payload, AT).unwrap();
        assert_eq!(person, Person::Renamed { first: "Ada".into(), last: "Lovelace".into() });
    }

    #[test]
    fn nothing_is_copied_when_no_upcaster_fits() {
        let upcasters = Upcasters::new().upcast("Renamed", 0, split);
        for (type_name, version) in [("Renamed", 1), ("Moved", 0)] {
            let new = upcasters.apply(type_name, version, Codec::Raw, b"x", AT).unwrap();
            assert!(matches!(new.type_name, Cow::Borrowed(_)) && matches!(new.payload, Cow::Borrowed(b"x")));
            assert_eq!((&*new.type_name, new.version, new.codec), (type_name, version, Codec::Raw));
        }
    }

    #[test]
    fn chains_are_followed_through_versions_and_type_names() {
        let upcasters = Upcasters::new()
            .register("person", 3, |_| Ok(to("person", 7)))
            .register("person", 7, |_| {
                Ok(Encoded { codec: Codec::MessagePack, payload: named("Grace Hopper").into(), ..to("Named", 0) })
            })
            .upcast("Named", 0, split);
        let new = upcasters.apply("person", 3, Codec::Raw, b"", AT).unwrap();
        assert_eq!((&*new.type_name, new.version), ("Renamed", 0), "a new type name begins at version 0");
        assert_eq!(format!("{upcasters:?}"), r#"{"Named": [0], "person": [3, 7]}"#);
        let untouched = upcasters.clone().apply("person", 4, Codec::Raw, b"", AT).unwrap().version;
        assert_eq!(untouched, 4);
    }

    #[test]
    fn a_circle_is_an_error_and_so_is_a_chain_without_end() {
        let circle = Upcasters::new().register("a", 0, |_| Ok(to("b", 0))).register("b", 0, |_| Ok(to("a", 0)));
        assert!(reason(circle.apply("a", 0, Codec::Raw, b"", AT)).contains("circle"));
        let itself = Upcasters::new().register("a", 0, |_| Ok(to("a", 0)));
        assert!(reason(itself.apply("a", 0, Codec::Raw, b"", AT)).contains("circle"));
        let chain =
            |steps: u32| (0..steps).fold(Upcasters::new(), |all, n| all.register("a", n, move |_| Ok(to("a", n + 1))));
        assert_eq!(chain(64).apply("a", 0, Codec::Raw, b"", AT).unwrap().version, 64);
        assert!(reason(chain(65).apply("a", 0, Codec::Raw, b"", AT)).contains("64 steps"));
        let last = Upcasters::new().upcast("Moved", u32::MAX, |()| Person::Moved { to: String::new() });
        assert!(reason(last.apply("Moved", u32::MAX, Codec::MessagePack, b"\xc0", AT)).contains("circle"));
    }

    #[test]
    fn what_an_upcaster_says_no_to_tells_the_position_and_the_field() {
        let refusing = Upcasters::new().register("a", 2, |_| Err("too old".into()));
        assert_eq!(reason(refusing.apply("a", 2, Codec::Raw, b"", AT)), "upcasting version 2: too old");
        let typed = Upcasters::new().upcast("a", 0, split);
        match typed.apply("a", 0, Codec::MessagePack, b"\x81\xa4name\x05", AT).unwrap_err() {
            Error::Decode { position, type_name, field, .. } => {
                assert_eq!((position, &*type_name, field.as_deref()), (AT, "a", Some("name")));
            }
            other => panic!("{other}"),
        }
        let nameless = Upcasters::new().upcast("a", 0, |_: Named| 5_u8);
        assert!(reason(nameless.apply("a", 0, Codec::MessagePack, &named("x"), AT)).contains("has no name"));
    }

    #[test]
    fn a_later_upcaster_takes_the_place_of_an_earlier_one() {
        let twice = Upcasters::new().register("a", 0, |_| Ok(to("b", 1))).register("a", 0, |_| Ok(to("c", 2)));
        assert_eq!(twice.apply("a", 0, Codec::Raw, b"", AT).unwrap(), to("c", 2));
    }
}
