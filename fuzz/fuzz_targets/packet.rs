//! Fuzzes the packet parser, the code that runs in the kernel: [`policy_fuzz::packet`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| policy_fuzz::packet::check(data));
