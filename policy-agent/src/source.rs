//! Where endpoints come from besides resources.

pub mod docker;
