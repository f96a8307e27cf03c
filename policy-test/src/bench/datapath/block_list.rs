//! What a packet costs at XDP that a block list names.
//!
//! Inputs: root, an [`Effort`]. Outputs: nanoseconds over an XDP program that does nothing.
//!
//! A million networks are compiled before, which takes a debug build minutes: this is for release
//! builds.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use policy_agent::kernel::{load::Sizes, pin::Hook};
use serde_json::json;

use crate::{
    bench::{
        datapath::{Cost, Effort, nanos, tcp},
        statistics::median,
    },
    testrun::{Action, Ring},
};

const NETWORKS: u32 = 1_000_000;
const BUDGET: u32 = 60;
/// From 16.0.0.0 on, /30s with gaps between them, so that no two could be one.
const FIRST: u32 = 0x1000_0000;
const STEP: u32 = 8;

/// Measures it.
///
/// # Errors
/// If the programs cannot be run, or do not drop the packet.
pub fn drop_at_uplink(effort: Effort) -> Result<Cost> {
    let mut ring = Ring::new(Sizes::default())?;
    let uplink = ring.interface("uplink")?;
    ring.uplink(uplink, &[("side", "outside")]);
    let networks: Vec<String> = (0..NETWORKS)
        .map(|index| format!("{}/30", Ipv4Addr::from_bits(FIRST + index * STEP)))
        .collect();
    ring.add(&json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
        "metadata": {"name": "feed", "labels": {"feed": "bad"}}, "spec": {"nets": networks},
    }))?;
    ring.add(&json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "feed"},
        "spec": {"selector": "side == 'outside'", "types": ["Ingress"], "doNotTrack": true,
                 "applyOnForward": true,
                 "ingress": [{"action": "Deny", "source": {"selector": "feed == 'bad'"}}]},
    }))?;
    ring.sync()?;
    let source = Ipv4Addr::from_bits(FIRST + NETWORKS / 2 * STEP + 1).to_string();
    let frame = tcp(&source, 40_000, "10.0.0.1", 443, 0x02)?;
    let mut samples = Vec::new();
    for _ in 0..effort.rounds {
        let empty = ring.repeat_empty(Hook::Uplink, &frame, effort.repeat)?;
        let (action, full) = ring
            .repeat(Hook::Uplink, uplink, &frame, effort.repeat)?
            .context("the kernel takes such a frame")?;
        ensure!(action == Action::Drop, "a packet of the block list passed");
        samples.push(nanos(full) - nanos(empty));
    }
    Ok(Cost {
        name: "XDP drop, 1,000,000 networks",
        budget: Some(BUDGET),
        nanos: median(&samples).context("at least one round")?,
    })
}
