//! Names of the resource types a discovery stream carries.

/// A workload or a service, [`crate::workload::Address`].
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// A policy, [`crate::security::Authorization`].
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
/// A workload alone, [`crate::workload::Workload`].
pub const WORKLOAD: &str = "type.googleapis.com/istio.workload.Workload";
