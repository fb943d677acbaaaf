//! Both sources keep the same promises: what the contract says is tested over a directory and over an API server.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "source/admission.rs"]
mod admission;
#[path = "source/announced.rs"]
mod announced;
#[path = "source/api.rs"]
mod api;
#[path = "source/authority.rs"]
mod authority;
#[path = "source/contract.rs"]
mod contract;
#[path = "source/fake.rs"]
mod fake;
#[path = "source/outage.rs"]
mod outage;
#[path = "source/replicas.rs"]
mod replicas;
#[path = "source/writes.rs"]
mod writes;
