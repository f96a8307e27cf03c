//! Palisade's kernel programs: entry points only. Each is one expression; what it does lives in
//! the module that it names.
//!
//! | program | hook | sees |
//! |---|---|---|
//! | `from_endpoint` | TC ingress of a host-side veth | what leaves the container |
//! | `to_endpoint` | TC egress of a host-side veth | what enters the container |
//! | `from_inside` | TC egress of an interface in a container's network namespace | what leaves the container |
//! | `to_inside` | TC ingress of such an interface | what enters the container |
//! | `from_bridge` | TC ingress of a bridge device | what leaves the bridge for the host |
//! | `to_bridge` | TC egress of a bridge device | what the host sends into the bridge |
//! | `from_uplink` | TC ingress of a host endpoint | what comes to the host |
//! | `to_uplink` | TC egress of a host endpoint | what leaves the host |
//! | `uplink` | XDP | what arrives from outside, before an skb exists |
//! | `uplink_egress` | TC egress of an uplink that limits new flows | what leaves the host |
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use policy_common::abi::Direction;

mod capture;
mod clock;
mod conntrack;
mod emit;
mod endpoint;
mod fragment;
mod guard;
mod host;
mod limit;
mod lookup;
mod maps;
mod neighbour;
mod networks;
mod uplink;
mod verifier;

/// Packets that leave a container.
#[classifier]
pub fn from_endpoint(ctx: TcContext) -> i32 {
    endpoint::run::<false>(&ctx, verifier::ifindex(&ctx), Direction::Egress)
}

/// Packets that enter a container.
#[classifier]
pub fn to_endpoint(ctx: TcContext) -> i32 {
    endpoint::run::<false>(&ctx, verifier::ifindex(&ctx), Direction::Ingress)
}

/// Packets that leave a container whose interface has no end on the host.
#[classifier]
pub fn from_inside(ctx: TcContext) -> i32 {
    endpoint::run::<false>(&ctx, verifier::inside(&ctx), Direction::Egress)
}

/// Packets that enter such a container.
#[classifier]
pub fn to_inside(ctx: TcContext) -> i32 {
    endpoint::run::<false>(&ctx, verifier::inside(&ctx), Direction::Ingress)
}

/// Packets that leave a bridge for the host.
#[classifier]
pub fn from_bridge(ctx: TcContext) -> i32 {
    guard::run(&ctx, Direction::Egress)
}

/// Packets that the host sends into a bridge.
#[classifier]
pub fn to_bridge(ctx: TcContext) -> i32 {
    guard::run(&ctx, Direction::Ingress)
}

/// Packets that come to the host through one of its own interfaces.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    host::run(&ctx, Direction::Ingress)
}

/// Packets that leave the host through one of its own interfaces.
#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    host::run(&ctx, Direction::Egress)
}

/// Packets that arrive on an uplink.
#[xdp]
pub fn uplink(ctx: XdpContext) -> u32 {
    uplink::run(&ctx)
}

/// Packets that leave through an uplink that limits new flows.
#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    limit::depart(&ctx)
}

/// The programs contain no reachable panic; a loop without an exit makes the verifier reject an
/// object in which one survived.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel grants GPL-only helpers to objects that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
