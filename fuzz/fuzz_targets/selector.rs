//! Fuzzes the selector language: [`policy_fuzz::selector`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| policy_fuzz::selector::check(data));
