//! A tap that sees every frame in a network namespace.
//!
//! Inputs: a namespace, a TCP or UDP port. Outputs: how many frames to that port have come in.

use std::{
    io::{ErrorKind, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use etherparse::{SlicedPacket, TransportSlice};
use policy_test::{netns::NetNs, wait};
use socket2::{Domain, Protocol, Socket, Type};

/// `ETH_P_ALL` of linux/if_ether.h; packet(7) wants it in network order.
const ETH_P_ALL: u16 = 3;
/// Between two looks into an empty socket.
const PAUSE: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(10);

/// Counts until it is dropped.
pub(crate) struct Tap {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    frames: AtomicU64,
    idle: AtomicU64,
}

impl Tap {
    /// Opens one on all interfaces of a namespace. It sees what the host's programs let pass, and
    /// nothing that they drop: those are on the other end of the veth.
    pub(crate) fn open(netns: &NetNs, port: u16) -> Result<Self> {
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket = netns.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)))??;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(4 << 20)?;
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || watch(&socket, port, &theirs));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Frames to the port so far, those still in the socket included.
    pub(crate) fn frames(&self) -> Result<u64> {
        // Two, because the first may be that of a read which began before.
        let idle = self.shared.idle.load(Ordering::SeqCst) + 2;
        wait::until("the tap to have emptied its socket", LIMIT, || {
            self.shared.idle.load(Ordering::SeqCst) >= idle
        })?;
        Ok(self.shared.frames.load(Ordering::SeqCst))
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(mut socket: &Socket, port: u16, shared: &Shared) {
    let mut frame = vec![0; 65536];
    while !shared.stop.load(Ordering::SeqCst) {
        match socket.read(&mut frame) {
            Ok(length) if is_to(&frame[..length], port) => {
                shared.frames.fetch_add(1, Ordering::SeqCst);
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                shared.idle.fetch_add(1, Ordering::SeqCst);
                thread::sleep(PAUSE);
            }
            // An interface that goes down says so once; the socket goes on with the others.
            Err(_) => {}
        }
    }
}

fn is_to(frame: &[u8], port: u16) -> bool {
    let packet = SlicedPacket::from_ethernet(frame).ok();
    match packet.and_then(|packet| packet.transport) {
        Some(TransportSlice::Udp(udp)) => udp.destination_port() == port,
        Some(TransportSlice::Tcp(tcp)) => tcp.destination_port() == port,
        _ => false,
    }
}
