//! Reading: puts the type name and the content together again, as the variant of an enum or as a struct.

use std::cell::Cell;
use std::iter;
use std::marker::PhantomData;

use serde::de::value::MapDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, VariantAccess, Visitor,
};

use crate::event::typed::guard::{Guard, Track};

/// What is known about an event beside its content.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) type_name: &'a str,
    /// The content is the codec's nil.
    pub(super) is_nil: bool,
    /// Set when the content is of no interest.
    pub(super) ignored: &'a Cell<bool>,
    pub(super) track: &'a Track,
}

/// Reads a `T` as a whole event.
pub(super) struct EventSeed<'a, T>(pub(super) Frame<'a>, pub(super) PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for EventSeed<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, content: D) -> Result<T, D::Error> {
        T::deserialize(Event { frame: self.0, content: Guard::new(content, self.0.track) })
    }
}

/// Reads a `T` from the content alone.
pub(super) struct ContentSeed<'a, T>(pub(super) &'a Track, pub(super) PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for ContentSeed<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, content: D) -> Result<T, D::Error> {
        T::deserialize(Guard::new(content, self.0))
    }
}

struct Event<'a, D> {
    frame: Frame<'a>,
    content: D,
}

impl<'de, D: Deserializer<'de>> Event<'_, D> {
    fn check(&self, name: &'static str) -> Result<(), D::Error> {
        if self.frame.type_name == name {
            return Ok(());
        }
        Err(D::Error::custom(format_args!("the event is a {:?}, not a {name:?}", self.frame.type_name)))
    }

    /// Nil stands for no fields, so that a unit variant or struct may become one with fields that have defaults.
    fn read_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        if self.frame.is_nil {
            self.frame.ignored.set(true);
            return visitor.visit_map(MapDeserializer::new(iter::empty::<((), ())>()));
        }
        self.content.deserialize_struct(name, fields, visitor)
    }
}

macro_rules! refuse {
    ($($method:ident($($type:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $(_: $type,)* _: V) -> Result<V::Value, D::Error> {
            Err(D::Error::custom("an event is read as an enum or a struct"))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Event<'_, D> {
    type Error = D::Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.check(name)?;
        self.read_struct(name, fields, visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.check(name)?;
        self.frame.ignored.set(true);
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.check(name)?;
        self.content.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.check(name)?;
        self.content.deserialize_tuple_struct(name, len, visitor)
    }

    /// Types that say nothing about themselves: enums with a tag inside, untagged ones, `serde_json::Value`. The
    /// content has to speak for itself.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.content.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.frame.ignored.set(true);
        visitor.visit_unit()
    }

    refuse! {
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_seq();
        deserialize_tuple(usize);
        deserialize_map();
        deserialize_identifier();
    }

    fn is_human_readable(&self) -> bool {
        self.content.is_human_readable()
    }
}

impl<'de, D: Deserializer<'de>> EnumAccess<'de> for Event<'_, D> {
    type Error = D::Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), D::Error> {
        let name: serde::de::value::StrDeserializer<'_, D::Error> = self.frame.type_name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de, D: Deserializer<'de>> VariantAccess<'de> for Event<'_, D> {
    type Error = D::Error;

    /// Whatever the content is: `#[serde(other)]` comes here with types that nobody knows.
    fn unit_variant(self) -> Result<(), D::Error> {
        self.frame.ignored.set(true);
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, D::Error> {
        seed.deserialize(self.content)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.content.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.read_struct("", fields, visitor)
    }
}
