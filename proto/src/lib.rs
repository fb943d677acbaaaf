//! Wire contracts, generated from the files in `proto/`; nothing here but what they say.
//!
//! Messages always; client and server stubs of the two gRPC services with feature `rpc`. Of Envoy's messages there are the
//! fields that Fairway emits or understands (ADR 0017).

pub mod type_url;

#[allow(
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code, documented in the .proto files; what it breaks depends on generator and features"
)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

/// All of the contract as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Envoy's resources and what they are made of, as far as Fairway uses them.
pub mod envoy {
    pub use super::packages::envoy::Cookie as SessionValue;
    pub use super::packages::envoy::config::{
        accesslog::v3 as access_log, cluster::v3 as cluster, common::mutation_rules::v3 as mutation_rules,
        core::v3 as core, endpoint::v3 as endpoint, listener::v3 as listener, ratelimit::v3 as rate_limit_service,
        rbac::v3 as rbac, route::v3 as route, trace::v3 as trace,
    };
    pub use super::packages::envoy::extensions::{
        access_loggers::{
            file::v3 as access_log_file, filters::cel::v3 as access_log_cel, grpc::v3 as access_log_grpc,
            open_telemetry::v3 as access_log_otel,
        },
        common::ratelimit::v3 as rate_limit_descriptor,
        filters::{
            common::fault::v3 as fault_delay,
            http::{
                cors::v3 as cors, ext_authz::v3 as ext_authz, ext_proc::v3 as ext_proc, fault::v3 as fault,
                jwt_authn::v3 as jwt_authn, local_ratelimit::v3 as local_ratelimit, ratelimit::v3 as ratelimit,
                rbac::v3 as http_rbac, router::v3 as router, stateful_session::v3 as stateful_session,
            },
            listener::{http_inspector::v3 as http_inspector, tls_inspector::v3 as tls_inspector},
            network::{
                http_connection_manager::v3 as http_connection_manager, rbac::v3 as network_rbac,
                tcp_proxy::v3 as tcp_proxy,
            },
        },
        http::stateful_session::{cookie::v3 as session_cookie, header::v3 as session_header},
        load_balancing_policies::{
            common::v3 as slow_start, least_request::v3 as least_request, maglev::v3 as maglev, random::v3 as random,
            ring_hash::v3 as ring_hash, round_robin::v3 as round_robin,
        },
        retry::host::previous_hosts::v3 as previous_hosts,
        transport_sockets::tls::v3 as tls,
        upstreams::{http::v3 as upstream_http, tcp::v3 as upstream_tcp},
    };
    pub use super::packages::envoy::r#type::{
        http::v3 as http_cookie, matcher::v3 as matcher, tracing::v3 as custom_tag, v3 as fraction, v3 as token_bucket,
    };
}

/// What is told to collectors (OTLP), as far as Fairway tells it.
pub mod otlp {
    pub use super::packages::opentelemetry::proto::{
        collector::logs::v1 as logs_service, collector::trace::v1 as trace_service, common::v1 as common,
        logs::v1 as logs, resource::v1 as resource, trace::v1 as trace,
    };
}

pub use packages::{
    envoy::{
        config::core::v3 as envoy_core, service::auth::v3 as external_auth, service::discovery::v3 as discovery,
        service::ext_proc::v3 as external_processor, service::ratelimit::v3 as rls, service::status::v3 as status,
    },
    google::rpc as rpc_status,
    istio::{security, v1::auth as ca, workload, workload::zds},
};
