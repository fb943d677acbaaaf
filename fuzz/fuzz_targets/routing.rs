//! See `fairway_fuzz::routing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_fuzz::routing::run(data));
