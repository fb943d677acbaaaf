//! See `fairway_fuzz::resources`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_fuzz::resources::run(data));
