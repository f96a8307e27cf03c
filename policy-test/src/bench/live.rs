//! A sender without sockets, several times as fast as one with them: the kernel makes copies of a frame and has them
//! come in by an interface, as its driver would (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18,
//! net/bpf/test_run.c: `xdp_test_run_batch`).
//!
//! Inputs: root, a frame, an interface. Outputs: that many packets in the stack.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::{Ebpf, TestRun as _, TestRunAttrs, TestRunOptions, programs::Xdp};
use etherparse::PacketBuilder;
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};

use crate::{
    bench::topology::{SERVER, STRANGER, Topology},
    testrun::{empty, xdp_context},
};

/// Frames of one call into the kernel. A call that a signal interrupts does not say how many it sent, and is an error.
const CALL: u32 = 100_000;
/// Frames that go into the stack at a time.
const BATCH: u32 = 64;
/// The server sends to this port.
const PORT: u16 = 4_321;

/// Sends what the server would if it sent to a stranger.
#[derive(Debug)]
pub struct Sender<'a> {
    on: &'a Topology,
    ebpf: Ebpf,
    ifindex: u32,
    frame: Vec<u8>,
}

impl<'a> Sender<'a> {
    /// Loads the program that lets the frames in.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn new(on: &'a Topology) -> Result<Self> {
        let host = on.lab.host();
        let ifindex = host.run(|| if_nametoindex(on.server.host_interface()))??;
        let own = on.server.netns().run(|| hardware_address("eth0"))??;
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(own, [2; 6])
            .ipv4(SERVER.octets(), STRANGER.octets(), 64)
            .udp(PORT, PORT)
            .write(&mut frame, &[0; 18])?;
        Ok(Self { on, ebpf: empty::load()?, ifindex, frame })
    }

    /// Sends for so long, as fast as a CPU can. How many.
    ///
    /// # Errors
    /// If the kernel refuses a frame.
    pub fn send(&self, window: Duration) -> Result<u64> {
        let program: &Xdp =
            self.ebpf.program(empty::XDP).context("the object has an XDP program")?.try_into()?;
        let context = xdp_context(self.ifindex, self.frame.len())?;
        self.on.lab.host().run(|| -> Result<u64> {
            let started = Instant::now();
            let mut sent = 0;
            while started.elapsed() < window {
                program.test_run(TestRunOptions {
                    data_in: Some(&self.frame),
                    ctx_in: Some(&context),
                    repeat: CALL,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::new()
                })?;
                sent += u64::from(CALL);
            }
            Ok(sent)
        })?
    }
}

/// An interface's, in the namespace of the caller.
fn hardware_address(name: &str) -> Result<[u8; 6]> {
    getifaddrs()?
        .filter(|it| it.interface_name == name)
        .find_map(|it| it.address?.as_link_addr()?.addr())
        .with_context(|| format!("{name} has no hardware address"))
}
