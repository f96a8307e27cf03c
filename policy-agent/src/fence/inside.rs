//! The fence inside other network namespaces, for interfaces without an end on the host.
//!
//! Two kinds of them: a macvlan device inside a container's namespace, and the port of an overlay
//! network's bridge that leads to a container, inside that network's namespace.
//!
//! A macvlan device is made on the host and moved, and what hung on it stays behind. The kernel says
//! where it went (RTM_DELLINK with IFLA_NEW_NETNSID), which is the earliest moment at which a program
//! can go on for good. Finding the namespace takes a walk through the process table, so each device
//! gets a thread: it must not make the fence wait. A port of an overlay network is made on the host
//! and moved, too, well before the container's end of it. What was there before the agent is found through
//! its container.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, MutexGuard, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use policy_common::abi::INSIDE;
use tracing::{debug, error, info};

use super::{FenceEvent, Numbers, Shared, Stage, View, read};
use crate::{
    kernel::{
        attach::{AttachError, Attacher},
        inside::{HOOKS, remove_filters},
        pin::Place,
    },
    netlink::{Link, LinkKind, Netlink, NetlinkError},
    sandbox::{self, Role, Sandbox},
};

/// How long a device that left may be without a process of a container beside it. One that never
/// gets any is somebody else's.
const SEARCH: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);
/// What is missing for long is looked for once in that many turns of the fence.
const MISSES: u32 = 64;

/// What an interface inside another namespace hangs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// A macvlan's parent, by its index on the host.
    Parent(u32),
    /// An overlay network, by how its id begins.
    Overlay(String),
}

/// An interface that a container should have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expected {
    /// Id of the container.
    pub container: String,
    /// Id of the network.
    pub network: String,
    /// Whether that is an overlay network; else a macvlan.
    pub overlay: bool,
}

impl Expected {
    fn is(&self, inside: &Inside) -> bool {
        inside.containers.contains(&self.container)
            && match &inside.on {
                On::Parent(_) => !self.overlay,
                On::Overlay(prefix) => self.overlay && self.network.starts_with(prefix),
            }
    }
}

/// An interface inside another network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Where it is.
    pub place: Place,
    /// Its name there; empty until it has been looked at.
    pub name: String,
    /// What it hangs on.
    pub on: On,
    /// Ids of the containers that have processes in the namespace that it is in or leads to.
    pub containers: BTreeSet<String>,
}

impl View {
    /// The number of the one interface that a container has on something.
    pub fn inside_of(&self, container: &str, on: &On) -> Option<u32> {
        let mut all = self
            .inside
            .iter()
            .filter(|(_, inside)| inside.on == *on && inside.containers.contains(container));
        let (number, _) = all.next()?;
        all.next().is_none().then_some(*number)
    }
}

/// Loads the programs, on a thread of its own: the verifier takes longer over them than a container
/// takes to start.
pub(super) fn load(shared: &Arc<Shared>) {
    if !read(&shared.scope).docker_bridges {
        return;
    }
    let shared = Arc::clone(shared);
    let load = move || {
        if let Err(reason) = shared.insider().load_inside() {
            error!(%reason, "cannot load the programs for containers' own interfaces");
        }
    };
    if let Err(reason) = thread::Builder::new().name("fence-load".to_owned()).spawn(load) {
        error!(%reason, "cannot load the programs for containers' own interfaces yet");
    }
}

impl Shared {
    fn insider(&self) -> MutexGuard<'_, Attacher> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insiders(&self) -> MutexGuard<'_, BTreeSet<Expected>> {
        self.insiders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device has left for another namespace.
    pub(super) fn moved(self: &Arc<Self>, link: &Link, nsid: i32, ifindex: u32, heard: Instant) {
        if !read(&self.scope).docker_bridges {
            return;
        }
        let shared = Arc::clone(self);
        let parent = link.link.filter(|_| link.kind == LinkKind::Macvlan);
        let search = move || {
            let result = match parent {
                Some(parent) => shared.macvlan_moved(parent, nsid, ifindex, heard),
                None => shared.veth_moved(nsid, ifindex, heard),
            };
            if let Err(reason) = result {
                error!(%reason, "cannot look for the namespace that an interface went to");
            }
        };
        if let Err(reason) = thread::Builder::new().name("fence-inside".to_owned()).spawn(search) {
            error!(%reason, "cannot look for the namespace that an interface went to");
        }
    }

    fn macvlan_moved(
        &self,
        parent: u32,
        nsid: i32,
        ifindex: u32,
        heard: Instant,
    ) -> Result<(), NetlinkError> {
        while !self.stop.load(Ordering::SeqCst) && heard.elapsed() < SEARCH {
            let all = sandbox::all().map_err(unreadable)?;
            if let Some(sandbox) = of_nsid(all, nsid)? {
                self.moved_to(&sandbox, On::Parent(parent), ifindex, heard);
                break;
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// One end of a veth has left: for an overlay network, or for a container. The latter may be the
    /// other end of the former, which tells whose port it is.
    fn veth_moved(&self, nsid: i32, ifindex: u32, heard: Instant) -> Result<(), NetlinkError> {
        let overlays = sandbox::of_overlays().map_err(unreadable)?;
        if overlays.is_empty() {
            return Ok(());
        }
        if let Some(sandbox) = of_nsid(overlays, nsid)? {
            if let Role::Overlay(network) = &sandbox.role {
                self.moved_to(&sandbox, On::Overlay(network.clone()), ifindex, heard);
            }
            return Ok(());
        }
        loop {
            self.look_inside();
            if !self.misses_insiders() || self.stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            if heard.elapsed() > SEARCH {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
    }

    fn moved_to(&self, of: &Sandbox, on: On, ifindex: u32, heard: Instant) {
        let place = Place { netns: of.inode, ifindex };
        let old = read(&self.view).inside.iter().find(|(_, it)| it.place == place).map(|it| *it.0);
        if let Some(old) = old {
            // Another device, of an index that is free again.
            self.inside_gone(old);
        }
        let name = String::new();
        let inside = Inside { place, name, on, containers: of.containers.clone() };
        let number = self.take_in(inside, false);
        self.fence_inside(number, of);
        if read(&self.view).fenced(number) {
            let delay = heard.elapsed();
            debug!(number, micros = delay.as_micros(), "fenced inside another namespace");
            self.tell(FenceEvent::Fenced { delay });
        }
        self.tell(FenceEvent::Changed);
    }

    /// Takes note of an interface, and gives it a number; `open`: it was there before the agent.
    fn take_in(&self, inside: Inside, open: bool) -> u32 {
        let mut numbers = self.numbers();
        let mut number = numbers.known.get(&inside.place).copied();
        while number.is_none() {
            numbers.next = numbers.next.wrapping_add(1);
            let next = INSIDE | u32::from(numbers.next);
            let taken = numbers.next == 0 || numbers.known.values().any(|known| *known == next);
            number = (!taken).then_some(next);
        }
        let number = number.unwrap_or(INSIDE);
        numbers.known.insert(inside.place, number);
        drop(numbers);
        self.update(|view| {
            if open {
                view.found_open.insert(number);
            }
            view.inside.insert(number, inside);
        });
        number
    }

    /// Puts the programs on.
    fn fence_inside(&self, number: u32, of: &Sandbox) {
        let Some(inside) = read(&self.view).inside.get(&number).cloned() else { return };
        // A port is the far end of the container's veth, a macvlan is the container's own interface.
        let far = matches!(inside.on, On::Overlay(_));
        let attach = || self.insider().attach_inside(inside.place, number, far);
        match sandbox::enter(&of.file, attach) {
            Ok(Ok(())) => self.update(|view| {
                if view.inside.contains_key(&number) {
                    view.attached.extend(HOOKS.map(|hook| (number, hook)));
                }
                view.failures.remove(&number);
            }),
            Ok(Err(AttachError::Gone(_))) => self.inside_gone(number),
            Ok(Err(reason)) => self.inside_failed(number, reason.to_string()),
            Err(reason) => self.inside_failed(number, reason.to_string()),
        }
    }

    fn inside_failed(&self, number: u32, reason: String) {
        let mut news = false;
        self.update(|view| {
            let before = view.failures.insert(number, reason.clone());
            news = before.as_ref() != Some(&reason);
        });
        if news {
            error!(number, reason, "cannot fence an interface inside a container's namespace");
            self.tell(FenceEvent::Changed);
        }
    }

    fn inside_gone(&self, number: u32) {
        let mut gone = None;
        self.update(|view| {
            gone = view.inside.remove(&number);
            view.attached.retain(|(of, _)| *of != number);
            view.found_open.remove(&number);
            view.failures.remove(&number);
        });
        if let Some(Inside { place, .. }) = gone {
            let mut numbers = self.numbers();
            numbers.known.remove(&place);
            drop(numbers);
            self.insider().forget_inside(place, number);
            self.tell(FenceEvent::Gone { ifindex: number });
        }
    }

    /// Looks into the namespaces where something should be, and those where something was: takes note
    /// of what is there, and forgets what is not.
    pub(super) fn look_inside(&self) {
        let wanted = self.insiders().clone();
        let known: BTreeSet<u64> =
            read(&self.view).inside.values().map(|inside| inside.place.netns).collect();
        if wanted.is_empty() && known.is_empty() {
            return;
        }
        let (containers, overlays) = match namespaces() {
            Ok(found) => found,
            Err(reason) => {
                error!(%reason, "cannot look for the namespaces of containers");
                return;
            }
        };
        let mut seen = BTreeSet::new();
        for of in containers.iter().chain(&overlays) {
            let asked = wanted.iter().any(|it| match &of.role {
                Role::Container => of.containers.contains(&it.container),
                Role::Overlay(network) => it.overlay && it.network.starts_with(network),
                Role::Balancer => false,
            });
            if !asked && !known.contains(&of.inode) {
                continue;
            }
            match found_in(of, &containers, &overlays) {
                Ok(found) => {
                    self.leave_to_engine(of, &found);
                    for inside in found {
                        seen.insert(inside.place);
                        self.seen_inside(inside);
                    }
                }
                Err(reason) => {
                    debug!(%reason, "cannot look into another namespace");
                    // What cannot be seen is not gone.
                    let view = read(&self.view);
                    let here = view.inside.values().map(|inside| inside.place);
                    seen.extend(here.filter(|place| place.netns == of.inode));
                }
            }
        }
        let gone: Vec<u32> = {
            let view = read(&self.view);
            let gone = view.inside.iter().filter(|(_, inside)| !seen.contains(&inside.place));
            gone.map(|(number, _)| *number).collect()
        };
        for number in gone {
            self.inside_gone(number);
        }
    }

    /// Forgets the numbers of interfaces that went while no agent ran, once: everything that should
    /// be there has been looked for.
    pub(super) fn sweep_numbers(&self) {
        let here: BTreeSet<Place> =
            read(&self.view).inside.values().map(|inside| inside.place).collect();
        let mut numbers = self.numbers();
        if numbers.swept {
            return;
        }
        numbers.swept = true;
        let gone: Vec<(Place, u32)> = numbers
            .known
            .iter()
            .filter(|(place, _)| !here.contains(place))
            .map(|(place, number)| (*place, *number))
            .collect();
        numbers.known.retain(|place, _| here.contains(place));
        drop(numbers);
        for (place, number) in gone {
            self.insider().forget_inside(place, number);
        }
    }

    /// Takes the programs off ports that turned out to be a load balancer's, which is no container.
    fn leave_to_engine(&self, of: &Sandbox, found: &[Inside]) {
        let ours: Vec<u32> = {
            let view = read(&self.view);
            let here = view.inside.values().map(|inside| inside.place);
            let here = here.filter(|place| place.netns == of.inode);
            let left = here.filter(|place| found.iter().all(|inside| inside.place != *place));
            left.map(|place| place.ifindex).collect()
        };
        let remove = || ours.iter().map(|ifindex| remove_filters(*ifindex)).sum::<usize>();
        if !ours.is_empty()
            && let Err(reason) = sandbox::enter(&of.file, remove)
        {
            debug!(%reason, "cannot take programs off another namespace's interface");
        }
    }

    fn seen_inside(&self, now: Inside) {
        let known = read(&self.view).inside.iter().find_map(|(number, inside)| {
            (inside.place == now.place).then(|| (*number, *inside != now))
        });
        match known {
            None => {
                info!(interface = now.name, "found inside another namespace");
                self.take_in(now, true);
                self.tell(FenceEvent::Changed);
            }
            Some((number, true)) => {
                self.update(|view| {
                    view.inside.insert(number, now);
                });
                self.tell(FenceEvent::Changed);
            }
            Some((_, false)) => {}
        }
    }

    /// Whether a container that should have such an interface is not known to have it, or one could
    /// not be fenced.
    pub(super) fn misses_insiders(&self) -> bool {
        let wanted = self.insiders();
        let view = read(&self.view);
        let has = |it: &Expected| view.inside.values().any(|inside| it.is(inside));
        // One that has just been moved there gets its name a moment later.
        let nameless = |inside: &Inside| inside.name.is_empty();
        wanted.iter().any(|it| !has(it))
            || view.inside.values().any(nameless)
            || view.inside.keys().any(|number| view.failures.contains_key(number))
    }

    /// Looks again for what is missing, ever more rarely: a walk through the process table is not
    /// for nothing.
    pub(super) fn retry_insiders(&self) {
        if !self.misses_insiders() {
            self.numbers().misses = 0;
            return;
        }
        let misses = {
            let mut numbers = self.numbers();
            numbers.misses = numbers.misses.wrapping_add(1);
            numbers.misses
        };
        if misses.is_power_of_two() || misses.is_multiple_of(MISSES) {
            self.look_inside();
            self.fence_insiders();
        }
    }

    /// Fences what was found and is not fenced yet: the maps hold its policy now.
    pub(super) fn fence_insiders(&self) {
        if self.stage.load(Ordering::SeqCst) < Stage::Endpoints as u8 {
            return;
        }
        let open: Vec<(u32, u64)> = {
            let view = read(&self.view);
            let open = view.inside.iter().filter(|(number, _)| !view.fenced(**number));
            open.map(|(number, inside)| (*number, inside.place.netns)).collect()
        };
        if open.is_empty() {
            return;
        }
        let found = namespaces().map(|(mut containers, overlays)| {
            containers.extend(overlays);
            containers
        });
        for (number, way) in ways(&open, &found) {
            match way {
                Ok(of) => self.fence_inside(number, of),
                Err(reason) => self.inside_failed(number, reason),
            }
        }
    }
}

/// The namespaces of containers, and those of overlay networks.
fn namespaces() -> io::Result<(Vec<Sandbox>, Vec<Sandbox>)> {
    Ok((sandbox::all()?, sandbox::of_overlays()?))
}

/// The namespace of each interface (number, inode), or why there is no way to it. What cannot be read is not
/// empty: an interface that is left open must be a failure that is seen and tried again.
fn ways<'a>(
    open: &[(u32, u64)],
    found: &'a io::Result<Vec<Sandbox>>,
) -> Vec<(u32, Result<&'a Sandbox, String>)> {
    let way = |netns: u64| match found {
        Ok(found) => found
            .iter()
            .find(|of| of.inode == netns)
            .ok_or_else(|| "no process of its container is to be found".to_owned()),
        Err(reason) => Err(format!("cannot look for its namespace: {reason}")),
    };
    open.iter().map(|(number, netns)| (*number, way(*netns))).collect()
}

fn unreadable(source: io::Error) -> NetlinkError {
    NetlinkError::Io { what: "look for network namespaces", source }
}

/// The one among them that this namespace knows by an id.
fn of_nsid(all: Vec<Sandbox>, nsid: i32) -> Result<Option<Sandbox>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    Ok(all.into_iter().find(|it| netlink.nsid_of(&it.file).is_ok_and(|id| id == Some(nsid))))
}

/// The interfaces in a namespace that have no end on the host.
fn found_in(
    of: &Sandbox,
    containers: &[Sandbox],
    overlays: &[Sandbox],
) -> Result<Vec<Inside>, NetlinkError> {
    let look = || -> Result<Vec<Inside>, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let links = netlink.dump_links()?;
        let mut leads_to = |link: &Link, all: &[Sandbox]| -> Option<BTreeSet<String>> {
            let nsid = link.link_netnsid?;
            all.iter()
                .find(|it| netlink.nsid_of(&it.file).is_ok_and(|id| id == Some(nsid)))
                .map(|it| it.containers.clone())
        };
        let mut found = Vec::new();
        for link in links {
            let place = Place { netns: of.inode, ifindex: link.ifindex };
            let (on, containers) = match (&of.role, link.kind) {
                (Role::Container, LinkKind::Macvlan) => {
                    let Some(parent) = link.link else { continue };
                    (On::Parent(parent), of.containers.clone())
                }
                (Role::Overlay(network), LinkKind::Veth) if link.master.is_some() => {
                    // The engine's own: the containers that it speaks to are fenced themselves.
                    if leads_to(&link, overlays).is_some() {
                        continue;
                    }
                    let containers = leads_to(&link, containers).unwrap_or_default();
                    (On::Overlay(network.clone()), containers)
                }
                _ => continue,
            };
            found.push(Inside { place, name: link.name, on, containers });
        }
        Ok(found)
    };
    sandbox::enter(&of.file, look).map_err(unreadable)?
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn inside(ifindex: u32, on: On, containers: &[&str]) -> Inside {
        Inside {
            place: Place { netns: 1, ifindex },
            name: format!("if{ifindex}"),
            on,
            containers: containers.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    #[test]
    fn what_two_interfaces_may_be_is_neither() {
        let over = On::Overlay("abc".to_owned());
        let mut view = View::default();
        view.inside.insert(10, inside(2, On::Parent(7), &["web", "guest"]));
        view.inside.insert(11, inside(3, On::Parent(8), &["web"]));
        view.inside.insert(12, inside(4, over.clone(), &["web"]));
        assert_eq!(view.inside_of("web", &On::Parent(7)), Some(10));
        assert_eq!(view.inside_of("web", &over), Some(12));
        assert_eq!(view.inside_of("db", &over), None);
        view.inside.insert(13, inside(5, On::Parent(7), &["web"]));
        assert_eq!(view.inside_of("web", &On::Parent(7)), None);
    }

    #[test]
    fn what_cannot_be_read_leaves_no_interface_open_in_silence() {
        let open = [(10, 1), (11, 2)];
        let unread = Err(io::Error::other("no /proc"));
        let refused = ways(&open, &unread);
        assert_eq!(refused.len(), 2);
        for (_, way) in refused {
            assert!(way.unwrap_err().ends_with("no /proc"));
        }
        let of = Sandbox {
            inode: 2,
            file: File::open("/proc/self/ns/net").unwrap(),
            containers: BTreeSet::new(),
            role: Role::Container,
        };
        let read = Ok(vec![of]);
        let ways = ways(&open, &read);
        assert_eq!(ways[0].0, 10);
        assert!(ways[0].1.is_err());
        assert_eq!(ways[1].0, 11);
        assert_eq!(ways[1].1.as_ref().unwrap().inode, 2);
    }

    #[test]
    fn an_interface_on_one_network_does_not_stand_for_one_on_another() {
        let expected = |network: &str, overlay| Expected {
            container: "web".to_owned(),
            network: network.to_owned(),
            overlay,
        };
        let port = inside(2, On::Overlay("abc".to_owned()), &["web"]);
        assert!(expected("abcdef", true).is(&port));
        assert!(!expected("bcdef", true).is(&port));
        assert!(!expected("abcdef", false).is(&port));
        assert!(expected("bcdef", false).is(&inside(3, On::Parent(7), &["web"])));
        assert!(!expected("abcdef", true).is(&inside(2, On::Overlay("abc".to_owned()), &["db"])));
    }
}
