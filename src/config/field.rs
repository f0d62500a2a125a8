//! What the file's structs are made of: a value that knows its place and may have failed.
//!
//! Both types work only with the deserializer of `collect`.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use super::tree::Position;

/// The newtype name by which the deserializer knows a [`Field`].
pub(super) const FIELD: &str = "$field";

/// A value and where it stands. Without a value, its problem is recorded already.
#[derive(Debug)]
pub(super) struct Field<T> {
    pub(super) at: Position,
    pub(super) value: Option<T>,
}

impl<T> Field<T> {
    /// Where it stands and what it is, if it could be read.
    pub(super) fn get(&self) -> Option<(Position, &T)> {
        Some((self.at, self.value.as_ref()?))
    }
}

/// The value of an optional key, if it was given and could be read.
pub(super) fn given<T>(field: &Option<Field<T>>) -> Option<(Position, &T)> {
    field.as_ref().and_then(Field::get)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(FIELD, FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Field<T>, A::Error> {
        let line = parts.next_element()?.unwrap_or(0);
        let column = parts.next_element()?.unwrap_or(0);
        let value = parts.next_element().unwrap_or(None);
        Ok(Field { at: Position { line, column }, value })
    }
}

impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A map whose keys are names, in the order of the file.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) Vec<(Field<String>, Field<T>)>);

impl<T> Named<T> {
    /// The entries whose name could be read.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Position, &str, &Field<T>)> {
        self.0.iter().filter_map(|(key, field)| Some((key.at, key.value.as_deref()?, field)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor(PhantomData))
    }
}

struct NamedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for NamedVisitor<T> {
    type Value = Named<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Named(entries))
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Named_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "additionalProperties": generator.subschema_for::<T>(),
        })
    }
}
