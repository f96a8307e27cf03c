//! Fuzzes the YAML reader: [`policy_fuzz::yaml`], with its memory bounded by the input's size.
#![no_main]

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // An allocation beyond the limit fails, which ends the process and keeps the input.
    let _ = MEMORY.set_limit(MEMORY.allocated() + policy_fuzz::yaml::memory_bound(data.len()));
    let read = policy_api::yaml::read("f", data);
    drop(read);
    let _ = MEMORY.set_limit(usize::MAX);
    policy_fuzz::yaml::check(data);
});
