//! A real Prometheus beside the agent, in a lab's host.
//!
//! Inputs: the example configuration. Outputs: answers of its HTTP API, as series.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{http, lab::Lab, process::Daemon};

/// A lab's host has all ports to itself.
const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9090);
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The examples' interval.
const INTERVAL: &str = "_interval: 15s";

/// Files of rules of `examples/prometheus`.
pub const RULES: [&str; 2] = ["palisade.recording.yml", "palisade.rules.yml"];
/// What rules look back: as they are, and in milliseconds.
const LOOKS_BACK: [&str; 2] = ["offset 5m", "[5m]"];

/// Labels of a series, without empty ones (to Prometheus they are absent) and the metric's name.
pub type Labels = BTreeMap<String, String>;
/// Values of a series, each with its time in ms since 1970.
pub type Points = Vec<(f64, f64)>;
/// Values by labels.
pub type Vector = BTreeMap<Labels, f64>;

/// Folder of a part of the examples.
#[must_use]
pub fn examples(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(part)
}

/// Runs `promtool` on files of `examples/prometheus`.
///
/// # Errors
/// If it is not installed, or objects; with what it said.
pub fn promtool(arguments: &[&str]) -> Result<()> {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(examples("prometheus"))
        .output()
        .context("start promtool (Debian package prometheus; `cargo xtask setup --for test`)")?;
    ensure!(
        output.status.success(),
        "promtool {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Has `promtool check metrics` look at metrics, in Prometheus' text format.
///
/// # Errors
/// If it is not installed, or objects; with what it said.
pub fn check_metrics(text: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start promtool (Debian package prometheus; `cargo xtask setup --for test`)")?;
    // It reads all before it says anything.
    child.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "promtool check metrics: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Rules, or the expression of one, that look back another time than five minutes.
#[must_use]
pub fn looking_back(text: &str, ms: u32) -> String {
    LOOKS_BACK.iter().fold(text.to_owned(), |text, words| {
        text.replace(words, &words.replace("5m", &format!("{ms}ms")))
    })
}

/// Running as long as it lives.
#[derive(Debug)]
pub struct Prometheus {
    lab: Lab,
    folder: PathBuf,
    daemon: Daemon,
}

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Answer<T> {
    Success { data: T },
    Error { error: String },
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Sample>),
    Matrix(Vec<Line>),
    Scalar((f64, String)),
}

#[derive(Deserialize)]
struct Sample {
    metric: Labels,
    value: (f64, String),
}

#[derive(Deserialize)]
struct Line {
    metric: Labels,
    values: Vec<(f64, String)>,
}

impl Prometheus {
    /// Starts it on the example configuration; only the intervals are shorter.
    ///
    /// # Errors
    /// If it is not installed, or does not answer; with the end of its log.
    pub fn start(lab: &Lab, interval: Duration) -> Result<Self> {
        let folder = lab.folder().join("prometheus");
        fs::create_dir(&folder)?;
        let interval = format!("_interval: {}ms", interval.as_millis());
        for name in [&["prometheus.yml"][..], &RULES].concat() {
            let text = fs::read_to_string(examples("prometheus").join(name))?;
            fs::write(folder.join(name), text.replace(INTERVAL, &interval))?;
        }
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={}", SocketAddr::from(ADDRESS)))
            .current_dir(&folder);
        let log = folder.join("log");
        let mut daemon = Daemon::start("prometheus", lab.host(), &mut command, &log)
            .context("Debian's package prometheus is needed: `cargo xtask setup --for test`")?;
        daemon.wait_ready(READY_LIMIT, || {
            http::get_over_tcp(lab.host(), ADDRESS.into(), "/-/ready")
                .is_ok_and(|answer| answer.status == 200)
        })?;
        Ok(Self { lab: lab.clone(), folder, daemon })
    }

    fn get<T: DeserializeOwned>(&self, path: &str, parameters: &[(&str, &str)]) -> Result<T> {
        let query =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let path = format!("{path}?{query}");
        let answer = http::get_over_tcp(self.lab.host(), ADDRESS.into(), &path)?;
        match answer.json()? {
            Answer::Success { data } => Ok(data),
            Answer::Error { error } => anyhow::bail!("{parameters:?}: {error}"),
        }
    }

    /// From now on, rules look back so many milliseconds.
    ///
    /// # Errors
    /// If it has ended.
    pub fn look_back(&self, ms: u32) -> Result<()> {
        for name in RULES {
            let text = fs::read_to_string(examples("prometheus").join(name))?;
            fs::write(self.folder.join(name), looking_back(&text, ms))?;
        }
        self.daemon.signal(Signal::SIGHUP)
    }

    /// The clock of the server, in ms since 1970.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn now(&self) -> Result<f64> {
        match self.get("/api/v1/query", &[("query", "time()")])? {
            Data::Scalar((seconds, _)) => Ok((seconds * 1000.0).round()),
            Data::Vector(_) | Data::Matrix(_) => anyhow::bail!("time() is no scalar"),
        }
    }

    /// An expression's value at a time, in ms since 1970.
    ///
    /// # Errors
    /// If there is no answer, or Prometheus refuses the expression.
    pub fn query(&self, expression: &str, at: f64) -> Result<Vector> {
        let at = (at / 1000.0).to_string();
        match self.get("/api/v1/query", &[("query", expression), ("time", &at)])? {
            Data::Vector(samples) => samples
                .into_iter()
                .map(|Sample { metric, value: (_, value) }| Ok((bare(metric), value.parse()?)))
                .collect(),
            Data::Scalar(_) | Data::Matrix(_) => anyhow::bail!("{expression} is no vector"),
        }
    }

    /// Each series of an expression in a range of ms since 1970, with a value for each step that has one.
    ///
    /// # Errors
    /// If there is no answer, or Prometheus refuses the expression.
    pub fn query_range(
        &self,
        expression: &str,
        (start, end): (f64, f64),
        step_ms: u32,
    ) -> Result<Vec<(Labels, Points)>> {
        let start = (start / 1000.0).to_string();
        let end = (end / 1000.0).to_string();
        let step = (f64::from(step_ms) / 1000.0).to_string();
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        match self.get("/api/v1/query_range", &parameters)? {
            Data::Matrix(lines) => lines
                .into_iter()
                .map(|Line { metric, values }| {
                    let point = |(seconds, value): (f64, String)| {
                        Ok(((seconds * 1000.0).round(), value.parse()?))
                    };
                    let points = values.into_iter().map(point).collect::<Result<Points>>()?;
                    Ok((bare(metric), points))
                })
                .collect(),
            Data::Scalar(_) | Data::Vector(_) => anyhow::bail!("{expression} is no matrix"),
        }
    }

    /// The values that a label has in the series of a selector.
    ///
    /// # Errors
    /// As [`Prometheus::query`].
    pub fn label_values(&self, label: &str, selector: &str) -> Result<Vec<String>> {
        self.get(&format!("/api/v1/label/{label}/values"), &[("match[]", selector)])
    }
}

fn bare(mut metric: Labels) -> Labels {
    metric.remove("__name__");
    metric.retain(|_, value| !value.is_empty());
    metric
}
