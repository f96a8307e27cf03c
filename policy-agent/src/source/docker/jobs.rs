//! Questions to the engine and to the process table, each in a task of its own.
//!
//! Input: [`Job`]s. Output: [`Answer`]s. Equal jobs never overlap: one that is asked for while it
//! runs runs once more afterwards, since the first may have looked too early. So there are never
//! more tasks than containers and networks, and one answer that blocks (inspecting a container that
//! starts, inspecting the network it joins) holds up nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    future::Future,
    sync::Arc,
    time::Duration,
};

use bollard::{
    Docker,
    errors::Error as ApiError,
    query_parameters::{
        InspectContainerOptions, InspectNetworkOptions, ListContainersOptionsBuilder,
        ListNetworksOptions,
    },
};
use tokio::{sync::Semaphore, task::JoinSet, time};

use super::{
    owners,
    wire::{self, Attachment, Container, Network},
};
use crate::netlink::Netlink;

const LIST_TIMEOUT: Duration = Duration::from_secs(20);
const NETWORK_TIMEOUT: Duration = Duration::from_secs(10);
/// A container that starts answers when its start has ended.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests to the engine at one time, by kind.
const CONCURRENT_NETWORKS: usize = 8;
const CONCURRENT_INSPECTS: usize = 4;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    /// All containers and networks.
    List,
    /// The endpoints of a network.
    Network(String),
    /// The sandbox of a container.
    Sandbox(String),
    /// The owners of the namespaces that host veths lead to.
    Owners,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Answer {
    List(Vec<Container>, Vec<Network>),
    Network(Vec<Attachment>),
    /// Namespace id, if the namespace exists and an interface here leads to it.
    Sandbox(Option<i32>),
    Owners(BTreeMap<i32, BTreeSet<String>>),
    /// There is no such container or network.
    Absent,
    Failed(String),
}

/// Runs jobs.
#[derive(Debug)]
pub(super) struct Jobs {
    tasks: JoinSet<(Job, Answer)>,
    /// Running jobs, and whether each has been asked for again.
    running: BTreeMap<Job, bool>,
    networks: Arc<Semaphore>,
    inspects: Arc<Semaphore>,
}

impl Jobs {
    pub(super) fn new() -> Self {
        Jobs {
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            networks: Arc::new(Semaphore::new(CONCURRENT_NETWORKS)),
            inspects: Arc::new(Semaphore::new(CONCURRENT_INSPECTS)),
        }
    }

    /// Forgets all jobs; their answers will not come.
    pub(super) fn abandon(&mut self) {
        *self = Jobs::new();
    }

    /// Whether it may start now; if not, it is noted for later.
    fn admit(&mut self, job: &Job) -> bool {
        match self.running.get_mut(job) {
            Some(again) => {
                *again = true;
                false
            }
            None => {
                self.running.insert(job.clone(), false);
                true
            }
        }
    }

    pub(super) fn list(&mut self, docker: &Docker) {
        if self.admit(&Job::List) {
            let docker = docker.clone();
            self.tasks.spawn(async move { (Job::List, within(LIST_TIMEOUT, list(&docker)).await) });
        }
    }

    pub(super) fn network(&mut self, docker: &Docker, id: &str) {
        let job = Job::Network(id.to_owned());
        if self.admit(&job) {
            let (docker, id, limit) = (docker.clone(), id.to_owned(), Arc::clone(&self.networks));
            self.tasks.spawn(async move {
                let _permit = limit.acquire().await;
                (job, within(NETWORK_TIMEOUT, network(&docker, &id)).await)
            });
        }
    }

    pub(super) fn sandbox(&mut self, docker: &Docker, id: &str) {
        let job = Job::Sandbox(id.to_owned());
        if self.admit(&job) {
            let (docker, id, limit) = (docker.clone(), id.to_owned(), Arc::clone(&self.inspects));
            self.tasks.spawn(async move {
                let _permit = limit.acquire().await;
                (job, within(INSPECT_TIMEOUT, sandbox(&docker, &id)).await)
            });
        }
    }

    pub(super) fn owners(&mut self, wanted: BTreeSet<i32>) {
        if self.admit(&Job::Owners) {
            self.tasks.spawn_blocking(move || {
                let answer = owners::owners(&wanted)
                    .map_or_else(|error| Answer::Failed(error.to_string()), Answer::Owners);
                (Job::Owners, answer)
            });
        }
    }

    /// The next answer, and whether the job was asked for again meanwhile. Pends while none runs.
    pub(super) async fn next(&mut self) -> (Job, Answer, bool) {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((job, answer))) => {
                    let again = self.running.remove(&job).unwrap_or_default();
                    return (job, answer, again);
                }
                // Only a bug can bring us here. Which job it was is not known, so all start afresh;
                // the periodic resync asks again.
                Some(Err(error)) => {
                    tracing::error!(%error, "a question to the engine crashed");
                    self.abandon();
                }
                None => std::future::pending().await,
            }
        }
    }
}

async fn within(limit: Duration, answer: impl Future<Output = Result<Answer, ApiError>>) -> Answer {
    match time::timeout(limit, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(ApiError::DockerResponseServerError { status_code: 404, .. })) => Answer::Absent,
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(_) => Answer::Failed(format!("no answer within {} s", limit.as_secs())),
    }
}

async fn list(docker: &Docker) -> Result<Answer, ApiError> {
    let all = ListContainersOptionsBuilder::default().all(true).build();
    let (containers, networks) = tokio::try_join!(
        docker.list_containers(Some(all)),
        docker.list_networks(None::<ListNetworksOptions>),
    )?;
    Ok(Answer::List(
        containers.into_iter().map(Container::from).filter(|c| !c.id.is_empty()).collect(),
        networks.into_iter().map(Network::from).filter(|n| !n.id.is_empty()).collect(),
    ))
}

async fn network(docker: &Docker, id: &str) -> Result<Answer, ApiError> {
    let network = docker.inspect_network(id, None::<InspectNetworkOptions>).await?;
    let endpoints = network.containers.unwrap_or_default();
    Ok(Answer::Network(
        endpoints.into_iter().map(|(key, resource)| wire::attachment(key, resource)).collect(),
    ))
}

async fn sandbox(docker: &Docker, id: &str) -> Result<Answer, ApiError> {
    let container = docker.inspect_container(id, None::<InspectContainerOptions>).await?;
    let key = container.network_settings.and_then(|settings| settings.sandbox_key);
    let key = key.filter(|key| !key.is_empty());
    let pid = container.state.and_then(|state| state.pid).filter(|pid| *pid > 0);
    let id = container.id.unwrap_or_default();
    let asked = tokio::task::spawn_blocking(move || nsid(&id, key.as_deref(), pid)).await;
    Ok(match asked {
        Ok(Ok(nsid)) => Answer::Sandbox(nsid),
        Ok(Err(error)) => Answer::Failed(error),
        Err(error) => Answer::Failed(error.to_string()),
    })
}

/// The id of a container's network namespace, by the engine's file for it or else by the first
/// process.
///
/// The file comes first: a first process with CAP_SYS_ADMIN may have left. But the file is out of
/// sight if the engine has a mount namespace of its own.
fn nsid(id: &str, key: Option<&str>, pid: Option<i64>) -> Result<Option<i32>, String> {
    let mut netlink = Netlink::open().map_err(|error| error.to_string())?;
    let mut ask = |path: &str| {
        let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
        netlink.nsid_of(&file).map_err(|error| format!("{path}: {error}"))
    };
    let by_key = key.map_or_else(|| Err("no sandbox file".to_owned()), &mut ask);
    let (Err(reason), Some(pid)) = (&by_key, pid) else { return by_key };
    let nsid = ask(&format!("/proc/{pid}/ns/net"))?;
    // Checked after the namespace was opened: the number may be another process's by now, or
    // always have been, if the engine counts processes in another pid namespace.
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if owners::container_id(&cgroups) == Some(id) {
        Ok(nsid)
    } else {
        Err(format!("{reason}; process {pid} is not of this container"))
    }
}
