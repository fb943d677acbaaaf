//! See `fairway_fuzz::connect`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_fuzz::connect::run(data));
