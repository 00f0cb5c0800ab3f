//! Mappings that know their keys: an unknown one is an error that names the nearest known one.
//!
//! The error is raised while the key itself is read, so that it carries the key's line.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, Visitor};

/// Something with known keys.
pub(super) trait Keys {
    /// What it is, for people.
    const WHAT: &'static str;
    const KNOWN: &'static [&'static str];
}

/// A `T` that may have no other keys than its own.
#[derive(Debug)]
pub(super) struct Strict<T>(pub(super) T);

impl<'de, T: Keys + Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(StrictVisitor(PhantomData)).map(Self)
    }
}

struct StrictVisitor<T>(PhantomData<T>);

impl<'de, T: Keys + Deserialize<'de>> Visitor<'de> for StrictVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} with the keys {}", T::WHAT, T::KNOWN.join(", "))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(CheckedKeys::<A, T> { map, keys: PhantomData }))
    }
}

struct CheckedKeys<A, T> {
    map: A,
    keys: PhantomData<T>,
}

impl<'de, A: MapAccess<'de>, T: Keys> MapAccess<'de> for CheckedKeys<A, T> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.map.next_key_seed(KnownKey::<T>(PhantomData))? else {
            return Ok(None);
        };
        let key: StringDeserializer<A::Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

struct KnownKey<T>(PhantomData<T>);

impl<'de, T: Keys> DeserializeSeed<'de> for KnownKey<T> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T: Keys> Visitor<'_> for KnownKey<T> {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a key of {}: {}", T::WHAT, T::KNOWN.join(", "))
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        if T::KNOWN.contains(&key) {
            return Ok(key.to_owned());
        }
        let nearest =
            T::KNOWN.iter().max_by(|left, right| likeness(key, left).total_cmp(&likeness(key, right)));
        let nearest = nearest.copied().unwrap_or_default();
        Err(E::custom(format!("unknown key {key:?} of {}; the nearest known one is {nearest:?}", T::WHAT)))
    }
}

fn likeness(left: &str, right: &str) -> f64 {
    strsim::jaro_winkler(&left.to_lowercase(), &right.to_lowercase())
}
