//! The agent goes and comes back under traffic: nothing wrongly passes, nothing wrongly drops.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use policy_common::{
    abi::{ABI_VERSION, Flow, FlowKeyV4},
    maps::CONNTRACK_V4,
};
use policy_test::wait;
use procfs::process::Process;

use crate::{
    stage::{Container, LIMIT, Stage, play},
    tap::Tap,
};

const STREAM: u16 = 7000;
const FORBIDDEN: u16 = 7999;
/// 200 messages a second.
const PACE: Duration = Duration::from_millis(5);

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: api, namespace: default}
spec:
  selector: app == 'api'
  ingress:
  - action: Allow
    protocol: TCP
    source: {selector: app == 'web'}
    destination: {ports: [7000]}
";

/// What a stream saw until it was stopped.
struct Streamed {
    messages: u64,
    longest: Duration,
}

/// Sends numbered messages, one at a time, and waits for each to come back.
fn stream(
    from: &Container,
    to: SocketAddr,
    stop: &AtomicBool,
    echoed: &AtomicU64,
) -> Result<Streamed> {
    let mut stream = from.netns.tcp_connect(to, LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut seen = Streamed { messages: 0, longest: Duration::ZERO };
    let mut next = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        let sent = Instant::now();
        let message = seen.messages.to_be_bytes();
        stream.write_all(&message).context("the stream broke")?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).context("the stream broke")?;
        ensure!(answer == message, "message {} came back as {answer:?}", seen.messages);
        seen.longest = seen.longest.max(sent.elapsed());
        seen.messages += 1;
        echoed.store(seen.messages, Ordering::SeqCst);
        next += PACE;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(seen)
}

/// Segments that a container's TCP has sent again: one that a program dropped is among them,
/// however busy the machine is.
fn sent_again(stage: &Stage, container: &Container) -> Result<u64> {
    Ok(Process::new(stage.engine.pid(&container.name)?.try_into()?)?.snmp()?.tcp_retrans_segs)
}

/// Sends datagrams that a policy denies.
fn flood(from: &Container, to: SocketAddr, stop: &AtomicBool) -> Result<u64> {
    let any = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
    let socket = from.netns.udp_bind(any)?;
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        socket.send_to(b"forbidden", to)?;
        sent += 1;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(sent)
}

/// The stream's entries in the connection table: at web, and at api.
fn flows(stage: &Stage, server: IpAddr) -> Result<Vec<(u32, Flow)>> {
    let pin = stage.agent.bpffs_dir().join(format!("v{ABI_VERSION}/maps/{CONNTRACK_V4}"));
    let map = Map::from_map_data(MapData::from_pin(pin)?)?;
    let map: HashMap<MapData, FlowKeyV4, Flow> = map.try_into()?;
    let mut flows = Vec::new();
    for entry in map.iter() {
        let (key, flow) = entry?;
        let ours = (IpAddr::from(key.local) == server && key.local_port == STREAM)
            || (IpAddr::from(key.remote) == server && key.remote_port == STREAM);
        if ours && key.protocol == 6 {
            flows.push((key.ifindex, flow));
        }
    }
    flows.sort_by_key(|(ifindex, _)| *ifindex);
    Ok(flows)
}

/// Every drop series of the metrics, by its labels.
fn drops(stage: &Stage) -> Result<std::collections::BTreeMap<String, u64>> {
    let text = stage.agent.metrics()?;
    text.lines()
        .filter(|line| line.starts_with("palisade_dropped_packets_total{"))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').context("a value")?;
            Ok((series.to_owned(), value.parse()?))
        })
        .collect()
}

#[test]
fn a_stream_and_a_flood_do_not_notice_that_the_agent_is_replaced() {
    play(&[], &[], |stage| {
        stage.network("front", 1)?;
        let web = stage.container("web", "web", "front")?;
        let api = stage.container("api", "api", "front")?;
        let server = stage.ipv4("api", "front")?;
        let _echo = api.serve(STREAM)?;
        let tap = Tap::open(&api.netns, FORBIDDEN)?;
        stage.agent.apply(POLICY)?;
        let before = [sent_again(stage, &web)?, sent_again(stage, &api)?];

        let (stop, echoed) = (AtomicBool::new(false), AtomicU64::new(0));
        let (played, streamed, sent) = thread::scope(|scope| {
            let streaming =
                scope.spawn(|| stream(&web, SocketAddr::new(server, STREAM), &stop, &echoed));
            let flooding = scope.spawn(|| flood(&web, SocketAddr::new(server, FORBIDDEN), &stop));
            let played = restarts(stage, server, &echoed);
            stop.store(true, Ordering::SeqCst);
            (played, streaming.join(), flooding.join())
        });
        let streamed = streamed.ok().context("the stream panicked")??;
        let sent = sent.ok().context("the flood panicked")??;
        played?;
        println!(
            "{} messages, the longest echo took {} ms; {sent} forbidden packets",
            streamed.messages,
            streamed.longest.as_millis()
        );
        let after = [sent_again(stage, &web)?, sent_again(stage, &api)?];
        ensure!(after == before, "segments were sent again: {before:?} -> {after:?}");
        ensure!(tap.frames()? == 0, "forbidden packets arrived");
        let counted = stage
            .metric("palisade_dropped_packets_total", &["port=\"7999\"", "destination=\"api\""])?;
        ensure!(counted == sent, "{sent} forbidden packets were sent, {counted} were counted");
        Ok(())
    });
}

fn restarts(stage: &mut Stage, server: IpAddr, echoed: &AtomicU64) -> Result<()> {
    let more = |what: &str| {
        let goal = echoed.load(Ordering::SeqCst) + 100;
        wait::until(what, LIMIT, || echoed.load(Ordering::SeqCst) >= goal)
    };
    more("a stream before anything happens")?;
    let mut last_flows = flows(stage, server)?;
    ensure!(last_flows.len() == 2, "one entry at each end, not {last_flows:?}");
    let mut last_drops = drops(stage)?;
    for round in 0..4 {
        if round % 2 == 0 {
            ensure!(stage.agent.terminate()?.success(), "a graceful end has exit code 0");
        } else {
            stage.agent.kill()?;
        }
        more("a stream without an agent")?;
        stage.agent.start()?;
        stage.enforcing("web", "front")?;
        stage.enforcing("api", "front")?;
        more("a stream with an agent that has come back")?;

        let now_flows = flows(stage, server)?;
        ensure!(now_flows.len() == 2, "round {round}: {now_flows:?}");
        for ((_, before), (_, now)) in last_flows.iter().zip(&now_flows) {
            ensure!(before.created_ns == now.created_ns, "round {round}: another entry");
            ensure!(
                (0..2).all(|side| before.packets[side] < now.packets[side]) && now.cut == 0,
                "round {round}: {before:?} -> {now:?}"
            );
        }
        last_flows = now_flows;
        let now_drops = drops(stage)?;
        for (series, before) in &last_drops {
            let now = now_drops.get(series).copied().unwrap_or_default();
            ensure!(now >= *before, "round {round}: {series} went from {before} to {now}");
        }
        ensure!(now_drops.values().sum::<u64>() > last_drops.values().sum::<u64>());
        last_drops = now_drops;
    }
    Ok(())
}
