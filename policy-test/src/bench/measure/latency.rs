//! Request and response over one TCP connection.
//!
//! Inputs: a topology, for how long. Outputs: how long an exchange takes.
//!
//! Both sides ask for data without sleeping, so that the way there and back is measured and not how
//! quickly a CPU is woken.

use std::{
    hint,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::bench::{
    measure::joined,
    statistics::quantile,
    topology::{Side, Topology, at, pin},
};

const PORT: u16 = 7_003;
const MESSAGE: usize = 64;
const LIMIT: Duration = Duration::from_secs(5);
/// The first ones find caches cold and tables empty.
const WARM_UP: usize = 100;
/// However short the window.
const LEAST: usize = 2 * WARM_UP;

/// Of one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    /// Seconds.
    pub(super) median: f64,
    /// Seconds, the 99th percentile.
    pub(super) tail: f64,
}

pub(super) fn of(on: &Topology, window: Duration) -> Result<Latency> {
    let listener = on.server.netns().tcp_listen(at(PORT))?;
    let client = on.client.netns().tcp_connect(at(PORT), LIMIT).context("connect to the server")?;
    let (server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
    }
    let mut samples = thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&server));
        let client = scope.spawn(|| {
            let samples = ask(&client, window);
            client.shutdown(Shutdown::Both)?;
            samples
        });
        let samples = joined(client);
        joined(echo)?;
        samples
    })?;
    samples.drain(..WARM_UP);
    samples.sort_by(f64::total_cmp);
    let at = |share| quantile(&samples, share).context("there are samples");
    Ok(Latency { median: at(0.5)?, tail: at(0.99)? })
}

fn ask(mut stream: &TcpStream, window: Duration) -> Result<Vec<f64>> {
    pin(Side::Client)?;
    let mut samples = Vec::new();
    let (mut message, started) = ([0; MESSAGE], Instant::now());
    while started.elapsed() < window || samples.len() < LEAST {
        let sent = Instant::now();
        stream.write_all(&message).context("send a request")?;
        ensure!(read(stream, &mut message)?, "the server has gone");
        samples.push(sent.elapsed().as_secs_f64());
    }
    Ok(samples)
}

fn echo(mut stream: &TcpStream) -> Result<()> {
    pin(Side::Server)?;
    let mut message = [0; MESSAGE];
    while read(stream, &mut message)? {
        stream.write_all(&message).context("send a response")?;
    }
    Ok(())
}

/// Reads a whole message; `false` at the end.
fn read(mut stream: &TcpStream, message: &mut [u8; MESSAGE]) -> Result<bool> {
    let (mut have, started) = (0, Instant::now());
    while have < MESSAGE {
        match stream.read(&mut message[have..]) {
            Ok(0) => return Ok(false),
            Ok(length) => have += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(started.elapsed() < LIMIT, "no message within {} s", LIMIT.as_secs());
                hint::spin_loop();
            }
            Err(error) => return Err(error).context("receive a message"),
        }
    }
    Ok(true)
}
