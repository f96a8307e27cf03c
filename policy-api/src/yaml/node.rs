//! A YAML node of any type that remembers where it stands.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Number, Value};
use serde_yaml::{Location, Spanned};

use super::Place;

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

/// The place of every field path that was met, within a number of bytes.
pub(super) struct Places {
    /// Of the node that is being read.
    path: String,
    known: BTreeMap<String, Place>,
    left: usize,
}

impl Places {
    /// Of a resource that begins at `start`; all paths together may have `left` bytes.
    pub(super) fn new(start: Place, left: usize) -> Places {
        Places { path: String::new(), known: BTreeMap::from([(String::new(), start)]), left }
    }

    /// Bytes that other resources may have.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    pub(super) fn into_map(self) -> BTreeMap<String, Place> {
        self.known
    }

    /// Notes where the present path is; `None` if there are no more bytes for it.
    fn note(&mut self, location: &Location) -> Option<()> {
        self.left = self.left.checked_sub(self.path.len())?;
        self.known.insert(self.path.clone(), place(location));
        Some(())
    }
}

impl Node {
    /// The value without places, which go into `places` by field path; `None` if these get too
    /// large. The present path is the path of this node and is left as it was.
    pub(super) fn into_value(self, places: &mut Places) -> Option<Value> {
        let length = places.path.len();
        Some(match self {
            Node::Scalar(value) => value,
            Node::List(entries) => {
                let mut list = Vec::with_capacity(entries.len());
                for (index, entry) in entries.into_iter().enumerate() {
                    places.path.push_str(&format!("[{index}]"));
                    places.note(&entry.referenced)?;
                    list.push(entry.value.into_value(places)?);
                    places.path.truncate(length);
                }
                Value::Array(list)
            }
            Node::Mapping(entries) => {
                let mut mapping = Map::new();
                for (key, entry) in entries {
                    if !places.path.is_empty() {
                        places.path.push('.');
                    }
                    places.path.push_str(&key.value);
                    places.note(&key.referenced)?;
                    let value = entry.value.into_value(places)?;
                    mapping.insert(key.value, value);
                    places.path.truncate(length);
                }
                Value::Object(mapping)
            }
        })
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
