//! Real sockets of workloads on a bridge, against policies of every form: what the packets do, what
//! `policyctl explain` says, and what the metrics count have to be the same.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod agents;
mod capture;
mod changes;
mod diff;
mod directory;
mod flow_log;
mod flows;
mod generate;
mod hardware;
mod host_endpoints;
mod host_packets;
mod host_scope;
mod host_stage;
mod hosts;
mod kubernetes;
mod language;
mod limit;
mod observing;
mod offline;
mod packets;
mod scope;
mod selection;
mod stage;
mod uplink;
