//! What a block list costs at an uplink (XDP), in nanoseconds over an XDP program that does nothing.
//!
//! Inputs: root, an [`Effort`]. Outputs: a [`World`] for each number of networks.
//!
//! All figures are the kernel's own (`BPF_PROG_TEST_RUN`): rounds interleaved, each beginning with the
//! empty program, medians over the rounds. A run repeats one frame, so the way to its prefix is in the
//! CPU's caches.

use std::{fmt::Write as _, net::Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use policy_agent::kernel::{load::Sizes, pin::Hook};

use crate::{
    bench::{
        datapath::{Cost, Effort, World, nanos},
        statistics::median,
    },
    testrun::{Action, Ring},
};

/// Networks of the block list.
const WORLDS: [u32; 3] = [10, 1_000, 1_000_000];
/// Networks of one set: a file is bounded.
const SET: u32 = 100_000;

/// Measures all numbers of networks.
///
/// # Errors
/// If the programs cannot be run, or do not say of a packet what they should.
pub fn measure(effort: Effort) -> Result<Vec<World>> {
    WORLDS.into_iter().map(|networks| measure_in(networks, effort)).collect()
}

fn measure_in(networks: u32, effort: Effort) -> Result<World> {
    let cases = [
        ("dropped at XDP, IPv4", frame_v4([100, 0, 0, 1])?, Action::Drop, Some(60)),
        ("dropped at XDP, IPv6", frame_v6(0xbad)?, Action::Drop, Some(60)),
        ("passed at XDP, IPv4", frame_v4([9, 9, 9, 9])?, Action::Pass, None),
        ("passed at XDP, IPv6", frame_v6(1)?, Action::Pass, None),
    ];
    let mut ring = Ring::new(Sizes::default())?;
    let uplink = world(&mut ring, networks)?;
    let mut empty = Vec::new();
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..effort.rounds {
        let bare = nanos(ring.repeat_empty_xdp(&cases[0].1, effort.repeat)?);
        empty.push(bare);
        for ((name, frame, wanted, _), samples) in cases.iter().zip(&mut samples) {
            let (action, duration) = ring
                .repeat(Hook::Uplink, uplink, frame, effort.repeat)?
                .context("the kernel takes such a frame")?;
            ensure!(action == *wanted, "{name}: {action:?}");
            samples.push(nanos(duration) - bare);
        }
    }
    let of = |samples: &[f64]| median(samples).context("at least one round");
    let mut costs =
        vec![Cost { name: "the empty program itself", budget: None, nanos: of(&empty)? }];
    for ((name, _, _, budget), samples) in cases.iter().zip(&samples) {
        costs.push(Cost { name, budget: *budget, nanos: of(samples)? });
    }
    Ok(World { size: vec![(networks, "networks")], costs })
}

/// An uplink with a block list of so many networks of both families.
fn world(ring: &mut Ring, networks: u32) -> Result<u32> {
    let uplink = ring.interface("uplink")?;
    ring.uplink(uplink, &[("role", "uplink")]);
    ring.add_policies(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: block}\n\
         spec: {selector: role == 'uplink', doNotTrack: true, applyOnForward: true, ingress: [\
         {action: Deny, source: {selector: feed == 'bad'}}]}",
    )?;
    for first in (0..networks).step_by(SET as usize) {
        let mut text = format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: s{first}, \
             labels: {{feed: bad}}}}\nspec:\n  nets:\n  - 2001:db8:bad::/48\n"
        );
        for index in first..networks.min(first + SET) {
            // /30s, none beside another, so that no two could be one; the first is 100.0.0.0.
            let net = Ipv4Addr::from(0x6400_0000 + (index << 3));
            writeln!(text, "  - {net}/30")?;
        }
        ring.add_policies(&text)?;
    }
    ring.sync()?;
    Ok(uplink)
}

fn frame_v4(source: [u8; 4]) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, [10, 0, 0, 1], 64);
    let mut frame = Vec::new();
    builder.udp(4000, 53).write(&mut frame, b"payload")?;
    Ok(frame)
}

fn frame_v6(group: u16) -> Result<Vec<u8>> {
    let mut source = [0; 16];
    source[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    source[4..6].copy_from_slice(&group.to_be_bytes());
    source[15] = 1;
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(source, [0xfd; 16], 64);
    let mut frame = Vec::new();
    builder.udp(4000, 53).write(&mut frame, b"payload")?;
    Ok(frame)
}
