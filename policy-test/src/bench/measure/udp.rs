//! UDP packets of the smallest size, as many as one CPU can send.
//!
//! Inputs: a topology, for how long. Outputs: packets a second that reached the server's interface.
//!
//! A veth passes a packet on within the sender's own system call, so the sender's CPU pays for the
//! whole way, the contender's part of it included. The server's socket is not read: once it is full, the
//! kernel drops what reaches it, at the same price for everybody.

use std::{
    io::IoSlice,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

use crate::{
    bench::{
        measure::joined,
        topology::{CLIENT, Side, Topology, at, pin, traffic},
    },
    net::recv,
    netns::NetNs,
};

/// Makes the smallest Ethernet frame, 64 bytes with its checksum, of Ethernet, IPv4 and UDP
/// headers.
pub(super) const PAYLOAD: usize = 64 - 4 - 14 - 20 - 8;
/// Packets for each system call.
const BATCH: usize = 64;
const PORT: u16 = 7_000;
/// For an answer that must come.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn rate(on: &Topology, window: Duration, answered: bool) -> Result<f64> {
    let server = on.server.netns().udp_bind(at(PORT))?;
    // A port of its own, so that no earlier round's connection is known.
    let client = bound(on.client.netns(), CLIENT)?;
    client.connect(at(PORT))?;
    if answered {
        exchange(&client, &server)?;
    }
    let before = traffic(on.server.netns())?;
    let flood = Flood::send(&client, window)?;
    let after = traffic(on.server.netns())?;
    let arrived = after.received - before.received;
    ensure!(arrived > 0, "none of {} packets got to the server", flood.sent);
    Ok(arrived as f64 / flood.lasted.as_secs_f64())
}

/// A socket in `netns` with an address of its own.
pub(super) fn bound(netns: &NetNs, address: Ipv4Addr) -> Result<UdpSocket> {
    netns
        .udp_bind(SocketAddr::from((address, 0)))
        .with_context(|| format!("bind a socket to {address}"))
}

fn exchange(client: &UdpSocket, server: &UdpSocket) -> Result<()> {
    client.set_read_timeout(Some(LIMIT))?;
    server.set_read_timeout(Some(LIMIT))?;
    let mut buffer = [0; PAYLOAD];
    client.send(&buffer)?;
    let (_, from) = server.recv_from(&mut buffer).context("no request got to the server")?;
    server.send_to(&buffer, from)?;
    recv(client, &mut buffer).context("no answer got to the client")?;
    Ok(())
}

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flood {
    pub(super) sent: u64,
    pub(super) lasted: Duration,
}

impl Flood {
    /// Sends from a connected socket for `window`, on the client's CPU.
    pub(super) fn send(socket: &UdpSocket, window: Duration) -> Result<Self> {
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                pin(Side::Client)?;
                send(socket, window)
            });
            joined(sender)
        })
    }
}

fn send(socket: &UdpSocket, window: Duration) -> Result<Flood> {
    let payload = [0; PAYLOAD];
    let message = [IoSlice::new(&payload)];
    let messages = [&message; BATCH];
    // Connected: no message has an address of its own.
    let addresses: [Option<SockaddrStorage>; BATCH] = [None; BATCH];
    let none: [ControlMessage<'_>; 0] = [];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let (mut sent, started) = (0, Instant::now());
    loop {
        let results = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            messages,
            addresses,
            none,
            MsgFlags::empty(),
        )
        .context("send UDP packets")?;
        sent += results.count() as u64;
        let lasted = started.elapsed();
        if lasted >= window {
            return Ok(Flood { sent, lasted });
        }
    }
}
