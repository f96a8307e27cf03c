//! The API: HTTP/1.1 with JSON over a Unix socket (`policy_api::messages`), and the metrics over
//! TCP. Reads are answered from what the event loop published; changes are sent to it.

mod capture;
mod observe;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, Query, Request as HttpRequest, State,
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use aya::maps::MapError;
use policy_api::{
    connectivity::{Connectivity, DropCount},
    diagnostic::Diagnostic,
    difference::{DiffRequest, Difference},
    messages::{
        ApplyRequest, ApplyResponse, DeleteRequest, EndpointStatus, ExplainRequest, Explanation,
        Refusal, ResourceName, RuleCount, RuleName, Status, StoredResource,
    },
};
use policy_common::abi::CaptureFilter;
use policy_core::{
    explain::{ExplainError, explain},
    model::Model,
    reach, validate,
};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch},
};

use crate::{
    conntrack::Census,
    kernel::pin::Pins,
    metrics::{Format, Metrics},
    observer::Observer,
    preview,
    published::{Keepers, Published},
    resources::Resources,
};

/// Largest request body: a million CIDRs as JSON are about 25 MB.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// What only the event loop can do: changes, and what takes all of its knowledge.
#[derive(Debug)]
pub enum Request {
    /// `POST /v1/apply`.
    Apply(ApplyRequest, oneshot::Sender<Answer>),
    /// `POST /v1/delete`.
    Delete(DeleteRequest, oneshot::Sender<Answer>),
    /// Part of `POST /v1/diff`: the models as they are and with other resources.
    Preview(Box<Preview>, oneshot::Sender<Result<[Model; 2], Refused>>),
    /// Part of `GET /v1/capture`: which packets the programs show whole from now on.
    Capture(Option<(u8, CaptureFilter)>, oneshot::Sender<Result<(), Refused>>),
}

/// Resources that somebody asks about.
#[derive(Debug)]
pub struct Preview {
    /// All that would be in force.
    pub resources: Resources,
    /// What they alone decide of the model.
    pub base: Model,
}

/// What the event loop says to a change.
pub type Answer = Result<Made, Refused>;

/// A change that holds, or would.
#[derive(Debug)]
pub struct Made {
    /// What to tell whoever asked for it.
    pub response: ApplyResponse,
    /// The model with it.
    pub model: Arc<Model>,
}

impl Made {
    /// The response, with what the whole model shows of the resources that were asked about.
    fn advised(self) -> ApplyResponse {
        let Made { mut response, model } = self;
        let results = response.results.iter().enumerate();
        let places: BTreeMap<_, _> =
            results.map(|(index, it)| (it.resource.clone(), index)).collect();
        let advice = validate::advice(&model, &places.keys().cloned().collect());
        response.warnings.extend(
            advice
                .into_iter()
                .map(|(name, found)| Diagnostic { resource: places.get(&name).copied(), ..found }),
        );
        response
    }
}

/// A refusal, with its HTTP status.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Status code.
    pub status: StatusCode,
    /// Body.
    pub refusal: Refusal,
}

impl Refused {
    /// A refusal of one sentence.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Refused { status, refusal: Refusal { error: error.into(), diagnostics: Vec::new() } }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.refusal)).into_response()
    }
}

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// To the event loop.
    pub requests: mpsc::Sender<Request>,
    /// From the event loop.
    pub published: watch::Receiver<Arc<Published>>,
    /// Drop records.
    pub observer: Observer,
    /// What the kernel counted.
    pub metrics: Arc<Metrics>,
    /// The newest count of connections.
    pub census: watch::Receiver<Census>,
    /// One permit: each comparison takes the memory of two compiled models.
    pub comparing: Arc<Semaphore>,
    /// How the flow log and the history do.
    pub keepers: Keepers,
    /// Permits of searches through it: each reads files as fast as it can.
    pub searching: Arc<Semaphore>,
    /// One permit, of the capture that there may be.
    pub capturing: Arc<Semaphore>,
    /// Where the maps are.
    pub pins: Pins,
}

/// Why nobody can reach the agent.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Another agent.
    #[error("another agent answers on {0}: stop it first, or choose another --socket")]
    Taken(PathBuf),
    /// The socket's path.
    #[error("cannot listen on {path}: {source}")]
    Socket {
        /// Path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The metrics' address.
    #[error("cannot listen on {address} for metrics: {source}; choose another --metrics-address")]
    Metrics {
        /// Address.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Opens the API's socket, for root and its group only.
///
/// # Errors
///
/// [`ServeError`].
pub async fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let fail = |source| ServeError::Socket { path: path.to_owned(), source };
    if UnixStream::connect(path).await.is_ok() {
        return Err(ServeError::Taken(path.to_owned()));
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    match fs::symlink_metadata(path) {
        // Left by an agent that was killed.
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(fail)?,
        Ok(_) => {
            let reason = "there is something that is no socket; choose another --socket";
            return Err(fail(io::Error::new(io::ErrorKind::AlreadyExists, reason)));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(fail)?;
    Ok(listener)
}

/// Opens the metrics' address.
///
/// # Errors
///
/// [`ServeError::Metrics`].
pub async fn listen_metrics(address: std::net::SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Metrics { address, source })
}

/// The API's routes.
pub fn api(api: Api) -> Router {
    Router::new()
        .route("/v1/apply", post(apply))
        .route("/v1/delete", post(delete))
        .route("/v1/diff", post(diff))
        .route("/v1/resources", get(resources))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/status", get(status))
        .route("/v1/rules", get(rules))
        .route("/v1/drops", get(drops))
        .route("/v1/connectivity", get(connectivity))
        .route("/v1/explain", post(explain_flow))
        .route("/v1/observe", get(observe::observe))
        .route("/v1/capture", get(capture::capture))
        .fallback(|| async { Refused::new(StatusCode::NOT_FOUND, "the agent has no such path") })
        .method_not_allowed_fallback(|| async {
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, "the agent does not do that on this path")
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(api)
}

/// The metrics' routes.
pub fn metrics(metrics: Arc<Metrics>) -> Router {
    let scrape = |State(metrics): State<Arc<Metrics>>, headers: HeaderMap| async move {
        let wanted = headers.get(header::ACCEPT).and_then(|wanted| wanted.to_str().ok());
        let format = Format::accepted(wanted.unwrap_or_default());
        // Reading the maps takes system calls by the thousand.
        let text = tokio::task::spawn_blocking(move || metrics.encode(format)).await;
        match text {
            Ok(Ok(text)) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
            Ok(Err(error)) => {
                (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    };
    Router::new().route("/metrics", get(scrape)).with_state(metrics)
}

/// A JSON body, or a [`Refusal`] that says what is wrong with it.
struct Body_<T>(T);

/// A request's body.
trait Form: DeserializeOwned {
    /// What its author has to send.
    const FORM: &'static str;
}

impl Form for ApplyRequest {
    const FORM: &'static str = "an object with `resources`";
}

impl Form for DeleteRequest {
    const FORM: &'static str = "an object with `resources`";
}

impl Form for ExplainRequest {
    const FORM: &'static str = "an object with `source`, `destination`, `protocol` and `port`";
}

impl Form for DiffRequest {
    const FORM: &'static str = "an object with `resources`, `delete`, `prune` and `staged`";
}

impl<T: Form, S: Send + Sync> FromRequest<S> for Body_<T> {
    type Rejection = Refused;

    async fn from_request(request: HttpRequest, state: &S) -> Result<Self, Refused> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| Refused::new(error.status(), error.body_text()))?;
        let refuse = |reason: String| Refused::new(StatusCode::BAD_REQUEST, reason);
        // Derived types read lists, too, as their fields in order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(refuse(format!("the body must be {}", T::FORM)));
        }
        serde_json::from_slice(&bytes)
            .map(Body_)
            .map_err(|error| refuse(format!("the request cannot be read: {error}")))
    }
}

/// What follows the `?`, or a [`Refusal`] that says what is wrong with it.
struct Query_<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query_<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Query(query) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| Refused::new(error.status(), error.body_text()))?;
        Ok(Query_(query))
    }
}

async fn ask<T>(
    api: &Api,
    request: impl FnOnce(oneshot::Sender<Result<T, Refused>>) -> Request,
) -> Result<Json<T>, Refused> {
    let stopping = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
    let (sender, answer) = oneshot::channel();
    api.requests.send(request(sender)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?.map(Json)
}

async fn apply(
    State(api): State<Api>,
    Body_(body): Body_<ApplyRequest>,
) -> Result<Json<ApplyResponse>, Refused> {
    let Json(made) = ask(&api, |sender| Request::Apply(body, sender)).await?;
    aside(move || made.advised()).await
}

async fn delete(
    State(api): State<Api>,
    Body_(body): Body_<DeleteRequest>,
) -> Result<Json<ApplyResponse>, Refused> {
    let Json(made) = ask(&api, |sender| Request::Delete(body, sender)).await?;
    Ok(Json(made.response))
}

async fn diff(
    State(api): State<Api>,
    Body_(body): Body_<DiffRequest>,
) -> Result<Json<Difference>, Refused> {
    let _one_at_a_time = compare_one(&api).await?;
    let published = Arc::clone(&api.published.borrow());
    let (now, settings) = (Arc::clone(&published.resources), published.model.settings);
    let Json(checked) = aside(move || preview::check(&now, body, settings)).await?;
    let (question, changes) = checked?;
    let Json(models) = ask(&api, |sender| Request::Preview(Box::new(question), sender)).await?;
    aside(move || changes.compare(&models)).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
}

async fn resources(
    State(api): State<Api>,
    Query_(filter): Query_<Filter>,
) -> Result<Json<Vec<StoredResource>>, Refused> {
    let published = Arc::clone(&api.published.borrow());
    let wanted = move |name: &ResourceName| {
        let Filter { kind, namespace, name: wanted } = &filter;
        kind.as_ref().is_none_or(|kind| *kind == name.kind)
            && wanted.as_ref().is_none_or(|wanted| *wanted == name.name)
            && namespace.as_ref().is_none_or(|wanted| name.namespace.as_ref() == Some(wanted))
    };
    aside(move || published.resources(wanted)).await
}

async fn endpoints(State(api): State<Api>) -> Result<Json<Vec<EndpointStatus>>, Refused> {
    let published = Arc::clone(&api.published.borrow());
    aside(move || published.endpoints()).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFilter {
    tier: Option<String>,
    namespace: Option<String>,
    policy: Option<String>,
}

async fn rules(
    State(api): State<Api>,
    Query_(filter): Query_<RuleFilter>,
) -> Result<Json<Vec<RuleCount>>, Refused> {
    let wanted = move |rule: &RuleName| {
        let RuleFilter { tier, namespace, policy } = &filter;
        let is = |wanted: &Option<String>, found: &String| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        is(tier, &rule.tier) && is(namespace, &rule.namespace) && is(policy, &rule.policy)
    };
    let metrics = api.metrics;
    let Json(counts) = aside(move || metrics.rules(wanted)).await?;
    counts.map(Json).map_err(|error| uncounted(&error))
}

async fn drops(State(api): State<Api>) -> Result<Json<Vec<DropCount>>, Refused> {
    let metrics = api.metrics;
    let Json(counts) = aside(move || metrics.drops()).await?;
    counts.map(Json).map_err(|error| uncounted(&error))
}

fn uncounted(error: &dyn std::error::Error) -> Refused {
    let text = format!("the kernel's counters cannot be read: {error}");
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, text)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    /// As if every staged policy were in force.
    staged: Option<bool>,
}

async fn connectivity(
    State(api): State<Api>,
    Query_(report): Query_<Report>,
) -> Result<Json<Connectivity>, Refused> {
    let _one_at_a_time = compare_one(&api).await?;
    let model = Arc::clone(&api.published.borrow().model);
    let metrics = Arc::clone(&api.metrics);
    let Json(found) = aside(move || {
        let mut found = match report.staged {
            Some(true) => reach::connectivity(&model.with_staged_enforced()),
            Some(false) | None => reach::connectivity(&model),
        };
        let counts = metrics.rules(|_| true)?;
        let packets: BTreeMap<&RuleName, u64> =
            counts.iter().map(|count| (&count.rule, count.packets)).collect();
        let deciding = found.connections.iter_mut().flat_map(|allowed| &mut allowed.allowed_by);
        for decided in deciding {
            decided.packets = packets.get(&decided.rule).copied();
        }
        Ok::<_, MapError>(found)
    })
    .await?;
    found.map(Json).map_err(|error| uncounted(&error))
}

/// Each comparison takes the memory of two compiled models.
async fn compare_one(api: &Api) -> Result<SemaphorePermit<'_>, Refused> {
    let stopping =
        |_| Refused::new(StatusCode::SERVICE_UNAVAILABLE, "no more comparisons are made");
    api.comparing.acquire().await.map_err(stopping)
}

/// An answer that takes more than a moment to compute, off the threads that serve.
async fn aside<T: Send + 'static>(
    compute: impl FnOnce() -> T + Send + 'static,
) -> Result<Json<T>, Refused> {
    tokio::task::spawn_blocking(compute).await.map(Json).map_err(|error| {
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer failed: {error}"))
    })
}

async fn status(State(api): State<Api>) -> Json<Status> {
    let mut status = api.published.borrow().status();
    status.maps.extend(api.census.borrow().usage());
    status.components.extend(api.keepers.components());
    Json(status)
}

async fn explain_flow(
    State(api): State<Api>,
    Body_(body): Body_<ExplainRequest>,
) -> Result<Json<Explanation>, Refused> {
    let model = Arc::clone(&api.published.borrow().model);
    let Json(explained) = aside(move || explain(&model, &body)).await?;
    explained.map(Json).map_err(|error| {
        let status = match &error {
            ExplainError::Unknown(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Refused::new(status, error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let first = listen(&path).await.unwrap();
        assert!(matches!(listen(&path).await, Err(ServeError::Taken(_))));
        drop(first);
        listen(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    }

    #[tokio::test]
    async fn a_file_in_the_place_of_the_socket_is_not_removed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = listen(file.path()).await.unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        assert!(file.path().exists());
    }
}
