//! A mesh of real processes in network namespaces on one machine: the lab behind `fairway lab`, and the library of the end-to-end tests.
//!
//! `Lab::up` boots one supervisor as PID 1 of fresh namespaces. Nodes, pods and the mesh's own processes all live below it, so when it
//! ends, however it ends, the kernel takes everything with it; only the state directory is left for [`down`](manage::down) to remove.

pub mod addresses;
pub mod apply;
pub mod binaries;
pub mod boot;
pub mod capture;
pub mod cni;
pub mod control;
pub mod demo;
pub mod error;
pub mod exec;
pub mod http;
pub mod init;
pub mod lab;
pub mod layout;
pub mod logs;
pub mod manage;
pub mod options;
pub mod output;
pub mod prerequisites;
pub mod render;
pub mod status;
pub mod tool;

mod backoff;
mod component;
mod container;
mod hosts;
mod kubelet;
mod kubernetes;
mod network;
mod pod;
mod probe;
mod process;
mod reaper;
mod sandbox;
mod schedule;
mod service_proxy;
mod services;
mod supervisor;
mod token;
mod volumes;

pub use error::{Error, Result};
pub use lab::Lab;
pub use options::Options;
