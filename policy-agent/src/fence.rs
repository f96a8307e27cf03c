//! The fence goes up: programs onto every interface of a managed bridge the moment it appears.
//!
//! A thread of its own, so that nothing the agent does can make it wait: netlink says that a veth
//! has joined a managed bridge, the programs go on, and without an entry in `ENDPOINTS` they drop
//! everything (*pending*). The event loop is told afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

mod inside;

use policy_common::abi::INSIDE;
use policy_core::shared;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, error, info};

pub use self::inside::{Expected, Inside, On};
use crate::{
    kernel::{
        attach::{AttachError, Attacher, UplinkMode},
        pin::{Hook, Place},
    },
    netlink::{Link, LinkEvent, LinkKind, LinkMonitor, Mac, Netlink, NetlinkError},
};

/// How long the thread needs at most to see that it should stop.
const STOP_PATIENCE: Duration = Duration::from_millis(200);

/// What the event loop hears from the fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FenceEvent {
    /// Interfaces or host addresses are not what they were.
    Changed,
    /// A new interface got its programs.
    Fenced {
        /// From hearing of it to the programs being on.
        delay: Duration,
    },
    /// An interface that had programs is gone.
    Gone {
        /// Its index; the kernel may give it away again.
        ifindex: u32,
    },
}

/// How far interfaces that were there before the agent are fenced. A fence around a running container
/// whose policy is not in the maps would cut its connections, and so would a guard that does not know
/// the container's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// They stay as they are: not everything has been read.
    Waiting,
    /// Endpoints and uplinks get their programs: the maps hold their policy.
    Endpoints,
    /// Bridges, too: the maps hold the addresses of fenced endpoints. What is no longer managed is
    /// released.
    All,
}

/// Which interfaces get programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// `docker0` and `br-<12 hex digits>`, too: a bridge that Docker has only just made is managed
    /// before Docker has said so.
    pub docker_bridges: bool,
    /// Managed bridges, by name.
    pub bridges: BTreeSet<String>,
    /// Interfaces of static endpoints, by name.
    pub interfaces: BTreeSet<String>,
    /// Uplinks with block lists, by name.
    pub uplinks: BTreeSet<String>,
    /// Those that limit new flows, by name.
    pub limited: BTreeSet<String>,
    /// Interfaces of host endpoints, by name.
    pub hosts: BTreeSet<String>,
}

/// What the fence knows of the host; read by the event loop.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Whether everything below has been read once. Before that, absence means nothing.
    pub synced: bool,
    /// Interfaces by index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of the host, with the interface.
    pub addresses: BTreeSet<(u32, IpAddr)>,
    /// Hooks with our program.
    pub attached: BTreeSet<(u32, Hook)>,
    /// Mode of each uplink's program.
    pub uplink_modes: BTreeMap<u32, UplinkMode>,
    /// Interfaces that existed before the agent and had no program: connections that were open on
    /// them may be picked up.
    pub found_open: BTreeSet<u32>,
    /// Interfaces that should have programs and could not get them, and why.
    pub failures: BTreeMap<u32, String>,
    /// Interfaces inside containers' network namespaces, by the number of their endpoint.
    pub inside: BTreeMap<u32, Inside>,
    /// MAC address of the other end of a static endpoint's veth, as it was when last read.
    pub peer_macs: BTreeMap<u32, Mac>,
}

impl View {
    /// Whether both programs of an endpoint are on its interface.
    pub fn fenced(&self, ifindex: u32) -> bool {
        if ifindex & INSIDE != 0 {
            return self.has_all(ifindex, &[Hook::FromInside, Hook::ToInside]);
        }
        self.has_all(ifindex, &[Hook::FromEndpoint, Hook::ToEndpoint])
    }

    /// Whether both programs of a host endpoint are on its interface.
    pub fn guarded(&self, ifindex: u32) -> bool {
        self.has_all(ifindex, &[Hook::FromUplink, Hook::ToUplink])
    }

    fn has_all(&self, ifindex: u32, hooks: &[Hook]) -> bool {
        hooks.iter().all(|hook| self.attached.contains(&(ifindex, *hook)))
    }

    /// An interface by name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Interfaces by name.
    pub fn by_name(&self) -> BTreeMap<&str, &Link> {
        self.links.values().map(|link| (link.name.as_str(), link)).collect()
    }

    /// The host's own addresses, loopback included.
    pub fn host_addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.iter().map(|(_, address)| *address).collect()
    }
}

struct Shared {
    attacher: Mutex<Attacher>,
    /// The same inside containers' network namespaces.
    inside: Mutex<Attacher>,
    scope: RwLock<Scope>,
    view: RwLock<shared::Shared<View>>,
    /// How far interfaces that were there before the agent are fenced, a [`Stage`].
    stage: AtomicU8,
    /// What should be found inside other namespaces.
    insiders: Mutex<BTreeSet<Expected>>,
    numbers: Mutex<Numbers>,
    /// Whether the scope has changed since what is out of it was released.
    unreleased: AtomicBool,
    stop: AtomicBool,
    events: UnboundedSender<FenceEvent>,
}

/// Which interfaces inside containers' namespaces have which number.
#[derive(Debug, Default)]
struct Numbers {
    known: BTreeMap<Place, u32>,
    /// Given out last.
    next: u16,
    /// Whether those that an earlier agent gave to interfaces that are gone are forgotten.
    swept: bool,
    /// How often something was looked for in vain.
    misses: u32,
}

/// The running fence. Dropping it stops the thread; the programs stay where they are.
pub struct Fence {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Fence {
    /// Starts watching this network namespace. `inside` has the programs for interfaces in containers'
    /// namespaces, loaded when the first is needed or before; `attached` is what an earlier agent left, already
    /// taken over.
    ///
    /// # Errors
    ///
    /// Netlink cannot be read.
    pub fn start(
        attacher: Attacher,
        inside: Attacher,
        attached: Vec<(u32, Hook)>,
        scope: Scope,
        events: UnboundedSender<FenceEvent>,
    ) -> Result<Fence, NetlinkError> {
        let monitor = LinkMonitor::open(STOP_PATIENCE)?;
        // Without a mark of its own an interface gets another number, and its connections are
        // picked up anew.
        let known = inside.insides().unwrap_or_default();
        let view = View { attached: attached.into_iter().collect(), ..View::default() };
        let shared = Arc::new(Shared {
            attacher: Mutex::new(attacher),
            inside: Mutex::new(inside),
            scope: RwLock::new(scope),
            view: RwLock::new(view.into()),
            stage: AtomicU8::new(Stage::Waiting as u8),
            insiders: Mutex::default(),
            numbers: Mutex::new(Numbers { known, ..Numbers::default() }),
            unreleased: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            events,
        });
        inside::load(&shared);
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("fence".to_owned())
            .spawn(move || {
                let _guard = AbortOnPanic;
                worker.watch(monitor);
            })
            .map_err(|source| NetlinkError::Io { what: "start a thread", source })?;
        Ok(Fence { shared, thread: Some(thread) })
    }

    /// Whether all interfaces and addresses have been read once ([`View::synced`]).
    pub fn synced(&self) -> bool {
        read(&self.shared.view).synced
    }

    /// What is known now.
    pub fn view(&self) -> shared::Shared<View> {
        read(&self.shared.view).clone()
    }

    /// Changes what is managed, and fences what that adds. At [`Stage::All`], `scope` must be
    /// complete: what is not in it is released. A stage that has been reached stays.
    pub fn manage(&self, scope: Scope, stage: Stage) {
        let shared = &self.shared;
        let changed = *read(&shared.scope) != scope;
        if changed {
            shared.unreleased.store(true, Ordering::SeqCst);
        }
        let before = shared.stage.fetch_max(stage as u8, Ordering::SeqCst);
        if changed || before < stage as u8 || !read(&shared.view).failures.is_empty() {
            *shared.scope.write().unwrap_or_else(PoisonError::into_inner) = scope;
            let links: Vec<Link> = read(&shared.view).links.values().cloned().collect();
            for link in &links {
                shared.consider(link, None);
            }
        }
        shared.fence_insiders();
        // The call that changes the scope may be one at an earlier stage.
        if stage == Stage::All && shared.unreleased.swap(false, Ordering::SeqCst) {
            shared.release();
        }
    }

    /// Says what should be found inside other namespaces, and looks for it if that is news. They are in the view afterwards; [`Fence::manage`]
    /// fences those that are not.
    pub fn expect_inside(&self, insiders: BTreeSet<Expected>) {
        let changed = {
            let held = &self.shared.insiders;
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = *held != insiders;
            *held = insiders;
            changed
        };
        if changed {
            self.shared.look_inside();
        }
        self.shared.sweep_numbers();
    }

    /// Whether interfaces that were there before the agent are fenced.
    pub fn settled(&self) -> bool {
        self.shared.stage.load(Ordering::SeqCst) >= Stage::Endpoints as u8
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// An agent whose fence has died looks alive and leaves new containers open. One that ends is
/// started again, and what is attached stays in force meanwhile.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            error!("the fence has failed: ending, so that the agent is started again");
            std::process::abort();
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// A bridge that Docker names itself.
pub(crate) fn is_docker_bridge(name: &str) -> bool {
    name == "docker0"
        || name
            .strip_prefix("br-")
            .is_some_and(|id| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl Shared {
    fn watch(self: Arc<Self>, mut monitor: LinkMonitor) {
        let mut synced = false;
        while !self.stop.load(Ordering::SeqCst) {
            match monitor.next() {
                Ok(None) => {
                    self.retry();
                    continue;
                }
                Ok(Some(LinkEvent::New(link))) => {
                    let heard = Instant::now();
                    self.update(|view| {
                        if !synced && !view.fenced(link.ifindex) {
                            view.found_open.insert(link.ifindex);
                        }
                        view.links.insert(link.ifindex, link.clone());
                    });
                    self.consider(&link, synced.then_some(heard));
                    if link.kind == LinkKind::Bridge {
                        // Ports can be heard of before their bridge, or before its name.
                        for port in self.ports(link.ifindex) {
                            self.consider(&port, None);
                        }
                    }
                }
                Ok(Some(LinkEvent::Gone { ifindex })) => self.gone(ifindex),
                Ok(Some(LinkEvent::Moved { link, nsid, ifindex })) => {
                    self.moved(&link, nsid, ifindex, Instant::now());
                }
                Ok(Some(LinkEvent::HostAddress { address, ifindex, added })) => {
                    self.update(|view| {
                        if added {
                            view.addresses.insert((ifindex, address));
                        } else {
                            view.addresses.remove(&(ifindex, address));
                        }
                    });
                }
                Ok(Some(LinkEvent::Synced)) => {
                    synced = true;
                    self.update(|view| view.synced = true);
                }
                Err(error) => {
                    error!(%error, "cannot follow interface changes; trying again");
                    thread::sleep(STOP_PATIENCE);
                    continue;
                }
            }
            if synced {
                self.tell(FenceEvent::Changed);
            }
        }
    }

    fn ports(&self, bridge: u32) -> Vec<Link> {
        let view = read(&self.view);
        view.links.values().filter(|link| link.master == Some(bridge)).cloned().collect()
    }

    /// Tries again to fence what could not be fenced.
    fn retry(&self) {
        self.retry_insiders();
        let failed: Vec<Link> = {
            let view = read(&self.view);
            view.failures.keys().filter_map(|ifindex| view.links.get(ifindex)).cloned().collect()
        };
        for link in failed {
            self.consider(&link, None);
            if !read(&self.view).failures.contains_key(&link.ifindex) {
                info!(interface = link.name, "fenced at last");
                self.tell(FenceEvent::Changed);
            }
        }
    }

    fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn tell(&self, event: FenceEvent) {
        // The receiver goes only when the agent does.
        let _ = self.events.send(event);
    }

    fn attacher(&self) -> MutexGuard<'_, Attacher> {
        self.attacher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hooks that `link` needs a program on, whatever stands in the way of that now.
    fn wanted(&self, link: &Link) -> Vec<Hook> {
        let scope = read(&self.scope);
        let view = read(&self.view);
        let bridge = |name: &str| {
            scope.docker_bridges && is_docker_bridge(name) || scope.bridges.contains(name)
        };
        let managed_port = link
            .master
            .and_then(|master| view.links.get(&master))
            .is_some_and(|master| bridge(&master.name));
        if link.kind == LinkKind::Bridge && bridge(&link.name) {
            vec![Hook::FromBridge, Hook::ToBridge]
        } else if link.kind == LinkKind::Veth && managed_port
            || scope.interfaces.contains(&link.name)
        {
            vec![Hook::FromEndpoint, Hook::ToEndpoint]
        } else {
            let uplink = scope.uplinks.contains(&link.name).then_some(Hook::Uplink);
            let host = scope.hosts.contains(&link.name);
            let host = host.then_some([Hook::FromUplink, Hook::ToUplink]);
            let limited = scope.limited.contains(&link.name).then_some(Hook::UplinkEgress);
            uplink.into_iter().chain(limited).chain(host.into_iter().flatten()).collect()
        }
    }

    /// Takes programs off interfaces that are no longer managed. A port that has lost its bridge
    /// is not one of them: it is about to go, or to be given back.
    fn release(&self) {
        let unwanted: Vec<(Link, Hook)> = {
            let view = read(&self.view);
            let of =
                |(ifindex, hook): &(u32, Hook)| Some((view.links.get(ifindex)?.clone(), *hook));
            view.attached.iter().filter_map(of).collect()
        };
        for (link, hook) in unwanted {
            let loose = matches!(hook, Hook::FromEndpoint | Hook::ToEndpoint)
                && link.kind == LinkKind::Veth
                && link.master.is_none();
            if loose || self.wanted(&link).contains(&hook) {
                continue;
            }
            self.attacher().detach(link.ifindex, hook);
            info!(interface = link.name, program = hook.program(), "no longer managed");
            self.update(|view| {
                view.attached.remove(&(link.ifindex, hook));
                if hook == Hook::Uplink {
                    view.uplink_modes.remove(&link.ifindex);
                }
            });
        }
    }

    /// Puts the programs that `link` needs on it. `heard`: when it appeared, if it is new.
    fn consider(&self, link: &Link, heard: Option<Instant>) {
        let due = if link.kind == LinkKind::Bridge { Stage::All } else { Stage::Endpoints };
        let early = self.stage.load(Ordering::SeqCst) < due as u8
            && read(&self.view).found_open.contains(&link.ifindex);
        if early {
            return;
        }
        let hooks = self.wanted(link);
        if hooks.is_empty() {
            return;
        }
        let missing: Vec<Hook> = {
            let view = read(&self.view);
            hooks
                .iter()
                .copied()
                .filter(|hook| !view.attached.contains(&(link.ifindex, *hook)))
                .collect()
        };
        for hook in &missing {
            self.attach(link, *hook);
        }
        self.all_is_well(link.ifindex, &hooks);
        if read(&self.scope).interfaces.contains(&link.name) {
            self.learn_mac(link);
        }
        if let (Some(heard), true) = (heard, missing.contains(&Hook::FromEndpoint)) {
            let delay = heard.elapsed();
            debug!(interface = link.name, micros = delay.as_micros(), "fenced");
            self.tell(FenceEvent::Fenced { delay });
        }
    }

    /// Takes a failure back once every hook has its program. One of two is a failure still.
    fn all_is_well(&self, ifindex: u32, hooks: &[Hook]) {
        let well = {
            let view = read(&self.view);
            view.failures.contains_key(&ifindex)
                && hooks.iter().all(|hook| view.attached.contains(&(ifindex, *hook)))
        };
        if well {
            self.update(|view| {
                view.failures.remove(&ifindex);
            });
        }
    }

    /// Reads the MAC address behind a static endpoint's veth: what its frames must come from, and what
    /// gives its link-local address. A workload's root may change it, and the next notice of the veth
    /// is followed; but not to another endpoint's, whose frames it would draw to itself.
    fn learn_mac(&self, link: &Link) {
        let (Some(nsid), Some(peer)) = (link.link_netnsid, link.link) else { return };
        match Netlink::open().and_then(|mut netlink| netlink.peer_mac(nsid, peer)) {
            Ok(Some(mac)) => self.update(|view| {
                let mut others = view.peer_macs.iter().filter(|(of, _)| **of != link.ifindex);
                if !others.any(|(_, known)| *known == mac) {
                    view.peer_macs.insert(link.ifindex, mac);
                }
            }),
            Ok(None) => {}
            Err(error) => debug!(interface = link.name, %error, "no MAC address to be had"),
        }
    }

    fn attach(&self, link: &Link, hook: Hook) {
        let ifindex = link.ifindex;
        let result = if hook == Hook::Uplink {
            self.attacher().attach_uplink(ifindex).map(|mode| {
                info!(interface = link.name, ?mode, "block lists on the uplink");
                self.update(|view| {
                    view.uplink_modes.insert(ifindex, mode);
                });
            })
        } else {
            self.attacher().attach(ifindex, hook)
        };
        match result {
            Ok(()) => {
                let mut here = false;
                self.update(|view| {
                    here = view.links.contains_key(&ifindex);
                    if here {
                        view.attached.insert((ifindex, hook));
                    }
                });
                if !here {
                    // It went while the program went on; the next interface of this index must
                    // not be taken for fenced.
                    self.attacher().forget(ifindex, hook);
                }
            }
            Err(AttachError::Gone(_)) => {}
            Err(error) => {
                // Nothing of ours is on the interface; the bridge guard and the peers' own fences
                // are what is left. It is tried again all the time.
                let reason = format!("{}: {error}", link.name);
                let mut news = false;
                self.update(|view| {
                    let before = view.failures.insert(ifindex, reason.clone());
                    news = before.as_ref() != Some(&reason);
                });
                if news {
                    error!(interface = link.name, %error, "cannot fence an interface");
                    self.tell(FenceEvent::Changed);
                }
            }
        }
    }

    fn gone(&self, ifindex: u32) {
        let mut hooks = Vec::new();
        self.update(|view| {
            hooks.extend(
                Hook::ALL.into_iter().filter(|hook| view.attached.remove(&(ifindex, *hook))),
            );
            view.links.remove(&ifindex);
            view.found_open.remove(&ifindex);
            view.uplink_modes.remove(&ifindex);
            view.peer_macs.remove(&ifindex);
            view.failures.remove(&ifindex);
            view.addresses.retain(|(of, _)| *of != ifindex);
        });
        for hook in &hooks {
            self.attacher().forget(ifindex, *hook);
        }
        if !hooks.is_empty() {
            self.tell(FenceEvent::Gone { ifindex });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_names_its_bridges_by_network_id() {
        assert!(is_docker_bridge("docker0"));
        assert!(is_docker_bridge("br-0123456789ab"));
        assert!(!is_docker_bridge("br-lan"));
        assert!(!is_docker_bridge("br-0123456789abc"));
        assert!(!is_docker_bridge("virbr0"));
    }
}
