//! One rule more.
//!
//! Inputs: a topology, its contender. Outputs: from the start of the command to the first packet that
//! gets through because of it.
//!
//! Somebody whom no rule lets in sends a packet every [`PAUSE`] meanwhile, which is how exact the
//! figure is.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{
        contender::Contender,
        measure::{joined, udp::bound},
        topology::{NEWCOMER, Topology, at},
    },
    net::recv,
};

const PORT: u16 = 7_005;
const PAUSE: Duration = Duration::from_micros(100);
/// So long nothing must get through before the rule is there.
const CLOSED: Duration = Duration::from_millis(20);
/// For the rule to let something through.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn run(on: &Topology, contender: &dyn Contender) -> Result<Duration> {
    let server = on.server.netns().udp_bind(at(PORT))?;
    let client = bound(on.client.netns(), NEWCOMER)?;
    client.connect(at(PORT))?;
    let stop = AtomicBool::new(false);
    let effective = thread::scope(|scope| {
        let knocking = scope.spawn(|| knock(&client, &stop));
        let effective = opens(&server, contender);
        stop.store(true, Ordering::SeqCst);
        joined(knocking)?;
        effective
    });
    contender.dismiss(NEWCOMER)?;
    effective
}

fn knock(client: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        client.send(b"knock").context("send to the server")?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn opens(server: &UdpSocket, contender: &dyn Contender) -> Result<Duration> {
    server.set_read_timeout(Some(CLOSED))?;
    ensure!(recv(server, &mut [0; 16]).is_err(), "a packet got through without its rule");
    server.set_read_timeout(Some(LIMIT))?;
    thread::scope(|scope| {
        let arrival = scope.spawn(|| recv(server, &mut [0; 16]).map(|_| Instant::now()));
        let started = Instant::now();
        contender.admit(NEWCOMER)?;
        let arrived = joined(arrival);
        Ok(arrived.context("nothing got through in spite of the rule")? - started)
    })
}
