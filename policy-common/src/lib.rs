//! The contract between the kernel programs and user space: map names, keys, values, events, and
//! the packet parser. `no_std`, no allocation; the one definition that both sides compile.
//!
//! - [`abi`]: every type that crosses the boundary, its layout asserted at compile time.
//! - [`conntrack`]: how long connections live.
//! - [`maps`]: the names of the maps and programs, and their default sizes.
//! - [`packet`]: the header parser, generic over a byte source, so that the very code that the
//!   verifier accepted can be fuzzed on the host.
//!
//! Whoever changes a layout here raises [`abi::ABI_VERSION`]; a snapshot test in this crate fails
//! otherwise. Pins live in a directory named by that version, so two versions never share a map.
#![no_std]

pub mod abi;
pub mod conntrack;
pub mod maps;
pub mod pace;
pub mod packet;
