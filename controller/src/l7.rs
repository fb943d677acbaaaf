//! Which HTTP and gRPC requests go where: routes of users to Envoy's resources.
//!
//! [`attach`] reads the routes and says what holds at each port of a service, in the language of [`model`]; [`snapshot`]
//! writes that, and the services, down for the client that asks, in Envoy's ([`render`]). All of it is pure.

pub mod attach;
pub mod authorizers;
pub mod authz;
pub(crate) mod catalog;
pub mod client;
pub mod destinations;
mod grants;
mod members;
pub mod mesh;
pub mod model;
pub mod processors;
mod provider;
pub mod providers;
pub mod proxies;
pub mod rates;
pub mod render;
mod rules;
pub mod snapshot;
pub mod telemetry;
pub mod tokens;
pub(crate) mod upgrades;
pub mod verdict;
pub mod waypoints;

use fairway_core::source::{ObjectKey, Objects};

use crate::translate::Settings;

pub use client::Client;
pub use snapshot::Snapshot;

/// The Service or ServiceEntry that objects of `namespace` mean by `host`, where they name hosts as Istio's do.
#[must_use]
pub fn named(objects: &Objects, settings: &Settings, namespace: &str, host: &str) -> Option<ObjectKey> {
    catalog::named(objects, settings, namespace, host).ok()
}
