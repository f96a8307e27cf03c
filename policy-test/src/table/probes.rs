//! Many first packets at once, without a thread for each.
//!
//! Inputs: namespaces, attempts. Outputs: which of them arrived, and which were answered. TCP and UDP
//! are sockets on both sides, echo requests are answered by the kernel, and every other protocol is a raw
//! socket on both sides.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read as _},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use etherparse::{Icmpv4Slice, Ipv4HeaderSlice};
use nix::errno::Errno;
use policy_core::services::{ICMP, ICMPV6};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Attempt, Service, frames};
use crate::netns::NetNs;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Ends every message, before the number of its probe.
const MARK: &[u8] = b"palisade";
const BACKLOG: i32 = 128;

/// The probes of one step, by the places of their attempts.
pub(super) struct Probes {
    probes: Vec<Probe>,
    servers: BTreeMap<(IpAddr, u8, u16), Server>,
}

struct Probe {
    client: Client,
    /// Of the client's socket, as the server sees it.
    source: SocketAddr,
    service: Service,
    /// Where it is to arrive.
    target: (IpAddr, u16),
    arrived: bool,
    answered: bool,
}

enum Client {
    Tcp(Socket),
    Udp(UdpSocket),
    Ping(UdpSocket),
    /// Nobody answers.
    Raw,
}

enum Server {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Raw(Socket),
}

impl Probes {
    /// Opens all servers, then sends all first packets. `netns` says where an address is.
    pub(super) fn send<'a>(
        attempts: &[&Attempt],
        netns: impl Fn(IpAddr) -> &'a NetNs,
    ) -> Result<Self> {
        let mut servers = BTreeMap::new();
        for attempt in attempts {
            let (address, number) = attempt.target;
            let service = Service { port: number, ..attempt.service };
            let key = (address, service.protocol, port(service));
            if is_ping(service) || servers.contains_key(&key) {
                continue;
            }
            let server = netns(address).run(|| Server::open(address, service))?;
            servers.insert(key, server.with_context(|| format!("{}: listen", attempt.case))?);
        }
        let mut probes = Vec::new();
        for (number, attempt) in attempts.iter().enumerate() {
            let number = u32::try_from(number)?;
            let probe = netns(attempt.path.source).run(|| Probe::send(number, attempt))?;
            probes.push(probe.with_context(|| format!("{}: send", attempt.case))?);
        }
        Ok(Self { probes, servers })
    }

    /// Takes what has come since.
    pub(super) fn poll(&mut self) -> Result<()> {
        for (&(address, protocol, port), server) in &self.servers {
            server.poll(&mut self.probes, SocketAddr::new(address, port), protocol)?;
        }
        for probe in self.probes.iter_mut().filter(|probe| !probe.answered) {
            probe.poll()?;
        }
        Ok(())
    }

    /// Whether the first packet of a probe has arrived, as far as anybody but the kernel sees it.
    pub(super) fn arrived(&self, number: usize) -> bool {
        self.probes[number].arrived
    }

    /// Whether the other side has answered; that it arrived, if nobody answers.
    pub(super) fn answered(&self, number: usize) -> bool {
        let probe = &self.probes[number];
        match probe.client {
            Client::Raw => probe.arrived,
            Client::Ping(_) => probe.answered,
            Client::Tcp(_) | Client::Udp(_) => probe.answered && probe.arrived,
        }
    }
}

impl Server {
    fn open(address: IpAddr, service: Service) -> io::Result<Self> {
        let on = SocketAddr::new(address, port(service));
        match service.protocol {
            TCP => {
                let socket = Socket::new(domain(address), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_reuse_address(true)?;
                socket.bind(&on.into())?;
                socket.listen(BACKLOG)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Tcp(socket.into()))
            }
            UDP => {
                let socket = UdpSocket::bind(on)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket))
            }
            _ => raw(address, service.protocol).map(Self::Raw),
        }
    }

    fn poll(&self, probes: &mut [Probe], here: SocketAddr, protocol: u8) -> io::Result<()> {
        let mut buffer = [0; 512];
        match self {
            Self::Tcp(listener) => {
                while let Some((_, from)) = ready(listener.accept())? {
                    arrive(probes, |it| {
                        it.is(protocol, from) && it.target == (here.ip(), here.port())
                    });
                }
            }
            Self::Udp(socket) => {
                while let Some((length, from)) = ready(socket.recv_from(&mut buffer))? {
                    arrive(probes, |it| {
                        it.is(protocol, from) && it.target == (here.ip(), here.port())
                    });
                    // An answer that cannot be sent is one that does not come.
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
            Self::Raw(socket) => {
                let mut socket: &Socket = socket;
                while let Some(length) = ready(socket.read(&mut buffer))? {
                    let Some(number) = marked(here.ip(), &buffer[..length]) else { continue };
                    if let Some(probe) = probes.get_mut(number) {
                        probe.arrived |= probe.service.protocol == protocol;
                    }
                }
            }
        }
        Ok(())
    }
}

fn arrive(probes: &mut [Probe], which: impl Fn(&Probe) -> bool) {
    probes.iter_mut().filter(|probe| which(probe)).for_each(|probe| probe.arrived = true);
}

impl Probe {
    fn send(number: u32, attempt: &Attempt) -> io::Result<Self> {
        let (service, path) = (attempt.service, &attempt.path);
        // A raw socket has no port; its message has.
        let from_port = match service.protocol {
            TCP | UDP => attempt.row.source_port.unwrap_or(0),
            _ => 0,
        };
        let from = SocketAddr::new(path.source, from_port);
        let to = SocketAddr::new(path.destination, port(service));
        let message = [MARK, &number.to_be_bytes()].concat();
        let (client, source) = match service.protocol {
            TCP => {
                let socket = Socket::new(domain(from.ip()), Type::STREAM, Some(Protocol::TCP))?;
                socket.set_nonblocking(true)?;
                // Its end is one packet, and none that is sent again.
                socket.set_linger(Some(Duration::ZERO))?;
                socket.set_reuse_address(true)?;
                socket.bind(&from.into())?;
                sent(socket.connect(&to.into()))?;
                let source = socket.local_addr()?;
                (Client::Tcp(socket), source.as_socket().unwrap_or(from))
            }
            UDP => {
                let socket = UdpSocket::bind(from)?;
                socket.set_nonblocking(true)?;
                sent(socket.send_to(&message, to).map(drop))?;
                let source = socket.local_addr()?;
                (Client::Udp(socket), source)
            }
            protocol if is_ping(service) => {
                let socket =
                    Socket::new(domain(from.ip()), Type::DGRAM, Some(number_of(protocol)))?;
                socket.bind(&from.into())?;
                socket.set_nonblocking(true)?;
                let socket = UdpSocket::from(socket);
                sent(socket.send_to(&frames::payload(service, 0, &message), to).map(drop))?;
                (Client::Ping(socket), from)
            }
            protocol => {
                let socket = raw(from.ip(), protocol)?;
                let mut payload = frames::payload(service, attempt.source_port(), &message);
                if protocol == ICMP
                    && let Ok(slice) = Icmpv4Slice::from_slice(&payload)
                {
                    // Of the kernel's other side, which takes no others.
                    let sum = slice.icmp_type().calc_checksum(slice.payload());
                    payload[2..4].copy_from_slice(&sum.to_be_bytes());
                }
                sent(socket.send_to(&payload, &SocketAddr::new(to.ip(), 0).into()).map(drop))?;
                (Client::Raw, from)
            }
        };
        let target = attempt.target;
        Ok(Self { client, source, service, target, arrived: false, answered: false })
    }

    fn is(&self, protocol: u8, from: SocketAddr) -> bool {
        self.service.protocol == protocol
            && (self.source.ip(), self.source.port()) == (from.ip(), from.port())
    }

    fn poll(&mut self) -> Result<()> {
        let mut buffer = [0; 512];
        self.answered = match &self.client {
            Client::Raw => false,
            Client::Tcp(socket) => match socket.take_error()? {
                Some(error) => return Err(error).context("a TCP connection"),
                None => socket.peer_addr().is_ok(),
            },
            Client::Udp(socket) => ready(socket.recv(&mut buffer))?.is_some(),
            Client::Ping(socket) => match ready(socket.recv(&mut buffer))? {
                // RFC 792 and RFC 4443: an echo reply.
                Some(length) => length > 0 && matches!(buffer[0], 0 | 129),
                None => false,
            },
        };
        Ok(())
    }
}

/// The port for sockets.
fn port(service: Service) -> u16 {
    if matches!(service.protocol, TCP | UDP) { service.port } else { 0 }
}

fn is_ping(service: Service) -> bool {
    matches!((service.protocol, service.port >> 8), (ICMP, 8) | (ICMPV6, 128))
}

fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

fn number_of(protocol: u8) -> Protocol {
    Protocol::from(i32::from(protocol))
}

fn raw(address: IpAddr, protocol: u8) -> io::Result<Socket> {
    let socket = Socket::new(domain(address), Type::RAW, Some(number_of(protocol)))?;
    socket.bind(&SocketAddr::new(address, 0).into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The number of the probe that a raw packet is of. IPv4 comes with its header (raw(7)), IPv6 without
/// (RFC 3542, 3).
fn marked(here: IpAddr, packet: &[u8]) -> Option<usize> {
    let payload = match here {
        IpAddr::V4(_) => packet.get(Ipv4HeaderSlice::from_slice(packet).ok()?.slice().len()..)?,
        IpAddr::V6(_) => packet,
    };
    let (rest, number) = payload.split_last_chunk::<4>()?;
    rest.ends_with(MARK).then_some(())?;
    usize::try_from(u32::from_be_bytes(*number)).ok()
}

/// A packet that a program at the sender's own interface drops was sent, too (sendto(2)); a
/// connection that is not there yet is under way.
fn sent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if error.raw_os_error() == Some(Errno::EINPROGRESS as i32)
                || error.kind() == ErrorKind::PermissionDenied =>
        {
            Ok(())
        }
        result => result,
    }
}

/// What is there already.
fn ready<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
