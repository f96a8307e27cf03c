//! What the tests that need root stand on: a private network, an agent, a Docker Engine.
//!
//! Inputs: root, `ip`, `dockerd` and `docker`, the built `policy-agent` and `policyctl` (so run
//! through `cargo xtask test`). Outputs: things that vanish when they are dropped, on a panic
//! too; what a killed run left is swept by the next one.
//!
//! Nothing here touches the machine's own network, containers or rules: a [`lab::Lab`] is a
//! network namespace that plays the host, and agent and engine live in it. What is made anywhere
//! else (temporary files, cgroups, pins in bpffs, named namespaces) carries the lab's name.

pub mod agent;
pub mod bench;
pub mod binaries;
pub mod dashboards;
pub mod demo;
pub mod engine;
pub mod examples;
pub mod http;
pub mod lab;
pub mod net;
pub mod netns;
pub mod pictures;
mod plot;
pub mod process;
pub mod table;
pub mod testrun;
pub mod wait;
