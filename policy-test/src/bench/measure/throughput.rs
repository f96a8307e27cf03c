//! TCP streams.
//!
//! Inputs: a topology, for how long. Outputs: bits a second that the server has read.
//!
//! Several streams at a time, so that neither CPU waits to be woken by the other: what is measured is
//! the way of the packets, not the machine's interrupts.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::bench::{
    measure::joined,
    topology::{Side, Topology, at, pin},
};

const PORT: u16 = 7_001;
const STREAMS: usize = 4;
const BLOCK: usize = 128 << 10;
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn rate(on: &Topology, window: Duration) -> Result<f64> {
    let listener = on.server.netns().tcp_listen(at(PORT))?;
    let open = |_| {
        let client = on.client.netns().tcp_connect(at(PORT), LIMIT);
        let client = client.context("connect to the server")?;
        let (server, _) = listener.accept()?;
        client.set_write_timeout(Some(LIMIT))?;
        server.set_read_timeout(Some(LIMIT))?;
        Ok((client, server))
    };
    let streams = (0..STREAMS).map(open).collect::<Result<Vec<_>>>()?;
    let read = AtomicU64::new(0);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (client, server) in &streams {
            threads.push(scope.spawn(|| send(client)));
            threads.push(scope.spawn(|| receive(server, &read)));
        }
        // The windows have opened and the buffers have grown by then.
        thread::sleep(window / 4);
        let (before, started) = (read.load(Ordering::Relaxed), Instant::now());
        // On a busy machine nothing may move for longer than a short window.
        let (after, lasted) = loop {
            thread::sleep(window);
            let (after, lasted) = (read.load(Ordering::Relaxed), started.elapsed());
            if after > before || lasted > LIMIT {
                break (after, lasted);
            }
        };
        for (client, server) in &streams {
            // Ends the reads, and the writes with an error.
            let _ = server.shutdown(Shutdown::Both);
            let _ = client.shutdown(Shutdown::Both);
        }
        for thread in threads {
            joined(thread)?;
        }
        ensure!(after > before, "the streams stood still");
        Ok((after - before) as f64 * 8.0 / lasted.as_secs_f64())
    })
}

fn send(mut stream: &TcpStream) -> Result<()> {
    pin(Side::Client)?;
    let block = vec![0; BLOCK];
    loop {
        match stream.write(&block) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_end(error.kind()) => return Ok(()),
            Err(error) => return Err(error).context("send"),
        }
    }
}

fn receive(mut stream: &TcpStream, read: &AtomicU64) -> Result<()> {
    pin(Side::Server)?;
    let mut block = vec![0; BLOCK];
    loop {
        match stream.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(length) => drop(read.fetch_add(length as u64, Ordering::Relaxed)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_end(error.kind()) => return Ok(()),
            Err(error) => return Err(error).context("receive"),
        }
    }
}

/// What a stream says that was shut down under its user.
fn is_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected)
}
