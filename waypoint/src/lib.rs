//! The waypoint: takes tunnels for the services that are bound to it, and does with their requests what routes and policies
//! say.

pub mod access_log;
pub mod activity;
pub mod admin;
pub mod affinity;
pub mod app;
pub mod authorizer;
pub mod body;
pub mod call;
pub mod carried;
pub mod client_hello;
pub mod config;
pub mod conversation;
pub mod cors;
pub mod dial;
pub mod edits;
pub mod export;
pub mod facts;
pub mod failure;
pub mod faults;
pub mod forward;
pub mod framing;
pub mod grpc;
pub mod heads;
pub mod help;
pub mod http_server;
pub mod idle;
pub mod in_flight;
pub mod limiter;
pub mod lines;
pub mod load;
pub mod matching;
pub mod named;
pub mod names;
pub mod noted;
pub mod opaque;
pub mod origination;
pub mod path;
pub mod processor;
pub mod rates;
pub mod rbac;
pub mod replay;
pub mod reply;
pub mod request;
pub mod retry;
pub mod secured;
pub mod session;
pub mod settings;
pub mod sniff;
pub mod stream;
pub mod taken;
pub mod telemetry;
pub mod tokens;
pub mod trace;
pub mod troubles;
pub mod tunnel;
pub mod upgrade;
pub mod upgraded;
pub mod upstream;
pub mod waypoint;
pub mod why;
pub mod xds;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
