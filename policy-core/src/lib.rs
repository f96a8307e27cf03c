//! Palisade's pure core: no I/O, no clock, no aya, no Docker.
//!
//! Data flows one way: `policy-api` wire types -> [`validate`] -> [`policy`] -> [`model`] ->
//! [`compile`] -> [`plan`].

pub mod labels;
pub mod model;
pub mod plan;
pub mod policy;
pub mod selector;
