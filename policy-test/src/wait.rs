//! Waiting for a state.
//!
//! Inputs: a question. Outputs: its first answer, or an error after a limit; never a fixed sleep.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks until there is an answer, for at most `limit`.
///
/// # Errors
/// After `limit`, with `what` in the message.
pub fn for_some<T>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = question() {
            return Ok(answer);
        }
        if start.elapsed() >= limit {
            bail!("waited {} ms in vain for {what}", limit.as_millis());
        }
        thread::sleep(PAUSE);
    }
}

/// Asks until the answer is yes, for at most `limit`.
///
/// # Errors
/// As [`for_some`].
pub fn until(what: &str, limit: Duration, mut question: impl FnMut() -> bool) -> Result<()> {
    for_some(what, limit, || question().then_some(()))
}
