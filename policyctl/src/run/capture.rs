//! `capture`: packets into a file, until it is enough. Input: packets of an agent; output: pcapng, and on standard
//! error how many there are.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use policy_api::capture::Captured;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time;

use crate::client::Client;
use crate::command::Capture;
use crate::failure::{Exit, Failure};
use crate::output::pcapng::Pcapng;
use crate::output::{Screen, text};

/// So often what has come is written to the file, for whoever reads it meanwhile.
const FLUSH: Duration = Duration::from_millis(500);
const MIB: u64 = 1024 * 1024;

pub(super) async fn capture(
    client: &Client,
    screen: &Screen,
    capture: Capture,
) -> Result<Exit, Failure> {
    // Before anything is captured for nobody; and nothing is lost of an earlier one if this one is refused.
    let out = open(&capture.write)?;
    let mut packets = client.capture(capture.what, capture.snap, &capture.filter).await?;
    let mut file = Pcapng::new(emptied(out, &capture.write)?, capture.snap)?;
    screen.note(&format!("capturing to {}; Ctrl-C ends it", capture.write.display()))?;
    let deadline = capture.duration.map(|duration| time::Instant::now() + duration);
    let mut pulse = time::interval(FLUSH);
    let stopped = stopped()?;
    tokio::pin!(stopped);
    let (mut count, mut lost) = (0, 0);
    let ended = loop {
        if capture.count == Some(count) {
            break Ok("");
        }
        tokio::select! {
            () = &mut stopped => break Ok(""),
            () = time::sleep_until(deadline.unwrap_or_else(time::Instant::now)), if deadline.is_some() => {
                break Ok("");
            }
            _ = pulse.tick() => match file.flush() {
                Ok(()) => {}
                Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => break Ok(""),
                Err(failure) => break Err(failure),
            },
            next = packets.next() => match next {
                Ok(Some(Captured::Packet(packet))) => {
                    // As much again as it may take, with its comment.
                    let room = 2 * u64::from(packet.length.min(capture.snap)) + 4096;
                    if file.bytes() + room > capture.max_size * MIB {
                        break Ok(": the file is as large as it may be");
                    }
                    if let Err(failure) = file.add(&packet) {
                        break Err(failure);
                    }
                    count += 1;
                }
                Ok(Some(Captured::Lost(more))) => lost += more,
                Ok(None) => break Err(Failure::StreamEnded),
                Err(failure) => break Err(failure),
            },
        }
    };
    drop(packets);
    let flushed = file.flush();
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let lost = match lost {
        0 => String::new(),
        lost => format!(", {lost} more came too fast"),
    };
    let why = ended.as_ref().map_or("", |why| *why);
    screen.note(&format!("{}{lost}{why}", text::count(count, "packet")))?;
    ended.and(flushed).map(|()| Exit::Fine)
}

/// Resolves when somebody wants this to end.
fn stopped() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The file, as it is; `None`: standard output.
fn open(path: &Path) -> Result<Option<File>, Failure> {
    if path.as_os_str() == "-" {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    // What packets hold is nobody's business but root's.
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|source| Failure::Write { path: path.to_owned(), source })?;
    Ok(Some(file))
}

fn emptied(file: Option<File>, path: &Path) -> Result<Box<dyn Write>, Failure> {
    let Some(file) = file else { return Ok(Box::new(BufWriter::new(io::stdout()))) };
    // A pipe or a device has no length to be set.
    if file.metadata().is_ok_and(|found| found.is_file()) {
        file.set_len(0).map_err(|source| Failure::Write { path: path.to_owned(), source })?;
    }
    Ok(Box::new(BufWriter::new(file)))
}
