//! What becomes of a dropped packet: exact counters always, an event if there is room for it.

use policy_common::{
    abi::{
        Counter, Direction, DropCounter, DropKey, DropReason, EVENTS_PER_SECOND, Event, EventKind,
        LOG_NONE, RULE_NONE, VERDICT_ALLOW, VERDICT_RULE,
    },
    packet::Packet,
};

use crate::{
    clock,
    endpoint::Visit,
    lookup::bytes16,
    maps::{DROPS, DROPS_OTHER, EVENT_BUDGET, EVENTS, LOGS, RULES, STAGED},
};

const SECOND: u64 = 1_000_000_000;

/// `EVENT_INTERVAL_NS` in ticks of this kernel, set by the loader, as `clock::COARSE_CLOCK` is.
#[unsafe(no_mangle)]
static EVENT_INTERVAL_TICKS: u64 = 25;

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

/// The counter of a drop of `packet` (or of one whose ports nobody looked at).
#[inline(always)]
pub fn key(ifindex: u32, direction: Direction, peer: u32, drop: Drop, packet: &Packet) -> DropKey {
    DropKey {
        ifindex,
        peer,
        rule: drop.rule,
        port: packet.policy_port,
        protocol: packet.protocol,
        reason: drop.reason as u8,
        direction: direction as u8,
        pad: [0; 3],
    }
}

/// Counts a drop. Whether it is to be told of: not if this CPU has just told of one of its kind.
#[inline(always)]
pub fn count_drop(key: &DropKey, length: u32) -> bool {
    if key.rule != RULE_NONE {
        count_rule(key.rule, length);
    }
    let ticks = clock::ticks();
    let Some(counter) = DROPS.get_ptr_mut(key) else {
        let first = DropCounter { packets: 1, bytes: u64::from(length), event_ticks: ticks };
        if DROPS.insert(key, first, 0).is_ok() {
            return true;
        }
        // Nobody knows when one of its kind was told of last.
        count_other(key.reason, length);
        coalesce(EventKind::Drop);
        return false;
    };
    // SAFETY: this CPU's own slot; the kernel runs TC and XDP programs with bottom halves off, so nothing
    // on this CPU interleaves.
    let counter = unsafe { &mut *counter };
    counter.packets += 1;
    counter.bytes += u64::from(length);
    // SAFETY: as in `clock::now`.
    let interval = unsafe { core::ptr::read_volatile(&raw const EVENT_INTERVAL_TICKS) };
    if ticks.wrapping_sub(counter.event_ticks) < interval {
        coalesce(EventKind::Drop);
        return false;
    }
    counter.event_ticks = ticks;
    true
}

/// Tells of a drop that has been counted, of a packet that met no policy. Not inlined: few packets of a flood
/// are told of, and the stack of a program is 512 bytes. Always 0: see [`Ruling`].
#[inline(never)]
pub fn tell_of_drop(key: &DropKey, packet: &Packet, length: u32) -> u32 {
    let told = Told {
        kind: EventKind::Drop,
        allowed: false,
        reason: key.reason,
        rule: key.rule,
        ifindex: key.ifindex,
        length,
        direction: key.direction,
        peer: key.peer,
        staged: 0,
        log: LOG_NONE,
    };
    tell(&told, packet, clock::now());
    0
}

/// As [`tell_of_drop`], of one at an endpoint.
#[inline(never)]
pub fn tell_of_refusal(key: &DropKey, visit: &Visit) -> u32 {
    let told = Told { reason: key.reason, ..Told::of(EventKind::Drop, visit, false, key.rule) };
    tell(&told, &visit.packet, visit.now);
    0
}

/// Counts what policy said beside its verdict: what the staged policies would do, and the Log rules
/// on the way. Tells of a packet that Log rules matched, and of one that passes though the staged
/// policies would deny it. The result is always 0: see [`Ruling`].
#[inline(never)]
pub fn note(visit: &Visit, allowed: bool, rule: u32) -> u32 {
    if visit.log != LOG_NONE {
        if let Some(counter) = LOGS.get_ptr_mut(visit.log) {
            // SAFETY: this CPU's own slot, see `count_drop`.
            unsafe { add(counter, visit.length) };
        }
        tell(&Told::of(EventKind::Log, visit, allowed, rule), &visit.packet, visit.now);
    }
    if visit.staged == 0 {
        return 0;
    }
    if let Some(counter) = STAGED.get_ptr_mut(visit.staged & VERDICT_RULE) {
        // SAFETY: this CPU's own slot, see `count_drop`.
        let counter = unsafe { &mut *counter };
        if allowed {
            counter.allowed += 1;
        } else {
            counter.denied += 1;
        }
    }
    if allowed && visit.staged & VERDICT_ALLOW == 0 {
        tell(&Told::of(EventKind::Staged, visit, allowed, rule), &visit.packet, visit.now);
    }
    0
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
fn count_other(reason: u8, length: u32) {
    if let Some(counter) = DROPS_OTHER.get_ptr_mut(u32::from(reason)) {
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
fn coalesce(kind: EventKind) {
    if let Some(budget) = EVENT_BUDGET.get_ptr_mut(kind as u32) {
        // SAFETY: this CPU's own slot, as above.
        unsafe { (*budget).coalesced += 1 };
    }
}

/// What an event says, beside the packet's headers.
struct Told {
    kind: EventKind,
    allowed: bool,
    /// Code of the drop reason, 0 if there is none.
    reason: u8,
    rule: u32,
    ifindex: u32,
    length: u32,
    /// A [`Direction`].
    direction: u8,
    peer: u32,
    staged: u32,
    log: u32,
}

impl Told {
    /// A packet that policy was asked about.
    #[inline(always)]
    fn of(kind: EventKind, visit: &Visit, allowed: bool, rule: u32) -> Told {
        Told {
            kind,
            allowed,
            reason: 0,
            rule,
            ifindex: visit.ifindex,
            length: visit.length,
            direction: visit.direction as u8,
            peer: visit.peer,
            staged: visit.staged,
            log: visit.log,
        }
    }
}

/// Sends an event unless this CPU's allowance for its kind is used up for this second or the ring
/// is full; both are counted.
#[inline(always)]
fn tell(told: &Told, packet: &Packet, now: u64) {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(told.kind as u32) else { return };
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
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        budget.ring_full += 1;
        return;
    };
    budget.sent += 1;
    entry.write(Event {
        time_ns: now,
        source: bytes16(&packet.source),
        destination: bytes16(&packet.destination),
        ifindex: told.ifindex,
        peer: told.peer,
        rule: told.rule,
        staged: told.staged,
        log: told.log,
        length: told.length,
        source_port: packet.source_port,
        destination_port: packet.policy_port,
        protocol: packet.protocol,
        reason: told.reason,
        direction: told.direction,
        family: packet.family as u8,
        tcp_flags: packet.tcp_flags,
        kind: told.kind as u8,
        allowed: told.allowed as u8,
        pad: [0; 5],
    });
    entry.submit(0);
}
