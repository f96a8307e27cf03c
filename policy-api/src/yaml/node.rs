//! A YAML node of any type that remembers where it stands.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Number, Value};
use serde_yaml::{Location, Spanned};

use super::{
    Place,
    places::{Inside, Places},
};

#[derive(Debug)]
pub(super) enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Mapping(Vec<(Spanned<String>, Spanned<Node>)>),
}

pub(super) fn place(location: &Location) -> Place {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Place { line: number(location.line()), column: number(location.column()) }
}

impl Node {
    /// The value, and the places of it and of everything in it; it stands at `own`.
    pub(super) fn split(self, own: Place) -> (Value, Places) {
        let (value, inside) = match self {
            Node::Scalar(value) => (value, Inside::Nothing),
            Node::List(entries) => {
                let entries = entries.into_iter();
                let (list, places) =
                    entries.map(|entry| entry.value.split(place(&entry.referenced))).unzip();
                (Value::Array(list), Inside::List(places))
            }
            Node::Mapping(entries) => {
                let mut mapping = Map::new();
                let mut fields = Vec::with_capacity(entries.len());
                for (key, entry) in entries {
                    let (value, places) = entry.value.split(place(&key.referenced));
                    fields.push((key.value.clone(), places));
                    mapping.insert(key.value, value);
                }
                (Value::Object(mapping), Inside::Mapping(fields))
            }
        };
        (value, Places { own, inside })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML node")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_none<E: de::Error>(self) -> Result<Node, E> {
                Ok(Node::Scalar(Value::Null))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
                match Number::from_f64(value) {
                    Some(number) => Ok(Node::Scalar(number.into())),
                    None => Err(E::custom("infinities and NaN are no numbers here")),
                }
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Scalar(value.into()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    entries.push(entry);
                }
                Ok(Node::List(entries))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Mapping(entries))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
