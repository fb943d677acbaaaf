//! See `fairway_fuzz::node_socket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_fuzz::node_socket::run(data));
