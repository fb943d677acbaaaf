//! `fairway why`: what would become of a connection, told by the proxies that would carry it.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use fairway_core::why::{Arrival, Departure, Refused, Tunnel, Way};
use fairway_lab::Result;
use fairway_lab::render::wrap;
use fairway_lab::status::PodStatus;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Serialize;

use crate::mesh::{Mesh, Part, Where};
use crate::output::Format;

/// Widest line, what numbers take left out.
const LINE: usize = 96;
/// Where an application's connection seems to come from: of its address only the host is looked at.
const SOME_PORT: u16 = 40_000;
/// What a value in a query cannot have as it is: all but the unreserved characters (RFC 3986 §2.3), and what separates
/// nothing there.
const IN_QUERY: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/').remove(b':');

/// Arguments of `why`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The client: POD or NAMESPACE/POD
    source: String,
    /// The destination as the client would name it: HOST[:PORT], a name or an address
    destination: String,
    /// Namespace of the client
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

/// The whole answer; the schema of `-o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// Whether the connection would be made, as far as proxies decide; none when what decides cannot be asked.
    allowed: Option<bool>,
    /// What the client's proxy would do.
    departure: Departure,
    /// What the destination's proxy would do, where it is asked.
    arrival: Option<Arrival>,
    /// What is not known, and why.
    notes: Vec<String>,
}

/// Asks the proxies and prints what they say. Fails only when they cannot be asked: a refusal is an answer.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.format.follow(|| {
        let mesh = arguments.place.mesh()?;
        let answer = ask(&mesh, mesh.pod(&arguments.source, &arguments.namespace)?, &arguments.destination)?;
        arguments.format.print(&answer, |_| told(&answer))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn ask(mesh: &Mesh, client: &PodStatus, destination: &str) -> Result<Answer> {
    let node = client.node.as_deref().unwrap_or_default();
    let question =
        format!("/why/departure?pod={}/{}&destination={}", client.namespace, client.name, escaped(destination));
    let departure: Departure = mesh.ask(Part::Proxy(node), &question)?;
    let mut notes = Vec::new();
    let arrival = match next(&departure, client) {
        Next::Nobody => None,
        Next::Elsewhere(note) => {
            notes.push(note);
            None
        }
        Next::Proxy { node, question } => match mesh.ask::<Arrival>(Part::Proxy(&node), &question) {
            Ok(arrival) => Some(arrival),
            Err(error) => {
                notes.push(format!("what arrives on {node} is not known: {error}"));
                None
            }
        },
    };
    let allowed = match (&departure.way, &arrival) {
        (Way::Refused(_), _) => Some(false),
        (_, Some(arrival)) => Some(arrival.refused.is_none()),
        // Nobody of the mesh is at the other end.
        (Way::Direct { .. } | Way::Passthrough { .. }, None) if notes.is_empty() => Some(true),
        _ => None,
    };
    Ok(Answer { allowed, departure, arrival, notes })
}

/// Who decides after the client's proxy.
enum Next {
    /// Nobody of the mesh.
    Nobody,
    /// The proxy of a node, which is to be asked this.
    Proxy { node: String, question: String },
    /// Somebody who cannot be asked, in words.
    Elsewhere(String),
}

fn next(departure: &Departure, client: &PodStatus) -> Next {
    let tunnel = match &departure.way {
        Way::Tunnel(tunnel) | Way::Neighbour(tunnel) => tunnel,
        Way::Direct { .. } | Way::Passthrough { .. } | Way::Refused(_) => return Next::Nobody,
        Way::Waypoint { waypoint, .. } => {
            let name = format!("{}/{}", waypoint.namespace, waypoint.name);
            return Next::Elsewhere(format!("waypoint {name} decides on each request; its log says how"));
        }
        Way::Gateway { .. } => return Next::Elsewhere("the other network's proxies decide further".to_owned()),
        Way::Resolve { hostname, .. } => {
            return Next::Elsewhere(format!("it depends on what address {hostname} has"));
        }
    };
    let Some(workload) = &departure.workload else { return Next::Nobody };
    let source = client.addresses.first().map(String::as_str).unwrap_or_default();
    let source = if source.contains(':') { format!("[{source}]") } else { source.to_owned() };
    let question = format!(
        "/why/arrival?pod={}/{}&address={}&source={source}:{SOME_PORT}&identity={}&authority={}",
        workload.namespace,
        workload.name,
        tunnel.address,
        escaped(&departure.source.identity),
        escaped(&tunnel.authority),
    );
    Next::Proxy { node: workload.node.clone(), question }
}

fn escaped(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, &IN_QUERY)
}

fn told(answer: &Answer) -> String {
    let Answer { allowed, departure, arrival, notes } = answer;
    let Departure { source, destination, service, workload, way } = departure;
    let mut lines = vec![format!("{}/{} on {} is {}", source.namespace, source.name, source.node, source.identity)];
    if let Some(service) = service {
        let endpoints = match service.endpoints {
            1 => "1 endpoint".to_owned(),
            count => format!("{count} endpoints"),
        };
        lines.push(format!("{destination} is service {}, with {endpoints}", service.hostname));
    }
    if let Some(workload) = workload {
        lines.push(format!("the other end is {}/{} on {}", workload.namespace, workload.name, workload.node));
    } else if service.is_none() {
        lines.push(format!("nobody in the mesh has {}", destination.ip()));
    }
    lines.extend(how(way));
    if let Some(arrival) = arrival {
        lines.push(match arrival.policies.as_slice() {
            [] => format!("no policy applies to {}/{}", arrival.workload.namespace, arrival.workload.name),
            policies => format!("policies that apply there, in order: {}", policies.join(", ")),
        });
        lines.extend(arrival.dry_run.iter().map(|policy| format!("rehearsed, without effect: {policy} matches")));
    }
    lines.extend(notes.iter().cloned());
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (number, part) in wrap(line, LINE).into_iter().enumerate() {
            let _ = match number {
                0 => writeln!(text, "{:>2}. {part}", index + 1),
                _ => writeln!(text, "    {part}"),
            };
        }
    }
    for line in verdict(*allowed, way, arrival.as_ref()).lines() {
        wrap(line, LINE).iter().for_each(|part| text.push_str(&format!("{part}\n")));
    }
    text
}

fn how(way: &Way) -> Vec<String> {
    let tunnel = |tunnel: &Tunnel| {
        vec![
            format!("mutual TLS to {}, asking for {}", tunnel.address, tunnel.authority),
            format!("who answers must be {}", tunnel.identities.join(" or ")),
        ]
    };
    match way {
        Way::Neighbour(_) => vec!["both are on one node: their proxy connects them without a tunnel".to_owned()],
        Way::Tunnel(hop) => tunnel(hop),
        Way::Waypoint { tunnel: hop, waypoint } => {
            let mut lines = vec![format!("it goes through waypoint {}/{}", waypoint.namespace, waypoint.name)];
            lines.extend(tunnel(hop));
            lines
        }
        Way::Gateway { tunnel: hop, inner } => {
            let mut lines = tunnel(hop);
            lines.push(format!("inside of that, mutual TLS to {}", inner.join(" or ")));
            lines
        }
        Way::Direct { address } => vec![format!("the other end is not in the mesh: clear text to {address}")],
        Way::Passthrough { address } => vec![format!("clear text to {address}, as if there were no mesh")],
        Way::Resolve { hostname, port } => vec![format!("its proxy asks for the address of {hostname}, port {port}")],
        Way::Refused(_) => Vec::new(),
    }
}

fn verdict(allowed: Option<bool>, way: &Way, arrival: Option<&Arrival>) -> String {
    let refused = match way {
        Way::Refused(refused) => Some((refused, "the client's proxy")),
        _ => arrival.and_then(|arrival| Some((arrival.refused.as_ref()?, "the destination's proxy"))),
    };
    match (allowed, refused) {
        (_, Some((Refused { reason, message, subject, hint }, who))) => {
            let subject = subject.as_ref().map(|subject| format!(" ({subject})")).unwrap_or_default();
            format!(
                "REFUSED by {who}: {reason}{subject}\n{message}\n{hint}\n(docs/guides/troubleshooting.md#{reason})\n"
            )
        }
        (Some(true), None) => match arrival.and_then(|arrival| arrival.allowed_by.as_ref()) {
            Some(policy) => format!("ALLOWED by policy {policy}\n"),
            None => "ALLOWED\n".to_owned(),
        },
        _ => "UNKNOWN\n".to_owned(),
    }
}
