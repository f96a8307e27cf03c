//! What a block list costs at an uplink (XDP), in nanoseconds over an XDP program that does nothing.
//!
//! Inputs: root. Outputs: a table; an exit code, 0 if everything could be measured. Started by
//! `cargo xtask bench uplink`.
//!
//! All figures are the kernel's own (`BPF_PROG_TEST_RUN`): rounds interleaved, each beginning with the
//! empty program, medians over the rounds. A run repeats one frame, so the way to its prefix is in the
//! CPU's caches.

use std::{fmt::Write as _, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use etherparse::PacketBuilder;
use policy_agent::kernel::{load::Sizes, pin::Hook};
use policy_test::testrun::{Action, Ring};

const ROUNDS: usize = 9;
const REPEAT: u32 = 200_000;
/// Networks of the block list.
const WORLDS: [u32; 3] = [10, 1_000, 1_000_000];
/// Networks of one set: a file is bounded.
const SET: u32 = 100_000;

fn main() -> Result<()> {
    let cases = [
        ("dropped, IPv4", frame_v4([100, 0, 0, 1])?, Action::Drop, "60"),
        ("dropped, IPv6", frame_v6(0xbad)?, Action::Drop, "60"),
        ("passed, IPv4", frame_v4([9, 9, 9, 9])?, Action::Pass, ""),
        ("passed, IPv6", frame_v6(1)?, Action::Pass, ""),
    ];
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let mut header = vec!["ns over empty".to_owned(), "budget".to_owned()];
    let mut rows: Vec<Vec<String>> =
        cases.iter().map(|(name, _, _, budget)| vec![(*name).into(), (*budget).into()]).collect();
    let mut base = vec!["the empty program itself".to_owned(), String::new()];
    for networks in WORLDS {
        header.push(format!("{networks} networks"));
        let mut ring = Ring::new(Sizes::default())?;
        let uplink = world(&mut ring, networks)?;
        let mut empty = Vec::new();
        let mut samples = vec![Vec::new(); cases.len()];
        for _ in 0..ROUNDS {
            let bare = nanos(ring.repeat_empty_xdp(&cases[0].1, REPEAT)?);
            empty.push(bare);
            for ((name, frame, wanted, _), samples) in cases.iter().zip(&mut samples) {
                let (action, duration) = ring
                    .repeat(Hook::Uplink, uplink, frame, REPEAT)?
                    .context("the kernel takes such a frame")?;
                ensure!(action == *wanted, "{name}: {action:?}");
                samples.push(nanos(duration) - bare);
            }
        }
        base.push(format!("{:.0}", median(&mut empty)));
        for (row, samples) in rows.iter_mut().zip(&mut samples) {
            row.push(format!("{:.0}", median(samples)));
        }
    }
    table.set_header(header);
    table.add_row(base);
    rows.into_iter().for_each(|row| {
        table.add_row(row);
    });
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    println!("Medians of {ROUNDS} rounds.");
    Ok(())
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

fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
