//! A server whose answers have the length that is asked for.
//!
//! Inputs: a namespace, an address. Outputs: answers, as long as it lives.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use crate::netns::NetNs;

/// For a request to be answered.
const LIMIT: Duration = Duration::from_secs(5);

/// Answers one connection after the other.
pub(super) struct Server {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(netns: &NetNs, on: SocketAddr) -> Result<Self> {
        let listener = netns.tcp_listen(on).with_context(|| format!("listen on {on}"))?;
        let accepting = listener.try_clone()?;
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                // Who asked says what went wrong.
                let _ = answer(stream);
            }
        });
        Ok(Self { listener, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // On Linux this wakes accept(2) with EINVAL.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    io::copy(&mut io::repeat(b'.').take(u32::from_be_bytes(length).into()), &mut stream)?;
    stream.flush()
}

/// Asks for an answer of so many bytes and reads it.
pub(super) fn fetch(netns: &NetNs, from: SocketAddr, length: u32) -> Result<()> {
    let exchange = || {
        let mut stream = netns.tcp_connect(from, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(&length.to_be_bytes())?;
        io::copy(&mut stream, &mut io::sink())
    };
    let read = exchange().with_context(|| format!("ask {from}"))?;
    ensure!(read == u64::from(length), "{from} answered {read} bytes of {length}");
    Ok(())
}
