//! The loop that keeps the picture of one engine up to date.
//!
//! Inputs: interface changes (from a thread), news of the engine, answers of [`Jobs`]. Output: a
//! [`DockerSnapshot`] whenever it differs from the one before; a slow receiver gets the newest, not
//! all. The loop itself never waits for the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bollard::Docker;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    engine::{Change, EngineNews},
    jobs::{Answer, Job, Jobs},
    resolve::{Owners, Picture},
    snapshot::{DockerEndpoint, DockerSnapshot, EngineState, HostVeth, PendingReason},
    wire::{Container, Network, NetworkMode},
};
use crate::netlink::LinkEvent;

/// First and last interval at which missing evidence is looked for again.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LAST: Duration = Duration::from_secs(10);
/// From this interval on, the engine's inspect is asked too: it can block for long.
const SLOW_EVIDENCE_AFTER: Duration = Duration::from_millis(100);
/// Everything is read anew this often, should an event have been missed or the engine hang.
const RESYNC: Duration = Duration::from_secs(60);

/// The loop's state.
pub(super) struct Actor {
    picture: Picture,
    jobs: Jobs,
    docker: Option<Docker>,
    links_synced: bool,
    listed: bool,
    /// Networks still to be inspected before the picture is complete.
    unread: BTreeSet<String>,
    /// Running containers still to be inspected since the engine is connected.
    unverified: BTreeSet<String>,
    /// Whether the process table was searched since the engine is connected.
    searched: bool,
    /// Something happened that may have brought missing evidence; `Some(true)`: or time went by.
    look: Option<bool>,
    retry_after: Duration,
    retry_at: Option<Instant>,
    published: Arc<DockerSnapshot>,
    unsent: bool,
}

impl Actor {
    pub(super) fn new() -> Self {
        Actor {
            picture: Picture::default(),
            jobs: Jobs::new(),
            docker: None,
            links_synced: false,
            listed: false,
            unread: BTreeSet::new(),
            unverified: BTreeSet::new(),
            searched: false,
            look: None,
            retry_after: RETRY_FIRST,
            retry_at: None,
            published: Arc::default(),
            unsent: false,
        }
    }

    /// Runs until cancelled, or until nobody listens any more.
    pub(super) async fn run(
        mut self,
        mut links: mpsc::Receiver<LinkEvent>,
        mut news: mpsc::Receiver<EngineNews>,
        snapshots: mpsc::Sender<Arc<DockerSnapshot>>,
        cancel: CancellationToken,
    ) {
        let mut resync = time::interval_at(Instant::now() + RESYNC, RESYNC);
        resync.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let retry_at = self.retry_at;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                permit = snapshots.reserve(), if self.unsent => match permit {
                    Ok(permit) => {
                        permit.send(Arc::clone(&self.published));
                        self.unsent = false;
                    }
                    Err(_) => return,
                },
                Some(event) = links.recv() => {
                    self.link(event);
                    // One snapshot for a burst.
                    while let Ok(event) = links.try_recv() {
                        self.link(event);
                    }
                    self.settle();
                }
                Some(news) = news.recv() => {
                    self.news(news);
                    self.settle();
                }
                (job, answer, again) = self.jobs.next() => {
                    self.answer(job.clone(), answer);
                    if again {
                        self.ask(&job);
                    }
                    self.settle();
                }
                () = async { time::sleep_until(retry_at.unwrap_or_else(Instant::now)).await },
                    if retry_at.is_some() =>
                {
                    self.retry_at = None;
                    self.retry_after = (self.retry_after * 2).min(RETRY_LAST);
                    self.look = Some(true);
                    self.settle();
                }
                _ = resync.tick() => {
                    self.ask_all();
                    self.settle();
                }
            }
        }
    }

    fn link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::New(link) => {
                let old = self.picture.links.insert(link.ifindex, link.clone());
                if old.as_ref().is_none_or(|old| old.link_netnsid != link.link_netnsid) {
                    self.picture.owners.remove(&link.ifindex);
                }
                let moved = old.is_none_or(|old| {
                    (old.master, old.link_netnsid) != (link.master, link.link_netnsid)
                });
                if moved && link.master.is_some() {
                    self.retry_after = RETRY_FIRST;
                    self.look.get_or_insert(false);
                }
            }
            LinkEvent::Gone { ifindex } => {
                self.picture.links.remove(&ifindex);
                self.picture.owners.remove(&ifindex);
            }
            LinkEvent::HostAddress { .. } | LinkEvent::Moved { .. } => {}
            LinkEvent::Synced => self.links_synced = true,
        }
    }

    fn news(&mut self, news: EngineNews) {
        match news {
            EngineNews::Up(docker) => {
                tracing::info!(api = %docker.client_version(), "container engine connected");
                self.jobs.abandon();
                self.docker = Some(docker);
                self.listed = false;
                self.unread = self.enforced_networks();
                // Namespaces may have ended while nobody told us.
                self.picture.sandboxes.clear();
                self.unverified.clear();
                self.searched = false;
                self.ask(&Job::List);
            }
            EngineNews::Down(error) => self.lost(error),
            EngineNews::Changed(change) => {
                self.retry_after = RETRY_FIRST;
                match change {
                    Change::List => self.ask(&Job::List),
                    Change::Started(id) => {
                        self.ask(&Job::List);
                        self.ask(&Job::Sandbox(id));
                    }
                    Change::Died(id) => {
                        self.picture.sandboxes.remove(&id);
                        self.ask(&Job::List);
                    }
                    Change::Network(id) => {
                        self.ask(&Job::Network(id));
                        self.ask(&Job::List);
                    }
                }
            }
        }
    }

    /// The engine is away: everything known stays.
    fn lost(&mut self, error: String) {
        if self.docker.take().is_some() {
            tracing::warn!(%error, "container engine lost; containers stay enforced as they are");
        }
        self.jobs.abandon();
        self.engine_error(error);
    }

    fn engine_error(&mut self, error: String) {
        self.picture.engine = match self.picture.engine {
            EngineState::Connecting { .. } => EngineState::Connecting { error: Some(error) },
            EngineState::Synced | EngineState::Lost { .. } => EngineState::Lost { error },
        };
    }

    fn answer(&mut self, job: Job, answer: Answer) {
        match (job, answer) {
            (Job::List, Answer::List(containers, networks)) => self.list(containers, networks),
            (Job::Network(id), Answer::Network(attachments)) => {
                self.unread.remove(&id);
                if self.picture.networks.contains_key(&id) {
                    self.picture.attachments.insert(id, attachments);
                } else {
                    // Younger than the list.
                    self.ask(&Job::List);
                }
            }
            (Job::Network(id), Answer::Absent) => {
                self.unread.remove(&id);
                self.picture.attachments.remove(&id);
                self.ask(&Job::List);
            }
            (Job::Sandbox(id), Answer::Sandbox(nsid)) => {
                self.unverified.remove(&id);
                match nsid {
                    Some(nsid) => self.picture.sandboxes.insert(id, nsid),
                    None => self.picture.sandboxes.remove(&id),
                };
            }
            (Job::Sandbox(id), Answer::Absent) => {
                self.unverified.remove(&id);
                self.picture.sandboxes.remove(&id);
            }
            (Job::Sandbox(id), Answer::Failed(error)) => {
                self.unverified.remove(&id);
                tracing::debug!(container = %id, %error, "cannot verify a container's namespace");
            }
            (Job::Owners, Answer::Owners(found)) => {
                self.searched = true;
                self.owners(&found);
            }
            (Job::Owners, Answer::Failed(error)) => {
                self.searched = true;
                tracing::warn!(%error, "cannot search the process table for containers");
            }
            (Job::List, Answer::Failed(error)) => {
                tracing::warn!(%error, "cannot list containers");
                self.listed = false;
                self.engine_error(format!("cannot list containers: {error}"));
                self.retry_soon();
            }
            (job, answer) => tracing::warn!(?job, ?answer, "unanswered question"),
        }
    }

    fn list(&mut self, containers: Vec<Container>, networks: Vec<Network>) {
        let picture = &mut self.picture;
        picture.containers = containers.into_iter().map(|c| (c.id.clone(), c)).collect();
        picture.networks = networks.into_iter().map(|n| (n.id.clone(), n)).collect();
        picture.attachments.retain(|id, _| picture.networks.contains_key(id));
        let running = |id: &String| picture.containers.get(id).is_some_and(|c| c.running);
        picture.sandboxes.retain(|id, _| running(id));
        self.unverified.retain(running);
        let unverified: Vec<String> = if self.listed {
            Vec::new()
        } else {
            let own = |c: &&Container| c.running && c.mode == NetworkMode::Own;
            picture.containers.values().filter(own).map(|c| c.id.clone()).collect()
        };
        let enforced = self.enforced_networks();
        self.unread.retain(|id| enforced.contains(id));
        for id in enforced {
            if self.unread.contains(&id) || !self.picture.attachments.contains_key(&id) {
                self.unread.insert(id.clone());
                self.ask(&Job::Network(id));
            }
        }
        for id in &unverified {
            self.ask(&Job::Sandbox(id.clone()));
        }
        self.unverified.extend(unverified);
        self.listed = true;
    }

    fn owners(&mut self, found: &BTreeMap<i32, BTreeSet<String>>) {
        for link in self.picture.links.values() {
            if let Some(nsid) = link.link_netnsid
                && let Some(containers) = found.get(&nsid)
            {
                let owners = Owners { nsid, containers: containers.clone() };
                self.picture.owners.insert(link.ifindex, owners);
            }
        }
    }

    fn enforced_networks(&self) -> BTreeSet<String> {
        let enforced = self.picture.networks.values().filter(|n| n.enforced());
        enforced.map(|network| network.id.clone()).collect()
    }

    fn ask(&mut self, job: &Job) {
        if let Job::Owners = job {
            let wanted = self.unowned();
            if !wanted.is_empty() {
                self.jobs.owners(wanted);
            }
            return;
        }
        let Some(docker) = &self.docker else { return };
        match job {
            Job::List => self.jobs.list(docker),
            Job::Network(id) => self.jobs.network(docker, id),
            Job::Sandbox(id) => self.jobs.sandbox(docker, id),
            Job::Owners => {}
        }
    }

    fn ask_all(&mut self) {
        self.ask(&Job::List);
        for id in self.enforced_networks() {
            self.ask(&Job::Network(id));
        }
    }

    /// Namespaces whose owner is not known beyond doubt.
    fn unowned(&self) -> BTreeSet<i32> {
        let picture = &self.picture;
        let veths = picture.managed_veths().map(|(veth, _)| veth);
        veths.filter(|veth| picture.owner(veth).is_err()).filter_map(|v| v.link_netnsid).collect()
    }

    /// Asks for whatever pending interfaces lack; `thorough`: also for the slow evidence.
    fn look_for_missing(&mut self, snapshot: &DockerSnapshot, thorough: bool) {
        let mut jobs = BTreeSet::new();
        for pending in &snapshot.pending {
            let on_bridge = |n: &&Network| n.bridge() == Some(pending.bridge.as_str());
            let Some(network) = self.picture.networks.values().find(on_bridge) else { continue };
            match pending.reason {
                PendingReason::NotHandedOver => {
                    // Only if there are fewer endpoints than interfaces: then this one's is missing.
                    let waiting = snapshot
                        .endpoints
                        .iter()
                        .filter(|e| e.network_id == network.id && e.veth.is_none());
                    let veths = snapshot.pending.iter().filter(|p| p.bridge == pending.bridge);
                    if veths.count() > waiting.count() {
                        jobs.insert(Job::List);
                        jobs.insert(Job::Network(network.id.clone()));
                    }
                }
                PendingReason::NoEndpoint => {
                    jobs.insert(Job::List);
                    jobs.insert(Job::Network(network.id.clone()));
                }
                PendingReason::NoOwner | PendingReason::Ambiguous => {
                    jobs.insert(Job::Owners);
                    if thorough && self.retry_after > SLOW_EVIDENCE_AFTER {
                        let running = self.picture.containers.values().filter(|c| c.running);
                        let on_it = running.filter(|c| c.networks.contains(&network.name));
                        jobs.extend(on_it.map(|c| Job::Sandbox(c.id.clone())));
                    }
                }
            }
        }
        if thorough && !self.listed {
            jobs.insert(Job::List);
        }
        if thorough {
            jobs.extend(self.unread.iter().map(|id| Job::Network(id.clone())));
        }
        for job in &jobs {
            self.ask(job);
        }
    }

    fn retry_soon(&mut self) {
        self.retry_at.get_or_insert_with(|| Instant::now() + self.retry_after);
    }

    /// Whether all that there is has been read: then what is absent from the snapshot is absent.
    fn complete(&mut self) -> bool {
        if !(self.docker.is_some() && self.listed && self.links_synced && self.unread.is_empty()) {
            return false;
        }
        if self.picture.engine == EngineState::Synced || self.unowned().is_empty() {
            return true;
        }
        // Interfaces of running containers must not look like nobody's.
        if !self.searched {
            self.ask(&Job::Owners);
        }
        self.searched && self.unverified.is_empty()
    }

    /// After each change: the engine's state, the snapshot, and when to look again.
    fn settle(&mut self) {
        if self.complete() {
            self.picture.engine = EngineState::Synced;
        }
        let snapshot = self.picture.resolve();
        if let Some(thorough) = self.look.take() {
            self.look_for_missing(&snapshot, thorough);
        }
        if !snapshot.pending.is_empty() || !self.unread.is_empty() {
            if self.docker.is_some() {
                self.retry_soon();
            }
        } else if self.listed {
            self.retry_at = None;
            self.retry_after = RETRY_FIRST;
        }
        if snapshot != *self.published {
            self.report(&snapshot);
            self.published = Arc::new(snapshot);
            self.unsent = true;
        }
    }

    /// Logs what an operator should know, once.
    fn report(&self, new: &DockerSnapshot) {
        for warning in new.warnings.difference(&self.published.warnings) {
            tracing::warn!(container = %warning.container_name, "{}", warning.message);
        }
        for unsupported in new.unsupported.difference(&self.published.unsupported) {
            tracing::warn!(container = %unsupported.container_name, "{}", unsupported.reason);
        }
        for pending in &new.pending {
            if pending.reason == PendingReason::Ambiguous
                && !self.published.pending.contains(pending)
            {
                tracing::error!(
                    interface = %pending.veth.name, bridge = %pending.bridge, "{}", pending.reason
                );
            }
        }
        let known: BTreeSet<_> = self.published.endpoints.iter().map(identified).collect();
        for endpoint in &new.endpoints {
            let Some(veth) = &endpoint.veth else { continue };
            if !known.contains(&identified(endpoint)) {
                tracing::info!(
                    container = %endpoint.container_name,
                    network = %endpoint.network,
                    interface = %veth.name,
                    "container interface identified"
                );
            }
        }
    }
}

fn identified(endpoint: &DockerEndpoint) -> (&str, &str, Option<&HostVeth>) {
    (&endpoint.container_id, &endpoint.network_id, endpoint.veth.as_ref())
}
