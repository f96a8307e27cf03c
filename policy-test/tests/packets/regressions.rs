//! Faults that the packet table brought to light, one test each.

use anyhow::Result;
use policy_common::abi::DropReason;

use crate::{
    frames::{OWN_MAC, SYN, Way, arp, fragment_header, ip4, network, target},
    world::World,
};

const ENDS: [[&str; 2]; 2] = [["10.0.0.2", "10.0.0.3"], ["fd00::2", "fd00::3"]];
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0xaa, 3];

/// A neighbour that believed it sent the endpoint's frames to a third one, or that one's to it.
#[test]
fn the_hardware_address_in_arp_was_not_looked_at() -> Result<()> {
    let world = World::new()?;
    for operation in [1, 2] {
        let lie = network(&arp(operation, ip4(2), ip4(3)), &[(13, OTHER_MAC[5])]);
        world.drops_out("another's", &lie, DropReason::SpoofedArp)?;
        world.passes_out("own", &arp(operation, ip4(2), ip4(3)))?;
    }
    Ok(())
}

/// The same over IPv6.
#[test]
fn the_link_layer_address_in_discovery_was_not_looked_at() -> Result<()> {
    let world = World::new()?;
    let all = Way::new("fd00::2", 0, "ff02::1", 0);
    for (kind, option) in [(135, 1), (136, 2)] {
        let message = |mac: [u8; 6]| [&target("fd00::2")[..], &[option, 1], &mac].concat();
        world.passes_out("own", &all.discovery(kind, &message(OWN_MAC)))?;
        let lie = all.discovery(kind, &message(OTHER_MAC));
        world.drops_out("another's", &lie, DropReason::SpoofedNeighbour)?;
    }
    Ok(())
}

/// Its options could lie in a fragment that nobody reads (RFC 6980, 5).
#[test]
fn discovery_in_fragments_was_taken_for_discovery() -> Result<()> {
    let world = World::new()?;
    let all = Way::new("fd00::2", 0, "ff02::1", 0);
    let message = [&[136, 0, 0, 0][..], &target("fd00::2")].concat();
    let header = [(FRAGMENT, fragment_header(1, 0, true))];
    let first = network(&all.chain_to(&header, ICMPV6, &message), &[(7, 255)]);
    world.drops_out("the first", &first, DropReason::Malformed)?;
    let rest = [(FRAGMENT, fragment_header(1, 3, false))];
    let rest = all.chain_to(&rest, ICMPV6, &[&[2, 1][..], &OTHER_MAC].concat());
    world.drops_out("the rest", &rest, DropReason::Fragment)?;
    Ok(())
}

/// The flags that decided the verdict could be others once the packet was whole (RFC 3128).
#[test]
fn a_fragment_over_the_tcp_header_followed_the_first() -> Result<()> {
    let world = World::new()?;
    for [own, db] in ENDS {
        let way = Way::new(own, 1, db, 5432);
        let segment = way.tcp_segment(SYN, &[7; 20]);
        world.passes_out("the first", &way.piece_of(TCP, 1, 0, true, &segment))?;
        for place in [1, 2] {
            let over = way.piece_of(TCP, 1, place, false, &[0; 16]);
            world.drops_out("over the header", &over, DropReason::Malformed)?;
        }
        world.passes_out("the data", &way.piece_of(TCP, 1, 3, false, &[7; 16]))?;
    }
    Ok(())
}

#[test]
fn a_fragment_that_ends_beyond_the_longest_packet_followed_the_first() -> Result<()> {
    let world = World::new()?;
    for [own, db] in ENDS {
        let way = Way::new(own, 1, db, 53);
        world.passes_out("the first", &way.piece(1, 0, true, &way.udp_datagram(&[7; 24])))?;
        let beyond = way.piece(1, 0x1fff, false, &[7; 16]);
        world.drops_out("the last", &beyond, DropReason::Malformed)?;
    }
    Ok(())
}

#[test]
fn a_udp_length_that_lies_was_not_looked_at() -> Result<()> {
    let world = World::new()?;
    for ([own, db], at) in ENDS.into_iter().zip([25, 45]) {
        let query = Way::new(own, 1, db, 53).udp();
        for length in [0, 7, 17] {
            let lie = network(&query, &[(at, length)]);
            world.drops_out("another length", &lie, DropReason::Malformed)?;
        }
        world.passes_out("a shorter one", &network(&query, &[(at, 8)]))?;
    }
    Ok(())
}

/// The second header made a whole packet of a first fragment.
#[test]
fn a_fragment_header_behind_a_first_fragments_was_followed() -> Result<()> {
    let world = World::new()?;
    let [begins, whole] = [true, false].map(|more| (FRAGMENT, fragment_header(1, 0, more)));
    let frame = Way::new("fd00::2", 1, "fd00::3", 53).chain(&[begins, whole]);
    world.drops_out("a piece of a piece", &frame, DropReason::HeaderChain)?;
    Ok(())
}

/// RFC 8200, 4.1: they come first or not at all.
#[test]
fn hop_by_hop_options_were_followed_wherever_they_stood() -> Result<()> {
    let world = World::new()?;
    let header = |number| (number, crate::frames::padding(0));
    let way = Way::new("fd00::2", 1, "fd00::3", 53);
    let late = way.chain(&[header(60), header(0)]);
    world.drops_out("behind others", &late, DropReason::Malformed)?;
    world.passes_out("in front", &way.chain(&[header(0), header(60)]))?;
    Ok(())
}

/// A router that cannot pass on a fragment quotes it, fragment header and all; without its answer the
/// sender never learns what the path takes (RFC 8201).
#[test]
fn the_path_of_fragmented_ipv6_packets_was_not_found() -> Result<()> {
    let world = World::new()?;
    let way = Way::new("fd00::2", 1, "fd00::3", 53);
    let first = way.piece(1, 0, true, &way.udp_datagram(&[7; 24]));
    let router = Way::new("2001:db8::9", 0, "fd00::2", 0);
    let too_big = |quoted: &[u8]| router.icmp(2, 0, &[&[0, 0, 5, 0], &quoted[14..]].concat());
    world.drops_in("about nothing", &too_big(&first), DropReason::UnrelatedIcmp)?;
    world.passes_out("the first", &first)?;
    world.passes_in("too big", &too_big(&first))?;
    let other = Way::new("fd00::2", 2, "fd00::3", 53);
    let other = other.piece(1, 0, true, &other.udp_datagram(&[7; 24]));
    world.drops_in("about another", &too_big(&other), DropReason::UnrelatedIcmp)?;
    Ok(())
}
