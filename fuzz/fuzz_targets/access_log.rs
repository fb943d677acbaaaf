//! See `fairway_fuzz::access_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_fuzz::access_log::run(data));
