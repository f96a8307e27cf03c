//! Time of a packet.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

/// Set by the loader: whether this kernel has `bpf_ktime_get_coarse_ns` (5.11). The map that it
/// lives in is frozen before the programs are verified, so the branch not taken is not there.
#[unsafe(no_mangle)]
static COARSE_CLOCK: u8 = 0;

/// Ticks of the kernel's timer since some time before the start. Nothing is called for it: the verifier puts
/// the load of `jiffies_64` in its place.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: a helper without arguments or preconditions.
    unsafe { bpf_jiffies64() }
}

/// `CLOCK_MONOTONIC`, ns; up to one jiffy late where the coarse clock is used, which costs half as
/// much and is fine for time-outs of seconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a static of this object, never null, never written after load; volatile because the
    // loader, not the compiler, knows its value.
    let coarse = unsafe { core::ptr::read_volatile(&raw const COARSE_CLOCK) };
    if coarse != 0 {
        // SAFETY: a helper without arguments or preconditions.
        unsafe { bpf_ktime_get_coarse_ns() }
    } else {
        exact()
    }
}

/// `CLOCK_MONOTONIC`, ns.
#[inline(always)]
pub fn exact() -> u64 {
    // SAFETY: a helper without arguments or preconditions.
    unsafe { bpf_ktime_get_ns() }
}
