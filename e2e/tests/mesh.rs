//! End-to-end tests of the mesh: real components in a lab, real traffic, and what wire, logs and metrics say about it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod mesh {
    mod automatic;
    mod capture;
    mod chain;
    mod chart;
    mod check;
    mod credentials;
    mod dns;
    mod enter;
    mod faults;
    mod garbage;
    mod guides;
    mod interop;
    mod kubernetes;
    mod labs;
    mod look;
    mod manifests;
    mod matrix;
    mod newcomer;
    mod observe;
    mod on_demand;
    mod reference;
    mod self_call;
    mod shop;
    mod strangers;
    mod tools;
    mod trust;
    mod waypoint;
    mod why;
}
