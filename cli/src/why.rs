//! `fairway why`: what would become of a connection or request, told by the proxies that would carry it.

mod passage;
mod request;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use fairway_core::why::passage::Passage;
use fairway_core::why::{Arrival, Departure, Party, Refused, Tunnel, Way};
use fairway_lab::Result;
use fairway_lab::render::wrap;
use fairway_lab::status::PodStatus;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::Serialize;

use crate::mesh::{Mesh, Part, Where};
use crate::output::Format;
use request::AsRequest;

/// Widest line, what numbers take left out.
const LINE: usize = 96;
/// Where an application's connection seems to come from: of its address only the host is looked at.
const SOME_PORT: u16 = 40_000;
/// An address of nobody (RFC 5737), for whom no address is known.
const NOBODY: &str = "192.0.2.1";
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
    request: AsRequest,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

/// The whole answer; the schema of `-o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// Whether it would reach the other end, as far as proxies decide; none when what decides cannot be asked.
    allowed: Option<bool>,
    /// What the client's proxy would do.
    departure: Departure,
    /// What the waypoint would do, where one is on the way.
    passage: Option<Passage>,
    /// What the destination's proxy would do, where it is asked.
    arrival: Option<Arrival>,
    /// What is not known, and why.
    notes: Vec<String>,
}

/// Asks the proxies and prints what they say. Fails only when they cannot be asked: a refusal is an answer.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.format.follow(|| {
        let mesh = arguments.place.mesh()?;
        let answer = ask(&mesh, arguments)?;
        arguments.format.print(&answer, |_| told(&answer))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn ask(mesh: &Mesh, arguments: &Arguments) -> Result<Answer> {
    let client = mesh.pod(&arguments.source, &arguments.namespace)?;
    let node = client.node.as_deref().unwrap_or_default();
    let destination = escaped(&arguments.destination);
    let question = format!("/why/departure?pod={}/{}&destination={destination}", client.namespace, client.name);
    let departure: Departure = mesh.ask(Part::Proxy(node), &question)?;
    let identity = arguments.request.identity(&departure.source.identity)?;
    let mut answer = Answer { allowed: None, departure, passage: None, arrival: None, notes: Vec::new() };
    let source = address(Some(client));
    match next(&answer.departure.way) {
        Next::Nobody => {}
        Next::Elsewhere(note) => answer.notes.push(note),
        Next::Proxy(tunnel) => {
            let arrival = arrival(mesh, answer.departure.workload.as_ref(), tunnel, (&source, &identity), None);
            answer.arrived(arrival);
        }
        Next::Waypoint(tunnel, waypoint) => {
            let part = Part::Waypoint(&waypoint.namespace, &waypoint.name);
            let question = arguments.request.question(&tunnel.authority, &source, &identity, &arguments.destination);
            match mesh.ask::<Passage>(part, &question) {
                Ok(passage) => answer.passed(mesh, passage, &source),
                Err(error) => answer.notes.push(format!("what {} decides is not known: {error}", part.name())),
            }
        }
    }
    // A note says that somebody could not be asked.
    let is_unasked = answer.passage.is_none() && answer.arrival.is_none() && answer.notes.is_empty();
    if arguments.request.is_somebody_else() && is_unasked {
        answer.notes.push("--as has no effect: nobody on this way takes the client for anybody".to_owned());
    }
    if arguments.request.is_given() && answer.passage.is_none() {
        answer.notes.push("no waypoint has been asked, and nobody else looks at method, path and headers".to_owned());
    }
    answer.allowed = answer.allowed();
    Ok(answer)
}

/// What the proxy of the node of `workload` would do with what comes to it through `tunnel`, from an address and as somebody, who may speak
/// for an `original`; none where there is no workload.
fn arrival(
    mesh: &Mesh,
    workload: Option<&Party>,
    tunnel: &Tunnel,
    (source, identity): (&str, &str),
    original: Option<(&str, &str)>,
) -> Option<std::result::Result<Arrival, String>> {
    let workload = workload?;
    let original = original.map_or_else(String::new, |(source, identity)| {
        format!("&original={}&original_source={source}", escaped(identity))
    });
    let question = format!(
        "/why/arrival?pod={}/{}&address={}&source={source}&identity={}&authority={}{original}",
        workload.namespace,
        workload.name,
        tunnel.address,
        escaped(identity),
        escaped(&tunnel.authority),
    );
    let asked = mesh.ask::<Arrival>(Part::Proxy(&workload.node), &question);
    Some(asked.map_err(|error| format!("what arrives on {} is not known: {error}", workload.node)))
}

/// Where a connection of a pod seems to come from.
fn address(pod: Option<&PodStatus>) -> String {
    let ip = pod.and_then(|pod| pod.addresses.first()).map_or(NOBODY, String::as_str);
    if ip.contains(':') { format!("[{ip}]:{SOME_PORT}") } else { format!("{ip}:{SOME_PORT}") }
}

impl Answer {
    fn arrived(&mut self, arrival: Option<std::result::Result<Arrival, String>>) {
        match arrival {
            Some(Ok(arrival)) => self.arrival = Some(arrival),
            Some(Err(note)) => self.notes.push(note),
            None => {}
        }
    }

    /// Goes on behind the waypoint, as which it comes to the endpoint, for a client at `source`.
    fn passed(&mut self, mesh: &Mesh, passage: Passage, source: &str) {
        if let Some(onward) = &passage.onward {
            match next(&onward.way) {
                Next::Proxy(tunnel) => {
                    let Party { namespace, name, identity, .. } = &passage.waypoint;
                    let pods = &mut mesh.status.pods.iter();
                    let own = pods.find(|pod| pod.namespace == *namespace && pod.name == *name);
                    let (workload, client) = (onward.workload.as_ref(), (source, &*passage.identity));
                    let arrival = arrival(mesh, workload, tunnel, (&address(own), identity), Some(client));
                    self.arrived(arrival);
                }
                Next::Elsewhere(note) => self.notes.push(note),
                Next::Nobody | Next::Waypoint(..) => {}
            }
        }
        self.passage = Some(passage);
    }

    /// Whether it would reach the other end.
    fn allowed(&self) -> Option<bool> {
        if self.refused().is_some() {
            return Some(false);
        }
        if let Some(passage) = &self.passage {
            // Only sending tells what they say.
            let is_open = !passage.questions.is_empty() || passage.fault.is_some();
            if is_open {
                return None;
            }
            if passage.status.is_some() {
                return Some(true);
            }
        }
        let last = self.passage.as_ref().and_then(|passage| passage.onward.as_ref()).map(|onward| &onward.way);
        match (last.unwrap_or(&self.departure.way), &self.arrival) {
            (_, Some(_)) => Some(true),
            // Nobody of the mesh is at the other end.
            (Way::Direct { .. } | Way::Passthrough { .. }, None) if self.notes.is_empty() => Some(true),
            _ => None,
        }
    }

    /// The first refusal on the way, and whose it is.
    fn refused(&self) -> Option<(&Refused, String)> {
        let departure = match &self.departure.way {
            Way::Refused(refused) => Some((refused, "the client's proxy".to_owned())),
            _ => None,
        };
        let passage = || {
            let passage = self.passage.as_ref()?;
            let Party { namespace, name, .. } = &passage.waypoint;
            Some((passage.refused.as_ref()?, format!("waypoint {namespace}/{name}")))
        };
        let arrival = || Some((self.arrival.as_ref()?.refused.as_ref()?, "the destination's proxy".to_owned()));
        departure.or_else(passage).or_else(arrival)
    }
}

/// Who decides next.
enum Next<'a> {
    /// Nobody of the mesh.
    Nobody,
    /// The proxy at the other end of a tunnel.
    Proxy(&'a Tunnel),
    /// The waypoint at the other end of a tunnel.
    Waypoint(&'a Tunnel, &'a Party),
    /// Somebody who cannot be asked, in words.
    Elsewhere(String),
}

fn next(way: &Way) -> Next<'_> {
    match way {
        Way::Tunnel(tunnel) | Way::Neighbour(tunnel) => Next::Proxy(tunnel),
        Way::Waypoint { tunnel, waypoint } => Next::Waypoint(tunnel, waypoint),
        Way::Direct { .. } | Way::Passthrough { .. } | Way::Refused(_) => Next::Nobody,
        Way::Gateway { .. } => Next::Elsewhere("the other network's proxies decide further".to_owned()),
        Way::Resolve { hostname, .. } => Next::Elsewhere(format!("it depends on what address {hostname} has")),
    }
}

fn escaped(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, &IN_QUERY)
}

fn told(answer: &Answer) -> String {
    let Answer { departure, passage, arrival, notes, .. } = answer;
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
        lines.push(format!("the other end is {}", passage::at(workload)));
    } else if service.is_none() {
        lines.push(format!("nobody in the mesh has {}", destination.ip()));
    }
    lines.extend(how(way));
    lines.extend(passage.iter().flat_map(passage::told));
    if let Some(arrival) = arrival {
        lines.push(match arrival.policies.as_slice() {
            [] => format!("no policy applies to {}/{}", arrival.workload.namespace, arrival.workload.name),
            policies => format!("policies that apply there, in order: {}", policies.join(", ")),
        });
        if passage.is_some() && !arrival.policies.is_empty() {
            lines.push(match &arrival.original {
                Some(client) => format!("they look at the waypoint, and at {client}, for whom it speaks"),
                None => "they look at the waypoint alone".to_owned(),
            });
        }
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
    for line in verdict(answer).lines() {
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

fn verdict(answer: &Answer) -> String {
    if let Some((Refused { reason, message, subject, hint }, who)) = answer.refused() {
        let subject = subject.as_ref().map(|subject| format!(" ({subject})")).unwrap_or_default();
        let status = answer.passage.as_ref().and_then(|passage| passage.status);
        let status = status.map(|status| format!("the client is answered with {status}\n")).unwrap_or_default();
        return format!(
            "REFUSED by {who}: {reason}{subject}\n{message}\n{status}{hint}\n(docs/guides/troubleshooting.md#{reason})\n"
        );
    }
    let answered = answer.passage.as_ref().and_then(|passage| passage.status);
    match (answer.allowed, answered) {
        (Some(true), Some(status)) => format!("ANSWERED by the waypoint with {status}\n"),
        (Some(true), None) => match answer.arrival.as_ref().and_then(|arrival| arrival.allowed_by.as_ref()) {
            Some(policy) => format!("ALLOWED by policy {policy}\n"),
            None => "ALLOWED\n".to_owned(),
        },
        (None, _) if answer.arrival.as_ref().is_some_and(|arrival| arrival.refused.is_none()) => {
            "IT DEPENDS on what only sending tells, as said above; nothing else is in the way\n".to_owned()
        }
        _ => "UNKNOWN\n".to_owned(),
    }
}
