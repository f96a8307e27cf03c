//! ARP and IPv6 neighbour discovery: for oneself only, and on one's own link only.

use std::net::Ipv4Addr;

use anyhow::Result;
use policy_common::abi::DropReason;

use crate::{
    frames::{Way, arp, target},
    world::World,
};

const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const DB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const ALL_NODES: &str = "ff02::1";
const SOLICITED: &str = "ff02::1:ff00:3";

#[test]
fn arp_speaks_for_its_own_address_only() -> Result<()> {
    let world = World::new()?;
    for operation in [1, 2] {
        world.passes_out("own", &arp(operation, WEB, DB))?;
        world.drops_out("spoofed", &arp(operation, DB, WEB), DropReason::SpoofedArp)?;
        world.passes_in("another's", &arp(operation, DB, WEB))?;
    }
    world.passes_out("announcement", &arp(1, WEB, WEB))?;
    world.passes_out("probe (RFC 5227)", &arp(1, Ipv4Addr::UNSPECIFIED, WEB))?;
    for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16)] {
        let mut frame = arp(1, WEB, DB);
        frame[at] = value;
        world.drops_out("another hardware or protocol", &frame, DropReason::Malformed)?;
    }
    Ok(())
}

#[test]
fn neighbours_speak_for_themselves_and_nobody_is_a_router() -> Result<()> {
    let world = World::new()?;
    let own = "fd00::2";
    let ask = Way::new(own, 0, SOLICITED, 0);
    world.passes_out("solicitation", &ask.discovery(135, &target("fd00::3")))?;
    let detect = Way::new("::", 0, SOLICITED, 0);
    world.passes_out("duplicate address detection", &detect.discovery(135, &target("fd00::2")))?;
    let unicast = Way::new(own, 0, "fd00::3", 0);
    world.passes_out("is it still there", &unicast.discovery(135, &target("fd00::3")))?;
    world.passes_out("advertisement", &unicast.discovery(136, &target(own)))?;
    world.passes_out(
        "router solicitation",
        &Way::new(own, 0, "ff02::2", 0).discovery(133, &[0; 4]),
    )?;
    let report = Way::new(own, 0, "ff02::16", 0).discovery(143, &[0; 4]);
    world.passes_out("listener report", &report)?;

    let all = Way::new(own, 0, ALL_NODES, 0);
    world.drops_out(
        "for another",
        &all.discovery(136, &target("fd00::3")),
        DropReason::SpoofedNeighbour,
    )?;
    let forged = Way::new("fd00::3", 0, ALL_NODES, 0);
    world.drops_out(
        "in another's name",
        &forged.discovery(135, &target(own)),
        DropReason::SpoofedSource,
    )?;
    let local = Way::new("fe80::1", 0, ALL_NODES, 0);
    world.drops_out(
        "as the router",
        &local.discovery(136, &target(own)),
        DropReason::SpoofedSource,
    )?;
    for kind in [134, 137] {
        let from = Way::new(own, 0, ALL_NODES, 0).discovery(kind, &[0; 36]);
        world.drops_out("router advertisement, redirect", &from, DropReason::RogueRouter)?;
    }
    for kind in [5, 9] {
        let from = Way::new("10.0.0.2", 0, "10.0.0.3", 0).icmp(kind, 0, &[0; 28]);
        world.drops_out("the same of IPv4", &from, DropReason::RogueRouter)?;
    }
    let cut = all.discovery(136, &[0; 12]);
    world.drops_out("advertisement cut short", &cut, DropReason::Malformed)?;
    Ok(())
}

#[test]
fn discovery_is_no_way_around_policy() -> Result<()> {
    let world = World::new()?;
    // Neighbour discovery with a payload, to somebody who is no neighbour.
    let away = Way::new("fd00::2", 0, "2001:db8::9", 0);
    for kind in [130, 131, 132, 133, 135, 136, 143] {
        let body = target(if kind == 136 { "fd00::2" } else { "2001:db8::9" });
        world.drops_out("to the world", &away.discovery(kind, &body), DropReason::Policy)?;
    }
    // The same from afar: what a router has forwarded is not a neighbour's (RFC 4861, 7.1).
    let from = Way::new("2001:db8::9", 0, "fd00::2", 0);
    for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143] {
        let body = [target("fd00::2"), vec![0; 20]].concat();
        let frame = from.discovery_from_afar(kind, &body, 64);
        world.drops_in("from the world", &frame, DropReason::Policy)?;
    }
    for kind in [5, 9] {
        let frame = Way::new("192.0.2.9", 0, "10.0.0.2", 0).icmp(kind, 0, &[0; 28]);
        world.drops_in("from the world", &frame, DropReason::Policy)?;
    }
    // The host's own advertisement, and its question.
    let router = Way::new("fe80::1", 0, ALL_NODES, 0);
    world.passes_in("router advertisement", &router.discovery(134, &[0; 12]))?;
    world.passes_in("solicitation", &router.discovery(135, &target("fd00::2")))?;
    world.passes_in("listener query", &router.discovery(130, &[0; 20]))?;
    Ok(())
}
