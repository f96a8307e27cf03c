//! Programs onto interfaces inside containers' network namespaces.
//!
//! Always clsact filters: a filter's class tells the program which endpoint it is at, where the
//! interface's index would not (`policy_common::abi::INSIDE`). The kernel hands the class to each
//! program in `__sk_buff::tc_classid`; a TCX link has none.

use std::{fs, mem, thread, time::Duration};

use aya::programs::{
    ProgramError, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use policy_common::abi::INSIDE;

use super::{
    attach::{AttachError, Attacher, HANDLE, PRIORITY, interface, unless_gone},
    load,
    pin::{Hook, PinError, Pins, Place},
};
use crate::sandbox::{self, Sandbox};

/// Both programs of such an interface.
pub const HOOKS: [Hook; 2] = [Hook::FromInside, Hook::ToInside];

impl Attacher {
    /// Numbers that an earlier agent gave to interfaces, gone ones among them.
    ///
    /// # Errors
    ///
    /// [`PinError`].
    pub fn insides(&self) -> Result<std::collections::BTreeMap<Place, u32>, PinError> {
        self.pins.insides()
    }

    /// Loads both programs, unless they are loaded.
    ///
    /// # Errors
    ///
    /// As [`load::ready`].
    pub fn load_inside(&mut self) -> Result<(), ProgramError> {
        HOOKS.into_iter().try_for_each(|hook| load::ready(&mut self.ebpf, hook))
    }

    /// Puts both programs on an interface of the endpoint `number`, or swaps them for this agent's;
    /// `far`: it is not the container's own, but the other end of that. To be called in the
    /// interface's namespace.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub fn attach_inside(
        &mut self,
        place: Place,
        number: u32,
        far: bool,
    ) -> Result<(), AttachError> {
        let attached = HOOKS.into_iter().try_for_each(|hook| {
            let ifindex = place.ifindex;
            // The engine gives the interface its name meanwhile.
            let side = match (hook, far) {
                (Hook::FromInside, false) | (Hook::ToInside, true) => TcAttachType::Egress,
                _ => TcAttachType::Ingress,
            };
            let mut result = self.attach_filter(ifindex, hook, side, number);
            for _ in 0..RENAMES {
                if result.is_ok() || interface(ifindex).is_err() {
                    break;
                }
                thread::sleep(RENAME);
                result = self.attach_filter(ifindex, hook, side, number);
            }
            result
        });
        unless_gone(place.ifindex, attached)?;
        let mark = self.pins.inside(place, number);
        fs::create_dir_all(&mark).map_err(|error| AttachError::Pin {
            program: Hook::FromInside.program(),
            ifindex: place.ifindex,
            reason: error.to_string(),
        })
    }

    fn attach_filter(
        &mut self,
        ifindex: u32,
        hook: Hook,
        side: TcAttachType,
        number: u32,
    ) -> Result<(), AttachError> {
        let program = hook.program();
        let fail = |source| AttachError::Program { program, ifindex, source: Box::new(source) };
        let name = interface(ifindex)?;
        let class = Some(class(number));
        let classifier = load::classifier(&mut self.ebpf, hook).map_err(fail)?;
        let _ = tc::qdisc_add_clsact(&name);
        let there = SchedClassifierLink::attached(&name, side, PRIORITY, HANDLE, class)
            .map_err(|error| fail(TcError::IoError(error).into()))?;
        let id = match classifier.attach_to_link(there) {
            Ok(id) => id,
            Err(_) => {
                let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: class };
                classifier
                    .attach_with_options(&name, side, TcAttachOptions::Netlink(options))
                    .map_err(fail)?
            }
        };
        // The filter outlives this process: dropping the link would detach it.
        mem::forget(classifier.take_link(id).map_err(fail)?);
        Ok(())
    }

    /// Removes the mark of an interface that is gone.
    pub fn forget_inside(&self, place: Place, number: u32) {
        let _ = fs::remove_dir(self.pins.inside(place, number));
    }
}

/// How often, and for how long, the engine may rename an interface or set it up while we look.
const RENAMES: usize = 10;
const RENAME: Duration = Duration::from_millis(1);

fn class(number: u32) -> TcHandle {
    TcHandle::from(number & !INSIDE)
}

/// Takes both programs off an interface of the namespace that the caller is in. Returns how many
/// there may have been.
pub fn remove_filters(ifindex: u32) -> usize {
    let Ok(name) = interface(ifindex) else { return 0 };
    [TcAttachType::Ingress, TcAttachType::Egress]
        .into_iter()
        // Dropping an attached link detaches it; one that is gone is no loss.
        .filter_map(|side| {
            SchedClassifierLink::attached(&name, side, PRIORITY, HANDLE, None).map(drop).ok()
        })
        .count()
}

/// Takes every program off the interfaces inside containers' namespaces. Returns how many were on.
/// Before [`super::attach::unload`], which removes the marks.
///
/// # Errors
///
/// [`PinError`].
pub fn unload(pins: &Pins) -> Result<usize, PinError> {
    let marks = pins.insides()?;
    if marks.is_empty() {
        return Ok(0);
    }
    let mut sandboxes = sandbox::all().unwrap_or_default();
    sandboxes.extend(sandbox::of_overlays().unwrap_or_default());
    let mut programs = 0;
    for Sandbox { inode, file, .. } in sandboxes {
        let here = marks.keys().filter(|place| place.netns == inode);
        let here: Vec<u32> = here.map(|place| place.ifindex).collect();
        let remove = || here.iter().map(|ifindex| remove_filters(*ifindex)).sum::<usize>();
        programs += sandbox::enter(&file, remove).unwrap_or(0);
    }
    Ok(programs)
}
