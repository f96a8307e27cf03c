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

use crate::stage::{LIMIT, play, rounds};

/// As Docker names the bridge of a network.
const BRIDGE: &str = "br-0123456789ab";
/// Half of all delays, and 99 of 100, are below these. Generous, for a machine that does other
/// things meanwhile: the goal is 5 ms for 99 of 100. Half is what shows that the kernel began to wait
/// for grace periods, because it hardly depends on what else runs.
const FILTER_BOUNDS: [Duration; 2] = [Duration::from_millis(15), Duration::from_millis(250)];
/// The kernel waits for an RCU grace period for each of both links (`tcx_entry_sync` of
/// include/net/tcx.h), which no agent can shorten, and which is longer the busier the machine is.
const LINK_BOUNDS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// Between two looks for the programs.
const LOOK: Duration = Duration::from_micros(50);

#[test]
fn a_new_interface_gets_filters_within_milliseconds() {
    measure("clsact", 250, FILTER_BOUNDS);
}

#[test]
fn a_new_interface_gets_links_after_grace_periods() {
    measure("tcx", rounds(50, 250), LINK_BOUNDS);
}

/// Makes so many interfaces, and compares the median and the 99th percentile.
fn measure(attachment: &str, veths: usize, bounds: [Duration; 2]) {
    play(&[], &["--attachment", attachment], |stage| {
        stage.lab.bridge(BRIDGE, &["10.81.0.1/24"])?;
        // Its indexes are known beforehand, so that nothing has to be looked up while time counts.
        let links = stage.agent.bpffs_dir().join(format!("v{ABI_VERSION}/links"));
        let mut ip = stage.lab.host().spawn(
            Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()),
        )?;
        let mut commands = ip.stdin.take().context("ip reads from us")?;
        let (mut delays, mut firsts) = (Vec::new(), Vec::new());
        for number in 0..veths {
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
        let (half, p99) = (delays[veths / 2], delays[veths * 99 / 100]);
        println!(
            "fence ({attachment}): from `ip` being told to make a veth to both programs on it, {veths} times: \
             p50 {} us, p99 {} us, longest {} us",
            half.as_micros(),
            p99.as_micros(),
            delays[veths - 1].as_micros()
        );
        firsts.sort_unstable();
        println!(
            "fence ({attachment}): the one for what leaves the container: p50 {} us, p99 {} us",
            firsts[veths / 2].as_micros(),
            firsts[veths * 99 / 100].as_micros()
        );
        let histogram = stage.agent.metrics()?;
        let histogram = histogram.lines().filter(|line| line.starts_with("palisade_fence_delay"));
        println!("the agent's own: {}", histogram.collect::<Vec<_>>().join("\n"));
        wait::until("the agent to have counted them all", LIMIT, || {
            stage
                .metric("palisade_fence_delay_seconds_count", &[])
                .is_ok_and(|counted| counted >= u64::try_from(veths).unwrap_or(u64::MAX))
        })?;
        ensure!(half < bounds[0] && p99 < bounds[1], "p50 {half:?}, p99 {p99:?}");
        ensure!(fs::read_dir(&links)?.count() > 0, "the bridges keep their guards");
        Ok(())
    });
}
