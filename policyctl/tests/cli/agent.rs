//! A fake agent. Input: answers by method and path; output: the requests that came.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A request that came: `POST /v1/apply`, and its body if there was one.
pub(crate) type Seen = (String, Option<Value>);

#[derive(Default)]
struct Script {
    answers: HashMap<String, (u16, String)>,
    seen: Mutex<Vec<Seen>>,
}

/// Builder of a fake agent.
#[derive(Default)]
pub(crate) struct Answers(HashMap<String, (u16, String)>);

impl Answers {
    /// Answers `request`, such as `GET /v1/status` (any query), with a JSON body.
    pub(crate) fn json(self, request: &str, status: u16, body: &Value) -> Self {
        self.text(request, status, &body.to_string())
    }

    /// Answers `request` with a body as it is.
    pub(crate) fn text(mut self, request: &str, status: u16, body: &str) -> Self {
        self.0.insert(request.to_owned(), (status, body.to_owned()));
        self
    }

    /// Starts to listen.
    pub(crate) fn start(self) -> Agent {
        let directory = tempfile::tempdir().expect("temporary directory");
        let socket = directory.path().join("agent.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let script = Arc::new(Script { answers: self.0, ..Script::default() });
        let state = Arc::clone(&script);
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener).expect("listener");
                let router = Router::new().fallback(answer).with_state(state);
                tokio::select! {
                    served = async { axum::serve(listener, router).await } => served.expect("serve"),
                    _ = stopped => {}
                }
            });
        });
        Agent { _directory: directory, socket, script, stop: Some(stop), thread: Some(thread) }
    }
}

async fn answer(
    State(script): State<Arc<Script>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> (StatusCode, String) {
    let body = (!body.is_empty()).then(|| serde_json::from_slice(&body).expect("JSON request"));
    script.seen.lock().expect("lock").push((format!("{method} {uri}"), body));
    match script.answers.get(&format!("{method} {}", uri.path())) {
        Some((status, body)) => (StatusCode::from_u16(*status).expect("status"), body.clone()),
        None => (StatusCode::NOT_IMPLEMENTED, format!("no answer scripted for {method} {uri}")),
    }
}

/// A fake agent that listens until dropped.
pub(crate) struct Agent {
    _directory: TempDir,
    socket: PathBuf,
    script: Arc<Script>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.script.seen.lock().expect("lock").clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("fake agent");
        }
    }
}
