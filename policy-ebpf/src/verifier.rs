//! Packet access in the shapes that the verifier can follow, and what else is shaped by it.
//!
//! *Direct*: a load is accepted if the very register that it goes through was compared with
//! `data_end` before (`find_good_pkt_pointers`, kernel/bpf/verifier.c). LLVM likes to compute the
//! address a second time after the comparison; `pin` hides the address's origin from it, so that
//! there is one register and the proof stays with it. Cheap, but each offset must be known exactly
//! on each path, so a loop over headers multiplies the paths.
//!
//! *Copied*: `bpf_skb_load_bytes` takes any offset, reaches page fragments, too, and leaves the
//! verifier nothing to prove. Five times dearer; for the rare frames.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, xdp_md},
    helpers::generated::bpf_skb_load_bytes,
    programs::{TcContext, XdpContext},
};
use policy_common::{
    abi::INSIDE,
    packet::{Source, View},
};

/// Makes a value opaque to the optimiser. A register move rather than nothing at all: an empty
/// statement gets a line-number record without an instruction, which the kernel refuses.
#[inline(always)]
pub fn pin(mut value: usize) -> usize {
    // SAFETY: moves a register onto itself.
    unsafe { asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// The same value, of which the verifier knows nothing any more. A global function: what one returns
/// is taken for anything. Kernels before 6.2 need it: there, in a program of several functions, two
/// states are the same to the verifier only if all their known numbers are (`precise` in
/// kernel/bpf/verifier.c), so that every constant that a loop leaves behind doubles what follows.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget(value: u64) -> u64 {
    pin(value as usize) as u64
}

/// An index into an array of two, masked where the verifier can see it: the compiler, which knows
/// that the two-valued enum behind it needs no mask, would leave it out.
#[inline(always)]
pub fn bit(index: usize) -> usize {
    pin(index) & 1
}

/// Adds to a counter that several CPUs write. The BPF target has no atomics in `core`; `lock +=` is
/// the one atomic instruction that 5.10 knows (BPF_XADD).
#[inline(always)]
pub fn atomic_add(counter: &mut u64, amount: u64) {
    let counter: *mut u64 = counter;
    // SAFETY: an aligned word that the reference proves to be valid.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) amount, options(nostack));
    }
}

/// Bytes of a packet that have been compared with its end.
#[derive(Clone, Copy)]
pub struct PacketView(*const u8);

impl View for PacketView {
    #[inline(always)]
    fn u8(self, at: usize) -> u8 {
        // SAFETY: `view::<N>` checked N bytes; the verifier rejects an `at` beyond them.
        unsafe { self.0.add(at).read() }
    }

    #[inline(always)]
    fn be16(self, at: usize) -> u16 {
        // SAFETY: as above. The kernel aligns IP headers to four bytes (NET_IP_ALIGN), and where
        // the CPU cannot load unaligned words the verifier checks that itself.
        u16::from_be(unsafe { self.0.add(at).cast::<u16>().read() })
    }

    #[inline(always)]
    fn word(self, at: usize) -> u32 {
        // SAFETY: as above.
        unsafe { self.0.add(at).cast::<u32>().read() }
    }
}

#[inline(always)]
fn view<const N: usize>(data: usize, end: usize, offset: usize) -> Option<PacketView> {
    let start = pin(data + offset);
    if start + N > end {
        return None;
    }
    Some(PacketView(start as *const u8))
}

/// A frame at a TC hook.
pub struct TcFrame<'a>(pub &'a TcContext);

impl Source for TcFrame<'_> {
    type View = PacketView;

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<PacketView> {
        view::<N>(self.0.data(), self.0.data_end(), offset)
    }

    #[inline(always)]
    fn len(&self) -> usize {
        length(self.0) as usize
    }
}

/// A frame at a TC hook, its bytes copied out.
pub struct TcBytes<'a>(pub &'a TcContext);

/// The most that a header parser asks for at once: an IPv6 header, in words.
const COPY_WORDS: usize = 10;

/// Bytes copied out of a packet.
#[derive(Clone, Copy)]
pub struct Copied([u32; COPY_WORDS]);

impl View for Copied {
    #[inline(always)]
    fn u8(self, at: usize) -> u8 {
        self.0[at / 4].to_ne_bytes()[at % 4]
    }

    #[inline(always)]
    fn be16(self, at: usize) -> u16 {
        u16::from_be_bytes([self.u8(at), self.u8(at + 1)])
    }

    #[inline(always)]
    fn word(self, at: usize) -> u32 {
        u32::from_ne_bytes([self.u8(at), self.u8(at + 1), self.u8(at + 2), self.u8(at + 3)])
    }
}

impl Source for TcBytes<'_> {
    type View = Copied;

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<Copied> {
        const { assert!(N <= COPY_WORDS * 4) };
        let mut copy = Copied([0; COPY_WORDS]);
        let to = (&raw mut copy.0).cast();
        // SAFETY: `to` has room for N bytes, asserted above.
        let status = unsafe { bpf_skb_load_bytes(skb(self.0).cast(), offset as u32, to, N as u32) };
        if status == 0 { Some(copy) } else { None }
    }

    #[inline(always)]
    fn meet(&self, value: usize) -> usize {
        forget(value as u64) as usize
    }

    #[inline(always)]
    fn len(&self) -> usize {
        length(self.0) as usize
    }
}

/// A frame at an XDP hook.
pub struct XdpFrame<'a>(pub &'a XdpContext);

impl Source for XdpFrame<'_> {
    type View = PacketView;

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<PacketView> {
        view::<N>(self.0.data(), self.0.data_end(), offset)
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }
}

/// A frame at an XDP hook, whose headers may begin anywhere: an offset that the verifier knows nothing of
/// but its bound.
pub struct XdpHeaders<'a>(pub &'a XdpContext);

/// No header that the parser follows begins beyond this, bytes.
const MAX_OFFSET: usize = 0x7fff;

impl Source for XdpHeaders<'_> {
    type View = PacketView;

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<PacketView> {
        let offset = pin(offset);
        if offset > MAX_OFFSET {
            return None;
        }
        view::<N>(self.0.data(), self.0.data_end(), offset)
    }

    #[inline(always)]
    fn meet(&self, value: usize) -> usize {
        forget(value as u64) as usize
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }
}

/// The context, by its fields.
#[inline(always)]
pub fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.as_ptr().cast()
}

/// Length of the frame, bytes, the non-linear part included.
#[inline(always)]
pub fn length(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the run of the program.
    unsafe { (*skb(ctx)).len }
}

/// Index of the interface that the program is attached to.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*skb(ctx)).ifindex }
}

/// Key of the endpoint whose interface the program is attached to, by the class of the filter: see
/// `INSIDE`.
#[inline(always)]
pub fn inside(ctx: &TcContext) -> u32 {
    // SAFETY: as above. `cls_bpf` puts the filter's own class there before each run.
    INSIDE | unsafe { (*skb(ctx)).tc_classid } & 0xffff
}

/// Index of the interface that an XDP frame arrived on.
#[inline(always)]
pub fn xdp_ifindex(ctx: &XdpContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.as_ptr().cast::<xdp_md>()).ingress_ifindex }
}
