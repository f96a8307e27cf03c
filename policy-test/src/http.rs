//! One HTTP request and its answer.
//!
//! Inputs: a Unix socket, or a TCP address in a namespace. Outputs: status and body.

use std::{net::SocketAddr, os::unix::net::UnixStream, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::netns::NetNs;

/// For the whole exchange.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text; bytes that are none are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// If it is not that, with status and body.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("answer {}: {}", self.status, self.text()))
    }
}

/// Asks over a Unix socket. `body` is JSON.
///
/// # Errors
/// If there is no answer within 30 s; an answer with a bad status is none.
pub fn over_unix(socket: &Path, method: &str, path: &str, body: Option<&str>) -> Result<Answer> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_nonblocking(true)?;
    exchange(method, path, body, || tokio::net::UnixStream::from_std(stream))
}

/// Sends a GET over TCP from `netns`.
///
/// # Errors
/// As [`over_unix`].
pub fn get_over_tcp(netns: &NetNs, to: SocketAddr, path: &str) -> Result<Answer> {
    let stream = netns.tcp_connect(to, LIMIT).with_context(|| format!("connect to {to}"))?;
    stream.set_nonblocking(true)?;
    exchange("GET", path, None, || tokio::net::TcpStream::from_std(stream))
}

fn exchange<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    method: &str,
    path: &str,
    body: Option<&str>,
    stream: impl FnOnce() -> std::io::Result<S>,
) -> Result<Answer> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default().to_owned())))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let asked = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream()?)).await?;
            let connection = tokio::spawn(connection);
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes().to_vec();
            connection.abort();
            anyhow::Ok(Answer { status, body })
        };
        tokio::time::timeout(LIMIT, asked)
            .await
            .with_context(|| format!("{method} {path}: no answer within {} s", LIMIT.as_secs()))?
            .with_context(|| format!("{method} {path}"))
    })
}
