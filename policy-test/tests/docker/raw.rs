//! Sends one Ethernet frame. Built by the tests with `rustc`, on its own, for their containers.
//!
//! `raw INTERFACE HEX [--bypass]`: by a packet socket (packet(7)), past the queue of the interface
//! with `--bypass` (PACKET_QDISC_BYPASS). What becomes of the frame is for others to see.

use std::{
    env,
    ffi::{CString, c_char, c_int, c_void},
    process::ExitCode,
};

const AF_PACKET: c_int = 17;
const SOCK_RAW: c_int = 3;
const SOL_PACKET: c_int = 263;
const PACKET_QDISC_BYPASS: c_int = 20;

/// `struct sockaddr_ll` of linux/if_packet.h.
#[repr(C)]
struct LinkAddress {
    family: u16,
    protocol: u16,
    index: c_int,
    kind: u16,
    packet: u8,
    length: u8,
    address: [u8; 8],
}

unsafe extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, size: u32) -> c_int;
    fn sendto(
        fd: c_int,
        data: *const c_void,
        size: usize,
        flags: c_int,
        to: *const LinkAddress,
        to_size: u32,
    ) -> isize;
    fn if_nametoindex(name: *const c_char) -> u32;
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [interface, hex, options @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let Ok(name) = CString::new(interface.as_str()) else { return ExitCode::from(2) };
    let byte = |at: usize| hex.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let frame: Vec<u8> = (0..hex.len()).step_by(2).filter_map(byte).collect();
    let bypass = c_int::from(options.iter().any(|option| option == "--bypass"));
    // SAFETY: plain system calls on values that live as long as they run.
    let sent = unsafe {
        let index = if_nametoindex(name.as_ptr());
        let fd = socket(AF_PACKET, SOCK_RAW, 0);
        let value = (&raw const bypass).cast();
        if index == 0 || fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, value, 4) != 0 {
            return ExitCode::FAILURE;
        }
        let to = LinkAddress {
            family: AF_PACKET as u16,
            protocol: 0,
            index: index as c_int,
            kind: 0,
            packet: 0,
            length: 0,
            address: [0; 8],
        };
        sendto(fd, frame.as_ptr().cast(), frame.len(), 0, &raw const to, 20)
    };
    println!("{sent}");
    ExitCode::SUCCESS
}
