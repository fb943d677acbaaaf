//! `fairway waypoint requests`: what is under way in a waypoint, from all of its pods.

use clap::Args;
use fairway_lab::render::{Cell, Tone, wide_table as table};
use fairway_lab::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::mesh::{Mesh, Part, Where};
use crate::objects::Objects;
use crate::output::Format;
use crate::proxy_status;

/// Longer than most requests take.
const LONG: u64 = 10_000;

#[derive(Debug, Args)]
pub(super) struct Requests {
    /// The waypoint
    name: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    format: Format,
}

/// `/requests` of one pod.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    in_flight: usize,
    requests: Vec<Request>,
}

/// What is under way; the schema of `-o json`.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct InFlight {
    /// So many are, in all pods.
    in_flight: usize,
    /// Oldest first; a pod tells of so many only.
    requests: Vec<OfPod>,
    /// Pods that do not answer, and why.
    silent: Vec<Silent>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Silent {
    pod: String,
    error: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct OfPod {
    pod: String,
    #[serde(flatten)]
    request: Request,
}

/// One request, or all that a stream carries, as a waypoint tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    id: String,
    begun: String,
    age_milliseconds: u64,
    phase: String,
    protocol: String,
    source_identity: String,
    source_address: String,
    dialled: String,
    service: Option<String>,
    method: Option<String>,
    authority: Option<String>,
    path: Option<String>,
    server_name: Option<String>,
    route: Option<String>,
    cluster: Option<String>,
    endpoint: Option<String>,
    attempts: u32,
    status: Option<u16>,
    trace_id: Option<String>,
    received_bytes: u64,
    sent_bytes: u64,
}

/// Prints it, once or again and again.
pub(super) fn run(requests: &Requests, place: &Where, objects: &Objects) -> Result<()> {
    requests.format.follow(|| {
        let found = look(requests, &place.mesh()?, objects)?;
        requests.format.print(&found, |colour| shown(&found, colour))
    })
}

fn look(Requests { name, namespace, .. }: &Requests, mesh: &Mesh, objects: &Objects) -> Result<InFlight> {
    let waypoints: Vec<String> =
        super::waypoints(objects, Some(namespace))?.into_iter().map(|waypoint| waypoint.name).collect();
    let proxies = proxy_status::proxies(mesh)?;
    let pods = proxies.iter().filter(|proxy| proxy.kind == "waypoint").filter_map(|proxy| {
        let (pod, of) = proxy.name.rsplit_once('.')?;
        (of == namespace && is_of(pod, name, &waypoints)).then_some(pod)
    });
    let pods: Vec<&str> = pods.collect();
    if pods.is_empty() {
        if !waypoints.contains(name) {
            return Err(super::missing(namespace, name));
        }
        return Err(Error::new(format!("the controller knows no pod of waypoint {namespace}/{name}"))
            .hint(format!("fairway waypoint status {name} -n {namespace} says whether it runs")));
    }
    let (mut found, mut last) = (InFlight::default(), None);
    for pod in &pods {
        match mesh.ask::<Page>(Part::Waypoint(namespace, pod), "/requests") {
            Ok(page) => {
                found.in_flight += page.in_flight;
                found
                    .requests
                    .extend(page.requests.into_iter().map(|request| OfPod { pod: (*pod).to_owned(), request }));
            }
            Err(error) => {
                found.silent.push(Silent { pod: (*pod).to_owned(), error: error.to_string() });
                last = Some(error);
            }
        }
    }
    found.requests.sort_by_key(|of| std::cmp::Reverse(of.request.age_milliseconds));
    match last {
        Some(error) if found.silent.len() == pods.len() => Err(error),
        _ => Ok(found),
    }
}

/// Whether a pod is of this waypoint: its name begins with it, and with no longer name of another one.
fn is_of(pod: &str, name: &str, waypoints: &[String]) -> bool {
    let fits = |name: &str| pod.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    fits(name) && !waypoints.iter().any(|other| other.len() > name.len() && fits(other))
}

/// `NAMESPACE/ACCOUNT` of an identity.
fn account(identity: &str) -> &str {
    match identity.split_once("/ns/").and_then(|(_, rest)| rest.split_once("/sa/")) {
        Some((_, account)) => account,
        None => identity,
    }
}

/// As `kubectl` says it, but for what is shorter than a second.
fn lasted(milliseconds: u64) -> String {
    match milliseconds {
        0..=999 => format!("{milliseconds}ms"),
        1_000..=599_999 => format!("{}s", milliseconds / 1000),
        _ => format!("{}min", milliseconds / 60_000),
    }
}

fn age(milliseconds: u64) -> Cell {
    Cell::toned(lasted(milliseconds), if milliseconds < LONG { Tone::Plain } else { Tone::Doubtful })
}

fn shown(found: &InFlight, colour: bool) -> String {
    let row = |OfPod { request: it, .. }: &OfPod| -> Vec<Cell> {
        let some = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let asked = match &it.method {
            Some(method) => format!("{method} {}{}", some(&it.authority), some(&it.path)),
            None => {
                format!("{} {}", it.protocol, it.server_name.as_ref().or(it.service.as_ref()).unwrap_or(&it.dialled))
            }
        };
        vec![
            age(it.age_milliseconds),
            it.phase.as_str().into(),
            account(&it.source_identity).into(),
            asked.as_str().into(),
            some(&it.endpoint).as_str().into(),
            it.attempts.to_string().as_str().into(),
            format!("{}/{}", it.received_bytes, it.sent_bytes).as_str().into(),
            some(&it.route).as_str().into(),
        ]
    };
    let mut text = if found.requests.is_empty() {
        "nothing is under way\n".to_owned()
    } else {
        let rows: Vec<_> = found.requests.iter().map(row).collect();
        table(&["AGE", "PHASE", "FROM", "REQUEST", "ENDPOINT", "TRIES", "BYTES", "ROUTE"], &rows, colour)
    };
    let more = found.in_flight.saturating_sub(found.requests.len());
    if more > 0 {
        text.push_str(&format!("{more} more, each younger than those shown of its pod\n"));
    }
    for Silent { pod, error } in &found.silent {
        text.push_str(&format!("{pod} does not answer: {}\n", error.lines().next().unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_of_the_waypoint_with_the_longest_name_that_fits() {
        let waypoints = ["way".to_owned(), "way-two".to_owned()];
        for (pod, name, expected) in [
            ("way-6f7-x2", "way", true),
            ("way", "way", true),
            ("way-two-6f7-x2", "way", false),
            ("way-two-6f7-x2", "way-two", true),
            ("ways-1", "way", false),
        ] {
            assert_eq!(is_of(pod, name, &waypoints), expected, "{pod} {name}");
        }
    }

    #[test]
    fn a_line_says_where_a_request_is_and_what_is_not_shown_is_counted() {
        let page = serde_json::json!({"inFlight": 3, "leftOut": 1, "requests": [{
            "id": "1/1", "begun": "2026-01-01T00:00:00.000Z", "ageMilliseconds": 12_345, "phase": "waitingForAnswer",
            "protocol": "HTTP/1.1", "sourceIdentity": "spiffe://cluster.local/ns/shop/sa/client",
            "sourceAddress": "10.0.0.1:1", "dialled": "10.96.0.1:80", "service": "web.shop.svc.cluster.local",
            "method": "GET", "authority": "web", "path": "/slow", "serverName": null, "route": "shop/web/0",
            "cluster": "web.shop.svc.cluster.local:80", "endpoint": "10.0.0.2:80", "attempts": 1, "status": null,
            "traceId": null, "receivedBytes": 0, "sentBytes": 5,
        }]});
        let Page { in_flight, requests } = serde_json::from_value(page).unwrap();
        let stream = Request { protocol: "TCP".into(), dialled: "10.96.0.1:81".into(), ..Request::default() };
        let requests = requests.into_iter().chain([stream]);
        let requests = requests.map(|request| OfPod { pod: "way-1".into(), request }).collect();
        let silent = vec![Silent { pod: "way-2".into(), error: "refused\nhint".into() }];
        for (milliseconds, expected) in [(999, "999ms"), (2_000, "2s"), (599_999, "599s"), (600_000, "10min")] {
            assert_eq!(lasted(milliseconds), expected);
        }
        let text = shown(&InFlight { in_flight, requests, silent }, false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected =
            ["12s", "waitingForAnswer", "client", "GET", "web/slow", "10.0.0.2:80", "1", "0/5", "shop/web/0"];
        assert_eq!(lines[1], expected, "{text}");
        assert!(text.contains("TCP 10.96.0.1:81"), "{text}");
        assert!(
            text.ends_with("1 more, each younger than those shown of its pod\nway-2 does not answer: refused\n"),
            "{text}"
        );
        assert_eq!(shown(&InFlight::default(), false), "nothing is under way\n");
    }
}
