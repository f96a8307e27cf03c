//! What is measured.
//!
//! Inputs: a [`Stage`], for how long. Outputs: figures, one sample each.
//!
//! Generators are ours: threads of this process whose sockets live in the topology's namespaces, the
//! client's on one CPU, the server's on the other.

mod connects;
mod flood;
mod latency;
mod throughput;
mod udp;
mod update;

use std::{panic, thread::ScopedJoinHandle, time::Duration};

use anyhow::Result;
use clap::ValueEnum;
use nix::{time::ClockId, unistd::Pid};

use crate::bench::{
    contender::{Contender, Kind},
    rules::Rule,
    topology::{STRANGER, Topology, at},
};

/// Where a flood goes that is let in by no rule.
const FLOOD_PORT: u16 = 7_005;

/// A topology with its contender.
pub struct Stage {
    /// Who; nobody where there is no policy. Goes before what it runs in.
    pub contender: Option<Box<dyn Contender>>,
    /// Where.
    pub topology: Topology,
}

impl Stage {
    /// Makes a topology in which `rules` are enforced.
    ///
    /// # Errors
    /// If that cannot be set up.
    pub fn new(kind: Kind, rules: &[Rule]) -> Result<Self> {
        let topology = Topology::new()?;
        let contender = kind.enforce(&topology, rules)?;
        Ok(Self { contender, topology })
    }
}

/// TCP connections a second, opened and closed.
///
/// # Errors
/// If one cannot be opened.
pub fn connects(on: &Topology, window: Duration) -> Result<f64> {
    connects::rate(on, window)
}

/// Packets that a client sends whom no rule lets in, as many as one CPU can send.
///
/// # Errors
/// If they cannot be sent.
pub fn denied(on: &Topology, window: Duration) -> Result<u64> {
    let socket = udp::bound(on.client.netns(), STRANGER)?;
    socket.connect(at(FLOOD_PORT))?;
    Ok(udp::Flood::send(&socket, window)?.sent)
}

/// What a process has had of the CPUs so far, all its threads together.
///
/// # Errors
/// If there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid)?))?;
    Ok(clock.now()?.into())
}

/// What a thread of a generator came to.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// One number per round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// Packets a second that got to the server, of a flow that is never answered.
    OneWayPackets,
    /// The same, of a flow that the server has answered.
    AnsweredPackets,
    /// Bits a second over TCP.
    Throughput,
    /// TCP connections a second, opened and closed.
    Connects,
    /// Seconds for a request and its response, the middle one.
    LatencyMedian,
    /// The same, all but the slowest hundredth.
    LatencyTail,
    /// Packets a second that are sent and let in by no rule.
    FloodPackets,
    /// CPU time of the kernel's network code for each of them, in seconds.
    FloodKernel,
    /// CPUs that the contender's process takes meanwhile.
    FloodAgent,
    /// Packets of the flood that are neither in the contender's counter nor lost before.
    FloodUncounted,
    /// Seconds from the command that adds one rule to the first packet that it lets through.
    Update,
}

impl Figure {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 11] = [
        Self::OneWayPackets,
        Self::AnsweredPackets,
        Self::Throughput,
        Self::Connects,
        Self::LatencyMedian,
        Self::LatencyTail,
        Self::FloodPackets,
        Self::FloodKernel,
        Self::FloodAgent,
        Self::FloodUncounted,
        Self::Update,
    ];
}

/// A run that gives one sample for some figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// [`Figure::OneWayPackets`].
    OneWay,
    /// [`Figure::AnsweredPackets`].
    Answered,
    /// [`Figure::Throughput`].
    Throughput,
    /// [`Figure::Connects`].
    Connects,
    /// [`Figure::LatencyMedian`] and [`Figure::LatencyTail`].
    Latency,
    /// The figures of the flood.
    Flood,
    /// [`Figure::Update`].
    Update,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OneWay,
        Self::Answered,
        Self::Throughput,
        Self::Connects,
        Self::Latency,
        Self::Flood,
        Self::Update,
    ];

    /// Runs for about `window`. No sample where there is nothing to measure, as for a change of
    /// rules without any.
    ///
    /// # Errors
    /// If packets do not go where they are to go, or the kernel refuses something.
    pub fn run(self, on: &Stage, window: Duration) -> Result<Vec<(Figure, f64)>> {
        let topology = &on.topology;
        Ok(match self {
            Self::OneWay => vec![(Figure::OneWayPackets, udp::rate(topology, window, false)?)],
            Self::Answered => vec![(Figure::AnsweredPackets, udp::rate(topology, window, true)?)],
            Self::Throughput => vec![(Figure::Throughput, throughput::rate(topology, window)?)],
            Self::Connects => vec![(Figure::Connects, connects::rate(topology, window)?)],
            Self::Latency => {
                let latency = latency::of(topology, window)?;
                vec![(Figure::LatencyMedian, latency.median), (Figure::LatencyTail, latency.tail)]
            }
            Self::Flood => flood::run(on, window)?,
            Self::Update => match &on.contender {
                Some(contender) => {
                    let update = update::run(topology, contender.as_ref())?;
                    vec![(Figure::Update, update.as_secs_f64())]
                }
                None => Vec::new(),
            },
        })
    }
}
