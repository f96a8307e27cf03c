//! The agent's API over its Unix socket, HTTP only. Input: messages of `policy-api`; output: its
//! answers, or the [`Failure`] that says why there is none. One connection a request: the socket
//! is local and a command makes one or two.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::TryStreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use policy_api::capture::{Captured, What};
use policy_api::connectivity::{Connectivity, DropCount};
use policy_api::difference::{DiffRequest, Difference};
use policy_api::flow::{FlowFilter, Observed};
use policy_api::messages::{
    ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, EndpointStatus, ExplainRequest,
    Explanation, Refusal, RuleCount, Status, StoredResource,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio_util::io::StreamReader;

use crate::failure::Failure;

/// Longest piece of a foreign answer that an error message quotes, in characters.
const QUOTED: usize = 200;

/// An agent.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    timeout: Duration,
}

impl Client {
    /// The agent on `socket`, which gets `timeout` for each answer.
    pub(crate) fn new(socket: PathBuf, timeout: Duration) -> Self {
        Client { socket, timeout }
    }

    pub(crate) async fn apply(&self, request: &ApplyRequest) -> Result<ApplyResponse, Failure> {
        self.post("/v1/apply", request).await
    }

    pub(crate) async fn delete(&self, request: &DeleteRequest) -> Result<DeleteResponse, Failure> {
        self.post("/v1/delete", request).await
    }

    pub(crate) async fn diff(&self, request: &DiffRequest) -> Result<Difference, Failure> {
        self.post("/v1/diff", request).await
    }

    /// Stored resources; the agent filters by what is given.
    pub(crate) async fn resources(
        &self,
        kind: Option<&str>,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Result<Vec<StoredResource>, Failure> {
        let filters = [("kind", kind), ("namespace", namespace), ("name", name)];
        let filters = filters.iter().filter_map(|(key, value)| value.map(|value| (*key, value)));
        self.get(&with_query("/v1/resources", filters)).await
    }

    pub(crate) async fn endpoints(&self) -> Result<Vec<EndpointStatus>, Failure> {
        self.get("/v1/endpoints").await
    }

    /// What rules have decided.
    pub(crate) async fn rules(&self) -> Result<Vec<RuleCount>, Failure> {
        self.get("/v1/rules").await
    }

    /// Who may reach whom.
    pub(crate) async fn connectivity(&self, staged: bool) -> Result<Connectivity, Failure> {
        let staged = staged.then_some(("staged", "true"));
        self.get(&with_query("/v1/connectivity", staged)).await
    }

    /// What was dropped, between whom, and why.
    pub(crate) async fn drops(&self) -> Result<Vec<DropCount>, Failure> {
        self.get("/v1/drops").await
    }

    pub(crate) async fn status(&self) -> Result<Status, Failure> {
        self.get("/v1/status").await
    }

    pub(crate) async fn explain(&self, request: &ExplainRequest) -> Result<Explanation, Failure> {
        self.post("/v1/explain", request).await
    }

    /// The newest `last` records that are wanted (as many as the agent chooses, if that is not said) and,
    /// if `follow`, those to come.
    pub(crate) async fn observe(
        &self,
        follow: bool,
        last: Option<usize>,
        filter: &FlowFilter,
    ) -> Result<Stream<'_, Observed>, Failure> {
        let last = last.map(|last| last.to_string());
        let filter = written(filter)?;
        let query = [
            Some(("follow", if follow { "true" } else { "false" })),
            last.as_deref().map(|last| ("last", last)),
            filter.as_deref().map(|filter| ("filter", filter)),
        ];
        let path = with_query("/v1/observe", query.into_iter().flatten());
        self.stream(&path, Observed::parse).await
    }

    /// Packets, at most `snap` bytes of each, for as long as this is read.
    pub(crate) async fn capture(
        &self,
        what: What,
        snap: u32,
        filter: &FlowFilter,
    ) -> Result<Stream<'_, Captured>, Failure> {
        let what = match what {
            What::Drops => "drops",
            What::Passes => "passes",
            What::All => "all",
        };
        let (snap, filter) = (snap.to_string(), written(filter)?);
        let query = [("what", what), ("snap", snap.as_str())].into_iter();
        let query = query.chain(filter.as_deref().map(|filter| ("filter", filter)));
        self.stream(&with_query("/v1/capture", query), |line| serde_json::from_str(line)).await
    }

    async fn stream<T>(
        &self,
        path: &str,
        parse: fn(&str) -> serde_json::Result<T>,
    ) -> Result<Stream<'_, T>, Failure> {
        let request = request(Method::GET, path, Bytes::new())?;
        let response = self.in_time(self.send(request)).await?;
        let response = self.check(response).await?;
        let body = response.into_body().into_data_stream().map_err(io::Error::other as BodyError);
        Ok(Stream { client: self, lines: BufReader::new(StreamReader::new(body)).lines(), parse })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(request(Method::GET, path, Bytes::new())?).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
    ) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(message).map_err(|error| Failure::Encode(error.to_string()))?;
        self.call(request(Method::POST, path, body.into())?).await
    }

    async fn call<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T, Failure> {
        let body = self
            .in_time(async {
                let response = self.send(request).await?;
                let response = self.check(response).await?;
                response.into_body().collect().await.map_err(broken)
            })
            .await?
            .to_bytes();
        serde_json::from_slice(&body).map_err(|error| self.not_understood(&body, &error))
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| {
            Err(Failure::Timeout { socket: self.socket.clone(), after: self.timeout })
        })
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.not_connected(error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Its errors reach us through the response.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| {
            // Something that is no HTTP server listens there.
            if error.is_parse() {
                Failure::Protocol { socket: self.socket.clone(), detail: error.to_string() }
            } else {
                broken(error)
            }
        })
    }

    /// Any answer but success carries a [`Refusal`].
    async fn check(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(Refusal { error, diagnostics }) => Err(Failure::Refused { error, diagnostics }),
            Err(_) => Err(Failure::Protocol {
                socket: self.socket.clone(),
                detail: format!("status {status}, {}", quote(&body)),
            }),
        }
    }

    fn not_connected(&self, error: io::Error) -> Failure {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::SocketPermission(socket),
            // The kernel also refuses a connection to a file of another type.
            io::ErrorKind::ConnectionRefused
                if socket.metadata().is_ok_and(|it| !it.file_type().is_socket()) =>
            {
                Failure::NotASocket(socket)
            }
            _ => Failure::NoAgent { socket, source: error },
        }
    }

    fn not_understood(&self, body: &[u8], error: &serde_json::Error) -> Failure {
        Failure::Protocol {
            socket: self.socket.clone(),
            detail: format!("{error} in {}", quote(body)),
        }
    }
}

type BodyError = fn(hyper::Error) -> io::Error;
type BodyStream = futures_util::stream::MapErr<http_body_util::BodyDataStream<Incoming>, BodyError>;

/// Records as the agent sends them.
pub(crate) struct Stream<'a, T> {
    client: &'a Client,
    lines: Lines<BufReader<StreamReader<BodyStream, Bytes>>>,
    parse: fn(&str) -> serde_json::Result<T>,
}

impl<T> Stream<'_, T> {
    /// The next line, `None` when the agent has sent all.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Failure> {
        while let Some(line) = self.lines.next_line().await.map_err(broken)? {
            if !line.trim().is_empty() {
                return (self.parse)(&line)
                    .map(Some)
                    .map_err(|error| self.client.not_understood(line.as_bytes(), &error));
            }
        }
        Ok(None)
    }
}

/// A filter as part of a request; `None` if it wants everything.
fn written(filter: &FlowFilter) -> Result<Option<String>, Failure> {
    let text = serde_json::to_string(filter).map_err(|error| Failure::Encode(error.to_string()))?;
    Ok((text != "{}").then_some(text))
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Connection(Box::new(error))
}

fn with_query<'a>(path: &str, query: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    // HTTP/1.1 wants a host; the socket has none.
    let request = Request::builder().method(method).uri(path).header(HOST, "localhost");
    let request =
        if body.is_empty() { request } else { request.header(CONTENT_TYPE, "application/json") };
    request.body(Full::new(body)).map_err(broken)
}

fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.is_empty() {
        return "an empty answer".to_owned();
    }
    let mut quoted: String = text.chars().take(QUOTED).collect();
    if quoted.len() < text.len() {
        quoted.push_str("...");
    }
    format!("`{quoted}`")
}
