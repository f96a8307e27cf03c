//! Palisade's pure core: no I/O, no clock, no aya, no Docker.
//!
//! Data flows one way: `policy-api` wire types -> [`validate`] -> [`policy`] -> [`model`] ->
//! [`compile`] -> [`plan`].

pub mod assemble;
mod canvas;
pub mod changes;
pub mod compile;
pub mod digest;
mod division;
pub mod evaluate;
pub mod explain;
mod extents;
pub mod generate;
mod held;
pub mod host;
pub mod identity;
pub mod ids;
mod image;
pub mod labels;
pub mod model;
pub mod names;
pub mod observe;
pub mod peers;
pub mod plan;
pub mod policy;
mod prefixes;
pub mod reach;
pub mod selector;
#[cfg(test)]
mod semantics;
pub mod services;
pub mod shared;
pub mod simulate;
mod tables;
#[cfg(test)]
mod testing;
pub mod tiers;
mod transition;
pub mod untracked;
pub mod validate;
mod workspace;
