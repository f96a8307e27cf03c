//! How figures are called and shown.
//!
//! Inputs: a figure. Outputs: its title, unit and plot.

use crate::bench::measure::Figure;

/// The plots of what packets cost in the kernel programs, and at an uplink.
pub(super) const PROGRAMS: &str = "programs.svg";
pub(super) const PROGRAMS_TITLE: &str = "A packet in the kernel programs";
pub(super) const UPLINK: &str = "uplink.svg";
pub(super) const UPLINK_TITLE: &str = "A packet at an uplink with a block list";

/// How one figure is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) title: &'static str,
    /// Which way is good.
    pub(super) better: &'static str,
    pub(super) unit: &'static str,
    /// Of the sample's unit, which is the base unit, in the shown one.
    pub(super) scale: f64,
    /// Digits behind the point.
    pub(super) digits: usize,
    /// What it is about, beyond its title.
    pub(super) note: &'static str,
    /// The file of its plot; `None` for what a plot would not show.
    pub(super) plot: Option<&'static str>,
    /// Whether the plot's axis of values is logarithmic.
    pub(super) logarithmic: bool,
}

const MORE: &str = "more is better";
const LESS: &str = "less is better";

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn of(figure: Figure) -> Shown {
    match figure {
        Figure::OneWayPackets => Shown {
            title: "Small UDP packets, one way",
            better: MORE,
            unit: "1000 packets/s",
            scale: 1e-3,
            digits: 0,
            note: "64-byte frames of one flow that nobody answers, as logs and telemetry are sent, from one CPU. \
                   To the kernel's connection tracking such a flow stays new, so the lists are walked for each \
                   packet; to Palisade it is established after the first.",
            plot: Some("packets-one-way.svg"),
            logarithmic: true,
        },
        Figure::AnsweredPackets => Shown {
            title: "Small UDP packets, answered flow",
            better: MORE,
            unit: "1000 packets/s",
            scale: 1e-3,
            digits: 0,
            note: "The same after one request and its response: established to everybody.",
            plot: Some("packets-answered.svg"),
            logarithmic: false,
        },
        Figure::Throughput => Shown {
            title: "TCP throughput",
            better: MORE,
            unit: "Gbit/s",
            scale: 1e-9,
            digits: 1,
            note: "Four streams, senders on one CPU and receivers on the other, segments as large as the kernel makes them.",
            plot: Some("throughput.svg"),
            logarithmic: false,
        },
        Figure::Connects => Shown {
            title: "TCP connect rate",
            better: MORE,
            unit: "1000 connections/s",
            scale: 1e-3,
            digits: 1,
            note: "Opened, accepted and closed from both sides, by four threads on either side.",
            plot: Some("connects.svg"),
            logarithmic: false,
        },
        Figure::LatencyMedian => Shown {
            title: "Latency, median",
            better: LESS,
            unit: "µs",
            scale: 1e6,
            digits: 2,
            note: "64 bytes there and back over one TCP connection; both sides poll, so that no wake-up is measured.",
            plot: Some("latency-p50.svg"),
            logarithmic: false,
        },
        Figure::LatencyTail => Shown {
            title: "Latency, 99th percentile",
            better: LESS,
            unit: "µs",
            scale: 1e6,
            digits: 2,
            note: "Of the same exchanges.",
            plot: Some("latency-p99.svg"),
            logarithmic: true,
        },
        Figure::FloodPackets => Shown {
            title: "Denied flood: packets offered",
            better: MORE,
            unit: "1000 packets/s",
            scale: 1e-3,
            digits: 0,
            note: "64-byte frames from an address that no rule lets in, at the full rate of one CPU, which also pays \
                   for dropping them. Without policy they reach the server.",
            plot: Some("flood.svg"),
            logarithmic: true,
        },
        Figure::FloodKernel => Shown {
            title: "Denied flood: CPU time of the host's network code",
            better: LESS,
            unit: "µs/packet",
            scale: 1e6,
            digits: 2,
            note: "Time in soft interrupts, on all CPUs, over packets offered. The kernel counts it in ticks.",
            plot: Some("flood-kernel.svg"),
            logarithmic: true,
        },
        Figure::FloodAgent => Shown {
            title: "Denied flood: CPU of the agent",
            better: LESS,
            unit: "% of a core",
            scale: 1e2,
            digits: 2,
            note: "All threads of the agent while the flood lasts. nftables and iptables have no process.",
            plot: Some("flood-agent.svg"),
            logarithmic: false,
        },
        Figure::FloodUncounted => Shown {
            title: "Denied flood: packets off the count",
            better: "none is right",
            unit: "packets",
            scale: 1.0,
            digits: 0,
            note: "Packets sent, without those that found the client's own queue full, against the contender's counter.",
            plot: None,
            logarithmic: false,
        },
        Figure::Update => Shown {
            title: "One rule more",
            better: LESS,
            unit: "ms",
            scale: 1e3,
            digits: 1,
            note: "From the start of the command (`policyctl apply`, `nft add`, `iptables-nft -A`) to the first packet \
                   that gets through; somebody knocks every 0.1 ms.",
            plot: Some("update.svg"),
            logarithmic: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_plot_has_a_file_of_its_own() {
        let plots: Vec<_> = Figure::ALL.into_iter().filter_map(|it| of(it).plot).collect();
        assert_eq!(plots.iter().collect::<BTreeSet<_>>().len(), plots.len());
        assert!(!plots.contains(&PROGRAMS) && !plots.contains(&UPLINK));
    }
}
