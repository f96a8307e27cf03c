//! Programs onto interfaces and off them.
//!
//! On kernels with TCX each program hangs on a pinned link: it stays when the agent goes, and a new
//! agent swaps the program under it without a gap. Older kernels get a clsact filter with a fixed
//! priority and handle, which stays by itself and is replaced in place.

use std::{fs, mem};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, TcAttachType, Xdp,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
        xdp::{XdpLink, XdpMode},
    },
};
use nix::net::if_::if_indextoname;
use thiserror::Error;
use tracing::error;

use super::{
    features::Features,
    load,
    pin::{Hook, PinError, Pins},
};

/// Priority of our filters: before everybody's, so that nobody's `TC_ACT_OK` skips them.
pub(super) const PRIORITY: u16 = 1;
/// Handle of our filters, to find them again.
pub(super) const HANDLE: TcHandle = TcHandle::new(0, 0x7a11);
/// Handle of the one filter that stands beside another of ours.
const SECOND_HANDLE: TcHandle = TcHandle::new(0, 0x7a12);

/// Why a program is not on its interface.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The interface went away.
    #[error("interface {0} is gone")]
    Gone(u32),
    /// The kernel refused.
    #[error("{program} on interface {ifindex}: {source}")]
    Program {
        /// Which program.
        program: &'static str,
        /// Where.
        ifindex: u32,
        /// Why.
        source: Box<ProgramError>,
    },
    /// Pinning the link failed.
    #[error("pinning {program} of interface {ifindex}: {reason}")]
    Pin {
        /// Which program.
        program: &'static str,
        /// Where.
        ifindex: u32,
        /// Why.
        reason: String,
    },
    /// The pins cannot be read.
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// How an uplink runs its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkMode {
    /// In the driver.
    Native,
    /// In the stack, after an skb was built; slower, works everywhere.
    Generic,
}

/// Owner of the loaded programs.
pub struct Attacher {
    pub(super) ebpf: Ebpf,
    pub(super) pins: Pins,
    features: Features,
}

impl Attacher {
    /// Takes the loaded programs.
    pub fn new(ebpf: Ebpf, pins: Pins, features: Features) -> Attacher {
        Attacher { ebpf, pins, features }
    }

    /// The object, for tests that run programs without an interface.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Puts this agent's programs under every link that an earlier agent left; forgets links whose
    /// interface is gone. Returns what is attached.
    ///
    /// # Errors
    ///
    /// [`AttachError::Pins`]. A link that cannot be taken over keeps the earlier agent's program,
    /// which reads the same maps, and is left out of the answer: the fence tries again. One
    /// interface must not keep the agent from fencing all others.
    pub fn adopt(&mut self) -> Result<Vec<(u32, Hook)>, AttachError> {
        let mut adopted = Vec::new();
        for (ifindex, hook) in self.pins.links()? {
            match self.attach(ifindex, hook) {
                Ok(()) => adopted.push((ifindex, hook)),
                Err(AttachError::Gone(_)) => self.forget(ifindex, hook),
                Err(error) => error!(%error, "cannot take over an earlier agent's program"),
            }
        }
        Ok(adopted)
    }

    /// Puts a TC program on an interface, or swaps it for this agent's where it is already.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn attach(&mut self, ifindex: u32, hook: Hook) -> Result<(), AttachError> {
        let attached = match hook {
            Hook::Uplink => return self.attach_uplink(ifindex).map(|_| ()),
            _ => self.attach_classifier(ifindex, hook),
        };
        unless_gone(ifindex, attached)
    }

    fn attach_classifier(&mut self, ifindex: u32, hook: Hook) -> Result<(), AttachError> {
        let program = hook.program();
        let fail = |source| AttachError::Program { program, ifindex, source: Box::new(source) };
        let name = interface(ifindex)?;
        let attach_type = attach_type(hook);
        let pin = self.pins.link(ifindex, hook);
        // An interface keeps the way in which it was attached: both at once would run each packet
        // through twice.
        let tcx = match fs::metadata(&pin) {
            Ok(pinned) => !pinned.is_dir(),
            Err(_) => self.features.tcx,
        };
        let classifier = load::classifier(&mut self.ebpf, hook).map_err(fail)?;
        if !tcx {
            // Exists already where an earlier agent was.
            let _ = tc::qdisc_add_clsact(&name);
            let link =
                SchedClassifierLink::attached(&name, attach_type, PRIORITY, handle(hook), None)
                    .map_err(|error| fail(TcError::IoError(error).into()))?;
            let id = match classifier.attach_to_link(link) {
                Ok(id) => id,
                Err(_) => classifier
                    .attach_with_options(
                        &name,
                        attach_type,
                        TcAttachOptions::Netlink(NlOptions {
                            priority: PRIORITY,
                            handle: handle(hook),
                            classid: None,
                        }),
                    )
                    .map_err(fail)?,
            };
            // The filter outlives this process: dropping the link would detach it.
            mem::forget(classifier.take_link(id).map_err(fail)?);
            return fs::create_dir_all(&pin).map_err(|error| unpinned(program, ifindex, &error));
        }
        if let Ok(pinned) = PinnedLink::from_pin(&pin) {
            let link = SchedClassifierLink::try_from(FdLink::from(pinned))
                .map_err(|error| unpinned(program, ifindex, &error))?;
            if let Ok(id) = classifier.attach_to_link(link) {
                drop(classifier.take_link(id).map_err(fail)?);
                return Ok(());
            }
            // The link is of an interface that is gone; the kernel has given its index away again.
            // Should it be another failure, the old program stays on until the new one is.
        }
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = classifier.attach_with_options(&name, attach_type, order).map_err(fail)?;
        let link = classifier.take_link(id).map_err(fail)?;
        let _ = fs::remove_file(&pin);
        FdLink::try_from(link)
            .map_err(|error| unpinned(program, ifindex, &error))?
            .pin(&pin)
            .map_err(|error| unpinned(program, ifindex, &error))?;
        Ok(())
    }

    /// Puts the XDP program on an uplink: in the driver if it can, else in the stack.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<UplinkMode, AttachError> {
        let attached = self.attach_xdp(ifindex);
        unless_gone(ifindex, attached)
    }

    fn attach_xdp(&mut self, ifindex: u32) -> Result<UplinkMode, AttachError> {
        let hook = Hook::Uplink;
        let program = hook.program();
        let fail = |source| AttachError::Program { program, ifindex, source: Box::new(source) };
        let name = interface(ifindex)?;
        let pin = self.pins.link(ifindex, hook);
        let xdp: &mut Xdp = self
            .ebpf
            .program_mut(program)
            .ok_or(fail(ProgramError::NotLoaded))?
            .try_into()
            .map_err(fail)?;
        if let Ok(pinned) = PinnedLink::from_pin(&pin) {
            let link = XdpLink::try_from(FdLink::from(pinned))
                .map_err(|error| unpinned(program, ifindex, &error))?;
            if let Ok(id) = xdp.attach_to_link(link) {
                drop(xdp.take_link(id).map_err(fail)?);
                let generic = self.pins.generic_mark(ifindex).exists();
                return Ok(if generic { UplinkMode::Generic } else { UplinkMode::Native });
            }
            let _ = fs::remove_file(&pin);
        }
        let (id, mode) = match xdp.attach(&name, XdpMode::Driver) {
            Ok(id) => (id, UplinkMode::Native),
            Err(_) => (xdp.attach(&name, XdpMode::Skb).map_err(fail)?, UplinkMode::Generic),
        };
        let link = xdp.take_link(id).map_err(fail)?;
        if mode == UplinkMode::Generic {
            // A link does not say which mode it is in; the next agent wants to.
            fs::create_dir_all(self.pins.generic_mark(ifindex))
                .map_err(|error| unpinned(program, ifindex, &error))?;
        }
        FdLink::try_from(link)
            .map_err(|error| unpinned(program, ifindex, &error))?
            .pin(&pin)
            .map_err(|error| unpinned(program, ifindex, &error))?;
        Ok(mode)
    }

    /// Takes a program off its interface.
    pub fn detach(&self, ifindex: u32, hook: Hook) {
        remove_filter(&self.pins, ifindex, hook);
        self.forget(ifindex, hook);
    }

    /// Removes the pin of a link; with it, on kernels with TCX, goes the last reference.
    pub fn forget(&self, ifindex: u32, hook: Hook) {
        if hook == Hook::Uplink {
            let _ = fs::remove_dir(self.pins.generic_mark(ifindex));
        }
        let pin = self.pins.link(ifindex, hook);
        // A file where it pins a link, a directory where it only marks a filter.
        if fs::remove_file(&pin).is_err() {
            let _ = fs::remove_dir(&pin);
        }
    }
}

/// Takes every program off its interface and removes every pin, whoever left them; but not those
/// inside containers' network namespaces, see [`super::inside::unload`]. Returns the
/// number of programs that were attached.
///
/// # Errors
///
/// [`PinError`].
pub fn unload(pins: &Pins) -> Result<usize, PinError> {
    let links = pins.links()?;
    for (ifindex, hook) in &links {
        remove_filter(pins, *ifindex, *hook);
    }
    pins.remove_all()?;
    Ok(links.len())
}

/// Removes a clsact filter of ours. Only where the pin marks one: a link goes with its pin.
fn remove_filter(pins: &Pins, ifindex: u32, hook: Hook) {
    if pins.link(ifindex, hook).is_dir()
        && let Ok(name) = interface(ifindex)
    {
        // Dropping an attached link detaches it; one that is gone is no loss.
        let _ =
            SchedClassifierLink::attached(&name, attach_type(hook), PRIORITY, handle(hook), None);
    }
}

fn unpinned(program: &'static str, ifindex: u32, error: &dyn std::error::Error) -> AttachError {
    AttachError::Pin { program, ifindex, reason: error.to_string() }
}

/// An interface that goes while a program goes on gives any error; what it means is that it went.
pub(super) fn unless_gone<T>(
    ifindex: u32,
    result: Result<T, AttachError>,
) -> Result<T, AttachError> {
    result.map_err(|error| interface(ifindex).err().unwrap_or(error))
}

pub(super) fn interface(ifindex: u32) -> Result<String, AttachError> {
    if_indextoname(ifindex)
        .ok()
        .and_then(|name| name.into_string().ok())
        // nix takes only -1 for a failure; if_indextoname(3) returns NULL and leaves the name empty.
        .filter(|name| !name.is_empty())
        .ok_or(AttachError::Gone(ifindex))
}

/// The filter of a hook. `cls_bpf` asks those of one priority in turn, each under a handle of its own,
/// and an uplink may have two on its egress.
const fn handle(hook: Hook) -> TcHandle {
    match hook {
        Hook::UplinkEgress => SECOND_HANDLE,
        _ => HANDLE,
    }
}

/// Which side of the interface: ingress of a host-side veth is egress of the container, ingress of
/// an interface inside the container is its ingress.
pub(super) const fn attach_type(hook: Hook) -> TcAttachType {
    match hook {
        Hook::FromEndpoint
        | Hook::FromBridge
        | Hook::Uplink
        | Hook::FromUplink
        | Hook::ToInside => TcAttachType::Ingress,
        Hook::ToEndpoint
        | Hook::ToBridge
        | Hook::ToUplink
        | Hook::UplinkEgress
        | Hook::FromInside => TcAttachType::Egress,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(ifindex: u32) -> Result<(), AttachError> {
        let program = Hook::ToEndpoint.program();
        Err(AttachError::Pin { program, ifindex, reason: "no".to_owned() })
    }

    #[test]
    fn an_error_of_an_interface_that_went_says_that_it_went() {
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        assert!(matches!(
            unless_gone(loopback, failure(loopback)),
            Err(AttachError::Pin { ifindex, .. }) if ifindex == loopback
        ));
        let nobody = i32::MAX.unsigned_abs();
        assert!(matches!(
            unless_gone(nobody, failure(nobody)),
            Err(AttachError::Gone(ifindex)) if ifindex == nobody
        ));
    }
}
