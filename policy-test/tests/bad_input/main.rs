//! What the agent and `policyctl` say to input that they refuse, and that nothing comes of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod clients;
mod crashes;
mod files;
mod stage;
mod start;
