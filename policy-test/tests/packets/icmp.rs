//! ICMP and ICMPv6: echo, errors, and what hides in them.

use anyhow::Result;
use policy_common::abi::DropReason;

use crate::{
    frames::{SYN, Way},
    world::World,
};

const FAMILIES: [[&str; 4]; 2] = [
    ["10.0.0.2", "10.0.0.3", "10.0.0.4", "192.0.2.9"],
    ["fd00::2", "fd00::3", "fd00::4", "2001:db8::9"],
];

#[test]
fn a_reply_finds_its_request_and_a_request_is_no_reply() -> Result<()> {
    let world = World::new()?;
    for [web, db, client, _] in FAMILIES {
        let out = Way::new(web, 0, db, 0);
        // An identifier of 0 stands where "no port" stands: the two must not be confused.
        for id in [7, 0] {
            world.drops_in(
                "a reply to nothing",
                &out.back().pong(id),
                DropReason::UnrelatedIcmp,
            )?;
            world.passes_out("a request", &out.ping(id))?;
            world.passes_in("its reply", &out.back().pong(id))?;
            world.drops_in("a request back", &out.back().ping(id), DropReason::Policy)?;
            world.drops_in(
                "the reply to another",
                &out.back().pong(9),
                DropReason::UnrelatedIcmp,
            )?;
            world.passes_in("its reply, after all that", &out.back().pong(id))?;
            world.drops_out("a reply in its place", &out.pong(id), DropReason::UnrelatedIcmp)?;

            let inbound = Way::new(client, 0, web, 0);
            world.passes_in("an inbound request", &inbound.ping(id))?;
            world.passes_out("its reply", &inbound.back().pong(id))?;
            world.drops_out("a request back", &inbound.back().ping(id), DropReason::Policy)?;
        }
        let v4 = web.contains('.');
        let (kind, code) = if v4 { (13, 0) } else { (138, 1) };
        let key =
            world.drops_out("another type", &out.icmp(kind, code, &[0; 4]), DropReason::Policy)?;
        assert_eq!(key.port, u16::from(kind) << 8 | u16::from(code));
    }
    Ok(())
}

#[test]
fn an_error_is_about_a_connection_or_it_is_dropped() -> Result<()> {
    let world = World::new()?;
    for [web, db, client, outside] in FAMILIES {
        let out = Way::new(web, 50_000, db, 5432);
        let frame = out.tcp(SYN);
        // A router on the way may send it, not only the other end.
        let from_router = Way::new(outside, 0, web, 0);
        let error = from_router.unreachable(&frame);
        world.drops_in("an error about nothing", &error, DropReason::UnrelatedIcmp)?;
        world.passes_out("a connection", &frame)?;
        world.passes_in("an error about it", &error)?;
        let other = Way::new(web, 50_001, db, 5432).tcp(SYN);
        let other = from_router.unreachable(&other);
        world.drops_in("an error about another", &other, DropReason::UnrelatedIcmp)?;
        let backwards = from_router.unreachable(&out.back().tcp(SYN));
        world.drops_in(
            "about an answer, to its receiver",
            &backwards,
            DropReason::UnrelatedIcmp,
        )?;

        let ping = Way::new(web, 0, db, 0).ping(3);
        world.passes_out("a ping", &ping)?;
        world.passes_in("an error about it", &from_router.unreachable(&ping))?;

        let inbound = Way::new(client, 50_000, web, 53);
        world.passes_in("a query", &inbound.udp())?;
        let refusal = inbound.back().unreachable(&inbound.udp());
        world.passes_out("its refusal", &refusal)?;
        // Without this, one allowed connection is a way to send anything to anybody.
        let smuggled = Way::new(web, 0, outside, 0).unreachable(&inbound.udp());
        world.drops_out("the refusal, to another", &smuggled, DropReason::UnrelatedIcmp)?;
        let forged = Way::new(db, 0, client, 0).unreachable(&inbound.udp());
        world.drops_out("in another's name", &forged, DropReason::SpoofedSource)?;
        let misled = Way::new(outside, 0, "10.0.0.9", 0);
        if web.contains('.') {
            let misled = misled.unreachable(&frame);
            world.drops_in("to another than asked", &misled, DropReason::UnrelatedIcmp)?;
        }

        let cut = &error[..error.len() - 24];
        let (_, quoted) = cut.split_at(14);
        let short = from_router.unreachable(&[&[0; 14], &quoted[..12]].concat());
        world.drops_in("a quotation cut short", &short, DropReason::UnrelatedIcmp)?;
    }
    Ok(())
}
