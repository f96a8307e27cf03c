//! Which fields of the policy language the tables speak of.
//!
//! Inputs: the wire types of `policy-api`, the resources of tables. Outputs: the fields of both, such as
//! `EntityRule.notNets`, so that a test can tell which one no table has.
//!
//! The fields of a type come from its own `Deserialize`: a deserializer that has every field to
//! offer, and writes down which ones it is asked for.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::Result;
use policy_api::resource::Object;
use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer as _, MapAccess, SeqAccess, Visitor},
    forward_to_deserialize_any,
};
use serde_json::Value;

/// Every path that a resource of a type can have, such as `spec.ingress[].source.notNets`, with the type and
/// field that it leads to.
///
/// # Errors
/// If the type asks for something that no YAML has.
pub fn of_type<S: for<'de> Deserialize<'de>>() -> Result<BTreeMap<String, String>> {
    let found = RefCell::new(BTreeMap::new());
    Object::<S>::deserialize(Asked { path: String::new(), found: &found })?;
    Ok(found.into_inner())
}

/// The paths of a resource as it was written.
#[must_use]
pub fn of_resource(resource: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(resource, "", &mut found);
    found
}

fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let path = join(path, field);
                walk(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(values) => {
            values.iter().for_each(|value| walk(value, &format!("{path}[]"), found));
        }
        _ => {}
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// Offers whatever is asked for.
struct Asked<'a> {
    path: String,
    found: &'a RefCell<BTreeMap<String, String>>,
}

/// A type that cannot be satisfied.
#[derive(Debug)]
pub struct Unsatisfied(String);

impl fmt::Display for Unsatisfied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsatisfied {}

impl de::Error for Unsatisfied {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Unsatisfied;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsatisfied> {
        // Numbers that may be words, and values of any type, take a word.
        visitor.visit_str("")
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsatisfied> {
        visitor.visit_bool(false)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsatisfied> {
        visitor.visit_i64(0)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsatisfied> {
        visitor.visit_f64(0.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsatisfied> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsatisfied> {
        let path = format!("{}[]", self.path);
        visitor.visit_seq(Once(Some(Asked { path, found: self.found })))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unsatisfied> {
        // Labels and annotations: names are not fields.
        visitor.visit_map(Fields {
            of: "",
            names: &[],
            path: self.path,
            found: self.found,
            next: None,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        of: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unsatisfied> {
        visitor.visit_map(Fields { of, names, path: self.path, found: self.found, next: None })
    }

    forward_to_deserialize_any! {
        i8 i16 i32 u8 u16 u32 u64 f32 char str string bytes byte_buf unit unit_struct newtype_struct
        tuple tuple_struct enum identifier ignored_any
    }
}

struct Once<'a>(Option<Asked<'a>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Unsatisfied;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Unsatisfied> {
        self.0.take().map(|asked| seed.deserialize(asked)).transpose()
    }
}

struct Fields<'a> {
    of: &'static str,
    names: &'static [&'static str],
    path: String,
    found: &'a RefCell<BTreeMap<String, String>>,
    next: Option<String>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Unsatisfied;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Unsatisfied> {
        let Some((name, rest)) = self.names.split_first() else { return Ok(None) };
        self.names = rest;
        let path = join(&self.path, name);
        self.found.borrow_mut().insert(path.clone(), format!("{}.{name}", self.of));
        self.next = Some(path);
        seed.deserialize(name.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Unsatisfied> {
        let path = self.next.take().ok_or_else(|| Unsatisfied("a value without key".to_owned()))?;
        seed.deserialize(Asked { path, found: self.found })
    }
}
