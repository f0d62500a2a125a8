//! How a reader hands out its parts, as serde wants them.

use serde::de::{
    DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
    value::{StrDeserializer, U32Deserializer},
};

use super::{
    collect::{Failed, RECORDED, Reader},
    place::Place,
    tree::{Node, Position},
};

/// Offers a [`Field`](super::field::Field) its line, its column and its value.
pub(super) struct FieldAccess<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) at: Position,
    pub(super) given: bool,
    pub(super) step: u8,
}

impl<'de> SeqAccess<'de> for FieldAccess<'_> {
    type Error = Failed;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failed> {
        self.step += 1;
        let number = |n: u32| -> U32Deserializer<Failed> { n.into_deserializer() };
        match self.step {
            1 => seed.deserialize(number(self.at.line)).map(Some),
            2 => seed.deserialize(number(self.at.column)).map(Some),
            3 if self.given => {
                let result = seed.deserialize(self.reader);
                self.reader.settle(result).map(Some)
            }
            _ => Err(RECORDED),
        }
    }
}

pub(super) struct Items<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Failed;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failed> {
        let Some((number, node)) = self.items.next() else { return Ok(None) };
        let place = Place::Item(self.reader.place, number);
        let reader = Reader { node: Some(node), key_at: node.at, place: &place, ..self.reader };
        seed.deserialize(reader).map(Some)
    }
}

/// The entries of a map whose keys are names.
pub(super) struct Entries<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) entries: std::slice::Iter<'a, (Node, Node)>,
    pub(super) value: Option<(&'a Node, &'a Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failed> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, value));
        seed.deserialize(Reader { node: Some(key), key_at: key.at, ..self.reader }).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failed> {
        let (key, value) = self.value.take().ok_or(RECORDED)?;
        let place = Place::Key(self.reader.place, key.text().unwrap_or_default());
        seed.deserialize(Reader { node: Some(value), key_at: key.at, place: &place, ..self.reader })
    }
}

/// All fields of a struct, also those whose key is absent.
pub(super) struct Fields<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) entries: &'a [(Node, Node)],
    pub(super) fields: std::slice::Iter<'static, &'static str>,
    pub(super) field: Option<&'static str>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Failed;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failed> {
        let Some(field) = self.fields.next() else { return Ok(None) };
        self.field = Some(field);
        let name: StrDeserializer<'_, Failed> = (*field).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failed> {
        let field = self.field.take().ok_or(RECORDED)?;
        let place = Place::Key(self.reader.place, field);
        let entry = self.entries.iter().find(|(key, _)| key.text() == Some(field));
        let key_at = entry.map_or(self.reader.key_at, |(key, _)| key.at);
        seed.deserialize(Reader { node: entry.map(|(_, node)| node), key_at, place: &place, ..self.reader })
    }
}

pub(super) struct Variant<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) variant: &'static str,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Failed;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Failed> {
        let name: StrDeserializer<'_, Failed> = self.variant.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Failed;

    fn unit_variant(self) -> Result<(), Failed> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failed> {
        seed.deserialize(self.reader)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Failed> {
        Err(self.reader.fail("not readable"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Failed> {
        Err(self.reader.fail("not readable"))
    }
}
