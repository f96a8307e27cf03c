//! How long an interface is on a bridge before its programs are on it.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use policy_common::{
    abi::ABI_VERSION,
    maps::{PROGRAM_FROM_ENDPOINT, PROGRAM_TO_ENDPOINT},
};
use policy_test::wait;

use crate::stage::{LIMIT, play};

/// As Docker names the bridge of a network.
const BRIDGE: &str = "br-0123456789ab";
const VETHS: usize = 250;
/// Generous, for a machine that does other things meanwhile; the goal is 5 ms.
const BOUND: Duration = Duration::from_millis(50);
/// Between two looks for the programs.
const LOOK: Duration = Duration::from_micros(50);

#[test]
fn a_new_interface_is_fenced_by_tcx_within_milliseconds() {
    measure("tcx");
}

#[test]
fn a_new_interface_is_fenced_by_clsact_within_milliseconds() {
    measure("clsact");
}

fn measure(attachment: &str) {
    play(&[], &["--attachment", attachment], |stage| {
        stage.lab.bridge(BRIDGE, &["10.81.0.1/24"])?;
        // Its indexes are known beforehand, so that nothing has to be looked up while time counts.
        let links = stage.agent.bpffs_dir().join(format!("v{ABI_VERSION}/links"));
        let mut ip = stage.lab.host().spawn(
            Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()),
        )?;
        let mut commands = ip.stdin.take().context("ip reads from us")?;
        let (mut delays, mut firsts) = (Vec::new(), Vec::new());
        for number in 0..VETHS {
            let index = 10_000 + 2 * number;
            let programs = [PROGRAM_FROM_ENDPOINT, PROGRAM_TO_ENDPOINT]
                .map(|program| links.join(format!("{index}-{program}")));
            let batch = format!(
                "link add v{number} index {index} type veth peer name p{number} index {}\n\
                 link set v{number} master {BRIDGE} up\n",
                index + 1
            );
            let start = Instant::now();
            commands.write_all(batch.as_bytes())?;
            let mut first = None;
            while !programs.iter().all(|pin| pin.exists()) {
                ensure!(start.elapsed() < LIMIT, "v{number} was never fenced");
                if programs[0].exists() {
                    first.get_or_insert_with(|| start.elapsed());
                }
                // Short, because it is in the figure; not none, because the kernel attaches only
                // when all processors have been seen idle or elsewhere.
                thread::sleep(LOOK);
            }
            delays.push(start.elapsed());
            firsts.push(first.unwrap_or_else(|| start.elapsed()));
        }
        drop(commands);
        ensure!(ip.wait()?.success(), "ip failed");
        delays.sort_unstable();
        let (half, p99) = (delays[VETHS / 2], delays[VETHS * 99 / 100]);
        println!(
            "fence ({attachment}): from `ip` being told to make a veth to both programs on it, {VETHS} times: \
             p50 {} us, p99 {} us, longest {} us",
            half.as_micros(),
            p99.as_micros(),
            delays[VETHS - 1].as_micros()
        );
        firsts.sort_unstable();
        println!(
            "fence ({attachment}): the one for what leaves the container: p50 {} us, p99 {} us",
            firsts[VETHS / 2].as_micros(),
            firsts[VETHS * 99 / 100].as_micros()
        );
        let histogram = stage.agent.metrics()?;
        let histogram = histogram.lines().filter(|line| line.starts_with("palisade_fence_delay"));
        println!("the agent's own: {}", histogram.collect::<Vec<_>>().join("\n"));
        wait::until("the agent to have counted them all", LIMIT, || {
            stage
                .metric("palisade_fence_delay_seconds_count", &[])
                .is_ok_and(|counted| counted >= u64::try_from(VETHS).unwrap_or(u64::MAX))
        })?;
        ensure!(p99 < BOUND, "p99 {p99:?}");
        ensure!(fs::read_dir(&links)?.count() > 0, "the bridges keep their guards");
        Ok(())
    });
}
