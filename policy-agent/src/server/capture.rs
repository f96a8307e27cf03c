//! `GET /v1/capture`: whole packets, as long as somebody reads them. One capture at a time: the programs have
//! one ring for it.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use policy_api::{
    capture::{Captured, MOST_BYTES, What},
    flow::FlowFilter,
};
use policy_common::abi::{CAPTURE_DROPS, CAPTURE_PASSES, CaptureFilter};
use policy_core::observe::Filter;
use serde::Deserialize;
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, mpsc, mpsc::error::SendTimeoutError, oneshot, watch},
    time,
};
use tracing::warn;

use super::{Api, Query_, Refused, Request};
use crate::{
    capture::{in_kernel, show},
    kernel::{captures::Captures, clock},
    published::Published,
};

/// So often the agent shows that it is there, and looks for what was lost.
const PULSE: Duration = Duration::from_secs(1);
/// Packets that are taken out of the ring at a time. One such batch is being made, one waits, one is on its way.
const BATCH: usize = 256;
/// Who takes nothing for so long, with the socket full, has lost the capture to whoever asks next.
const STALLED: Duration = Duration::from_secs(10);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    what: Option<What>,
    snap: Option<u32>,
    /// A [`FlowFilter`], as JSON.
    filter: Option<String>,
}

pub(super) async fn capture(
    State(api): State<Api>,
    Query_(wanted): Query_<Wanted>,
) -> Result<Response, Refused> {
    let wrong = |error: String| Refused::new(StatusCode::BAD_REQUEST, error);
    let filter = match &wanted.filter {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| wrong(format!("the filter is none: {error}")))?,
        None => FlowFilter::default(),
    };
    let filter = Filter::new(&filter).map_err(|error| wrong(error.to_string()))?;
    let snap = wanted.snap.unwrap_or(MOST_BYTES);
    if !(1..=MOST_BYTES).contains(&snap) {
        return Err(wrong(format!("{snap} bytes of a packet: it must be 1 to {MOST_BYTES}")));
    }
    let flags = match wanted.what.unwrap_or_default() {
        What::Drops => CAPTURE_DROPS,
        What::Passes => CAPTURE_PASSES,
        What::All => CAPTURE_DROPS | CAPTURE_PASSES,
    };
    let permit = Arc::clone(&api.capturing).try_acquire_owned().map_err(|_| {
        Refused::new(StatusCode::CONFLICT, "somebody else is capturing: one capture at a time")
    })?;
    let failed = |error: String| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let mut ring = Captures::open(&api.pins).map_err(|error| failed(error.to_string()))?;
    let lost = ring.lost().map_err(|error| failed(error.to_string()))?;
    // By no clock: the programs' one is some milliseconds behind, and the first packet is wanted, too.
    ring.clear();
    let on = Some((flags, in_kernel(&filter, snap)));
    // Before it is on: whoever goes away meanwhile leaves nothing behind.
    let off = Off { requests: api.requests.clone(), permit: Some(permit) };
    set(&api.requests, on).await?;
    let session = Session { ring, lost, filter, published: api.published.clone(), _off: off };
    let mut found = session.start();
    let lines = stream::poll_fn(move |context| {
        found.poll_recv(context).map(|lines| lines.map(Ok::<_, Infallible>))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// Ends the capture when nobody reads any more.
struct Off {
    requests: mpsc::Sender<Request>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Off {
    fn drop(&mut self) {
        let (requests, permit) = (self.requests.clone(), self.permit.take());
        tokio::spawn(async move {
            if let Err(error) = set(&requests, None).await {
                warn!(error = error.refusal.error, "a capture goes on that nobody reads");
            }
            // The next one begins when this one has ended.
            drop(permit);
        });
    }
}

async fn set(
    requests: &mpsc::Sender<Request>,
    wanted: Option<(u8, CaptureFilter)>,
) -> Result<(), Refused> {
    let gone = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
    let (answer, answered) = oneshot::channel();
    requests.send(Request::Capture(wanted, answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

struct Session {
    ring: Captures,
    /// Packets that had been lost so far.
    lost: u64,
    filter: Filter,
    published: watch::Receiver<Arc<Published>>,
    _off: Off,
}

impl Session {
    /// Captures until nobody takes any more what it finds.
    fn start(mut self) -> mpsc::Receiver<Bytes> {
        let (lines, taken) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let found = select! {
                    found = self.next() => found,
                    () = lines.closed() => None,
                };
                let Some(found) = found else { return };
                match lines.send_timeout(found, STALLED).await {
                    Ok(()) => {}
                    Err(SendTimeoutError::Closed(_)) => return,
                    Err(SendTimeoutError::Timeout(_)) => {
                        warn!(after = ?STALLED, "ended a capture whose packets nobody takes");
                        return;
                    }
                }
            }
        });
        taken
    }

    /// What has come, as lines; an empty one after a while of nothing. `None` if the ring has failed.
    async fn next(&mut self) -> Option<Bytes> {
        let mut lines = Vec::new();
        let mut add = |found: &Captured| {
            // It is made of texts and numbers: all of that is JSON.
            lines.extend(serde_json::to_vec(found).unwrap_or_default());
            lines.push(b'\n');
        };
        let now = || (clock::monotonic_ns(), SystemTime::now());
        let names = &self.published;
        let drained = time::timeout(
            PULSE,
            self.ring.drain(BATCH, |head, bytes| {
                let names = Arc::clone(&names.borrow());
                if let Some(packet) = show(&head, bytes, &names, &self.filter, now()) {
                    add(&Captured::Packet(Box::new(packet)));
                }
            }),
        );
        if let Ok(Err(error)) = drained.await {
            warn!(%error, "captured packets cannot be read");
            return None;
        }
        if let Ok(lost) = self.ring.lost()
            && lost > self.lost
        {
            add(&Captured::Lost(lost - self.lost));
            self.lost = lost;
        }
        if lines.is_empty() {
            lines.push(b'\n');
        }
        Some(lines.into())
    }
}
