//! Waiting for a state.
//!
//! Inputs: a question. Outputs: its first answer, or an error after a limit; never a fixed sleep.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// How many times longer than its limit a wait lasts, on a machine that is known to be slow: one
/// that QEMU emulates. Waits end with what they wait for, so this makes no test longer that passes.
const PATIENCE: &str = "PALISADE_TEST_PATIENCE";

/// Asks until there is an answer, for at most `limit` (times [`PATIENCE`]).
///
/// # Errors
/// After `limit`, with `what` in the message.
pub fn for_some<T>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> Option<T>,
) -> Result<T> {
    let patience = env::var(PATIENCE).ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let limit = limit.saturating_mul(patience);
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
