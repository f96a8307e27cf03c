//! The real programs on made-up frames: `BPF_PROG_TEST_RUN`.
//!
//! Inputs: root, policies as YAML, endpoints, frames. Outputs: what the programs say of each
//! frame, and what they counted and told. The maps are written by the agent's own compiler and
//! executor, so that the whole way from YAML to verdict is what runs on a host.
//!
//! The programs are attached to nothing: no packet but the given ones meets them.

mod counted;
pub(crate) mod empty;
mod memory;
mod outside;
mod stand_in;
mod verifier;

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::PathBuf,
    slice,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, TestRun as _, TestRunOptions, TestRunResult,
    maps::{HashMap, Map, MapData, MapError, RingBuf},
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use nix::net::if_::if_nametoindex;
use policy_agent::config::Attachment;
use policy_agent::kernel::{
    counters::Counters,
    features::Features,
    flows,
    load::{self, Sizes},
    maps::Maps,
    pin::{Hook, Pins},
};
use policy_api::{messages::RuleName, yaml};
use policy_common::{
    abi::{Counter, DropKey, Flow, FlowKeyV4, FlowKeyV6, Fragment, FragmentKey},
    maps as name,
};
use policy_core::{
    compile::Compiler,
    host::Plane,
    ids::Ids,
    labels::{self, Labels},
    model::{EndpointId, EndpointSpec, Model},
    plan::{Image, Op},
    shared::SharedMap,
    validate::{self, Object},
};

use crate::lab::{BPFFS, Lab};

pub use memory::Flows;
pub use outside::{Entry, OUTSIDE_MAC};
pub use verifier::Verifier;

/// Offsets in the kernel's `struct __sk_buff` and `struct xdp_md` (include/uapi/linux/bpf.h).
const SKB_INGRESS_IFINDEX: usize = 36;
const SKB_IFINDEX: usize = 40;
const XDP_DATA_END: usize = 4;
const XDP_INGRESS_IFINDEX: usize = 12;

/// Return values of the programs (include/uapi/linux/{pkt_cls,bpf}.h).
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

/// Largest frame that a test run takes: a page less the kernel's own room.
const ROOM: usize = 4096;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to whoever is next.
    Pass,
    /// Gone.
    Drop,
}

/// A frame's way through a program, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed, and no drop counter moved.
    Pass,
    /// Dropped; the one counter that moved, by one packet and the frame's length.
    Drop(DropKey),
}

/// What the programs have counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// By key.
    pub keyed: BTreeMap<DropKey, Counter>,
    /// By reason code, those that found no room among `keyed`.
    pub other: Vec<Counter>,
}

/// The programs in the kernel, with maps of their own.
pub struct Ring {
    lab: Lab,
    /// Each program is loaded when it runs for the first time: no test needs all, and the verifier takes most of
    /// a test's time.
    ebpf: RwLock<Ebpf>,
    empty: Ebpf,
    pins: PathBuf,
    maps: Maps,
    counters: Counters,
    events: RingBuf<MapData>,
    flows_v4: HashMap<MapData, FlowKeyV4, Flow>,
    flows_v6: HashMap<MapData, FlowKeyV6, Flow>,
    fragments: HashMap<MapData, FragmentKey, Fragment>,
    /// The connection tables, as an agent counts them.
    pub tables: flows::Flows,
    compiler: Compiler,
    /// What the maps hold once [`Ring::sync`] has been called.
    pub model: Model,
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The lab takes what is left; this is for the memory, which the pins hold on to.
        let _ = fs::remove_dir_all(&self.pins);
    }
}

impl Ring {
    /// The programs in a lab of their own, all interfaces pending.
    ///
    /// # Errors
    /// Without root, or on a kernel that cannot run them.
    pub fn new(sizes: Sizes) -> Result<Ring> {
        let lab = Lab::new()?;
        let folder = PathBuf::from(BPFFS).join(lab.name());
        let pins = Pins::new(&folder);
        pins.prepare()?;
        let features = Features::probe(Attachment::default())?;
        Ok(Ring {
            ebpf: RwLock::new(load::prepare(&pins, features, sizes)?),
            empty: empty::load()?,
            maps: Maps::open(&pins)?,
            counters: Counters::open(&pins)?,
            events: open(&pins, name::EVENTS)?,
            flows_v4: open(&pins, name::CONNTRACK_V4)?,
            flows_v6: open(&pins, name::CONNTRACK_V6)?,
            fragments: open(&pins, name::FRAGMENTS)?,
            tables: flows::Flows::open(&pins)?,
            compiler: Compiler::new(),
            model: Model::default(),
            pins: folder,
            lab,
        })
    }

    /// Makes an interface and gives its index. Nothing is ever sent on it.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn interface(&self, name: &str) -> Result<u32> {
        let host = self.lab.host();
        host.ip(&["link", "add", name, "type", "veth", "peer", "name", &format!("{name}-peer")])?;
        Ok(host.run(|| if_nametoindex(name))??)
    }

    /// Adds an endpoint to the model. Labels and namespace are those of a static endpoint.
    pub fn endpoint(&mut self, ifindex: u32, name: &str, app: &str, addresses: &[IpAddr]) {
        let [.., low] = ifindex.to_be_bytes();
        let spec = EndpointSpec {
            ifindex,
            interface: name.to_owned(),
            name: name.to_owned(),
            namespace: validate::DEFAULT_NAMESPACE.to_owned(),
            network: String::new(),
            labels: labels::endpoint_labels(
                [("app", app)],
                validate::DEFAULT_NAMESPACE,
                name,
                "static",
            ),
            addresses: addresses.to_vec(),
            mac: Some([2, 0, 0, 0, 0, low]),
            ports: Vec::new(),
            bridge: None,
            plane: Plane::Workload,
            adopt_until_ns: 0,
        };
        self.model.endpoints.insert(id(name), Arc::new(spec));
    }

    /// Changes an endpoint of the model.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut EndpointSpec)) -> Result<()> {
        let spec = self.model.endpoints.get(&id(name)).with_context(|| format!("no {name}"))?;
        let mut spec = EndpointSpec::clone(spec);
        change(&mut spec);
        self.model.endpoints.insert(id(name), Arc::new(spec));
        Ok(())
    }

    /// Removes an endpoint from the model; its interface is pending then.
    pub fn remove(&mut self, name: &str) {
        self.model.endpoints.remove(&id(name));
    }

    /// Puts policies and network sets into the model, in the place of all that were there.
    ///
    /// # Errors
    /// If they are none.
    pub fn policies(&mut self, text: &str) -> Result<()> {
        self.model.policies = SharedMap::default();
        self.model.network_sets = SharedMap::default();
        self.add_policies(text)
    }

    /// Puts more policies and network sets into the model.
    ///
    /// # Errors
    /// If they are none, or too many for one file.
    pub fn add_policies(&mut self, text: &str) -> Result<()> {
        let documents =
            yaml::read("policies", text.as_bytes()).map_err(|error| anyhow!("{error:?}"))?;
        for document in documents {
            match validate::decode(&document.value).map_err(|error| anyhow!("{error:?}"))? {
                Object::Policy(policy) => {
                    self.model.policies.insert(policy.key.clone(), policy);
                }
                Object::NetworkSet(set) => {
                    let key = (set.namespace.clone(), set.name.clone());
                    self.model.network_sets.insert(key, set);
                }
                other => bail!("{other:?} is neither a policy nor a network set"),
            }
        }
        Ok(())
    }

    /// Lets the program run on an interface as an uplink with labels.
    pub fn uplink(&mut self, ifindex: u32, own: &[(&str, &str)]) {
        self.model.uplinks.insert(ifindex, own.iter().copied().collect::<Labels>());
        self.model.noting_uplinks.insert(ifindex);
    }

    /// Brings the maps to what the model says.
    ///
    /// # Errors
    /// If the model does not fit, or the kernel refuses a write.
    pub fn sync(&mut self) -> Result<()> {
        self.sync_watched(|_| ())
    }

    /// Brings the maps to what the model says, and shows each operation once all are carried out.
    ///
    /// # Errors
    /// As [`Ring::sync`].
    pub fn sync_watched(&mut self, watch: impl FnMut(&Op)) -> Result<()> {
        let planned = self.compiler.plan(&self.model)?;
        self.maps.execute(&planned.plan.ops)?;
        planned.plan.ops.iter().for_each(watch);
        self.compiler.commit(planned);
        Ok(())
    }

    /// As [`Ring::sync`], one operation after the other; `after` sees the programs after each.
    ///
    /// # Errors
    /// As [`Ring::sync`], and those of `after`.
    pub fn sync_slowly(&mut self, mut after: impl FnMut(&Ring, &Op) -> Result<()>) -> Result<()> {
        let planned = self.compiler.plan(&self.model)?;
        for op in &planned.plan.ops {
            self.maps.execute(slice::from_ref(op))?;
            after(self, op)?;
        }
        self.compiler.commit(planned);
        Ok(())
    }

    /// What the compiler takes the maps to hold, and what they hold.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn images(&self) -> Result<(&Image, Image), MapError> {
        Ok((self.compiler.image(), self.maps.image()?))
    }

    /// The names of the numbers in the maps.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        self.compiler.ids()
    }

    /// The name of a rule id.
    #[must_use]
    pub fn rule(&self, id: u32) -> Option<&RuleName> {
        self.compiler.ids().rule(id)
    }

    /// Every rule id that is in use, with its name.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &RuleName)> {
        self.compiler.ids().rules()
    }

    /// Every log id that is in use, with its Log rules.
    pub fn logs(&self) -> impl Iterator<Item = (u32, &[RuleName])> {
        self.compiler.ids().logs()
    }

    /// What a peer id is called.
    #[must_use]
    pub fn peer(&self, id: u32) -> Option<String> {
        self.compiler.ids().peer(id).map(|peer| peer.name)
    }

    /// Packets and bytes that a rule decided.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn rule_counter(&self, id: u32) -> Result<Counter, MapError> {
        self.counters.rule(id)
    }

    /// Runs a program on a frame. `None`: the kernel takes no such frame into a test run.
    ///
    /// # Errors
    /// If there is no such interface, or the program says something that it should not.
    pub fn run(&self, hook: Hook, ifindex: u32, frame: &[u8]) -> Result<Option<Action>> {
        self.run_at((hook, ifindex).into(), frame)
    }

    /// The same, wherever the frame comes from.
    ///
    /// # Errors
    /// As [`Ring::run`].
    pub fn run_at(&self, entry: Entry, frame: &[u8]) -> Result<Option<Action>> {
        Ok(self.repeat_at(entry, frame, 1)?.map(|(action, _)| action))
    }

    /// Runs a program on a frame, `count` times. Gives what it said the last time, and the mean
    /// duration, which the kernel measures.
    ///
    /// # Errors
    /// As [`Ring::run`].
    pub fn repeat(
        &self,
        hook: Hook,
        ifindex: u32,
        frame: &[u8],
        count: u32,
    ) -> Result<Option<(Action, Duration)>> {
        self.repeat_at((hook, ifindex).into(), frame, count)
    }

    fn repeat_at(
        &self,
        entry: Entry,
        frame: &[u8],
        count: u32,
    ) -> Result<Option<(Action, Duration)>> {
        // The kernel looks the interface up in the caller's namespace.
        let result = match self.lab.host().run(|| self.enter(entry, frame, count))?? {
            Ok(result) => result,
            Err(error) if is_refusal(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some((action(entry.hook, result.0)?, result.1)))
    }

    /// Runs a TC program that does nothing but pass, to compare with.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn repeat_empty(&self, frame: &[u8], count: u32) -> Result<Duration> {
        self.bare(Hook::FromEndpoint, frame, count)
    }

    /// As [`Ring::repeat_empty`], with an XDP program.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn repeat_empty_xdp(&self, frame: &[u8], count: u32) -> Result<Duration> {
        self.bare(Hook::Uplink, frame, count)
    }

    fn bare(&self, hook: Hook, frame: &[u8], count: u32) -> Result<Duration> {
        let program = if hook == Hook::Uplink { empty::XDP } else { empty::TC };
        let program = self.empty.program(program).context("the empty object is whole")?;
        let mut out = vec![0; ROOM];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: count,
            ..TestRunOptions::new()
        };
        Ok(self.lab.host().run(|| run(program, hook, options))??.duration)
    }

    /// Runs programs on frames, one after the other.
    ///
    /// # Errors
    /// As [`Ring::run`], or if the kernel takes no such frame into a test run.
    pub fn run_all(&self, frames: &[(Entry, Vec<u8>)]) -> Result<Vec<Action>> {
        let one = |(entry, frame): &(Entry, Vec<u8>)| -> Result<Action> {
            action(entry.hook, self.enter(*entry, frame, 1)??.0)
        };
        // Once into the namespace for all of them: each time costs a thread.
        self.lab.host().run(|| frames.iter().map(one).collect())?
    }

    /// A test run, in the lab's namespace.
    fn enter(
        &self,
        entry: Entry,
        frame: &[u8],
        count: u32,
    ) -> Result<Result<(u32, Duration), ProgramError>> {
        let hook = entry.hook;
        self.load(&[hook])?;
        let programs = self.programs();
        let program =
            programs.program(hook.program()).context("the object has all its programs")?;
        let mut out = vec![0; ROOM];
        let stand_in = self.stand_in(entry)?;
        let context = context(entry, frame.len())?;
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: stand_in.is_none().then_some(&context[..]),
            repeat: count,
            ..TestRunOptions::new()
        };
        Ok(run(program, hook, options).map(|result| (result.return_value, result.duration)))
    }

    /// Loads programs before the first frame meets them: for those whose frames come in the middle of a
    /// test, while time passes for its connections.
    ///
    /// # Errors
    /// If the verifier refuses one.
    pub fn load(&self, hooks: &[Hook]) -> Result<(), ProgramError> {
        hooks.iter().try_for_each(|hook| {
            if self.programs().program(hook.program()).is_some_and(is_loaded) {
                return Ok(());
            }
            load::ready(&mut self.ebpf.write().unwrap_or_else(PoisonError::into_inner), *hook)
        })
    }

    fn programs(&self) -> RwLockReadGuard<'_, Ebpf> {
        self.ebpf.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a program on a frame and holds it against the counters: a pass moves none of the drop
    /// counters, a drop exactly one, by one packet and the frame's length.
    ///
    /// # Errors
    /// If that is not so, or the kernel takes no such frame.
    pub fn judge(&self, hook: Hook, ifindex: u32, frame: &[u8]) -> Result<Verdict> {
        self.judge_at((hook, ifindex).into(), frame)
    }

    /// The same, wherever the frame comes from.
    ///
    /// # Errors
    /// As [`Ring::judge`].
    pub fn judge_at(&self, entry: Entry, frame: &[u8]) -> Result<Verdict> {
        let before = self.drops()?;
        let action =
            self.run_at(entry, frame)?.context("the kernel takes no such frame for a test")?;
        let after = self.drops()?;
        ensure!(before.other == after.other, "a drop was not counted by key");
        let mut moved = after
            .keyed
            .iter()
            .filter(|&(key, &now)| before.keyed.get(key).copied().unwrap_or_default() != now);
        match (action, moved.next(), moved.next()) {
            (Action::Pass, None, _) => Ok(Verdict::Pass),
            (Action::Drop, Some((key, now)), None) => {
                let was = before.keyed.get(key).copied().unwrap_or_default();
                let bytes = u64::try_from(frame.len())?;
                ensure!(
                    now.packets == was.packets + 1 && now.bytes == was.bytes + bytes,
                    "{key:?} moved from {was:?} to {now:?} for one frame of {bytes} bytes"
                );
                Ok(Verdict::Drop(*key))
            }
            (action, one, two) => bail!("{action:?}, but these counters moved: {one:?} {two:?}"),
        }
    }
}

fn is_loaded(program: &Program) -> bool {
    match program {
        Program::Xdp(program) => program.fd().is_ok(),
        Program::SchedClassifier(program) => program.fd().is_ok(),
        _ => false,
    }
}

/// For one XDP program at a time: the kernel writes its XDP dispatcher anew for each run that is repeated
/// (`bpf_prog_change_xdp`), and QEMU, where it emulates several CPUs, has one of them that is just passing through
/// run into the breakpoint that was there for the time of writing: the guest dies of it.
static DISPATCHER: Mutex<()> = Mutex::new(());

/// One test run.
fn run(
    program: &Program,
    hook: Hook,
    options: TestRunOptions<'_>,
) -> Result<TestRunResult, ProgramError> {
    match hook {
        Hook::Uplink => {
            let _alone = DISPATCHER.lock().unwrap_or_else(PoisonError::into_inner);
            <&Xdp>::try_from(program).and_then(|it| it.test_run(options))
        }
        _ => <&SchedClassifier>::try_from(program).and_then(|it| it.test_run(options)),
    }
}

/// What a program's return value means.
fn action(hook: Hook, value: u32) -> Result<Action> {
    match (hook, value) {
        (Hook::Uplink, XDP_PASS) => Ok(Action::Pass),
        (Hook::Uplink, XDP_DROP) => Ok(Action::Drop),
        (Hook::Uplink, other) => bail!("{} returned {other}", hook.program()),
        (_, TC_ACT_UNSPEC) => Ok(Action::Pass),
        (_, TC_ACT_SHOT) => Ok(Action::Drop),
        (_, other) => bail!("{} returned {other}", hook.program()),
    }
}

fn id(name: &str) -> EndpointId {
    EndpointId(format!("static/{}/{name}", validate::DEFAULT_NAMESPACE))
}

fn open<T: TryFrom<Map, Error = MapError>>(pins: &Pins, name: &str) -> Result<T, MapError> {
    MapData::from_pin(pins.map(name)).and_then(Map::from_map_data).and_then(T::try_from)
}

/// The context that tells a program which interface it runs on, and whether the frame came in by
/// another.
fn context(entry: Entry, length: usize) -> Result<Vec<u8>> {
    let Entry { hook, ifindex, passed_on } = entry;
    let words = match hook {
        Hook::Uplink => return xdp_context(ifindex, length),
        // Which other one does not matter; the loopback is there.
        _ => [(SKB_INGRESS_IFINDEX, u32::from(passed_on)), (SKB_IFINDEX, ifindex)],
    };
    Ok(words_at(words))
}

/// The context that tells an XDP program where a frame of so many bytes came in.
pub(crate) fn xdp_context(ifindex: u32, length: usize) -> Result<Vec<u8>> {
    // The kernel wants to hear the frame's end, too.
    Ok(words_at([(XDP_DATA_END, u32::try_from(length)?), (XDP_INGRESS_IFINDEX, ifindex)]))
}

/// A context that has these words at these offsets and is zero elsewhere.
fn words_at(words: [(usize, u32); 2]) -> Vec<u8> {
    let size = words.iter().map(|(offset, _)| offset + size_of::<u32>()).max().unwrap_or_default();
    let mut context = vec![0; size];
    for (offset, word) in words {
        context[offset..offset + size_of::<u32>()].copy_from_slice(&word.to_ne_bytes());
    }
    context
}

/// Whether the kernel said that it takes no such frame: one without a whole Ethernet header, or
/// (from 6.18 on) without a whole IP header behind it.
fn is_refusal(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(error) => error.io_error.kind() == io::ErrorKind::InvalidInput,
        _ => false,
    }
}
