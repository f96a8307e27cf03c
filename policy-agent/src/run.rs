//! From arguments to a running agent: opens everything in order, closes it again.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use aya_log::EbpfLogger;
use policy_core::{ids::Names, model::Model};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    agent::{self, Agent, Parts},
    config::{Cli, Command, Config, LogFormat},
    conntrack::{self, Census, Following},
    fence::{Fence, Scope},
    flow_log,
    flows::{Tally, Tracker},
    history::{self, History},
    kernel::{
        attach::{self, Attacher},
        counters::Counters,
        events::{Events, forward_log},
        features::Features,
        flows::Flows,
        inside, load,
        maps::Maps,
        pin::Pins,
    },
    ledger::Ledger,
    metrics::{Metrics, Told},
    observer::Observer,
    published::{self, Published},
    server,
    source::docker::DockerSource,
    store::{self, Store},
};

/// Requests that may wait for the event loop.
const REQUESTS: usize = 64;
/// Searches through the history at one time.
const SEARCHES: usize = 8;

/// Does what the arguments say.
///
/// # Errors
///
/// What went wrong, for people.
pub fn main(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Run(options) => {
            let config = options.resolve()?;
            start_log(config.log_format);
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .context("starting the runtime")?
                .block_on(run(config))
        }
        Command::Unload(options) => unload(&options.resolve()?),
    }
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("PALISADE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

fn unload(config: &Config) -> Result<()> {
    if std::os::unix::net::UnixStream::connect(&config.socket).is_ok() {
        bail!(
            "an agent is running (it answers on {}): stop it first, then unload",
            config.socket.display()
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("not allowed to take programs off: run policy-agent unload as root");
    }
    // An agent on another socket would only put them back.
    let _lock = config.state_dir.is_dir().then(|| store::lock(&config.state_dir)).transpose()?;
    let pins = Pins::new(&config.bpffs_dir);
    let programs = inside::unload(&pins)? + attach::unload(&pins)?;
    println!("{programs} programs taken off, maps removed; nothing is enforced on this host now");
    Ok(())
}

async fn run(config: Config) -> Result<()> {
    let features = Features::probe(config.attachment)?;
    let pins = Pins::new(&config.bpffs_dir);
    pins.prepare()?;
    // Before anything is touched: a second agent on the same state must not get further.
    let listener = server::listen(&config.socket).await?;
    let metrics_listener = server::listen_metrics(config.metrics_address).await?;
    let store = Store::open(&config.state_dir)?;

    let mut ebpf = load::load(&pins, features, config.sizes)?;
    let kernel_log = EbpfLogger::init(&mut ebpf).context("reading the programs' log")?;
    let mut attacher = Attacher::new(ebpf, pins.clone(), features);
    // An object of its own: its programs are loaded beside everything else, and nobody who fences a
    // veth waits for them.
    let mut ebpf = load::prepare(&pins, features, config.sizes)?;
    let inside_log = EbpfLogger::init(&mut ebpf).context("reading the programs' log")?;
    let inside = Attacher::new(ebpf, pins.clone(), features);
    let attached = attacher.adopt()?;
    info!(links = attached.len(), "programs loaded");
    let maps = Maps::open(&pins)?;

    let (fence_sender, fence_events) = mpsc::unbounded_channel();
    let scope = Scope {
        docker_bridges: config.docker_socket.is_some() && !config.only_bridges,
        bridges: config.bridges.iter().cloned().collect(),
        uplinks: config.uplinks.iter().cloned().collect(),
        ..Scope::default()
    };
    let fence = Fence::start(attacher, inside, attached, scope, fence_sender)?;
    let docker = match &config.docker_socket {
        Some(socket) => {
            if !socket.exists() {
                warn!(
                    socket = %socket.display(),
                    "there is no Docker socket; waiting for one (--docker-host none to do without)"
                );
            }
            Some(DockerSource::start(socket.clone())?)
        }
        None => None,
    };

    let (published, readers) = watch::channel(Arc::new(Published {
        started: Instant::now(),
        ready: false,
        model: Arc::new(Model { settings: config.policy, ..Model::default() }),
        ids: Names::default(),
        resources: Arc::default(),
        endpoints: Arc::default(),
        interfaces: Arc::new(BTreeMap::new()),
        owners: Arc::default(),
        places: Arc::default(),
        revision: 0,
        usage: Vec::new(),
        components: Vec::new(),
        features: features.describe(),
    }));
    let (census, counted) = watch::channel(Census::default());
    let standing = config.history.map(|_| Arc::<history::Standing>::default());
    let observer = Observer::new(standing.clone());
    let history = match config.history.zip(standing.clone()) {
        Some((bounds, standing)) => {
            let folder = store.dir().join("history");
            let history = History::start(&folder, bounds, observer.clone(), standing);
            Some(history.context("starting the history")?)
        }
        None => None,
    };
    let flow_log = match config.flow_log.clone() {
        Some(log) => {
            let (path, ledger) = (log.path.clone(), Arc::<Ledger>::default());
            flow_log::start(log, observer.live(), &ledger).context("starting the flow log")?;
            Some((path, ledger))
        }
        None => None,
    };
    let keepers = published::Keepers { flow_log, history: standing };
    let tally = config.flow_records.then(Arc::<Tally>::default);
    let metrics = Arc::new(Metrics::new(Told {
        counters: Counters::open(&pins)?,
        published: readers.clone(),
        kept: agent::retired(&store)?,
        bounds: config.metrics,
        census: counted.clone(),
        tally: tally.clone(),
        keepers: keepers.clone(),
    }));
    let following = tally.map(|tally| Following {
        tracker: Tracker::new(tally, Arc::clone(&readers.borrow())),
        published: readers.clone(),
        observer: observer.clone(),
    });
    let census = tokio::spawn(conntrack::watch(Flows::open(&pins)?, following, census));
    let events = Events::open(&pins)?;
    let reader = tokio::spawn(part("drop events", observer.clone().run(events, readers.clone())));
    let kernel_log = tokio::spawn(part("log of the programs", forward_log(kernel_log)));
    let inside_log = tokio::spawn(part("log of the programs", forward_log(inside_log)));

    let (request_sender, requests) = mpsc::channel(REQUESTS);
    let api = server::api(server::Api {
        requests: request_sender,
        published: readers,
        observer,
        metrics: Arc::clone(&metrics),
        census: counted,
        comparing: Arc::new(tokio::sync::Semaphore::new(1)),
        keepers,
        searching: Arc::new(Semaphore::new(SEARCHES)),
        capturing: Arc::new(Semaphore::new(1)),
        pins: pins.clone(),
    });
    let metrics_routes = server::metrics(Arc::clone(&metrics));
    let socket = config.socket.clone();
    let agent =
        Agent::new(Parts { config, store, fence, fence_events, docker, maps, published, metrics })?;
    // Before anybody is told that the agent is there: whoever stops it then must be heard.
    let stop = stopped()?;
    let api = tokio::spawn(part("API", axum::serve(listener, api).into_future()));
    let metrics = axum::serve(metrics_listener, metrics_routes).into_future();
    let metrics = tokio::spawn(part("metrics", metrics));
    info!(socket = %socket.display(), "ready");
    let ended = agent.run(requests, stop).await;

    // What has come so far is in it, however this ends.
    drop(history);
    for task in [reader, kernel_log, inside_log, census, api, metrics] {
        task.abort();
    }
    // A socket nobody listens on would look like an agent that hangs.
    if let Err(error) = std::fs::remove_file(&socket) {
        warn!(%error, "cannot remove the socket");
    }
    ended
}

/// Says at once when a part of the agent ends, not when the agent does.
async fn part(name: &'static str, run: impl Future<Output = io::Result<()>>) {
    if let Err(error) = run.await {
        error!(part = name, %error, "a part of the agent has failed; enforcement goes on");
    }
}

/// Resolves at SIGTERM or SIGINT.
fn stopped() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
