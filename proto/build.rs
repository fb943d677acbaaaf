//! Compiles the `.proto` files with protox, so that building needs no `protoc`.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// Every file of the contract; imports are found next to them.
const FILES: [&str; 67] = [
    "workload.proto",
    "authorization.proto",
    "ca.proto",
    "zds.proto",
    "rpc_status.proto",
    "envoy_core.proto",
    "status.proto",
    "discovery.proto",
    "envoy/type.proto",
    "envoy/matcher.proto",
    "envoy/listener.proto",
    "envoy/http_connection_manager.proto",
    "envoy/router.proto",
    "envoy/route.proto",
    "envoy/previous_hosts.proto",
    "envoy/cluster.proto",
    "envoy/round_robin.proto",
    "envoy/upstream_http.proto",
    "envoy/endpoint.proto",
    "envoy/rbac.proto",
    "envoy/http_rbac.proto",
    "envoy/network_rbac.proto",
    "envoy/tcp_proxy.proto",
    "envoy/jwt_authn.proto",
    "envoy/cors.proto",
    "envoy/fault_delay.proto",
    "envoy/fault.proto",
    "envoy/http_cookie.proto",
    "envoy/session_cookie.proto",
    "envoy/session_header.proto",
    "envoy/session_value.proto",
    "envoy/slow_start.proto",
    "envoy/stateful_session.proto",
    "envoy/tls_inspector.proto",
    "envoy/http_inspector.proto",
    "envoy/tls.proto",
    "envoy/upstream_tcp.proto",
    "envoy/least_request.proto",
    "envoy/random.proto",
    "envoy/ring_hash.proto",
    "envoy/maglev.proto",
    "envoy/token_bucket.proto",
    "envoy/rate_limit_descriptor.proto",
    "envoy/local_ratelimit.proto",
    "envoy/http_status.proto",
    "envoy/ext_authz.proto",
    "envoy/external_auth.proto",
    "envoy/custom_tag.proto",
    "envoy/trace.proto",
    "envoy/rate_limit_service.proto",
    "envoy/ratelimit.proto",
    "envoy/rls.proto",
    "envoy/access_log.proto",
    "envoy/access_log_cel.proto",
    "envoy/access_log_file.proto",
    "envoy/access_log_grpc.proto",
    "envoy/access_log_otel.proto",
    "envoy/mutation_rules.proto",
    "envoy/processing_mode.proto",
    "envoy/ext_proc.proto",
    "envoy/external_processor.proto",
    "opentelemetry/common.proto",
    "opentelemetry/resource.proto",
    "opentelemetry/trace.proto",
    "opentelemetry/trace_service.proto",
    "opentelemetry/logs.proto",
    "opentelemetry/logs_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let mut config = prost_build::Config::new();
    // Ordered maps encode the same way every time, so that a hash of the bytes can serve as a version.
    config.btree_map(["."]);
    // Generated files name each other by package, so the packages form a tree.
    config.include_file("packages.rs");
    // Names of fields and types, for whoever reads messages without knowing them.
    let directory = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(directory.join("descriptors.bin"), descriptors.encode_to_vec())?;
    if env::var_os("CARGO_FEATURE_RPC").is_some() {
        tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    } else {
        config.compile_fds(descriptors)?;
    }
    Ok(())
}
