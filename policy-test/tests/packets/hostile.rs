//! Frames that lie, hide, or end too early.

use anyhow::{Result, ensure};
use policy_agent::kernel::pin::Hook;
use policy_common::abi::{Direction, DropReason};
use policy_test::testrun::Action;

use crate::{
    frames::{
        ARP, ICMP, IPV4, SYN, Way, arp, ethernet, fragment_header, ip, network, padding, tagged,
    },
    world::World,
};

const ENDS: [[&str; 2]; 2] = [["10.0.0.2", "10.0.0.3"], ["fd00::2", "fd00::3"]];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AH: u8 = 51;
const OPTIONS: u8 = 60;

#[test]
fn tags_are_followed_as_far_as_there_are_two() -> Result<()> {
    let world = World::new()?;
    for [web, db] in ENDS {
        let allowed = Way::new(web, 1, db, 53).udp();
        let denied = Way::new(web, 1, db, 54).udp();
        let spoofed = Way::new(db, 1, web, 53).udp();
        for tags in [&[0x8100][..], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
            world.passes_out("tagged", &tagged(&allowed, tags))?;
            let key = world.drops_out("tagged", &tagged(&denied, tags), DropReason::Policy)?;
            assert_eq!((key.port, key.protocol), (54, 17));
            world.drops_out("tagged", &tagged(&spoofed, tags), DropReason::SpoofedSource)?;
        }
        let three = tagged(&allowed, &[0x88a8, 0x8100, 0x8100]);
        world.drops_out("three tags", &three, DropReason::HeaderChain)?;
        world.drops_in("three tags", &three, DropReason::HeaderChain)?;
    }
    let forged = arp(2, std::net::Ipv4Addr::new(10, 0, 0, 3), std::net::Ipv4Addr::new(10, 0, 0, 2));
    world.drops_out("ARP behind a tag", &tagged(&forged, &[0x8100]), DropReason::SpoofedArp)?;
    for ethertype in [0x0000, 0x0026, 0x8847, 0x8863, 0x88cc, 0x88e5, 0x9100, 0xffff] {
        let frame = ethernet(ethertype, &[0; 46]);
        world.drops_out("another protocol", &frame, DropReason::UnsupportedEthertype)?;
        world.drops_in("another protocol", &frame, DropReason::UnsupportedEthertype)?;
    }
    Ok(())
}

#[test]
fn options_and_extension_headers_hide_nothing() -> Result<()> {
    let world = World::new()?;
    for options in [&[1; 4][..], &[1; 40]] {
        world.passes_out(
            "options",
            &Way::new("10.0.0.2", 1, "10.0.0.3", 53).with_options(options),
        )?;
        let denied = Way::new("10.0.0.2", 1, "10.0.0.3", 54).with_options(options);
        let key = world.drops_out("options", &denied, DropReason::Policy)?;
        assert_eq!(key.port, 54);
    }
    // RFC 4302, 2.2: twelve bytes and no check value is a length of 1; with twelve more, of 4.
    let ah = |words: u8| [&[words][..], &[0; 2], &vec![0; usize::from(words) * 4 + 4]].concat();
    let six = [
        (HOP_BY_HOP, padding(0)),
        (OPTIONS, padding(2)),
        (ROUTING, vec![0; 7]),
        (AH, ah(4)),
        (OPTIONS, padding(0)),
        (FRAGMENT, fragment_header(1, 0, false)),
    ];
    let chains = [
        vec![(HOP_BY_HOP, padding(0))],
        vec![(OPTIONS, padding(31))],
        vec![(ROUTING, vec![0; 7])],
        vec![(AH, ah(1))],
        vec![(FRAGMENT, fragment_header(1, 0, false))],
        six.to_vec(),
    ];
    for chain in chains {
        let what = format!("headers {:?}", chain.iter().map(|header| header.0).collect::<Vec<_>>());
        world.passes_out(&what, &Way::new("fd00::2", 1, "fd00::3", 53).chain(&chain))?;
        let denied = Way::new("fd00::2", 1, "fd00::3", 54).chain(&chain);
        let key = world.drops_out(&what, &denied, DropReason::Policy)?;
        assert_eq!((key.port, key.protocol), (54, 17));
        let long = [&chain[..], &vec![(OPTIONS, padding(0)); 6]].concat();
        let long = Way::new("fd00::2", 1, "fd00::3", 53).chain(&long);
        world.drops_out("more than six", &long, DropReason::HeaderChain)?;
    }
    let lying = [(OPTIONS, vec![255, 1, 4, 0, 0, 0, 0])];
    let lying = Way::new("fd00::2", 1, "fd00::3", 53).chain(&lying);
    world.drops_out("a header longer than the packet", &lying, DropReason::Malformed)?;
    Ok(())
}

#[test]
fn headers_that_contradict_themselves_are_malformed() -> Result<()> {
    let world = World::new()?;
    let v4 = Way::new("10.0.0.2", 1, "10.0.0.3", 5432).tcp(SYN);
    let v6 = Way::new("fd00::2", 1, "fd00::3", 5432).tcp(SYN);
    let cases: [(&str, Vec<u8>); 14] = [
        ("version 6 under IPv4", network(&v4, &[(0, 0x65)])),
        ("a header of four words", network(&v4, &[(0, 0x44)])),
        ("a header of none", network(&v4, &[(0, 0x40)])),
        ("a header that is all there is", network(&v4, &[(0, 0x4f)])),
        ("no length", network(&v4, &[(2, 0), (3, 0)])),
        ("less than the header", network(&v4, &[(2, 0), (3, 19)])),
        ("more than the frame", network(&v4, &[(2, 0), (3, 45)])),
        ("without room for ports", network(&v4, &[(2, 0), (3, 22)])),
        ("a data offset of four words", network(&v4, &[(32, 0x40)])),
        ("a data offset past the end", network(&v4, &[(32, 0xf0)])),
        ("version 4 under IPv6", network(&v6, &[(0, 0x45)])),
        ("more than the frame", network(&v6, &[(4, 0xff)])),
        ("no payload", network(&v6, &[(4, 0), (5, 0)])),
        ("a data offset past the end", network(&v6, &[(52, 0xf0)])),
    ];
    for (what, frame) in cases {
        world.drops_out(what, &frame, DropReason::Malformed)?;
        world.drops_in(what, &frame, DropReason::Malformed)?;
    }
    for (protocol, short) in [(17, 7), (ICMP, 7), (132, 7), (136, 7)] {
        let frame = Way::new("10.0.0.2", 1, "10.0.0.3", 1).packet(protocol, &vec![0; short]);
        world.drops_out("a short transport header", &frame, DropReason::Malformed)?;
    }
    let stacked = ethernet(IPV4, &ethernet(ARP, &[0; 46]));
    world.drops_out("Ethernet in Ethernet", &stacked, DropReason::Malformed)?;
    Ok(())
}

#[test]
fn a_frame_that_is_cut_short_never_passes() -> Result<()> {
    let world = World::new()?;
    let mut frames =
        vec![arp(1, std::net::Ipv4Addr::new(10, 0, 0, 2), std::net::Ipv4Addr::new(10, 0, 0, 3))];
    for [web, db] in ENDS {
        let way = Way::new(web, 1, db, 5432);
        frames.extend([way.tcp(SYN), Way::new(web, 1, db, 53).udp(), way.ping(1)]);
    }
    frames.push(Way::new("fd00::2", 1, "fd00::3", 53).chain(&[(HOP_BY_HOP, padding(0))]));
    for frame in frames {
        // Tags, too, and both programs.
        for whole in [frame.clone(), tagged(&frame, &[0x8100])] {
            for length in 0..whole.len() {
                for hook in [Hook::FromEndpoint, Hook::ToEndpoint] {
                    let action = world.ring.run(hook, world.web, &whole[..length])?;
                    ensure!(
                        action != Some(Action::Pass),
                        "{length} of {} bytes passed {hook:?}: {whole:02x?}",
                        whole.len()
                    );
                }
            }
            world.passes_out("the whole", &whole)?;
        }
    }
    Ok(())
}

#[test]
fn fragments_follow_the_first() -> Result<()> {
    let world = World::new()?;
    for [web, db] in ENDS {
        let allowed = Way::new(web, 1, db, 53);
        let first = allowed.udp_datagram(&[7; 24]);
        let rest = [7; 16];
        world.drops_out("later alone", &allowed.piece(1, 4, false, &rest), DropReason::Fragment)?;
        world.drops_in(
            "later alone",
            &allowed.back().piece(1, 4, false, &rest),
            DropReason::Fragment,
        )?;
        world.passes_out("first", &allowed.piece(1, 0, true, &first))?;
        world.passes_out("middle", &allowed.piece(1, 4, true, &rest))?;
        world.passes_out("last", &allowed.piece(1, 6, false, &rest))?;
        world.drops_out(
            "of another packet",
            &allowed.piece(2, 4, false, &rest),
            DropReason::Fragment,
        )?;
        world.drops_in(
            "of one that went out",
            &allowed.piece(1, 4, false, &rest),
            DropReason::Fragment,
        )?;

        let denied = Way::new(web, 1, db, 54);
        let first = denied.udp_datagram(&[7; 24]);
        world.drops_out("first", &denied.piece(3, 0, true, &first), DropReason::Policy)?;
        world.drops_out("later", &denied.piece(3, 4, false, &rest), DropReason::Fragment)?;
        let tiny = &allowed.udp_datagram(&[])[..4];
        world.drops_out(
            "a first without ports",
            &allowed.piece(4, 0, true, tiny),
            DropReason::Malformed,
        )?;
        let forged = Way::new(db, 1, web, 53);
        let first = forged.udp_datagram(&[7; 24]);
        world.drops_out(
            "in another's name",
            &forged.piece(5, 0, true, &first),
            DropReason::SpoofedSource,
        )?;
    }
    Ok(())
}

#[test]
fn fragments_do_not_outlive_the_policy_that_let_the_first_pass() -> Result<()> {
    let mut world = World::new()?;
    let ways = ENDS.map(|[web, db]| Way::new(web, 1, db, 53));
    for way in ways {
        world.passes_out("first", &way.piece(1, 0, true, &way.udp_datagram(&[7; 24])))?;
    }
    world.ring.policies(&crate::world::POLICIES.replace("app == 'db'", "app == 'nobody'"))?;
    world.ring.sync()?;
    for way in ways {
        world.drops_out("later", &way.piece(1, 4, false, &[7; 16]), DropReason::Fragment)?;
    }
    Ok(())
}

#[test]
fn a_pending_interface_is_a_wall() -> Result<()> {
    let mut world = World::new()?;
    let way = Way::new("10.0.0.2", 1, "10.0.0.3", 5432);
    world.passes_out("SYN", &way.tcp(SYN))?;
    let frames = |way: Way| vec![way.tcp(SYN), way.tcp(0x10), way.udp(), way.ping(1), way.pong(1)];
    let own = std::net::Ipv4Addr::new(10, 0, 0, 2);
    let other = std::net::Ipv4Addr::new(10, 0, 0, 3);
    world.ring.remove("web");
    world.ring.sync()?;
    for interface in [world.stranger, world.web] {
        for (hook, direction) in
            [(Hook::FromEndpoint, Direction::Egress), (Hook::ToEndpoint, Direction::Ingress)]
        {
            let mut all = frames(if direction == Direction::Egress { way } else { way.back() });
            all.extend(frames(Way::new("fd00::2", 1, "fd00::3", 5432)));
            all.extend([arp(1, own, other), arp(1, other, own)]);
            for frame in all {
                let verdict = world.ring.judge(hook, interface, &frame)?;
                crate::world::drops("any frame", &verdict, DropReason::Pending, direction)?;
            }
        }
    }
    assert_eq!(ip("10.0.0.2"), std::net::IpAddr::V4(own));
    Ok(())
}
