//! Resources, from what an author writes to what the datapath decides.
//!
//! Inputs: a file of resources; or, behind a zero byte, which no such file begins with, bytes that
//! [`grammar`] makes resources of. Held: no panic on the way from the decoder to the compiled
//! tables; a resource means the same after it has been written and read; what can be applied can be
//! deleted; the tables agree with the reference evaluator.

mod grammar;
mod world;

use arbitrary::Unstructured;
use policy_api::{diagnostic::Severity, yaml};
use policy_core::validate::{self, Object};
use serde_json::{Value, json};

/// Resources of one input that are looked at; the others would only cost time.
const MAX_RESOURCES: usize = 8;

/// Holds an input against everything above.
pub fn check(data: &[u8]) {
    let (values, rest) = match data.split_first() {
        Some((0, rest)) => {
            let mut rest = Unstructured::new(rest);
            let values = grammar::resources(&mut rest).unwrap_or_default();
            written(&values);
            (values, rest.take_rest())
        }
        _ => match yaml::read("f", data) {
            Ok(documents) => {
                let values = documents.into_iter().map(|document| document.value);
                (values.take(MAX_RESOURCES).collect(), data)
            }
            Err(_) => return,
        },
    };
    let objects: Vec<Object> = values.iter().filter_map(decoded).collect();
    world::check(&objects, rest);
}

/// Written as the agent's store writes them, resources mean what they meant.
fn written(values: &[Value]) {
    let wrapped = json!({ "v": values });
    let text = match serde_yaml::to_string(&wrapped) {
        Ok(text) => text,
        Err(error) => panic!("{wrapped} cannot be written: {error}"),
    };
    match yaml::read("f", text.as_bytes()).as_deref() {
        Ok([document]) => {
            for (index, value) in values.iter().enumerate() {
                let again = validate::decode_with_warnings(&document.value["v"][index]);
                assert_eq!(again, validate::decode_with_warnings(value), "{value} and {text:?}");
            }
        }
        other => panic!("{wrapped} was written as {text:?}, which reads as {other:?}"),
    }
}

/// The resource, if it can be enforced; what is said about it holds either way.
fn decoded(value: &Value) -> Option<Object> {
    match validate::decode_with_warnings(value) {
        Ok((object, warnings)) => {
            let warns = |found: Severity| found == Severity::Warning;
            assert!(warnings.iter().all(|found| warns(found.severity)), "{warnings:?}");
            // What can be applied can be deleted.
            assert_eq!(validate::resource_name(value), Ok(object.resource_name()), "{value}");
            Some(object)
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "{value} is refused without a reason");
            assert!(errors.iter().all(|found| found.severity == Severity::Error), "{errors:?}");
            None
        }
    }
}
