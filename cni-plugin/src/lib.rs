//! Pod enrolment: which pods are in the mesh, the rules that capture their traffic, and the hand-off to the node proxy.
//!
//! The node agent ([`agent`]) follows the manifests: [`enroll`] decides, [`rules`] says what belongs in a pod's
//! namespace, [`kernel`] puts it there, [`handoff`] gives the namespace to the node proxy, and [`reconcile`] keeps
//! all of it true. The [`plugin`] is run by the container runtime for each pod and speaks to the agent.

pub mod admin;
pub mod agent;
pub mod config;
pub mod enroll;
pub mod event;
pub mod events;
pub mod handoff;
pub mod install;
pub mod kernel;
mod memory;
pub mod notices;
pub mod place;
pub mod plugin;
pub mod reconcile;
pub mod report;
pub mod rules;
pub mod serve;
pub mod uninstall;
