//! Servers that send back what they get, and count it.
//!
//! Inputs: a namespace, an address. Outputs: echoes; how much came in.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use socket2::SockRef;

use crate::netns::NetNs;

/// Echoes TCP streams until it is dropped.
#[derive(Debug)]
pub struct TcpEcho {
    listener: TcpListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    connections: AtomicU64,
    bytes: AtomicU64,
    /// Open connections by number, so that dropping the server can end them.
    streams: Mutex<HashMap<u64, TcpStream>>,
}

impl TcpEcho {
    /// Listens in `netns`.
    ///
    /// # Errors
    /// If the address is taken or not there.
    pub fn start(netns: &NetNs, on: SocketAddr) -> io::Result<Self> {
        let listener = netns.tcp_listen(on)?;
        let accepting = listener.try_clone()?;
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || accept(&accepting, &theirs));
        Ok(Self { listener, shared, thread: Some(thread) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes received so far, over all connections.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // On Linux this wakes accept(2) with EINVAL, and the streams' reads with an end.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        for stream in self.shared.streams().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn streams(&self) -> std::sync::MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stopped() {
        let Ok((stream, _)) = listener.accept() else { continue };
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let Ok(handle) = stream.try_clone() else { continue };
        shared.streams().insert(number, handle);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            echo(stream, &shared);
            shared.streams().remove(&number);
        });
    }
}

fn echo(mut stream: TcpStream, shared: &Shared) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        shared.bytes.fetch_add(length as u64, Ordering::SeqCst);
        if stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The list of streams holds another handle, which would keep the connection open.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Echoes UDP datagrams until it is dropped.
#[derive(Debug)]
pub struct UdpEcho {
    socket: UdpSocket,
    shared: Arc<Datagrams>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Datagrams {
    stop: AtomicBool,
    received: AtomicU64,
}

impl UdpEcho {
    /// Binds in `netns`.
    ///
    /// # Errors
    /// If the address is taken or not there.
    pub fn start(netns: &NetNs, on: SocketAddr) -> io::Result<Self> {
        let socket = netns.udp_bind(on)?;
        let receiving = socket.try_clone()?;
        let shared = Arc::<Datagrams>::default();
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 65536];
            while !theirs.stop.load(Ordering::SeqCst) {
                let Ok((length, from)) = receiving.recv_from(&mut buffer) else { continue };
                if theirs.stop.load(Ordering::SeqCst) {
                    break;
                }
                theirs.received.fetch_add(1, Ordering::SeqCst);
                // A reply that a policy drops is the test's concern, not ours.
                let _ = receiving.send_to(&buffer[..length], from);
            }
        });
        Ok(Self { socket, shared, thread: Some(thread) })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Datagrams received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Says ENOTCONN for a socket without a peer, and wakes the reader all the same.
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
