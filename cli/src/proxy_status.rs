//! `fairway proxy-status`: how far each proxy is with what the controller sent it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::Args;
use fairway_lab::Result;
use fairway_lab::render::{Cell, Tone, wide_table as table};
use serde::{Deserialize, Serialize};

use crate::mesh::{Mesh, Part, Where};
use crate::output::Format;

/// Short names of resource types, as istioctl has them.
const TYPES: [(&str, &str); 6] = [
    ("istio.workload.Address", "WDS"),
    ("istio.security.Authorization", "AUTHZ"),
    ("envoy.config.listener.v3.Listener", "LDS"),
    ("envoy.config.route.v3.RouteConfiguration", "RDS"),
    ("envoy.config.cluster.v3.Cluster", "CDS"),
    ("envoy.config.endpoint.v3.ClusterLoadAssignment", "EDS"),
];

/// Kinds of proxies, as they call themselves.
const WAYPOINT: &str = "waypoint";
const ZTUNNEL: &str = "ztunnel";

/// Arguments of `proxy-status`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

/// `/debug/syncz` of the controller.
#[derive(Debug, Deserialize)]
struct Progress {
    proxies: Vec<Stream>,
}

/// A stream of a proxy; a waypoint has two.
#[derive(Debug, Deserialize)]
struct Stream {
    id: String,
    node: String,
    version: String,
    types: BTreeMap<String, Sent>,
}

/// How far a proxy is with one type of resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// The last generation of the world that was sent.
    sent: Option<u64>,
    /// The last one it took.
    acked: Option<u64>,
    /// Why it did not take the last one.
    nacked: Option<String>,
}

/// A proxy; the schema of `-o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proxy {
    /// `NAME.NAMESPACE`.
    pub(crate) name: String,
    /// `ztunnel`, `waypoint` or what else speaks xDS.
    pub(crate) kind: String,
    pub(crate) node: String,
    pub(crate) version: String,
    pub(crate) types: BTreeMap<String, Sent>,
}

/// In what state a proxy is with one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It has taken the last one.
    Synced,
    /// It has not answered the last one.
    Stale,
    /// It has refused the last one.
    Rejected,
}

impl Sent {
    pub(crate) fn state(&self) -> State {
        match (&self.nacked, self.sent == self.acked) {
            (Some(_), _) => State::Rejected,
            (None, true) => State::Synced,
            (None, false) => State::Stale,
        }
    }

    /// The last generation of the mesh's state that was sent.
    pub(crate) fn sent(&self) -> Option<u64> {
        self.sent
    }

    /// The last one that it took.
    pub(crate) fn acked(&self) -> Option<u64> {
        self.acked
    }

    /// Why the last one was refused.
    pub(crate) fn rejection(&self) -> Option<&str> {
        self.nacked.as_deref()
    }
}

/// Prints it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.format.follow(|| {
        let proxies = proxies(&arguments.place.mesh()?)?;
        arguments.format.print(&proxies, |colour| shown(&proxies, colour))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The proxies that the controller knows.
pub(crate) fn proxies(mesh: &Mesh) -> Result<Vec<Proxy>> {
    let mut streams = Vec::new();
    // Each replica knows those that are connected to it.
    for replica in mesh.replicas() {
        streams.extend(mesh.ask::<Progress>(Part::Replica(&replica), "/debug/syncz")?.proxies);
    }
    let pods = mesh.status.pods.iter().map(|pod| format!("{}.{}", pod.name, pod.namespace));
    Ok(together(streams, &pods.collect()))
}

/// One proxy of all its streams. The id is `KIND~ADDRESS~NAME.NAMESPACE~DOMAIN` (interop §3.2); a waypoint calls itself a
/// ztunnel where it asks for what ztunnels get, and is told from one as it is among the `pods` that are no part of the mesh itself.
fn together(streams: Vec<Stream>, pods: &BTreeSet<String>) -> Vec<Proxy> {
    let mut proxies: BTreeMap<String, Proxy> = BTreeMap::new();
    for stream in streams {
        let mut parts = stream.id.split('~');
        let kind = parts.next().unwrap_or_default().to_owned();
        let name = parts.nth(1).unwrap_or(&stream.id).to_owned();
        let proxy = proxies.entry(name.clone()).or_insert_with(|| Proxy {
            name,
            kind: kind.clone(),
            node: stream.node,
            version: stream.version,
            types: BTreeMap::new(),
        });
        if kind == WAYPOINT || (kind == ZTUNNEL && pods.contains(&proxy.name)) {
            WAYPOINT.clone_into(&mut proxy.kind);
        }
        proxy.types.extend(stream.types);
    }
    proxies.into_values().collect()
}

fn short(name: &str) -> &str {
    TYPES.iter().find(|(long, _)| *long == name).map_or(name, |(_, short)| short)
}

fn shown(proxies: &[Proxy], colour: bool) -> String {
    let row = |proxy: &Proxy| {
        let synced = proxy.types.values().filter(|sent| sent.state() == State::Synced).count();
        let not = proxy.types.iter().filter_map(|(name, sent)| match sent.state() {
            State::Synced => None,
            State::Stale => Some(format!("{} STALE", short(name))),
            State::Rejected => Some(format!("{} REJECTED", short(name))),
        });
        let tone = if synced == proxy.types.len() { Tone::Good } else { Tone::Bad };
        vec![
            proxy.name.as_str().into(),
            proxy.kind.as_str().into(),
            proxy.node.as_str().into(),
            if proxy.version.is_empty() { "-" } else { &proxy.version }.into(),
            Cell::toned(format!("{synced} of {}", proxy.types.len()), tone),
            not.collect::<Vec<_>>().join(", ").into(),
        ]
    };
    let header = ["NAME", "KIND", "NODE", "VERSION", "SYNCED", "NOT SYNCED"];
    let mut text = table(&header, &proxies.iter().map(row).collect::<Vec<_>>(), colour);
    for proxy in proxies {
        for (name, why) in proxy.types.iter().filter_map(|(name, sent)| Some((name, sent.rejection()?))) {
            text.push_str(&format!("\n{} refused {name}: {why}\n", proxy.name));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(name: &str, acked: u64, nacked: Option<&str>) -> (String, Sent) {
        (name.to_owned(), Sent { sent: Some(3), acked: Some(acked), nacked: nacked.map(str::to_owned) })
    }

    fn stream(id: &str, types: &[(String, Sent)]) -> Stream {
        Stream {
            id: id.to_owned(),
            node: "node-1".to_owned(),
            version: "0.1.0".to_owned(),
            types: types.iter().cloned().collect(),
        }
    }

    #[test]
    fn the_two_streams_of_a_waypoint_are_one_proxy_and_what_it_refused_is_told() {
        let wds = sent("istio.workload.Address", 3, None);
        let lds = sent("envoy.config.listener.v3.Listener", 2, Some("filters[0] is unknown"));
        let rds = sent("envoy.config.route.v3.RouteConfiguration", 2, None);
        let streams = vec![
            stream("ztunnel~10.1.0.3~way-0.shop~shop.svc.cluster.local", &[wds]),
            stream("waypoint~10.1.0.3~way-0.shop~shop.svc.cluster.local", &[lds, rds]),
        ];
        let proxies = together(streams, &BTreeSet::new());
        let text = shown(&proxies, false);
        let words: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        let wanted = ["way-0.shop", "waypoint", "node-1", "0.1.0", "1", "of", "3", "LDS", "REJECTED,", "RDS", "STALE"];
        assert_eq!(words, wanted);
        assert!(
            text.ends_with("way-0.shop refused envoy.config.listener.v3.Listener: filters[0] is unknown\n"),
            "{text}"
        );
    }

    #[test]
    fn a_waypoint_of_which_one_stream_is_left_is_no_ztunnel() {
        let wds = || sent("istio.workload.Address", 3, None);
        let streams = vec![
            stream("ztunnel~10.1.0.3~way-0.shop~shop.svc.cluster.local", &[wds()]),
            stream("ztunnel~10.1.0.1~ztunnel-a.fairway-system~fairway-system.svc.cluster.local", &[wds()]),
        ];
        let proxies = together(streams, &["way-0.shop".to_owned()].into());
        let kinds: Vec<(&str, &str)> = proxies.iter().map(|it| (it.name.as_str(), it.kind.as_str())).collect();
        assert_eq!(kinds, [("way-0.shop", "waypoint"), ("ztunnel-a.fairway-system", "ztunnel")]);
    }
}
