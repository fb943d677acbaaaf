//! Compiles the `.proto` files with protox, so that building needs no `protoc`.
use std::{env, error::Error};

/// Every file of the contract; imports are found next to them.
const FILES: [&str; 8] = [
    "workload.proto",
    "authorization.proto",
    "ca.proto",
    "zds.proto",
    "rpc_status.proto",
    "envoy_core.proto",
    "status.proto",
    "discovery.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let mut config = prost_build::Config::new();
    // Ordered maps encode the same way every time, so that a hash of the bytes can serve as a version.
    config.btree_map(["."]);
    if env::var_os("CARGO_FEATURE_RPC").is_some() {
        tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    } else {
        config.compile_fds(descriptors)?;
    }
    Ok(())
}
