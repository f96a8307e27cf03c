//! What becomes of a dropped packet: exact counters always, an event if there is room for it.

use policy_common::{
    abi::{
        Counter, Direction, DropCounter, DropEvent, DropKey, DropReason, EVENT_INTERVAL_NS,
        EVENTS_PER_SECOND, RULE_NONE,
    },
    packet::Packet,
};

use crate::{
    clock,
    lookup::bytes16,
    maps::{DROPS, DROPS_OTHER, EVENT_BUDGET, EVENTS, RULES},
};

const SECOND: u64 = 1_000_000_000;

/// Why a packet is dropped, and by which rule.
#[must_use]
#[derive(Clone, Copy)]
pub struct Drop {
    /// Reason.
    pub reason: DropReason,
    /// Deciding rule, or `RULE_NONE`.
    pub rule: u32,
}

impl From<DropReason> for Drop {
    /// A drop that no rule decided.
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Drop { reason, rule: RULE_NONE }
    }
}

/// The rule that lets a packet pass, or why it is dropped, in one register: a function that is not
/// inlined returns this, because the verifier refuses what LLVM makes of larger results (a void
/// function that happens to leave a stack pointer in `r0`).
#[must_use]
#[repr(transparent)]
pub struct Ruling(u64);

impl Ruling {
    /// `true`: dropped.
    const DROP: u64 = 1 << 63;
    /// Above the rule.
    const REASON_SHIFT: u32 = 32;

    /// Unpacks.
    #[inline(always)]
    pub fn result(self) -> Result<u32, Drop> {
        let rule = self.0 as u32;
        if self.0 & Self::DROP == 0 {
            return Ok(rule);
        }
        let reason = DropReason::from_u8((self.0 >> Self::REASON_SHIFT) as u8);
        Err(Drop { reason: reason.unwrap_or(DropReason::Fault), rule })
    }
}

impl From<Result<u32, Drop>> for Ruling {
    #[inline(always)]
    fn from(result: Result<u32, Drop>) -> Self {
        match result {
            Ok(rule) => Ruling(u64::from(rule)),
            Err(drop) => Ruling(
                Self::DROP | (drop.reason as u64) << Self::REASON_SHIFT | u64::from(drop.rule),
            ),
        }
    }
}

/// A dropped packet.
pub struct Dropped<'a> {
    /// Interface whose program dropped.
    pub ifindex: u32,
    /// Bytes, L2 frame.
    pub length: u32,
    /// The endpoint's view.
    pub direction: Direction,
    /// The other side, or `PEER_NONE`.
    pub peer: u32,
    /// Why.
    pub drop: Drop,
    /// As far as it could be parsed.
    pub packet: &'a Packet,
}

/// Counts a drop and tells of it. Not inlined: the stack of a program is 512 bytes, and its hot
/// path should not carry this.
#[inline(never)]
pub fn record(dropped: &Dropped<'_>) {
    let Dropped { ifindex, length, direction, peer, ref drop, packet } = *dropped;
    let key = DropKey {
        ifindex,
        peer,
        rule: drop.rule,
        port: packet.policy_port,
        protocol: packet.protocol,
        reason: drop.reason as u8,
        direction: direction as u8,
        pad: [0; 3],
    };
    if drop.rule != RULE_NONE {
        count_rule(drop.rule, length);
    }
    let now = clock::now();
    match DROPS.get_ptr_mut(key) {
        Some(counter) => {
            // SAFETY: this CPU's own slot; the kernel runs TC and XDP programs with bottom halves
            // off, so nothing on this CPU interleaves.
            let counter = unsafe { &mut *counter };
            counter.packets += 1;
            counter.bytes += u64::from(length);
            if now.wrapping_sub(counter.event_ns) < EVENT_INTERVAL_NS {
                coalesce();
                return;
            }
            counter.event_ns = now;
        }
        None => {
            let first = DropCounter { packets: 1, bytes: u64::from(length), event_ns: now };
            if DROPS.insert(key, first, 0).is_err() {
                count_other(drop.reason, length);
            }
        }
    }
    tell(dropped, now);
}

/// Counts a packet that `rule` decided.
#[inline(always)]
pub fn count_rule(rule: u32, length: u32) {
    if let Some(counter) = RULES.get_ptr_mut(rule) {
        // SAFETY: this CPU's own slot, as above.
        unsafe { add(counter, length) };
    }
}

/// Counts a drop whose key did not fit.
#[inline(always)]
fn count_other(reason: DropReason, length: u32) {
    if let Some(counter) = DROPS_OTHER.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own slot, as above.
        unsafe { add(counter, length) };
    }
}

/// # Safety
///
/// `counter` is this CPU's slot of a per-CPU map.
#[inline(always)]
unsafe fn add(counter: *mut Counter, length: u32) {
    // SAFETY: the caller's promise.
    let counter = unsafe { &mut *counter };
    counter.packets += 1;
    counter.bytes += u64::from(length);
}

#[inline(always)]
fn coalesce() {
    if let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) {
        // SAFETY: this CPU's own slot, as above.
        unsafe { (*budget).coalesced += 1 };
    }
}

/// Sends an event unless this CPU's allowance for the second is used up or the ring is full; both
/// are counted.
#[inline(always)]
fn tell(dropped: &Dropped<'_>, now: u64) {
    let Dropped { ifindex, length, direction, peer, ref drop, packet } = *dropped;
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own slot, as above.
    let budget = unsafe { &mut *budget };
    if now.wrapping_sub(budget.window_ns) >= SECOND {
        budget.window_ns = now;
        budget.sent = 0;
    }
    if budget.sent >= EVENTS_PER_SECOND {
        budget.limited += 1;
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<DropEvent>(0) else {
        budget.ring_full += 1;
        return;
    };
    budget.sent += 1;
    entry.write(DropEvent {
        time_ns: now,
        source: bytes16(&packet.source),
        destination: bytes16(&packet.destination),
        ifindex,
        peer,
        rule: drop.rule,
        length,
        source_port: packet.source_port,
        destination_port: packet.policy_port,
        protocol: packet.protocol,
        reason: drop.reason as u8,
        direction: direction as u8,
        family: packet.family as u8,
        tcp_flags: packet.tcp_flags,
        pad: [0; 7],
    });
    entry.submit(0);
}
