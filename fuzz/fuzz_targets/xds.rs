//! See `fairway_fuzz::xds`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_fuzz::xds::run(data));
