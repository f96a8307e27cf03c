//! TCP connections, one after the other, several at a time.
//!
//! Inputs: a topology, for how long. Outputs: connections a second that were opened, accepted and
//! closed from both sides.
//!
//! The server closes first, so that what waits for late packets waits at its end, and the client's
//! ports are free again at once.

use std::{
    io::Read as _,
    net::{Shutdown, TcpListener},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use socket2::SockRef;

use crate::{
    bench::{
        measure::joined,
        topology::{Side, Topology, at, pin},
    },
    netns::NetNs,
};

const PORT: u16 = 7_002;
/// Threads on either side: enough that its CPU never waits for the other one.
const THREADS: usize = 4;
/// For one connection.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn rate(on: &Topology, window: Duration) -> Result<f64> {
    let listener = on.server.netns().tcp_listen(at(PORT))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let servers: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(|| accept(&listener, &stop))).collect();
        let started = Instant::now();
        let clients: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(move || connect(on.client.netns(), started, window)))
            .collect();
        let mut opened = anyhow::Ok(0);
        for client in clients {
            let count = joined(client);
            opened = opened.and_then(|opened| Ok(opened + count?));
        }
        let lasted = started.elapsed();
        stop.store(true, Ordering::SeqCst);
        // On Linux this wakes accept(2).
        SockRef::from(&listener).shutdown(Shutdown::Both)?;
        for server in servers {
            joined(server)?;
        }
        Ok(opened? as f64 / lasted.as_secs_f64())
    })
}

fn accept(listener: &TcpListener, stop: &AtomicBool) -> Result<()> {
    pin(Side::Server)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => drop(stream),
            Err(_) if stop.load(Ordering::SeqCst) => return Ok(()),
            Err(error) => return Err(error).context("accept"),
        }
    }
}

fn connect(netns: &NetNs, started: Instant, window: Duration) -> Result<u64> {
    netns.run(|| {
        pin(Side::Client)?;
        let mut opened = 0;
        loop {
            let mut stream = std::net::TcpStream::connect_timeout(&at(PORT), LIMIT)
                .context("connect to the server")?;
            stream.set_read_timeout(Some(LIMIT))?;
            let end = stream.read(&mut [0]).context("wait for the server's end")?;
            ensure!(end == 0, "the server sent something");
            opened += 1;
            if started.elapsed() >= window {
                return Ok(opened);
            }
        }
    })?
}
