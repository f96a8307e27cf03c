//! Docker as a source of endpoints.
//!
//! Inputs: the engine's socket, the interfaces of this network namespace, `/proc`. Output: a stream
//! of complete [`DockerSnapshot`]s.
//!
//! The aim is to know whose interface it is before the container's first instruction, from evidence
//! that a container cannot forge. Measured with Docker Engine 20.10.24 (API 1.41) on a busy machine
//! with two CPUs, in milliseconds after the host veth's RTM_NEWLINK:
//!
//! | what | `docker run` | `network connect` |
//! |---|---|---|
//! | `GET /networks/{id}` has the endpoint's addresses and MAC, under `ep-<endpoint id>` with the container's name | 3.5 to 4.5 | 3.5 to 4 |
//! | `connect` event (container and network ids, network name); `GET /networks/{id}` has the container's id | 7 to 60 | 140 to 200, after the first packet |
//! | first process of the container in its cgroup and network namespace | 75 to 110 | long before |
//! | container end moves there: RTM_DELLINK here, with IFLA_NEW_NETNSID | 220 to 280 | 85 to 145 |
//! | it is called eth0 and has its MAC address (RTM_GETLINK with IFLA_TARGET_NETNSID) | 1 to 3 later | 1 to 4 later |
//! | carrier: next RTM_NEWLINK of the host end, the first with IFLA_LINK_NETNSID | 310 to 380 | 135 to 195 |
//! | first packet | 390 to 535 | 1 to 1.5 after the carrier |
//! | `start` event, `inspect` returns, `GET /containers/json` has the addresses | 1.5 to 5 after it | 5 to 10 after it |
//!
//! (An idle machine is three times as fast.) While a container joins a network, `GET
//! /networks/{id}` can block, seen for 53 ms; `GET /containers/json` never does. RTM_GETNSID gives
//! the id of a process's namespace as soon as the container end is there, and the id of a sandbox
//! file from inspect if the file is a mount in our mount namespace, else EINVAL.
//!
//! Hence: addresses and labels from the network's and the list's answers, asked for at RTM_NEWLINK;
//! whose namespace the container end went to from the process table, asked at RTM_DELLINK, long
//! before the first packet; checked against inspect afterwards. On the same machine this source
//! identified the interface of each of 70 containers started one after the other at least 20 ms
//! (median 54) before its first packet, of 3 times 10 started at once at least 65 ms before, and at
//! 30 `network connect`s at least 22 ms before.

mod actor;
mod engine;
mod jobs;
mod labels;
mod owners;
mod resolve;
mod snapshot;
mod wire;

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::owners::container_id as container_of;
pub use self::snapshot::{
    DockerEndpoint, DockerSnapshot, EngineState, HostVeth, InsideOf, LabelWarning, PendingReason,
    PendingVeth, Unsupported, UnsupportedReason,
};
use crate::netlink::{LinkEvent, LinkMonitor, NetlinkError};

/// How long the interface thread needs at most to see that it should stop.
const STOP_PATIENCE: Duration = Duration::from_millis(500);
const LINK_QUEUE: usize = 4096;
const NEWS_QUEUE: usize = 1024;

/// A running Docker source. Dropping it stops it.
#[derive(Debug)]
pub struct DockerSource {
    snapshots: mpsc::Receiver<Arc<DockerSnapshot>>,
    _stop: DropGuard,
    _actor: JoinHandle<()>,
}

/// Why the source could not start. An engine that is away is no reason: it is waited for.
#[derive(Debug, thiserror::Error)]
pub enum DockerSourceError {
    /// The kernel cannot be asked about interfaces.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No thread could be started.
    #[error("cannot start a thread for interface changes: {0}")]
    Thread(#[source] std::io::Error),
}

impl DockerSource {
    /// Starts watching the engine at `socket` (a path; `unix://` is the caller's to remove). Call it
    /// in a tokio runtime, in the engine's network namespace.
    ///
    /// # Errors
    ///
    /// See [`DockerSourceError`].
    pub fn start(socket: PathBuf) -> Result<Self, DockerSourceError> {
        let monitor = LinkMonitor::open(STOP_PATIENCE)?;
        let cancel = CancellationToken::new();
        let (link_events, links) = mpsc::channel(LINK_QUEUE);
        let stop = cancel.clone();
        thread::Builder::new()
            .name("docker-links".to_owned())
            .spawn(move || forward(monitor, &link_events, &stop))
            .map_err(DockerSourceError::Thread)?;
        let (engine_news, news) = mpsc::channel(NEWS_QUEUE);
        tokio::spawn(cancel.clone().run_until_cancelled_owned(engine::run(socket, engine_news)));
        let (sender, snapshots) = mpsc::channel(1);
        let actor = actor::Actor::new().run(links, news, sender, cancel.clone());
        let actor = tokio::spawn(actor);
        Ok(DockerSource { snapshots, _stop: cancel.drop_guard(), _actor: actor })
    }

    /// The next snapshot that differs from the one before; a slow caller gets the newest only.
    /// `None` if the source has ended, which it does only by a bug. Cancel safe.
    pub async fn next(&mut self) -> Option<Arc<DockerSnapshot>> {
        self.snapshots.recv().await
    }
}

/// Forwards interface changes until told to stop.
fn forward(mut monitor: LinkMonitor, events: &mpsc::Sender<LinkEvent>, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        match monitor.next() {
            Ok(Some(event)) => {
                if events.blocking_send(event).is_err() {
                    return;
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "cannot follow interface changes; trying again");
                thread::sleep(STOP_PATIENCE);
            }
        }
    }
}
