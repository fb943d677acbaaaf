//! `/why/departure` and `/why/arrival`: what would become of a connection from or to a pod of this node.

use std::sync::Arc;

use fairway_core::facts::Original;
use fairway_core::ident::Identity;
use fairway_core::io::admin::{BadParameter, Reply, Request, StatusCode, json, parsed, text};
use fairway_core::snapshot::{PodRef, Snapshot};
use fairway_core::why::{self, Arriving};
use fairway_core::workload::Workload;

use super::Admin;

const DEPARTURE: &str = "/why/departure?pod=NAMESPACE/NAME&destination=HOST[:PORT]: HOST is an address or a name";
const ARRIVAL: &str = "/why/arrival?pod=NAMESPACE/NAME&address=IP:PORT&source=IP:PORT[&identity=spiffe://…&authority=HOST:PORT\
                       [&original=spiffe://…&original_source=IP:PORT]]: without an authority it arrives in clear text; an \
                       original is for whom the identity, a waypoint, speaks";

#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Parameter(#[from] BadParameter),
    #[error("{0} is no pod of this node, or it is not in the mesh; {1}")]
    Pod(String, String),
    #[error("{0} was handed over but is not served yet: {1}")]
    Pending(String, String),
    #[error("the control plane has not announced {0} yet")]
    Unannounced(String),
    #[error(transparent)]
    NotDialled(#[from] why::NotDialled),
}

/// What would become of a connection that leaves a pod.
pub(super) fn departure(admin: &Admin, request: &Request) -> Reply {
    let tell = || {
        let snapshot = admin.live.snapshot();
        let client = pod(admin, &snapshot, request)?;
        let destination = request.given("destination")?;
        let mut rng = rand::rng();
        let destination = why::dialled(&snapshot, &admin.zone, &client, host_and_port(&destination)?, &mut rng)?;
        let is_neighbour = |workload: &Workload, address| (admin.is_neighbour)(workload, address);
        Ok(why::departure(&snapshot, &client, destination, is_neighbour, &mut rng))
    };
    answer(tell().map(|told| json(&told)), DEPARTURE)
}

/// What would become of a connection that arrives for a pod.
pub(super) fn arrival(admin: &Admin, request: &Request) -> Reply {
    let tell = || {
        let snapshot = admin.live.snapshot();
        let local = pod(admin, &snapshot, request)?;
        let authority = request.parameter("authority");
        let identity = request.parameter("identity").map(|text| parsed::<Identity>("identity", text)).transpose()?;
        let original = match request.parameter("original").filter(|_| admin.clients_behind_waypoints) {
            Some(text) => Some(Original {
                identity: parsed("original", text)?,
                address: parsed("original_source", request.given("original_source")?)?,
            }),
            None => None,
        };
        let arriving = Arriving {
            address: parsed("address", request.given("address")?)?,
            authority: authority.as_deref(),
            source: parsed("source", request.given("source")?)?,
            identity,
            original,
        };
        Ok(why::arrival(&snapshot, &local, arriving))
    };
    answer(tell().map(|told| json(&told)), ARRIVAL)
}

fn answer(told: Result<Reply, Wrong>, usage: &str) -> Reply {
    told.unwrap_or_else(|error| {
        let status = match error {
            Wrong::Parameter(_) | Wrong::NotDialled(_) => StatusCode::BAD_REQUEST,
            Wrong::Pod(..) => StatusCode::NOT_FOUND,
            Wrong::Pending(..) | Wrong::Unannounced(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        text(status, format!("{error}\n{usage}\n"))
    })
}

/// The workload of the pod that is asked about, as the proxy would find it for a connection.
fn pod(admin: &Admin, snapshot: &Snapshot, request: &Request) -> Result<Arc<Workload>, Wrong> {
    let asked = request.given("pod")?;
    let pods = (admin.pods)();
    let name = |info: &crate::node::PodInfo| format!("{}/{}", info.namespace, info.name);
    let Some(state) = pods.iter().find(|state| name(&state.info) == asked) else {
        let mut known: Vec<String> = pods.iter().map(|state| name(&state.info)).collect();
        known.sort();
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        return Err(Wrong::Pod(asked, known));
    };
    if let Some(error) = &state.pending {
        return Err(Wrong::Pending(asked, error.clone()));
    }
    let reference = PodRef {
        node: None,
        namespace: state.info.namespace.as_str().into(),
        name: state.info.name.as_str().into(),
        service_account: state.info.service_account.as_str().into(),
    };
    snapshot.find_pod(&reference).cloned().ok_or(Wrong::Unannounced(asked))
}

/// `HOST`, `HOST:PORT`, `[IPv6]:PORT` or `IPv6`.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), BadParameter> {
    let wrong = |problem: &str| BadParameter::Value {
        name: "destination",
        value: text.to_owned(),
        problem: problem.to_owned(),
    };
    let whole = bare(text);
    if whole.len() < text.len() {
        return Ok((whole, None));
    }
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok((text, None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0))),
        None => (text, None),
    };
    let port = match port {
        Some(None) => return Err(wrong("the port must be a number from 1 to 65535")),
        Some(port) => port,
        None => None,
    };
    let host = bare(host);
    if host.is_empty() { Err(wrong("there is no host")) } else { Ok((host, port)) }
}

/// Without the brackets of an IPv6 address (RFC 3986 §3.2.2).
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_hosts_with_or_without_a_port() {
        for (text, expected) in [
            ("server", Some(("server", None))),
            ("server.shop:80", Some(("server.shop", Some(80)))),
            ("10.0.0.1:80", Some(("10.0.0.1", Some(80)))),
            ("fd00::1", Some(("fd00::1", None))),
            ("[fd00::1]:80", Some(("fd00::1", Some(80)))),
            ("[fd00::1]", Some(("fd00::1", None))),
            ("server:0", None),
            ("server:http", None),
            (":80", None),
        ] {
            assert_eq!(host_and_port(text).ok(), expected, "{text}");
        }
    }
}
