//! Fuzzes resources, from their decoder to the compiled tables: [`policy_fuzz::resource`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| policy_fuzz::resource::check(data));
