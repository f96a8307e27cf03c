//! `metadata` of a resource, and scalars that may be a number or a string.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// `metadata`.
///
/// What a server writes into it is accepted and has no effect, so that the output of
/// `calicoctl get -o yaml` and `kubectl get -o yaml` can be applied as it is: `uid`,
/// `resourceVersion`, `generation`, `creationTimestamp`, `deletionTimestamp`,
/// `deletionGracePeriodSeconds`, `selfLink`, `managedFields`, `ownerReferences`, `finalizers`.
/// Everything else that is not listed here is refused.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a mapping with `name`")]
pub struct Metadata {
    /// Name.
    pub name: Option<String>,
    /// Namespace; absent means `default` for kinds that have one.
    pub namespace: Option<String>,
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Free text; no effect.
    pub annotations: Option<BTreeMap<String, String>>,
    /// Known, and refused: a name is needed to replace and delete a resource.
    pub generate_name: Option<Value>,
    /// Written by a server; no effect.
    pub uid: Option<Value>,
    /// Written by a server; no effect.
    pub resource_version: Option<Value>,
    /// Written by a server; no effect.
    pub generation: Option<Value>,
    /// Written by a server; no effect.
    pub creation_timestamp: Option<Value>,
    /// Written by a server; no effect.
    pub deletion_timestamp: Option<Value>,
    /// Written by a server; no effect.
    pub deletion_grace_period_seconds: Option<Value>,
    /// Written by a server; no effect.
    pub self_link: Option<Value>,
    /// Written by a server; no effect.
    pub managed_fields: Option<Value>,
    /// Written by a server; no effect.
    pub owner_references: Option<Value>,
    /// Written by a server; no effect.
    pub finalizers: Option<Value>,
}

/// A number, or a string that may be a number: ports and protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    /// `80`.
    Int(i64),
    /// `"80"`, `80:90`, `http`, `TCP`.
    String(String),
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IntOrString::Int(number) => number.fmt(f),
            IntOrString::String(text) => text.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = IntOrString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a string")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<IntOrString, E> {
                Ok(IntOrString::Int(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<IntOrString, E> {
                i64::try_from(number)
                    .map(IntOrString::Int)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::String(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
