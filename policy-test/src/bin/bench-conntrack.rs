//! What a full connection table costs: four million entries that nobody uses.
//!
//! Inputs: root, an agent of the same build. Outputs: a table; an exit code, 0 if everything could be
//! measured. Started by `cargo xtask bench conntrack`.
//!
//! The entries are written as the programs write them, of connections in every state and half of them
//! over. Then a real agent runs beside them for a while.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use comfy_table::{Table, presets};
use policy_agent::kernel::{clock, flows::Flows, pin::Pins};
use policy_common::{
    abi::{FLOW_ASSURED, FLOW_REPLIED, Flow, FlowKeyV4, Mac},
    maps,
};
use policy_test::{agent::AgentOptions, lab::Lab, wait};

const ENTRIES: u32 = 4_000_000;
/// The kernel hands out room by CPU, and takes the oldest before the last is used.
const ROOM: &str = "4400000";
/// How long the agent is watched: long enough for it to count more than once.
const WATCH: Duration = Duration::from_secs(300);
const ROUNDS: usize = 5;
/// `USER_HZ`, the unit of times in /proc, in a second.
const CLOCK_TICKS: f64 = 100.0;
const SECOND: u64 = 1_000_000_000;

fn main() -> Result<()> {
    let lab = Lab::new()?;
    let agent = AgentOptions::default().flags(&["--conntrack-v4", ROOM]).start(&lab)?;
    let pid = agent.pid().context("the agent runs")?;
    let pins = Pins::new(agent.bpffs_dir());
    let idle = share(pid, WATCH / 4)?;
    let map = MapData::from_pin(pins.map(maps::CONNTRACK_V4)).and_then(Map::from_map_data)?;
    let mut table: HashMap<_, FlowKeyV4, Flow> = map.try_into()?;
    let now = clock::monotonic_ns();
    for number in 0..ENTRIES {
        let (key, flow) = entry(number, now);
        table.insert(key, flow, 0).context("write an entry")?;
    }
    let flows = Flows::open(&pins)?;
    let mut reads = Vec::new();
    let mut count = 0_u32;
    for _ in 0..ROUNDS {
        count = 0;
        let start = Instant::now();
        flows.each_v4(|_, _| count += 1)?;
        reads.push(start.elapsed());
    }
    reads.sort_unstable();
    wait::until("the agent has counted them", Duration::from_secs(120), || {
        agent.status().is_ok_and(|status| {
            status.maps.iter().any(|map| map.name == maps::CONNTRACK_V4 && map.used > 0)
        })
    })?;
    let busy = share(pid, WATCH)?;
    ensure!(u64::from(count) * 10 > u64::from(ENTRIES) * 9, "{count} entries are there");
    let mut lines = Table::new();
    lines.load_style(presets::UTF8_FULL_CONDENSED);
    lines.set_header(["connection table", "goal", "figure"]);
    lines.add_row(["entries", "", &count.to_string()]);
    lines.add_row(["read whole, median", "", &format!("{:.0?}", reads[ROUNDS / 2])]);
    lines.add_row(["agent, table empty", "", &format!("{idle:.4} of a core")]);
    lines.add_row(["agent, table full", "< 0.1", &format!("{busy:.4} of a core")]);
    println!("{lines}");
    Ok(())
}

/// An entry of its own for each number; half of them are over.
fn entry(number: u32, now: u64) -> (FlowKeyV4, Flow) {
    let [a, b, c, d] = number.to_be_bytes();
    let key = FlowKeyV4 {
        ifindex: 1,
        local: [10, 0, 0, 2],
        remote: [11 + a, b, c, d],
        local_port: 40_000,
        remote_port: 443,
        protocol: if number % 4 < 2 { 6 } else { 17 },
        pad: [0; 3],
    };
    let silent = if number.is_multiple_of(2) { 1 } else { 125 };
    let flow = Flow {
        packets: [1, 1],
        bytes: [60, 60],
        created_ns: now,
        seen_ns: now.saturating_sub(silent * SECOND),
        revision: 1,
        rule: 1,
        peer: 0,
        staged: 0,
        direction: 1,
        state: if number.is_multiple_of(3) { 0 } else { FLOW_REPLIED | FLOW_ASSURED },
        cut: 0,
        plane: 0,
        mac: Mac::default(),
    };
    (key, flow)
}

/// CPU time of a process over a while, as a part of one core.
fn share(pid: u32, over: Duration) -> Result<f64> {
    let (before, start) = (ticks(pid)?, Instant::now());
    std::thread::sleep(over);
    Ok((ticks(pid)? - before) as f64 / CLOCK_TICKS / start.elapsed().as_secs_f64())
}

/// `utime` and `stime` of a process, clock ticks (proc(5)).
fn ticks(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("read the agent's stat")?;
    let (_, fields) = text.rsplit_once(')').context("a command in brackets")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("a field")?.parse()?) };
    Ok(next()? + next()?)
}
