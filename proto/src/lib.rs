//! Wire contracts, generated from the files in `proto/`; nothing here but what they say.
//!
//! Messages always; client and server stubs of the two gRPC services with feature `rpc`.

pub mod type_url;

// Generated files name each other by package, so the packages form a tree; the re-exports below flatten it.
#[allow(
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code, documented in the .proto files; what it breaks depends on generator and features"
)]
mod packages {
    pub mod envoy {
        pub mod config {
            pub mod core {
                pub mod v3 {
                    include!(concat!(env!("OUT_DIR"), "/envoy.config.core.v3.rs"));
                }
            }
        }
        pub mod service {
            pub mod discovery {
                pub mod v3 {
                    include!(concat!(env!("OUT_DIR"), "/envoy.service.discovery.v3.rs"));
                }
            }
            pub mod status {
                pub mod v3 {
                    include!(concat!(env!("OUT_DIR"), "/envoy.service.status.v3.rs"));
                }
            }
        }
    }
    pub mod google {
        pub mod rpc {
            include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
        }
    }
    pub mod istio {
        pub mod security {
            include!(concat!(env!("OUT_DIR"), "/istio.security.rs"));
        }
        pub mod v1 {
            pub mod auth {
                include!(concat!(env!("OUT_DIR"), "/istio.v1.auth.rs"));
            }
        }
        pub mod workload {
            include!(concat!(env!("OUT_DIR"), "/istio.workload.rs"));
            pub mod zds {
                include!(concat!(env!("OUT_DIR"), "/istio.workload.zds.rs"));
            }
        }
    }
}

pub use packages::{
    envoy::{config::core::v3 as envoy_core, service::discovery::v3 as discovery, service::status::v3 as status},
    google::rpc as rpc_status,
    istio::{security, v1::auth as ca, workload, workload::zds},
};
