//! A flood that no rule lets in.
//!
//! Inputs: a stage, for how long. Outputs: how much was sent, what it cost, and whether every packet
//! was counted.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bench::{
        contender::Contender,
        measure::{
            Figure, Stage, cpu_time,
            udp::{Flood, PAYLOAD, bound},
        },
        topology::{STRANGER, at, traffic},
    },
    wait,
};

const PORT: u16 = 7_004;
/// For counters that are read while the last packets are on their way.
const LIMIT: Duration = Duration::from_millis(500);
/// The kernel's unit in /proc/stat on every machine that Palisade runs on, in seconds.
const TICK: f64 = 0.01;

pub(super) fn run(on: &Stage, window: Duration) -> Result<Vec<(Figure, f64)>> {
    let (client, server) = (on.topology.client.netns(), on.topology.server.netns());
    let open = server.udp_bind(at(PORT))?;
    open.set_nonblocking(true)?;
    let socket = bound(client, STRANGER)?;
    socket.connect(at(PORT))?;
    let sender = traffic(client)?;
    let dropped = on.contender.as_deref().map(Contender::dropped).transpose()?;
    let agent = on.contender.as_deref().and_then(Contender::pid);
    let (kernel, process) = (softirq()?, agent.map(cpu_time).transpose()?);
    let flood = Flood::send(&socket, window)?;
    let kernel = softirq()? - kernel;
    let process = match (agent, process) {
        (Some(agent), Some(before)) => Some(cpu_time(agent)? - before),
        _ => None,
    };
    let sent = flood.sent as f64;
    let mut figures = vec![
        (Figure::FloodPackets, sent / flood.lasted.as_secs_f64()),
        (Figure::FloodKernel, kernel / sent),
    ];
    if let Some(process) = process {
        let share = process.as_secs_f64() / flood.lasted.as_secs_f64();
        figures.push((Figure::FloodAgent, share));
    }
    if let (Some(contender), Some(before)) = (&on.contender, dropped) {
        ensure!(open.recv(&mut [0; PAYLOAD]).is_err(), "the flood got to the server");
        let reached = flood.sent - (traffic(client)?.lost - sender.lost);
        let mut counted = 0;
        let exact = wait::until("a counter to be exact", LIMIT, || {
            counted = contender.dropped().map_or(0, |now| now - before);
            counted == reached
        });
        let uncounted = if exact.is_ok() { 0 } else { reached.abs_diff(counted) };
        figures.push((Figure::FloodUncounted, uncounted as f64));
    }
    Ok(figures)
}

/// Seconds that all CPUs have spent in soft interrupts, where the kernel carries packets on.
fn softirq() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    // cpu user nice system idle iowait irq softirq
    let ticks = line.split_whitespace().nth(7).context("/proc/stat has no softirq")?;
    Ok(ticks.parse::<f64>()? * TICK)
}
