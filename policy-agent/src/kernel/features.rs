//! What this kernel can do, asked once.

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
    util::KernelVersion,
};
use nix::{
    sys::time::TimeValLike as _,
    time::{ClockId, clock_getres},
};
use thiserror::Error;

use crate::config::Attachment;

/// Kernel features that change how Palisade works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `bpf_ktime_get_coarse_ns` (5.11): half the price of the fine clock.
    pub coarse_clock: bool,
    /// Length of a tick of the kernel's timer, ns: 1,000,000,000 / `CONFIG_HZ`.
    pub tick_ns: u64,
    /// TCX links (6.6) are wanted and there; else clsact filters.
    pub tcx: bool,
}

/// A kernel that cannot run Palisade.
#[derive(Debug, Error)]
pub enum Unfit {
    /// No permission to load programs.
    #[error(
        "not allowed to use BPF: run policy-agent as root, with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    Permission,
    /// The syscall or the program types are not there.
    #[error(
        "this kernel has no BPF for traffic control: it needs CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF (or CONFIG_NET_XGRESS)"
    )]
    NoBpf,
    /// No TCX, and no other attachment wanted.
    #[error("this kernel has no TCX links (Linux 6.6 has): use --attachment clsact")]
    NoTcx,
    /// Too old.
    #[error("this kernel is too old: Palisade needs Linux 5.10 or newer (BPF ring buffers)")]
    TooOld,
}

impl Features {
    /// Asks the kernel; of the ways to attach, `attachment` may want a certain one.
    ///
    /// # Errors
    ///
    /// [`Unfit`] if Palisade cannot run on it.
    pub fn probe(attachment: Attachment) -> Result<Features, Unfit> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Unfit::Permission);
        }
        match is_program_supported(ProgramType::SchedClassifier) {
            Ok(true) => {}
            Ok(false) => return Err(Unfit::NoBpf),
            Err(_) => return Err(Unfit::Permission),
        }
        if !is_map_supported(MapType::RingBuf).unwrap_or(false) {
            return Err(Unfit::TooOld);
        }
        let has_tcx = KernelVersion::current().is_ok_and(|it| it >= KernelVersion::new(6, 6, 0));
        let tcx = match attachment {
            Attachment::Clsact => false,
            Attachment::Tcx if has_tcx => true,
            Attachment::Tcx => return Err(Unfit::NoTcx),
        };
        let helper = BpfHelper::BPF_FUNC_ktime_get_coarse_ns;
        // By which the coarse clock goes on (kernel/time/posix-timers.c, `posix_get_coarse_res`).
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_err(|_| Unfit::TooOld)?;
        Ok(Features {
            coarse_clock: is_helper_supported(ProgramType::SchedClassifier, helper)
                .unwrap_or(false),
            tick_ns: u64::try_from(tick.num_nanoseconds()).unwrap_or(u64::MAX).max(1),
            tcx,
        })
    }

    /// Name and what is in use, for `policyctl status`.
    pub fn describe(self) -> Vec<(String, String)> {
        let clock = if self.coarse_clock { "coarse" } else { "fine" };
        let hook = if self.tcx { "tcx links" } else { "clsact filters" };
        vec![("clock".into(), clock.into()), ("attachment".into(), hook.into())]
    }
}
