//! The kernel programs, frame by frame, through `BPF_PROG_TEST_RUN`.
//!
//! Inputs: root. Every frame is held against the drop counters, so that a drop that is not
//! counted, or counted twice, fails whichever test sees it.

#[path = "packets/capture.rs"]
mod capture;
#[path = "packets/changes.rs"]
mod changes;
#[path = "packets/connections.rs"]
mod connections;
#[path = "packets/counters.rs"]
mod counters;
#[path = "packets/edges.rs"]
mod edges;
#[path = "packets/frames.rs"]
mod frames;
#[path = "packets/generated.rs"]
mod generated;
#[path = "packets/hostile.rs"]
mod hostile;
#[path = "packets/icmp.rs"]
mod icmp;
#[path = "packets/lifetime.rs"]
mod lifetime;
#[path = "packets/limit.rs"]
mod limit;
#[path = "packets/mac.rs"]
mod mac;
#[path = "packets/neighbours.rs"]
mod neighbours;
#[path = "packets/networks.rs"]
mod networks;
#[path = "packets/reference.rs"]
mod reference;
#[path = "packets/regressions.rs"]
mod regressions;
#[path = "packets/shapes.rs"]
mod shapes;
#[path = "packets/staged.rs"]
mod staged;
#[path = "packets/world.rs"]
mod world;
