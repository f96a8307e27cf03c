//! Palisade's host daemon. Decisions are `policy-core`'s; this crate does the I/O around them.
//!
//! Data flows one way: [`source`], [`policy_dir`] and [`server`] bring news to the event loop in
//! [`agent`]; [`inventory`] and [`resources`] turn it into a model; `policy-core` turns that into a
//! plan; [`kernel`] carries the plan out; [`published`] tells the readers ([`server`], [`metrics`],
//! [`observer`]). [`fence`] stands beside the loop: it must never wait for it.

pub mod agent;
pub mod capture;
pub mod config;
pub mod conntrack;
pub mod fence;
pub mod flow_log;
pub mod flows;
pub mod history;
pub mod inventory;
pub mod kernel;
pub mod ledger;
pub mod metrics;
pub mod netlink;
pub mod observer;
pub mod policy_dir;
pub mod preview;
pub mod published;
pub mod resources;
pub mod run;
pub mod sandbox;
pub mod server;
pub mod source;
pub mod store;
