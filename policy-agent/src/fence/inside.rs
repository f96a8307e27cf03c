//! The fence inside containers' network namespaces, for interfaces without an end on the host.
//!
//! A macvlan device is made on the host and moved, and what hung on it stays behind. The kernel says
//! where it went (RTM_DELLINK with IFLA_NEW_NETNSID), which is the earliest moment at which a program
//! can go on for good. Finding the namespace takes a walk through the process table, so each device
//! gets a thread: it must not make the fence wait. What was there before the agent is found through
//! its container.

use std::{
    collections::BTreeSet,
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
        inside::HOOKS,
        pin::Place,
    },
    netlink::{Link, LinkKind, Netlink, NetlinkError},
    sandbox::{self, Sandbox},
};

/// How long a device that left may be without a process of a container beside it. One that never
/// gets any is somebody else's.
const SEARCH: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);

/// An interface inside a container's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Where it is.
    pub place: Place,
    /// Its name there; empty until it has been looked at.
    pub name: String,
    /// Index of its parent on the host.
    pub parent: u32,
    /// Ids of the containers that have processes there.
    pub containers: BTreeSet<String>,
}

impl View {
    /// The number of the one interface that a container has on a parent.
    pub fn inside_of(&self, container: &str, parent: u32) -> Option<u32> {
        let mut all = self
            .inside
            .iter()
            .filter(|(_, inside)| inside.parent == parent && inside.containers.contains(container));
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

    fn insiders(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.insiders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A macvlan device has left for another namespace.
    pub(super) fn moved(self: &Arc<Self>, parent: u32, nsid: i32, ifindex: u32, heard: Instant) {
        if !read(&self.scope).docker_bridges {
            return;
        }
        let shared = Arc::clone(self);
        let search = move || {
            while !shared.stop.load(Ordering::SeqCst) && heard.elapsed() < SEARCH {
                match sandbox_of(nsid) {
                    Ok(Some(sandbox)) => {
                        shared.moved_to(&sandbox, parent, ifindex, heard);
                        return;
                    }
                    Ok(None) => {}
                    Err(reason) => debug!(%reason, "cannot look for a container's namespace"),
                }
                thread::sleep(PAUSE);
            }
        };
        if let Err(reason) = thread::Builder::new().name("fence-inside".to_owned()).spawn(search) {
            error!(%reason, "cannot look for a container's namespace");
        }
    }

    fn moved_to(&self, of: &Sandbox, parent: u32, ifindex: u32, heard: Instant) {
        let place = Place { netns: of.inode, ifindex };
        let old = read(&self.view).inside.iter().find(|(_, it)| it.place == place).map(|it| *it.0);
        if let Some(old) = old {
            // Another device, of an index that is free again.
            self.inside_gone(old);
        }
        let name = String::new();
        let inside = Inside { place, name, parent, containers: of.containers.clone() };
        let number = self.take_in(inside, false);
        self.fence_inside(number, of);
        if read(&self.view).fenced(number) {
            let delay = heard.elapsed();
            debug!(number, micros = delay.as_micros(), "fenced inside a container's namespace");
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
        let attach = || self.insider().attach_inside(inside.place, number);
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

    /// Looks into the namespaces of the containers that should have such interfaces, and of those
    /// that had some: takes note of what is there, and forgets what is not.
    pub(super) fn look_inside(&self) {
        let wanted = self.insiders().clone();
        let known: BTreeSet<u64> =
            read(&self.view).inside.values().map(|inside| inside.place.netns).collect();
        if wanted.is_empty() && known.is_empty() {
            return;
        }
        let sandboxes = match sandbox::all() {
            Ok(sandboxes) => sandboxes,
            Err(reason) => {
                error!(%reason, "cannot search the process table for containers");
                return;
            }
        };
        let mut seen = BTreeSet::new();
        for of in &sandboxes {
            let asked = of.containers.iter().any(|id| wanted.iter().any(|(it, _)| it == id));
            if !asked && !known.contains(&of.inode) {
                continue;
            }
            let links = match links_in(of) {
                Ok(links) => links,
                Err(reason) => {
                    debug!(%reason, "cannot look into a container's namespace");
                    // What cannot be seen is not gone.
                    let view = read(&self.view);
                    let here = view.inside.values().map(|inside| inside.place);
                    seen.extend(here.filter(|place| place.netns == of.inode));
                    continue;
                }
            };
            for link in links {
                let place = Place { netns: of.inode, ifindex: link.ifindex };
                seen.insert(place);
                self.seen_inside(of, place, link);
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

    fn seen_inside(&self, of: &Sandbox, place: Place, link: Link) {
        let Some(parent) = link.link else { return };
        let now = Inside { place, name: link.name, parent, containers: of.containers.clone() };
        let known = read(&self.view).inside.iter().find_map(|(number, inside)| {
            (inside.place == place).then(|| (*number, *inside != now))
        });
        match known {
            None => {
                info!(interface = now.name, "found inside a container's namespace");
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
        let has = |id: &String| view.inside.values().any(|it| it.containers.contains(id));
        // One that has just been moved there gets its name a moment later.
        let nameless = |inside: &Inside| inside.name.is_empty();
        wanted.iter().any(|(id, _)| !has(id))
            || view.inside.values().any(nameless)
            || view.inside.keys().any(|number| view.failures.contains_key(number))
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
        for of in sandbox::all().unwrap_or_default() {
            for (number, _) in open.iter().filter(|(_, netns)| *netns == of.inode) {
                self.fence_inside(*number, &of);
            }
        }
    }
}

/// The container namespace of an id, if one is known by now.
fn sandbox_of(nsid: i32) -> Result<Option<Sandbox>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let sandboxes =
        sandbox::all().map_err(|source| NetlinkError::Io { what: "read /proc", source })?;
    Ok(sandboxes.into_iter().find(|it| netlink.nsid_of(&it.file).is_ok_and(|id| id == Some(nsid))))
}

/// The interfaces in a namespace that have no end on the host.
fn links_in(of: &Sandbox) -> Result<Vec<Link>, NetlinkError> {
    let list = || Netlink::open()?.dump_links();
    let links = sandbox::enter(&of.file, list)
        .map_err(|source| NetlinkError::Io { what: "enter a namespace", source })??;
    Ok(links.into_iter().filter(|link| link.kind == LinkKind::Macvlan).collect())
}
