//! Ethernet addresses: one's own, one that is not known, one that changes.

use anyhow::Result;
use policy_common::abi::{Direction, DropReason};

use crate::{
    frames::{ACK, OWN_MAC, SYN, Way, arp, from_mac, ip4, network, target},
    world::World,
};

const OTHER: [u8; 6] = [2, 0, 0, 0, 0xaa, 3];
const GROUP: [u8; 6] = [3, 0, 0, 0, 0xaa, 2];

/// A container's root may give it another address. Nothing that it sends under that one passes, on
/// no connection, until it is called as its endpoint is again.
#[test]
fn a_container_that_changes_its_address_cuts_itself_off_and_nobody_else() -> Result<()> {
    let mut world = World::new()?;
    for [own, db, client] in
        [["10.0.0.2", "10.0.0.3", "10.0.0.4"], ["fd00::2", "fd00::3", "fd00::4"]]
    {
        let (out, inward) = (Way::new(own, 1, db, 5432), Way::new(client, 1, own, 80));
        world.passes_out("SYN", &out.tcp(SYN))?;
        world.passes_in("SYN", &inward.tcp(SYN))?;
        for frame in [out.tcp(ACK), inward.back().tcp(SYN | ACK)] {
            let forged = from_mac(&frame, OTHER);
            let key = world.drops_out("a known connection", &forged, DropReason::SpoofedMac)?;
            assert_eq!((key.ifindex, key.direction), (world.web, Direction::Egress as u8));
            world.passes_out("as oneself", &frame)?;
        }
        world.passes_in("what others send", &from_mac(&out.back().tcp(SYN | ACK), OTHER))?;
        let ping = Way::new(own, 0, db, 0).ping(1);
        world.drops_out("a new one", &from_mac(&ping, OTHER), DropReason::SpoofedMac)?;
    }
    assert!(world.ring.events()?.iter().any(|it| it.reason == DropReason::SpoofedMac as u8));
    Ok(())
}

#[test]
fn a_new_address_holds_for_open_connections_too() -> Result<()> {
    let mut world = World::new()?;
    let ways = [Way::new("10.0.0.2", 1, "10.0.0.3", 5432), Way::new("fd00::2", 1, "fd00::3", 5432)];
    for way in ways {
        world.passes_out("SYN", &way.tcp(SYN))?;
    }
    world.ring.change("web", |spec| spec.mac = Some(OTHER))?;
    world.ring.sync()?;
    for way in ways {
        world.drops_out("the old one", &way.tcp(ACK), DropReason::SpoofedMac)?;
        world.passes_out("the new one", &from_mac(&way.tcp(ACK), OTHER))?;
        world.passes_in("an answer", &way.back().tcp(SYN | ACK))?;
    }
    let announced = network(&from_mac(&arp(1, ip4(2), ip4(2)), OTHER), &[(13, 3)]);
    world.passes_out("ARP", &announced)?;
    world.drops_out("the old one", &arp(1, ip4(2), ip4(2)), DropReason::SpoofedMac)?;
    Ok(())
}

/// Whatever a frame says of its sender it must say everywhere, and a group is nobody's source.
#[test]
fn an_endpoint_whose_address_is_not_known_is_held_to_what_it_says() -> Result<()> {
    let mut world = World::new()?;
    world.ring.change("web", |spec| spec.mac = None)?;
    world.ring.sync()?;
    let (own, db) = (ip4(2), ip4(3));
    let solicit = |mac: [u8; 6]| {
        let option = [&[1, 1][..], &mac].concat();
        Way::new("fd00::2", 0, "ff02::1:ff00:3", 0)
            .discovery(135, &[target("fd00::3"), option].concat())
    };
    let ways = [Way::new("10.0.0.2", 1, "10.0.0.3", 5432), Way::new("fd00::2", 1, "fd00::3", 5432)];
    for mac in [OWN_MAC, OTHER] {
        for way in ways {
            world.passes_out("SYN", &from_mac(&way.tcp(SYN), mac))?;
            world.passes_out("ACK", &from_mac(&way.tcp(ACK), mac))?;
            world.passes_in("an answer", &way.back().tcp(SYN | ACK))?;
        }
        let low = mac[5];
        let honest = network(&from_mac(&arp(1, own, db), mac), &[(13, low)]);
        world.passes_out("ARP", &honest)?;
        world.passes_out("solicitation", &from_mac(&solicit(mac), mac))?;
    }
    let split = from_mac(&arp(1, own, db), OTHER);
    world.drops_out("ARP for another", &split, DropReason::SpoofedArp)?;
    let split = from_mac(&solicit(OWN_MAC), OTHER);
    world.drops_out("solicitation for another", &split, DropReason::SpoofedNeighbour)?;
    for way in ways {
        let known = from_mac(&way.tcp(ACK), GROUP);
        world.drops_out("a group, known connection", &known, DropReason::SpoofedMac)?;
        let new = from_mac(&Way { from: (way.from.0, 9), ..way }.tcp(SYN), GROUP);
        world.drops_out("a group", &new, DropReason::SpoofedMac)?;
    }
    let group = from_mac(&arp(1, own, db), GROUP);
    world.drops_out("ARP from a group", &group, DropReason::SpoofedMac)?;
    Ok(())
}
