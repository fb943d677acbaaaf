//! `fairway trace-config`: which proxies hold what became of one object, in which version, and whether they have taken it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use fairway_core::source::{Kind, ObjectKey};
use fairway_lab::render::{Cell, Tone, wide_table as table};
use fairway_lab::{Error, Result};
use serde::Serialize;
use serde_json::Value;

use crate::mesh::{Mesh, Part, Where};
use crate::output::Format;
use crate::proxy_status::{self, Proxy, State};

/// Short names of kinds, as kubectl has them.
const SHORT: [(&str, Kind); 10] = [
    ("po", Kind::Pod),
    ("svc", Kind::Service),
    ("ap", Kind::AuthorizationPolicy),
    ("pa", Kind::PeerAuthentication),
    ("ra", Kind::RequestAuthentication),
    ("se", Kind::ServiceEntry),
    ("we", Kind::WorkloadEntry),
    ("vs", Kind::VirtualService),
    ("dr", Kind::DestinationRule),
    ("httproute", Kind::HTTPRoute),
];
/// What a PeerAuthentication becomes (api-surface A3).
const STRICT: &str = "istio_converted_static_strict";
const CONVERTED: &str = "converted_peer_authentication_";

/// Arguments of `trace-config`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The object: KIND/NAME, KIND/NAMESPACE/NAME
    object: String,
    /// Namespace of the object
    #[arg(short, long, default_value = "default")]
    namespace: String,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

/// What node proxies are told an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Workload,
    Service,
    Policy,
    /// Nothing: waypoints alone are told.
    AtWaypoints,
}

/// A proxy that was asked; the schema of `-o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Holding {
    proxy: String,
    kind: String,
    node: String,
    /// None when it could not be asked.
    holds: Option<bool>,
    /// Different where proxies hold different contents, `v1` the one that most hold.
    version: Option<String>,
    /// Generations of the mesh's state that it was sent and has taken.
    sent: Option<u64>,
    acknowledged: Option<u64>,
    state: String,
    /// Why it refuses, or why it could not be asked.
    error: Option<String>,
}

/// What a proxy said: the contents, nothing, or that it could not be asked.
type Said = std::result::Result<Option<String>, String>;

/// A proxy, as what it would hold the object, and what it said.
type Asked<'a> = (&'a Proxy, Found, Said);

/// Asks, and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let key = object(&arguments.object, &arguments.namespace)?;
    arguments.format.follow(|| {
        look(arguments, &key)?;
        Ok(ExitCode::SUCCESS)
    })
}

fn look(arguments: &Arguments, key: &ObjectKey) -> Result<()> {
    let mesh = arguments.place.mesh()?;
    let proxies = proxy_status::proxies(&mesh)?;
    let asked: Vec<Asked<'_>> = proxies
        .iter()
        .filter_map(|proxy| Some((proxy, found(key.kind, proxy.kind == "waypoint")?)))
        .map(|(proxy, found)| (proxy, found, ask(&mesh, proxy, found, key).map_err(|error| error.to_string())))
        .collect();
    let holdings = holdings(&asked);
    if holdings.iter().all(|it| it.holds != Some(true)) && !is_there(arguments, key)? {
        return Err(Error::new(format!("there is no {key}")).hint("see its name, and its namespace (-n)"));
    }
    arguments.format.print(&holdings, |colour| shown(key, &holdings, colour))
}

/// Whether an object is there, where it can be looked for.
fn is_there(arguments: &Arguments, key: &ObjectKey) -> Result<bool> {
    let loaded = arguments.place.objects()?.loaded()?;
    // One that cannot be read is there, too.
    Ok(loaded.objects.has(key) || loaded.errors.iter().any(|error| error.object.as_ref() == Some(key)))
}

/// Reads KIND/NAME or KIND/NAMESPACE/NAME.
fn object(text: &str, namespace: &str) -> Result<ObjectKey> {
    let wrong = || {
        Error::new(format!("{text} names no object"))
            .hint("write KIND/NAME, such as service/web or authorizationpolicy/shop/deny-all")
    };
    let (kind, rest) = text.split_once('/').ok_or_else(wrong)?;
    let (namespace, name) = rest.split_once('/').unwrap_or((namespace, rest));
    let is_meant =
        |known: &Kind| known.as_str().eq_ignore_ascii_case(kind) || known.plural().eq_ignore_ascii_case(kind);
    let short = || SHORT.iter().find(|(short, _)| short.eq_ignore_ascii_case(kind)).map(|(_, kind)| *kind);
    let kind = Kind::ALL.into_iter().find(is_meant).or_else(short).ok_or_else(|| {
        let known: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        Error::new(format!("{kind} is no kind that a mesh reads")).hint(format!("there are: {}", known.join(" ")))
    })?;
    if name.is_empty() { Err(wrong()) } else { Ok(ObjectKey::new(kind, namespace, name)) }
}

/// As what a proxy would hold an object of this kind; nothing where it never does. A policy with targets is waypoints', and
/// any other is the nodes'; which it is, is theirs to say.
fn found(kind: Kind, is_waypoint: bool) -> Option<Found> {
    let at_nodes = match kind {
        Kind::Pod | Kind::WorkloadEntry => Some(Found::Workload),
        Kind::Service | Kind::ServiceEntry => Some(Found::Service),
        Kind::AuthorizationPolicy | Kind::PeerAuthentication => Some(Found::Policy),
        _ => None,
    };
    match is_waypoint {
        false => at_nodes,
        true => (at_nodes.is_none() || kind == Kind::AuthorizationPolicy).then_some(Found::AtWaypoints),
    }
}

fn ask(mesh: &Mesh, proxy: &Proxy, found: Found, key: &ObjectKey) -> Result<Option<String>> {
    if found != Found::AtWaypoints {
        let dump: Value = mesh.ask(Part::Proxy(&proxy.node), "/config_dump")?;
        return Ok(held(&dump, found, key));
    }
    // `NAME.NAMESPACE`; a namespace has no dots.
    let (pod, namespace) = proxy.name.rsplit_once('.').unwrap_or((&proxy.name, ""));
    let dump: Value = mesh.ask(Part::Waypoint(namespace, pod), "/config_dump")?;
    Ok(named(&dump, key))
}

/// What a node proxy holds of an object, as it describes it.
fn held(dump: &Value, found: Found, key: &ObjectKey) -> Option<String> {
    let list = match found {
        Found::Workload => "workloads",
        Found::Service => "services",
        Found::Policy | Found::AtWaypoints => "policies",
    };
    let text = |item: &Value, field: &str| item.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_it = |item: &&Value| {
        let name = text(item, "name");
        let is_named = match key.kind {
            Kind::PeerAuthentication => name == STRICT || name.strip_prefix(CONVERTED) == Some(&key.name),
            _ => name == key.name,
        };
        is_named && text(item, "namespace") == key.namespace
    };
    let all: Vec<String> =
        dump.get(list).and_then(Value::as_array).into_iter().flatten().filter(is_it).map(Value::to_string).collect();
    (!all.is_empty()).then(|| all.join("\n"))
}

/// Where a waypoint's dump has what became of such an object: policies are in listeners, and in routes when they have targets.
fn places(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::HTTPRoute | Kind::GRPCRoute | Kind::VirtualService => &["RoutesConfigDump"],
        Kind::Gateway | Kind::TCPRoute | Kind::TLSRoute => &["ListenersConfigDump"],
        Kind::DestinationRule | Kind::BackendTLSPolicy => &["ClustersConfigDump"],
        _ => &["ListenersConfigDump", "RoutesConfigDump"],
    }
}

/// Whether what a waypoint holds names an object.
fn named(dump: &Value, key: &ObjectKey) -> Option<String> {
    let name = format!("{}/{}", key.namespace, key.name);
    let is_place = |part: &&Value| {
        let of = part.get("@type").and_then(Value::as_str).unwrap_or_default();
        places(key.kind).iter().any(|place| of.rsplit('.').next() == Some(place))
    };
    let mut parts = dump.get("configs").and_then(Value::as_array).into_iter().flatten().filter(is_place);
    let is_there = parts.any(|part| has_name(&part.to_string(), &name, numbers(key.kind)));
    is_there.then_some(name)
}

/// How many numbers are behind the name of an object in those of its parts: `NAMESPACE/NAME/RULE` of a policy, and of a route
/// one more, of the match.
fn numbers(kind: Kind) -> usize {
    match kind {
        Kind::AuthorizationPolicy | Kind::RequestAuthentication | Kind::PeerAuthentication => 1,
        _ => 2,
    }
}

/// Whether a text has this name as a whole, with so many numbers behind it at most: neither as the end of another one nor as
/// its beginning.
fn has_name(text: &str, name: &str, numbers: usize) -> bool {
    let is_part = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_');
    let is_whole = |index: usize| {
        let before = text.get(..index).and_then(|before| before.chars().next_back());
        let after = text.get(index + name.len()..).unwrap_or_default();
        let mut after = (0..numbers).fold(after, without_number).chars();
        let (next, second) = (after.next(), after.next());
        let goes_on = next.is_some_and(|next| is_part(next) || next == '/')
            || (next == Some('.') && second.is_some_and(|second| second.is_ascii_alphanumeric()));
        !before.is_some_and(|before| is_part(before) || matches!(before, '.' | '/')) && !goes_on
    };
    text.match_indices(name).any(|(index, _)| is_whole(index))
}

/// What is behind the number that a text begins with, if it does.
fn without_number(text: &str, _turn: usize) -> &str {
    let Some(number) = text.strip_prefix('/') else { return text };
    let rest = number.trim_start_matches(|it: char| it.is_ascii_digit());
    if rest.len() < number.len() { rest } else { text }
}

fn holdings(asked: &[Asked<'_>]) -> Vec<Holding> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for contents in asked.iter().filter_map(|(_, _, said)| said.as_ref().ok()?.as_deref()) {
        *counts.entry(contents).or_default() += 1;
    }
    let mut versions: Vec<(&str, usize)> = counts.into_iter().collect();
    versions.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let version = |contents: &str| {
        let place = versions.iter().position(|(known, _)| *known == contents).unwrap_or_default();
        format!("v{}", place + 1)
    };
    let holding = |(proxy, found, said): &Asked<'_>| {
        let relevant = proxy.types.iter().filter(|(name, _)| is_of(*found, name)).map(|(_, sent)| sent);
        let worst = relevant.max_by_key(|sent| match sent.state() {
            State::Synced => 0,
            State::Stale => 1,
            State::Rejected => 2,
        });
        let state = worst.map_or("UNKNOWN", |sent| match sent.state() {
            State::Synced => "SYNCED",
            State::Stale => "STALE",
            State::Rejected => "REJECTED",
        });
        let contents = said.as_ref().ok().and_then(Option::as_deref);
        let refusal = worst.and_then(|sent| sent.rejection()).map(str::to_owned);
        Holding {
            proxy: proxy.name.clone(),
            kind: proxy.kind.clone(),
            node: proxy.node.clone(),
            holds: said.as_ref().ok().map(Option::is_some),
            // What waypoints hold is compared by name alone.
            version: contents.filter(|_| *found != Found::AtWaypoints).map(version),
            sent: worst.and_then(|sent| sent.sent()),
            acknowledged: worst.and_then(|sent| sent.acked()),
            state: state.to_owned(),
            error: said.as_ref().err().cloned().or(refusal),
        }
    };
    asked.iter().map(holding).collect()
}

/// Whether resources of a type may be what became of such an object.
fn is_of(found: Found, name: &str) -> bool {
    match found {
        Found::Workload | Found::Service => name == "istio.workload.Address",
        Found::Policy => name == "istio.security.Authorization",
        Found::AtWaypoints => name.starts_with("envoy."),
    }
}

fn shown(key: &ObjectKey, holdings: &[Holding], colour: bool) -> String {
    let row = |it: &Holding| -> Vec<Cell> {
        let holds = match it.holds {
            Some(true) => Cell::toned("yes", Tone::Good),
            Some(false) => Cell::toned("no", Tone::Doubtful),
            None => Cell::toned("?", Tone::Bad),
        };
        let number = |it: Option<u64>| it.map_or_else(|| "-".to_owned(), |it| it.to_string());
        let tone = if it.state == "SYNCED" { Tone::Good } else { Tone::Bad };
        vec![
            it.proxy.as_str().into(),
            it.kind.as_str().into(),
            it.node.as_str().into(),
            holds,
            it.version.as_deref().unwrap_or("-").into(),
            format!("{}/{}", number(it.acknowledged), number(it.sent)).into(),
            Cell::toned(it.state.as_str(), tone),
        ]
    };
    let rows: Vec<Vec<Cell>> = holdings.iter().map(row).collect();
    let mut text = table(&["PROXY", "KIND", "NODE", "HOLDS", "VERSION", "TAKEN/SENT", "STATE"], &rows, colour);
    for it in holdings.iter().filter(|it| it.error.is_some()) {
        text.push_str(&format!("\n{}: {}\n", it.proxy, it.error.as_deref().unwrap_or_default()));
    }
    let holding = holdings.iter().filter(|it| it.holds == Some(true)).count();
    text.push_str(&format!("\n{holding} of {} proxies that could hold {key} do.\n", holdings.len()));
    let versions = holdings.iter().filter_map(|it| it.version.as_deref()).collect::<std::collections::BTreeSet<_>>();
    if versions.len() > 1 {
        text.push_str("They hold different versions: whoever is behind is told of by fairway proxy-status.\n");
    }
    if holding == 0 {
        text.push_str(
            "Nobody does: see its conditions (kubectl describe), or fairway analyze, for what became of it.\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn proxy(name: &str, acked: u64) -> Proxy {
        serde_json::from_value(json!({
            "name": name, "kind": "ztunnel", "node": name, "version": "1",
            "types": {"istio.workload.Address": {"sent": 9, "acked": acked, "nacked": null},
                "istio.security.Authorization": {"sent": 9, "acked": 9, "nacked": "odd"}},
        }))
        .unwrap()
    }

    #[test]
    fn objects_are_named_as_kubectl_has_them() {
        for (text, expected) in [
            ("service/web", Some((Kind::Service, "shop", "web"))),
            ("svc/other/web", Some((Kind::Service, "other", "web"))),
            ("AuthorizationPolicies/deny", Some((Kind::AuthorizationPolicy, "shop", "deny"))),
            ("service", None),
            ("service/", None),
            ("secret/web", None),
        ] {
            let read = object(text, "shop").ok();
            let expected = expected.map(|(kind, namespace, name)| ObjectKey::new(kind, namespace, name));
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn who_holds_which_version_is_told() {
        let (ahead, also, behind, gone) = (proxy("a", 9), proxy("b", 9), proxy("c", 7), proxy("d", 9));
        let said = |text: &str| -> Said { Ok(Some(text.to_owned())) };
        let service = Found::Service;
        let asked = [
            (&behind, service, said("old")),
            (&ahead, service, said("new")),
            (&also, service, said("new")),
            (&gone, service, Err("refused".to_owned())),
        ];
        let holdings = holdings(&asked);
        let told: Vec<_> =
            holdings.iter().map(|it| (it.version.as_deref(), it.acknowledged, it.state.as_str())).collect();
        assert_eq!(told[0], (Some("v2"), Some(7), "STALE"));
        assert_eq!(told[1], (Some("v1"), Some(9), "SYNCED"));
        assert_eq!(told[3], (None, Some(9), "SYNCED"));
        let text = shown(&ObjectKey::new(Kind::Service, "shop", "web"), &holdings, false);
        assert!(text.contains("3 of 4 proxies that could hold Service shop/web do."), "{text}");
        assert!(text.contains("different versions") && text.contains("d: refused"), "{text}");
        let refused = super::holdings(&[(&ahead, Found::Policy, Ok(None))]);
        assert_eq!((refused[0].state.as_str(), refused[0].error.as_deref()), ("REJECTED", Some("odd")));
    }

    #[test]
    fn an_object_is_found_among_what_a_proxy_holds() {
        let dump = json!({
            "services": [{"name": "web", "namespace": "shop", "v": 1}, {"name": "web", "namespace": "other"}],
            "policies": [{"name": "converted_peer_authentication_web", "namespace": "shop"}],
        });
        let held = |kind| held(&dump, found(kind, false).unwrap(), &ObjectKey::new(kind, "shop", "web"));
        assert_eq!(held(Kind::Service).unwrap(), json!({"name": "web", "namespace": "shop", "v": 1}).to_string());
        assert!(held(Kind::PeerAuthentication).is_some());
        assert!(held(Kind::AuthorizationPolicy).is_none() && held(Kind::Pod).is_none());
    }

    #[test]
    fn policies_may_be_at_nodes_and_at_waypoints() {
        for (kind, at_node, at_waypoint) in [
            (Kind::Service, Some(Found::Service), None),
            (Kind::HTTPRoute, None, Some(Found::AtWaypoints)),
            (Kind::PeerAuthentication, Some(Found::Policy), None),
            (Kind::AuthorizationPolicy, Some(Found::Policy), Some(Found::AtWaypoints)),
        ] {
            assert_eq!((found(kind, false), found(kind, true)), (at_node, at_waypoint), "{kind:?}");
        }
    }

    #[test]
    fn a_waypoint_holds_what_it_names_as_a_whole_where_such_things_are() {
        for (kind, part, text, expected) in [
            (Kind::HTTPRoute, "RoutesConfigDump", "name: \"shop/web/0/0\"", true),
            (Kind::HTTPRoute, "RoutesConfigDump", "name: \"shop/web-2/0/0\"", false),
            (Kind::HTTPRoute, "RoutesConfigDump", "name: \"shop/web.v2/0/0\"", false),
            (Kind::HTTPRoute, "RoutesConfigDump", "the end is shop/web.", true),
            (Kind::HTTPRoute, "RoutesConfigDump", "name: \"work-shop/web/0/0\"", false),
            (Kind::HTTPRoute, "RoutesConfigDump", "/a/shop/web", false),
            (Kind::HTTPRoute, "ListenersConfigDump", "policy \"shop/web\"", false),
            (Kind::AuthorizationPolicy, "ListenersConfigDump", "policy \"shop/web\"", true),
            (Kind::AuthorizationPolicy, "ListenersConfigDump", "policy \"shop/web/0\"", true),
            (Kind::AuthorizationPolicy, "ListenersConfigDump", "policy \"shop/web/0x\"", false),
            (Kind::AuthorizationPolicy, "RoutesConfigDump", "name: \"shop/web/0/0\"", false),
            (Kind::AuthorizationPolicy, "ClustersConfigDump", "\"shop/web\"", false),
        ] {
            let part = format!("type.googleapis.com/envoy.admin.v3.{part}");
            let dump = json!({"configs": [{"@type": part, "dynamic": [{"name": text}]}], "workload": "shop/web"});
            let found = named(&dump, &ObjectKey::new(kind, "shop", "web")).is_some();
            assert_eq!(found, expected, "{kind:?} {dump}");
        }
    }
}
