//! The event loop: the one place where anything changes.
//!
//! Inputs: requests of the API, the policy directory, Docker, the fence. For each it builds the
//! model anew, asks the compiler for a plan, has the plan carried out, and publishes the result.
//! Nothing is removed from the datapath before the store, the policy directory and Docker have all
//! been read once, and the kernel's interfaces and addresses with them.

mod publish;
mod requests;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use policy_api::diagnostic::Diagnostic;
use policy_common::abi::OpenedKey;
use policy_core::{
    compile::{Compiler, Planned},
    model::Model,
    peers::PeerName,
    shared::Shared,
};
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tracing::{debug, error, info, warn};

use crate::{
    config::Config,
    fence::{Fence, FenceEvent, Scope, Stage, View},
    inventory::Inventory,
    kernel::maps::{Maps, WriteError},
    metrics::Metrics,
    policy_dir::PolicyDir,
    published::Published,
    resources::Resources,
    server::Request,
    source::docker::DockerSource,
    store::{Store, StoreError, numbers::Numbers},
};

/// News that come within this time of each other are acted on together: a burst of container starts
/// brings thousands. Short against the 20 ms that a container's first packet takes at the least.
const GATHER: Duration = Duration::from_millis(2);
/// The policy directory is read when nothing has changed in it for so long: copying or removing
/// several files is one change to whoever does it.
const QUIET: Duration = Duration::from_millis(200);
/// How long interfaces that were there before the agent may wait for their policy before they are
/// fenced without it.
const SETTLE: Duration = Duration::from_secs(5);
/// How often what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// File of the names of interfaces that are or were fenced.
const INTERFACES: &str = "interfaces";
/// File of the last good content of the policy directory.
const POLICY_DIR: &str = "policy-dir";
/// File of the drop totals of interfaces that are gone.
const RETIRED: &str = "totals";

/// Everything that the loop owns.
pub struct Agent {
    config: Config,
    store: Store,
    numbers: Numbers,
    policy_dir: PolicyDir,
    fence: Fence,
    fence_events: mpsc::UnboundedReceiver<FenceEvent>,
    docker: Option<DockerSource>,
    maps: Maps,
    compiler: Compiler,
    resources: Arc<Resources>,
    /// What they alone decide of the model.
    base: Model,
    inventory: Inventory,
    model: Arc<Model>,
    /// Whether the datapath is known to hold `model`.
    in_step: bool,
    names: Shared<BTreeMap<u32, PeerName>>,
    /// What was last said of who is there, and of what it was said.
    portrait: publish::Portrait,
    /// Whether interfaces that went while no agent ran have been looked for.
    swept: bool,
    /// What the policy directory held when it was last good.
    files: Option<Vec<(PathBuf, Value)>>,
    /// What is wrong with the policy directory or the datapath, if anything is.
    policy_dir_error: Option<String>,
    datapath_error: Option<String>,
    /// What is wrong with the store, as it was last asked.
    store_error: Option<String>,
    published: watch::Sender<Arc<Published>>,
    metrics: Arc<Metrics>,
}

/// The parts that `main` has opened.
pub struct Parts {
    /// Settings.
    pub config: Config,
    /// State directory.
    pub store: Store,
    /// Fence, running.
    pub fence: Fence,
    /// News from it.
    pub fence_events: mpsc::UnboundedReceiver<FenceEvent>,
    /// Docker source, running.
    pub docker: Option<DockerSource>,
    /// Maps.
    pub maps: Maps,
    /// Where to publish; holds the empty state.
    pub published: watch::Sender<Arc<Published>>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Agent {
    /// Reads the store, the policy directory and the maps.
    ///
    /// # Errors
    ///
    /// The store or the maps cannot be read. An error in the policy directory is reported, and its
    /// last good content, which the store has, stays in force.
    pub fn new(parts: Parts) -> Result<Agent> {
        let Parts { config, store, fence, fence_events, docker, mut maps, published, metrics } =
            parts;
        let policy_dir = PolicyDir::watch(&config.policy_dir);
        let resources = Resources::stored(store.resources()?)
            .map_err(|diagnostics| unusable(&diagnostics))
            .context("the state directory holds a resource that this agent refuses")?;
        // An agent that was killed may have left one on.
        maps.capture(None).context("ending a capture")?;
        let image = maps.image().context("reading the pinned maps")?;
        let (numbers, ids) = Numbers::open(store.dir())?;
        let names: BTreeMap<u32, PeerName> = store.get(INTERFACES)?.unwrap_or_default();
        let names = Shared::from(names);
        let inventory = Inventory::new(config.docker_socket.is_some(), &image);
        let compiler = Compiler::resume(image, ids);
        let model = Arc::new(Model { settings: config.policy, ..Model::default() });
        let mut agent = Agent {
            config,
            store,
            numbers,
            policy_dir,
            fence,
            fence_events,
            docker,
            maps,
            compiler,
            base: resources.base(model.settings),
            resources: Arc::new(resources),
            inventory,
            model,
            in_step: false,
            names,
            portrait: publish::Portrait::default(),
            swept: false,
            files: None,
            policy_dir_error: None,
            datapath_error: None,
            store_error: None,
            published,
            metrics,
        };
        agent.read_policy_dir();
        if agent.policy_dir_error.is_some() {
            agent.recall_policy_dir()?;
        }
        // Whoever asks from the first moment on gets an answer that means something.
        agent.reconcile();
        Ok(agent)
    }

    /// Runs until `stop` resolves.
    ///
    /// # Errors
    ///
    /// Containers can no longer be followed.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        tokio::pin!(stop);
        let mut settle = Box::pin(tokio::time::sleep(SETTLE));
        let mut settled = false;
        let mut due: Option<tokio::time::Instant> = None;
        let mut quiet: Option<tokio::time::Instant> = None;
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let soon = || Some(tokio::time::Instant::now() + GATHER);
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = tokio::time::sleep_until(due.unwrap_or_else(far)), if due.is_some() => {
                    due = None;
                    self.reconcile();
                }
                Some(event) = self.fence_events.recv() => {
                    self.fence_news(event);
                    due = due.or_else(soon);
                }
                snapshot = next_snapshot(&mut self.docker) => match snapshot {
                    Some(snapshot) => {
                        self.inventory.docker(snapshot);
                        due = due.or_else(soon);
                    }
                    // Enforcement goes on, and the next start follows containers again.
                    None => bail!("the Docker source has ended"),
                },
                Some(request) = requests.recv() => self.serve(request),
                () = self.policy_dir.changed() => {
                    quiet = Some(tokio::time::Instant::now() + QUIET);
                }
                () = tokio::time::sleep_until(quiet.unwrap_or_else(far)), if quiet.is_some() => {
                    quiet = None;
                    self.read_policy_dir();
                    due = due.or_else(soon);
                }
                _ = retry.tick() => {
                    if self.policy_dir_error.is_some() {
                        self.read_policy_dir();
                        due = due.or_else(soon);
                    }
                    if self.datapath_error.is_some() {
                        due = due.or_else(soon);
                    }
                    self.tidy_up();
                }
                () = &mut settle, if !settled => {
                    settled = true;
                    if !self.fence.settled() {
                        warn!("not everything could be read yet: fencing what is there");
                        let scope = self.scope();
                        self.fence.manage(scope, Stage::Endpoints);
                    }
                }
            }
        }
        // Nobody reads any more what the programs would show.
        if let Err(error) = self.maps.capture(None) {
            warn!(%error, "a capture goes on that nobody reads");
        }
        info!("stopping; enforcement goes on");
        Ok(())
    }

    /// Takes in what the fence has to say, all of it.
    fn fence_news(&mut self, first: FenceEvent) {
        let mut event = Some(first);
        let mut gone = BTreeSet::new();
        while let Some(news) = event {
            match news {
                FenceEvent::Changed => {}
                FenceEvent::Fenced { delay } => self.metrics.fenced(delay.as_secs_f64()),
                FenceEvent::Gone { ifindex } => {
                    gone.insert(ifindex);
                }
            }
            event = self.fence_events.try_recv().ok();
        }
        if !gone.is_empty() {
            self.retire(|ifindex| gone.contains(&ifindex));
        }
    }

    /// Keeps what interfaces that are gone have dropped and let through, and forgets them. Reads every
    /// counter: once for many interfaces, not once for each.
    fn retire(&mut self, gone: impl Fn(u32) -> bool) {
        self.retire_counters(|key| gone(key.ifindex));
        self.names.retain(|ifindex, _| !gone(*ifindex));
    }

    fn retire_counters(&self, gone: impl Fn(&OpenedKey) -> bool) {
        let published = Arc::clone(&self.published.borrow());
        if let Some(totals) = self.metrics.retire(gone, &published) {
            self.keep(RETIRED, &totals);
        }
    }

    /// Takes note of a plan that holds. What was counted of rules and peers that have lost their numbers
    /// is kept under their names: another may get the number with the next plan.
    fn commit(&mut self, planned: Planned) {
        let changes = planned.id_changes();
        let (rules, peers) = (changes.freed_rules(), changes.freed_peers());
        if !rules.is_empty() || !peers.is_empty() {
            let names = self.compiler.ids();
            let [freed_rules, freed_peers] =
                [rules, peers].map(|ids| ids.iter().copied().collect::<BTreeSet<u32>>());
            self.retire_counters(|key| {
                names.knows(key.rule, key.peer)
                    && (freed_rules.contains(&key.rule) || freed_peers.contains(&key.peer))
            });
        }
        self.metrics.clear(rules, changes.freed_logs());
        self.compiler.commit(planned);
    }

    /// What can wait until nothing else is to be done.
    fn tidy_up(&mut self) {
        if self.numbers.is_long()
            && let Err(error) = self.numbers.rewrite(self.compiler.ids())
        {
            warn!(%error, "cannot shorten the log of the numbers in the maps");
        }
        let trouble = self.store.trouble();
        if trouble != self.store_error {
            self.store_error = trouble;
            self.publish(&self.fence.view());
        }
    }

    fn keep<T: serde::Serialize>(&self, name: &str, value: &T) {
        if let Err(error) = self.store.put(name, value) {
            warn!(%error, "cannot keep state");
        }
    }

    fn read_policy_dir(&mut self) {
        self.policy_dir.rewatch();
        let read = self.policy_dir.read();
        match read.and_then(|files| Ok((self.with_files(files.clone())?, files))) {
            Ok((resources, files)) => {
                if self.files.as_ref() != Some(&files) {
                    self.keep(POLICY_DIR, &files);
                    self.files = Some(files);
                }
                self.follow(resources);
                self.policy_dir_error = None;
            }
            Err(diagnostics) => {
                let error = diagnostics.first().map(ToString::to_string);
                if self.policy_dir_error != error {
                    for diagnostic in &diagnostics {
                        error!(%diagnostic, "the policy directory is not followed: its last good state stays");
                    }
                }
                self.policy_dir_error = error;
            }
        }
    }

    /// The resources with this content of the policy directory, if all of it can be enforced:
    /// one file too many must not keep the next container from its policy.
    fn with_files(&mut self, files: Vec<(PathBuf, Value)>) -> Result<Resources, Vec<Diagnostic>> {
        let next = self.resources.with_files(self.resources.applied(), files)?;
        let next = next.succeeding(&self.resources)?;
        let conflicts = self.inventory.new_conflicts(&self.resources, &next);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        if self.complete() {
            let base = next.base(self.config.policy);
            let model = self.inventory.model(&self.config, &next, &base, &self.fence.view());
            let planned = self.compiler.plan(&model);
            planned.map_err(|error| vec![Diagnostic::error("", error.to_string())])?;
        }
        Ok(next)
    }

    /// Goes on with what the policy directory held when an earlier agent last followed it.
    fn recall_policy_dir(&mut self) -> Result<(), StoreError> {
        let Some(files) = self.store.get(POLICY_DIR)? else { return Ok(()) };
        match self.resources.with_files(self.resources.applied(), files) {
            Ok(resources) => self.follow(resources),
            Err(diagnostics) => {
                for diagnostic in &diagnostics {
                    error!(%diagnostic, "the policy directory's last good state cannot be used");
                }
            }
        }
        Ok(())
    }

    fn follow(&mut self, resources: Resources) {
        self.base = resources.base(self.config.policy);
        self.resources = Arc::new(resources);
    }

    /// Whether everything has been read that may be concluded from: what is absent is gone.
    fn complete(&self) -> bool {
        self.fence.synced() && self.inventory.complete()
    }

    /// Brings the datapath to what the inputs say now.
    fn reconcile(&mut self) {
        let started = Instant::now();
        let view = self.fence.view();
        if view.synced && !self.swept {
            self.swept = true;
            // Under the names that they had.
            self.publish(&view);
            self.retire(|ifindex| !view.links.contains_key(&ifindex));
            // Left by an agent that was killed before it could give them their names.
            let ids = self.compiler.ids().names().clone();
            self.retire_counters(|key| !ids.knows(key.rule, key.peer));
        }
        let complete = view.synced && self.inventory.complete();
        if complete {
            // Before anything is pruned: they may have been there before this agent.
            self.fence.expect_inside(self.inventory.insiders(&self.config));
            self.keep_up(&self.fence.view(), started);
        }
        let scope = self.scope();
        if complete && self.inventory.read_all() {
            self.fence.manage(scope.clone(), Stage::Endpoints);
            // The guard opens for what has just been fenced, and only then goes up itself.
            self.keep_up(&self.fence.view(), started);
            self.fence.manage(scope, Stage::All);
        } else {
            self.fence.manage(scope, Stage::Waiting);
        }
        self.publish(&self.fence.view());
    }

    /// Brings the datapath to what the inputs say, if it is not there.
    fn keep_up(&mut self, view: &Shared<View>, started: Instant) {
        let model = self.inventory.model(&self.config, &self.resources, &self.base, view);
        if !self.in_step || model != *self.model {
            self.enforce(model, started);
        }
    }

    /// Compiles a model and carries it out.
    fn enforce(&mut self, model: Model, started: Instant) {
        let planned = match self.compiler.plan(&model) {
            Ok(planned) => planned,
            Err(error) => return self.failed(&error.to_string()),
        };
        match self.execute(planned) {
            Ok(()) => {
                self.model = Arc::new(model);
                self.in_step = true;
                self.datapath_error = None;
                self.metrics.applied(started.elapsed().as_secs_f64());
            }
            Err(error) => self.failed(&error.to_string()),
        }
    }

    /// Which interfaces need programs now.
    fn scope(&self) -> Scope {
        let view = self.fence.view();
        self.inventory.scope(&self.config, &self.resources, &self.base, &view)
    }

    fn failed(&mut self, reason: &str) {
        self.in_step = false;
        if self.datapath_error.as_deref() != Some(reason) {
            error!(reason, "the datapath does not hold the newest state");
        }
        self.datapath_error = Some(reason.to_owned());
    }

    /// Carries out a plan and takes note of it. On failure the maps are read back.
    fn execute(&mut self, planned: Planned) -> Result<(), ExecuteError> {
        self.numbers.record(planned.id_changes(), || self.compiler.written(&planned))?;
        if planned.plan.ops.is_empty() {
            self.commit(planned);
            return Ok(());
        }
        let ops = planned.plan.ops.len();
        match self.maps.execute(&planned.plan.ops) {
            Ok(()) => {
                debug!(ops, revision = planned.plan.revision, "datapath changed");
                self.commit(planned);
                Ok(())
            }
            Err(error) => {
                // Some of the plan is in the maps, whatever model it came from.
                self.in_step = false;
                let image = self.maps.image()?;
                self.compiler = Compiler::resume(image, self.compiler.written(&planned));
                Err(error.into())
            }
        }
    }
}

/// A time that does not come.
fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(3600)
}

/// The next snapshot, never if there is no Docker.
async fn next_snapshot(
    docker: &mut Option<DockerSource>,
) -> Option<Arc<crate::source::docker::DockerSnapshot>> {
    match docker {
        Some(docker) => docker.next().await,
        None => std::future::pending().await,
    }
}

/// Totals of drops and flows that an earlier agent kept.
///
/// # Errors
///
/// [`StoreError`].
pub fn retired(store: &Store) -> Result<crate::metrics::Kept, StoreError> {
    Ok(store.get(RETIRED)?.unwrap_or_default())
}

#[derive(Debug, thiserror::Error)]
enum ExecuteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("reading the maps back: {0}")]
    Image(#[from] aya::maps::MapError),
}

fn unusable(diagnostics: &[Diagnostic]) -> anyhow::Error {
    let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    anyhow::anyhow!(lines.join("\n"))
}
