//! See `fairway_fuzz::processor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_fuzz::processor::run(data));
