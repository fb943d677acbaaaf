//! The controller: Kubernetes objects in, proxy configuration and certificates out.
//!
//! [`translate`], [`l7`] and [`world`] decide and are pure; [`state`] publishes what they say and [`kept`] remembers it,
//! [`serve`] and [`ca`] hand it out over gRPC, [`status`] tells users, [`lifecycle`] makes waypoints, [`announce`] tells
//! every namespace the mesh's root, [`enrolment`] tells of what keeps objects from the mesh, [`admission`] tells whoever applies something, [`admin`] shows it to operators, `memory` gives back
//! what is free, [`app`] wires all of it.

pub mod admin;
pub mod admission;
mod age;
pub mod announce;
mod api_server;
pub mod app;
pub mod ca;
pub mod config;
pub mod dump;
pub mod enrolment;
mod files;
pub mod kept;
pub mod keys;
pub mod l7;
pub mod lifecycle;
mod memory;
pub mod mesh_config;
pub mod metrics;
mod parallel;
mod per_peer;
pub mod serve;
pub mod state;
pub mod status;
pub mod tls;
pub mod token;
pub mod translate;
pub mod world;
