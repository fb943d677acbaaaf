//! Who comes first for a client, and who gets how much: by the words of the service, or of a DestinationRule in their place.

use fairway_proto::workload::load_balancing::{Mode, Scope};
use fairway_proto::workload::{LoadBalancing, Workload};

use super::super::destinations::{Locality, Policy};

/// Region, zone, subzone.
pub type Place = [String; 3];

/// From where somebody looks at endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standpoint {
    /// Region, zone and subzone; empty where nobody knows.
    pub place: Place,
    /// The node.
    pub node: String,
    /// The network.
    pub network: String,
}

/// By what endpoints are told apart (api-surface A9: a DestinationRule comes before a Service).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Preference<'a> {
    /// Nothing.
    None,
    /// What the service says.
    Service(&'a LoadBalancing),
    /// Subzone, zone and region; of other regions the one first that is named for the client's.
    Near(&'a [(String, String)]),
    /// How many labels, from the first on, are those of the client.
    Labels(&'a [String]),
    /// Nothing, but some places get more than others: those that are named for the client's.
    Shares(&'a [(String, u32)]),
}

/// A label of what serves, or with none of the client's pod.
pub type Label<'a> = &'a dyn Fn(Option<&Workload>, &str) -> Option<String>;

impl<'a> Preference<'a> {
    /// What counts for the endpoints of a service that are used as `policy` says. Failing over takes somebody who notices failures,
    /// as with Istio.
    pub fn of(policy: &'a Policy, service: &'a LoadBalancing, from: &Standpoint) -> Self {
        if service.mode() == Mode::Strict {
            return Self::Service(service);
        }
        let fails_over = policy.outliers.is_some();
        match policy.balancing.as_ref().and_then(|balancing| balancing.locality.as_ref()) {
            Some(Locality::Shares(shares)) => {
                let of_client = shares.iter().find(|(place, _)| covers(place, &from.place));
                of_client.map_or(Self::None, |(_, shares)| Self::Shares(shares))
            }
            Some(Locality::Near(regions)) if fails_over => Self::Near(regions),
            Some(Locality::Labels(labels)) if fails_over => Self::Labels(labels),
            Some(Locality::Near(_) | Locality::Labels(_) | Locality::Off) => Self::None,
            None if service.mode() == Mode::Failover => Self::Service(service),
            None if fails_over => Self::Near(&[]),
            None => Self::None,
        }
    }

    /// How far down the list of those who are asked a workload is, or none when it must not be used from here.
    pub fn rank(&self, workload: &Workload, from: &Standpoint, label: Label<'_>) -> Option<usize> {
        let place = place(workload);
        match self {
            Self::None | Self::Shares(_) => Some(0),
            Self::Service(balancing) => by_scopes(balancing, workload, &place, from),
            Self::Near(regions) => Some(by_place(regions, &place, &from.place)),
            Self::Labels(labels) => {
                let is_shared = |written: &&String| shares_label(written, workload, &place, from, label);
                Some(labels.len() - labels.iter().take_while(is_shared).count())
            }
        }
    }
}

/// Where a workload is.
pub fn place(workload: &Workload) -> Place {
    let locality = workload.locality.clone().unwrap_or_default();
    [locality.region, locality.zone, locality.subzone]
}

/// Whether a place, written `region/zone/subzone` with parts left out at the end or stars in place of them, is about this one.
pub fn covers(written: &str, place: &Place) -> bool {
    let mut parts = written.split('/');
    place.iter().all(|part| parts.next().is_none_or(|written| written == "*" || written == part))
}

/// How near a workload is, by the scopes the service names (interop §2.5).
fn by_scopes(balancing: &LoadBalancing, workload: &Workload, place: &Place, from: &Standpoint) -> Option<usize> {
    let shares = |scope: &Scope| match scope {
        Scope::Network => workload.network == from.network,
        Scope::Region => place[0] == from.place[0],
        Scope::Zone => place[1] == from.place[1],
        Scope::Subzone => place[2] == from.place[2],
        Scope::Node => !from.node.is_empty() && workload.node == from.node,
        Scope::Cluster | Scope::UnspecifiedScope => true,
    };
    let preferred: Vec<Scope> = balancing.routing_preference().collect();
    let shared = preferred.iter().take_while(|scope| shares(scope)).count();
    match balancing.mode() {
        Mode::Strict => (shared == preferred.len()).then_some(0),
        Mode::Failover => Some(preferred.len() - shared),
        Mode::UnspecifiedMode | Mode::Passthrough => Some(0),
    }
}

/// Subzone, zone, region, the region named for the client's, and the others; all the same where nobody knows the client's.
fn by_place(regions: &[(String, String)], place: &Place, from: &Place) -> usize {
    if from.iter().all(String::is_empty) {
        return 0;
    }
    match place.iter().zip(from).take_while(|(part, own)| part == own).count() {
        3 => 0,
        2 => 1,
        1 => 2,
        _ => {
            let named = regions.iter().find(|(region, _)| *region == from[0]);
            if named.is_none_or(|(_, to)| *to == place[0]) { 3 } else { 4 }
        }
    }
}

/// Whether a label is that of the client, or has the value that is written behind it. What neither has is the same for both.
fn shares_label(written: &str, workload: &Workload, place: &Place, from: &Standpoint, label: Label<'_>) -> bool {
    let (key, value) = written.split_once('=').map_or((written, None), |(key, value)| (key, Some(value)));
    let (of_workload, of_client) = match key {
        "topology.kubernetes.io/region" => (place[0].clone(), from.place[0].clone()),
        "topology.kubernetes.io/zone" => (place[1].clone(), from.place[1].clone()),
        "topology.istio.io/subzone" => (place[2].clone(), from.place[2].clone()),
        "kubernetes.io/hostname" => (workload.node.clone(), from.node.clone()),
        "topology.istio.io/network" => (workload.network.clone(), from.network.clone()),
        _ => (label(Some(workload), key).unwrap_or_default(), label(None, key).unwrap_or_default()),
    };
    value.map_or(of_workload == of_client, |value| of_workload == value)
}

#[cfg(test)]
mod tests {
    use fairway_proto::workload::Locality as At;

    use super::super::super::destinations::{Balancing, Outliers};
    use super::*;

    fn at(text: &str) -> Place {
        let mut parts = text.split('/').map(str::to_owned);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    fn workload(text: &str) -> Workload {
        let [region, zone, subzone] = at(text);
        let locality = Some(At { region, zone, subzone });
        Workload { node: format!("node-{text}"), network: "n".to_owned(), locality, ..Workload::default() }
    }

    fn from(text: &str) -> Standpoint {
        Standpoint { place: at(text), node: format!("node-{text}"), network: "n".to_owned() }
    }

    const PLACES: [&str; 5] = ["r/z/s", "r/z/t", "r/y/s", "q/z/s", "p/z/s"];

    #[test]
    fn the_nearer_come_first() {
        let regions = [("r".to_owned(), "p".to_owned())];
        let none: Label<'_> = &|_, _| None;
        type Row<'a> = (&'a str, &'a [(String, String)], [usize; 5]);
        let rows: [Row<'_>; 4] = [
            ("r/z/s", &[], [0, 1, 2, 3, 3]),
            ("r/z/s", &regions, [0, 1, 2, 4, 3]),
            ("q/z/s", &regions, [3, 3, 3, 0, 3]),
            ("", &regions, [0; 5]),
        ];
        for (client, regions, expected) in rows {
            let near = Preference::Near(regions);
            let found = PLACES.map(|place| near.rank(&workload(place), &from(client), none).unwrap());
            assert_eq!(found, expected, "{client} {regions:?}");
        }
    }

    #[test]
    fn labels_are_compared_until_one_differs() {
        let label: Label<'_> = &|workload, key| match workload {
            Some(workload) => (key == "team" && workload.node.starts_with("node-r")).then(|| "a".to_owned()),
            None => (key == "team").then(|| "a".to_owned()),
        };
        let rows: [(&[&str], [usize; 5]); 6] = [
            (&["topology.kubernetes.io/region", "topology.kubernetes.io/zone"], [0, 0, 1, 2, 2]),
            (&["topology.kubernetes.io/zone", "topology.istio.io/subzone"], [0, 1, 2, 0, 0]),
            (&["topology.kubernetes.io/region=p"], [1, 1, 1, 1, 0]),
            (&["team", "topology.istio.io/subzone"], [0, 1, 0, 2, 2]),
            (&["kubernetes.io/hostname", "topology.istio.io/network"], [0, 2, 2, 2, 2]),
            (&["nobody-has-it"], [0; 5]),
        ];
        for (labels, expected) in rows {
            let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
            let found =
                PLACES.map(|place| Preference::Labels(&labels).rank(&workload(place), &from("r/z/s"), label).unwrap());
            assert_eq!(found, expected, "{labels:?}");
        }
    }

    #[test]
    fn a_rule_comes_before_the_service_and_fails_over_where_failures_are_noticed() {
        let policy = |locality: Option<Locality>, notices: bool| Policy {
            balancing: Some(Balancing { locality, ..Balancing::default() }),
            outliers: notices.then(Outliers::default),
            ..Policy::default()
        };
        let mode = |mode: Mode| LoadBalancing { mode: mode.into(), ..LoadBalancing::default() };
        let (silent, failover, strict) = (mode(Mode::UnspecifiedMode), mode(Mode::Failover), mode(Mode::Strict));
        let near = || Some(Locality::Near(Vec::new()));
        let shares = || Some(Locality::Shares(vec![("r/*".to_owned(), vec![("q".to_owned(), 100)])]));
        let to = [("q".to_owned(), 100)];
        let rows = [
            (policy(None, false), &silent, Preference::None),
            (policy(None, true), &silent, Preference::Near(&[])),
            (policy(None, true), &failover, Preference::Service(&failover)),
            (policy(near(), false), &failover, Preference::None),
            (policy(near(), true), &failover, Preference::Near(&[])),
            (policy(near(), true), &strict, Preference::Service(&strict)),
            (policy(Some(Locality::Off), true), &failover, Preference::None),
            (policy(shares(), false), &failover, Preference::Shares(&to)),
        ];
        for (policy, service, expected) in &rows {
            assert_eq!(Preference::of(policy, service, &from("r/z/s")), *expected, "{policy:?} {service:?}");
        }
        assert_eq!(Preference::of(&policy(shares(), true), &silent, &from("q/z/s")), Preference::None);
    }

    #[test]
    fn places_are_written_with_stars() {
        for (written, expected) in [
            ("*", true),
            ("r", true),
            ("r/*", true),
            ("r/z", true),
            ("r/z/*", true),
            ("*/z/s", true),
            ("r/z/s", true),
            ("q", false),
            ("r/y/*", false),
            ("r/z/t", false),
            ("", false),
        ] {
            assert_eq!(covers(written, &at("r/z/s")), expected, "{written:?}");
        }
    }
}
