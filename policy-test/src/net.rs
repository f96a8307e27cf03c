//! Packets to try a policy with.
//!
//! Inputs: a namespace, an address, a limit. Outputs: whether an answer came, and what servers
//! have seen.

mod server;

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

pub use server::{TcpEcho, UdpEcho};

use crate::netns::NetNs;

const MESSAGE: &[u8] = b"palisade probe";

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The answer that was asked for.
    Answered,
    /// A refusal by the other side's kernel (RST, port unreachable): the packet arrived.
    Refused,
    /// Nothing, or that there is no way.
    Silent,
}

impl Reach {
    fn of(result: io::Result<bool>) -> io::Result<Self> {
        match result {
            Ok(true) => Ok(Self::Answered),
            Ok(false) => Ok(Self::Silent),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Ok(Self::Refused),
                ErrorKind::TimedOut
                | ErrorKind::WouldBlock
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                // What sendto(2) says when a program at the sender's own interface drops it.
                | ErrorKind::PermissionDenied => Ok(Self::Silent),
                _ => Err(error),
            },
        }
    }
}

impl NetNs {
    /// Opens a TCP connection from here.
    ///
    /// # Errors
    /// As `TcpStream::connect_timeout`.
    pub fn tcp_connect(&self, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        self.run(|| TcpStream::connect_timeout(&to, limit))?
    }

    /// Listens here.
    ///
    /// # Errors
    /// As `TcpListener::bind`.
    pub fn tcp_listen(&self, on: SocketAddr) -> io::Result<TcpListener> {
        self.run(|| TcpListener::bind(on))?
    }

    /// Opens a UDP socket here.
    ///
    /// # Errors
    /// As `UdpSocket::bind`.
    pub fn udp_bind(&self, on: SocketAddr) -> io::Result<UdpSocket> {
        self.run(|| UdpSocket::bind(on))?
    }

    /// Connects to a [`TcpEcho`] and waits for what was sent to come back.
    ///
    /// # Errors
    /// If that cannot be tried at all.
    pub fn try_tcp(&self, to: SocketAddr, limit: Duration) -> io::Result<Reach> {
        let exchange = || {
            let mut stream = self.tcp_connect(to, limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.write_all(MESSAGE)?;
            let mut answer = vec![0; MESSAGE.len()];
            stream.read_exact(&mut answer)?;
            Ok(answer == MESSAGE)
        };
        Reach::of(exchange())
    }

    /// Sends one datagram to a [`UdpEcho`] and waits for it to come back.
    ///
    /// # Errors
    /// If that cannot be tried at all.
    pub fn try_udp(&self, to: SocketAddr, limit: Duration) -> io::Result<Reach> {
        let exchange = || {
            let socket = self.udp_bind(any_port(to.ip()))?;
            socket.set_read_timeout(Some(limit))?;
            // Connected, so that a port unreachable comes back as an error.
            self.run(|| socket.connect(to))??;
            socket.send(MESSAGE)?;
            let mut answer = [0; 64];
            let length = recv(&socket, &mut answer)?;
            Ok(&answer[..length] == MESSAGE)
        };
        Reach::of(exchange())
    }

    /// Sends one SYN, and gives up before the first retransmission.
    ///
    /// # Errors
    /// If that cannot be tried at all.
    pub fn knock(&self, to: SocketAddr) -> io::Result<()> {
        let socket =
            self.run(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)))??;
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    /// Sends a datagram so many times from one socket, bound to `from` if there is one.
    ///
    /// # Errors
    /// If that cannot be tried at all.
    pub fn send_udp(
        &self,
        from: Option<IpAddr>,
        to: SocketAddr,
        message: &[u8],
        count: u32,
    ) -> io::Result<()> {
        let any = any_port(to.ip());
        let socket = self.udp_bind(from.map_or(any, |ip| SocketAddr::new(ip, 0)))?;
        for _ in 0..count {
            socket.send_to(message, to)?;
        }
        Ok(())
    }

    /// Sends one ICMP or ICMPv6 echo request and waits for its reply.
    ///
    /// # Errors
    /// If that cannot be tried at all.
    pub fn try_ping(&self, to: IpAddr, limit: Duration) -> io::Result<Reach> {
        Reach::of(self.ping(to, limit))
    }

    fn ping(&self, to: IpAddr, limit: Duration) -> io::Result<bool> {
        // RFC 792 and RFC 4443: type, code, checksum, identifier, sequence number, data. The
        // kernel fills in checksum and identifier of an ICMP datagram socket.
        let (domain, protocol, request, reply) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
        };
        let socket = self.run(|| Socket::new(domain, Type::DGRAM, Some(protocol)))??;
        let socket = UdpSocket::from(socket);
        let message = [&[request, 0, 0, 0, 0, 0, 0, 1], MESSAGE].concat();
        self.run(|| socket.send_to(&message, SocketAddr::new(to, 0)))??;
        let start = Instant::now();
        loop {
            let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
            else {
                return Ok(false);
            };
            socket.set_read_timeout(Some(left))?;
            let mut answer = [0; 256];
            let (length, from) = uninterrupted(|| socket.recv_from(&mut answer))?;
            let answer = &answer[..length];
            if from.ip() == to && answer.first() == Some(&reply) && answer.ends_with(MESSAGE) {
                return Ok(true);
            }
        }
    }
}

/// Receives a datagram. A socket with a time-out returns early from a stop and continuation of the
/// process, handlers or not (signal(7)); that is no answer.
///
/// # Errors
/// As [`UdpSocket::recv`].
pub fn recv(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    uninterrupted(|| socket.recv(buffer))
}

fn uninterrupted<T>(mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match receive() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Any port of any own address, in the family of `peer`.
fn any_port(peer: IpAddr) -> SocketAddr {
    match peer {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
