//! Every BPF map. Names and sizes are `policy_common::maps`'; aya's macro takes a map's name from
//! its identifier, and the loader fails on one that the constants do not know.
//!
//! Maps that user space alone writes are not preallocated: they are sized for the largest host and
//! mostly empty. Maps that the programs write are preallocated: no allocation in the packet path.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use policy_common::{
    abi::{
        BlockKeyV4, BlockKeyV6, Blocked, BucketKey, CaptureFilter, ClassKey, ClassRef, Counter,
        DROP_REASONS, DropCounter, DropKey, EVENT_KINDS, Endpoint, EventBudget, FailsafeKey, Flow,
        FlowCounter, FlowKeyV4, FlowKeyV6, Fragment, FragmentKey, Globals, GuardKey, Interval,
        OpenedKey, PublishedKey, StagedCounter, Uplink, UplinkFlowKey,
    },
    maps as size,
    packet::Packet,
};

use crate::{
    host::Question,
    networks::{self, Near},
};

#[map]
pub static ENDPOINTS: HashMap<u32, Endpoint> =
    HashMap::with_max_entries(size::MAX_ENDPOINTS, BPF_F_NO_PREALLOC);

#[map]
pub static ADDRESSES_V4: HashMap<[u8; 4], u32> =
    HashMap::with_max_entries(size::MAX_ADDRESSES, BPF_F_NO_PREALLOC);

#[map]
pub static ADDRESSES_V6: HashMap<[u8; 16], u32> =
    HashMap::with_max_entries(size::MAX_ADDRESSES, BPF_F_NO_PREALLOC);

#[map]
pub static CIDRS_V4: LpmTrie<[u8; 4], u32> =
    LpmTrie::with_max_entries(size::MAX_CIDRS, BPF_F_NO_PREALLOC);

#[map]
pub static CIDRS_V6: LpmTrie<[u8; 16], u32> =
    LpmTrie::with_max_entries(size::MAX_CIDRS, BPF_F_NO_PREALLOC);

#[map]
pub static CLASSES: HashMap<ClassKey, ClassRef> =
    HashMap::with_max_entries(size::MAX_CLASSES, BPF_F_NO_PREALLOC);

#[map]
pub static INTERVALS: Array<Interval> = Array::with_max_entries(size::MAX_INTERVALS, 0);

#[map]
pub static CONNTRACK_V4: LruHashMap<FlowKeyV4, Flow> =
    LruHashMap::with_max_entries(size::CONNTRACK_V4_ENTRIES, 0);

#[map]
pub static CONNTRACK_V6: LruHashMap<FlowKeyV6, Flow> =
    LruHashMap::with_max_entries(size::CONNTRACK_V6_ENTRIES, 0);

#[map]
pub static FLOWS: PerCpuArray<FlowCounter> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static OPENED: PerCpuHashMap<OpenedKey, u64> =
    PerCpuHashMap::with_max_entries(size::MAX_OPENED, 0);

#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, Fragment> =
    LruHashMap::with_max_entries(size::MAX_FRAGMENTS, 0);

#[map]
pub static GUARD: HashMap<GuardKey, u32> =
    HashMap::with_max_entries(size::MAX_GUARD, BPF_F_NO_PREALLOC);

#[map]
pub static GLOBALS: Array<Globals> = Array::with_max_entries(1, 0);

#[map]
pub static RULES: PerCpuArray<Counter> = PerCpuArray::with_max_entries(size::MAX_RULES, 0);

#[map]
pub static DROPS: PerCpuHashMap<DropKey, DropCounter> =
    PerCpuHashMap::with_max_entries(size::MAX_DROPS, 0);

#[map]
pub static DROPS_OTHER: PerCpuArray<Counter> = PerCpuArray::with_max_entries(DROP_REASONS, 0);

#[map]
pub static STAGED: PerCpuArray<StagedCounter> = PerCpuArray::with_max_entries(size::MAX_RULES, 0);

#[map]
pub static LOGS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(size::MAX_LOGS, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(size::EVENT_RING_BYTES, 0);

#[map]
pub static EVENT_BUDGET: PerCpuArray<EventBudget> = PerCpuArray::with_max_entries(EVENT_KINDS, 0);

#[map]
pub static CAPTURE: Array<CaptureFilter> = Array::with_max_entries(1, 0);

#[map]
pub static CAPTURES: RingBuf = RingBuf::with_byte_size(size::CAPTURE_RING_BYTES, 0);

#[map]
pub static CAPTURE_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static UPLINKS: HashMap<u32, Uplink> =
    HashMap::with_max_entries(size::MAX_UPLINKS, BPF_F_NO_PREALLOC);

#[map]
pub static BLOCK_V4: LpmTrie<BlockKeyV4, Blocked> =
    LpmTrie::with_max_entries(size::MAX_CIDRS, BPF_F_NO_PREALLOC);

#[map]
pub static BLOCK_V6: LpmTrie<BlockKeyV6, Blocked> =
    LpmTrie::with_max_entries(size::MAX_CIDRS, BPF_F_NO_PREALLOC);

#[map]
pub static BUCKETS: LruHashMap<BucketKey, u64> = LruHashMap::with_max_entries(size::MAX_BUCKETS, 0);

#[map]
pub static UPLINK_LET_IN: LruHashMap<UplinkFlowKey, u64> =
    LruHashMap::with_max_entries(size::MAX_UPLINK_FLOWS, 0);

#[map]
pub static UPLINK_BEGUN: LruHashMap<UplinkFlowKey, u64> =
    LruHashMap::with_max_entries(size::MAX_UPLINK_FLOWS, 0);

#[map]
pub static FAILSAFE: LpmTrie<FailsafeKey, u32> =
    LpmTrie::with_max_entries(size::MAX_FAILSAFE, BPF_F_NO_PREALLOC);

#[map]
pub static PUBLISHED: HashMap<PublishedKey, u32> =
    HashMap::with_max_entries(size::MAX_PUBLISHED, BPF_F_NO_PREALLOC);

/// Not pinned: it holds nothing from one packet to the next.
#[map]
pub static QUESTION: PerCpuArray<Question> = PerCpuArray::with_max_entries(1, 0);

/// Not pinned either: a packet that another one takes the place of for a while.
#[map]
pub static KEPT: PerCpuArray<MaybeUninit<Packet>> = PerCpuArray::with_max_entries(1, 0);

/// As the one above: what a global function has made of a frame.
#[map]
pub static PARSED: PerCpuArray<MaybeUninit<Packet>> = PerCpuArray::with_max_entries(1, 0);

/// As [`QUESTION`]: what was found a moment ago, and can be found again.
#[map]
pub static NEAR: PerCpuArray<Near> = PerCpuArray::with_max_entries(networks::SLOTS, 0);
