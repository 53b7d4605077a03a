//! Stands around a codec's deserializer: bounds the depth of values and remembers which field did not fit.
//!
//! It costs a counter and a few copied words a level, and no allocation before something fails. The many `#[inline]`
//! matter: without them reading MessagePack takes twice as long (measured: 371 instead of 196 ns for 57 bytes).

use std::cell::{Cell, RefCell};

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor};

/// How deep values may nest: as in `serde_json`, and shallow enough for a debug build on a thread of 2 MiB.
pub(super) const MAX_DEPTH: u16 = 128;

/// More items than this are not believed. A payload of 16 MiB cannot hold more, unless they take no bytes at all.
const MAX_ITEMS: usize = 16 << 20;

/// What one decoding leaves behind when it fails.
#[derive(Default)]
pub(super) struct Track {
    /// From the place that failed outward.
    path: RefCell<Vec<Step>>,
    payload_bytes: usize,
}

enum Step {
    Name(String),
    Index(usize),
}

impl Step {
    fn name(name: &str) -> Self {
        Step::Name(name.to_owned())
    }
}

impl Track {
    pub(super) fn new(payload_bytes: usize) -> Self {
        Self { path: RefCell::default(), payload_bytes }
    }

    /// The path of the field that failed, such as `lines[2].sku`, where it is known.
    pub(super) fn field(&self, why: &str) -> Option<String> {
        let mut text = String::new();
        let path = self.path.borrow();
        let absent = named_in(why).map(Step::name);
        for step in path.iter().rev().chain(&absent) {
            match step {
                Step::Index(index) => text.push_str(&format!("[{index}]")),
                Step::Name(name) if text.is_empty() => text.push_str(name),
                Step::Name(name) => text.extend([".", name]),
            }
        }
        (!text.is_empty()).then_some(text)
    }

    fn failed<E>(&self, step: Option<Step>, error: E) -> E {
        self.path.borrow_mut().extend(step);
        error
    }

    /// Forgets a failure that the type made up for (as `untagged` and "default on error" do).
    #[inline]
    fn went_well(&self) {
        if !self.path.borrow().is_empty() {
            self.path.borrow_mut().clear();
        }
    }
}

/// The field that serde says is missing or there twice; it fails after the fields, so no step of the path names it.
fn named_in(why: &str) -> Option<&str> {
    let rest = why.strip_prefix("missing field `").or_else(|| why.strip_prefix("duplicate field `"))?;
    rest.split_once('`').map(|(name, _)| name)
}

/// Where in the value we are.
#[derive(Clone, Copy)]
struct Place<'a, 'de> {
    track: &'a Track,
    depth: u16,
    /// The struct's fields, for codecs that do not name them.
    fields: &'static [&'static str],
    /// Where to write down a map's key, when this is one. Only what the codec lends is kept: all keys of MessagePack and
    /// bincode, and those of JSON without escapes.
    key: Option<&'a Cell<Option<&'de str>>>,
}

impl<'a, 'de> Place<'a, 'de> {
    #[inline]
    fn deeper<E: Error>(&self, key: Option<&'a Cell<Option<&'de str>>>) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("it nests deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self { track: self.track, depth: self.depth + 1, fields: &[], key })
    }

    #[inline]
    fn with_fields(self, fields: &'static [&'static str]) -> Self {
        Self { fields, ..self }
    }

    /// A codec's size hint is what the payload claims. Beyond its own bytes it is not to be believed.
    #[inline]
    fn believable(&self, hint: Option<usize>) -> Option<usize> {
        hint.map(|claimed| claimed.min(self.track.payload_bytes))
    }
}

fn check_items<E: Error>(claimed: Option<usize>) -> Result<(), E> {
    match claimed {
        Some(items) if items > MAX_ITEMS => {
            Err(E::custom(format_args!("it claims {items} items, more than it can hold")))
        }
        _ => Ok(()),
    }
}

/// A value, and likewise the visitor or seed that it is handed to.
pub(super) struct Guard<'a, 'de, D> {
    inner: D,
    place: Place<'a, 'de>,
}

impl<'a, D> Guard<'a, '_, D> {
    pub(super) fn new(inner: D, track: &'a Track) -> Self {
        Self { inner, place: Place { track, depth: 0, fields: &[], key: None } }
    }
}

macro_rules! forward_deserialize {
    ($($method:ident($($arg:ident: $type:ty),*) => $inner:ident;)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, $($arg: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$inner($($arg,)* Guard { inner: visitor, place: self.place })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Guard<'_, 'de, D> {
    type Error = D::Error;

    forward_deserialize! {
        deserialize_any() => deserialize_any;
        deserialize_bool() => deserialize_bool;
        deserialize_i8() => deserialize_i8;
        deserialize_i16() => deserialize_i16;
        deserialize_i32() => deserialize_i32;
        deserialize_i64() => deserialize_i64;
        deserialize_i128() => deserialize_i128;
        deserialize_u8() => deserialize_u8;
        deserialize_u16() => deserialize_u16;
        deserialize_u32() => deserialize_u32;
        deserialize_u64() => deserialize_u64;
        deserialize_u128() => deserialize_u128;
        deserialize_f32() => deserialize_f32;
        deserialize_f64() => deserialize_f64;
        deserialize_char() => deserialize_char;
        deserialize_str() => deserialize_str;
        // Lent, not owned: bincode allocates for an owned one before it has seen the bytes.
        deserialize_string() => deserialize_str;
        deserialize_bytes() => deserialize_bytes;
        deserialize_byte_buf() => deserialize_bytes;
        deserialize_option() => deserialize_option;
        deserialize_unit() => deserialize_unit;
        deserialize_unit_struct(name: &'static str) => deserialize_unit_struct;
        deserialize_newtype_struct(name: &'static str) => deserialize_newtype_struct;
        deserialize_seq() => deserialize_seq;
        deserialize_tuple(len: usize) => deserialize_tuple;
        deserialize_tuple_struct(name: &'static str, len: usize) => deserialize_tuple_struct;
        deserialize_map() => deserialize_map;
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) => deserialize_enum;
        deserialize_identifier() => deserialize_identifier;
        deserialize_ignored_any() => deserialize_ignored_any;
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let place = self.place.with_fields(fields);
        self.inner.deserialize_struct(name, fields, Guard { inner: visitor, place })
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! forward_visit {
    ($($method:ident($type:ty);)*) => {$(
        #[inline]
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Guard<'_, 'de, V> {
    type Value = V::Value;

    forward_visit! {
        visit_bool(bool);
        visit_i8(i8);
        visit_i16(i16);
        visit_i32(i32);
        visit_i64(i64);
        visit_i128(i128);
        visit_u8(u8);
        visit_u16(u16);
        visit_u32(u32);
        visit_u64(u64);
        visit_u128(u128);
        visit_f32(f32);
        visit_f64(f64);
        visit_char(char);
        visit_str(&str);
        visit_string(String);
        visit_bytes(&[u8]);
        visit_borrowed_bytes(&'de [u8]);
        visit_byte_buf(Vec<u8>);
    }

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.inner.expecting(formatter)
    }

    #[inline]
    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<V::Value, E> {
        if let Some(key) = self.place.key {
            key.set(Some(value));
        }
        self.inner.visit_borrowed_str(value)
    }

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Guard { inner, place: self.place.deeper(self.place.key)? })
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Guard { inner, place: self.place.deeper(self.place.key)? })
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        check_items(access.size_hint())?;
        self.inner.visit_seq(Items { access, place: self.place, index: 0 })
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        check_items(access.size_hint())?;
        self.inner.visit_map(Entries { access, place: self.place, key: Cell::default() })
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Guard { inner: access, place: self.place })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Guard<'_, 'de, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Guard { inner, place: self.place })
    }
}

/// The items of a sequence; the fields of a struct, where the codec does not name them.
struct Items<'a, 'de, A> {
    access: A,
    place: Place<'a, 'de>,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, 'de, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let index = self.index;
        self.index += 1;
        let place = self.place.deeper(None)?;
        let item = self.access.next_element_seed(Guard { inner: seed, place }).map_err(|e| {
            let field = self.place.fields.get(index);
            let step = field.map_or(Step::Index(index), |name| Step::name(name));
            self.place.track.failed(Some(step), e)
        })?;
        self.place.track.went_well();
        Ok(item)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.place.believable(self.access.size_hint())
    }
}

/// The entries of a map, or of a struct whose fields have names.
struct Entries<'a, 'de, A> {
    access: A,
    place: Place<'a, 'de>,
    key: Cell<Option<&'de str>>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, 'de, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.key.set(None);
        let place = self.place.deeper(Some(&self.key))?;
        let key = self.access.next_key_seed(Guard { inner: seed, place });
        key.map_err(|e| self.place.track.failed(self.key.get().map(Step::name), e))
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let place = self.place.deeper(None)?;
        let value = self.access.next_value_seed(Guard { inner: seed, place });
        let value = value.map_err(|e| self.place.track.failed(self.key.get().map(Step::name), e))?;
        self.place.track.went_well();
        Ok(value)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.place.believable(self.access.size_hint())
    }
}

impl<'a, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Guard<'a, 'de, A> {
    type Error = A::Error;
    type Variant = Guard<'a, 'de, A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let place = self.place.deeper(None)?;
        let (variant, inner) = self.inner.variant_seed(Guard { inner: seed, place })?;
        Ok((variant, Guard { inner, place }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Guard<'_, 'de, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.newtype_variant_seed(Guard { inner: seed, place: self.place })
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, Guard { inner: visitor, place: self.place })
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let place = self.place.with_fields(fields);
        self.inner.struct_variant(fields, Guard { inner: visitor, place })
    }
}
