//! `api.md`: every kind that is read, and every field that its reader knows, beside what is made of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::fs;

use fairway_core::source::Kind;

use super::{OPEN, check, root, rows, written};

const PAGE: &str = "api.md";
/// How far something has an effect.
const SUPPORT: [&str; 3] = ["supported", "conditioned", "not"];
/// Where readers are that are written for a mesh, and what each of their kinds reads its `spec` into.
const READERS: [(&str, &[(&str, &str)]); 9] = [
    ("istio", &[("AuthorizationPolicy", "AuthorizationPolicySpec"), ("PeerAuthentication", "PeerAuthenticationSpec")]),
    ("istio_tokens", &[("RequestAuthentication", "RequestAuthenticationSpec")]),
    ("istio_network", &[("ServiceEntry", "ServiceEntrySpec"), ("WorkloadEntry", "WorkloadEntrySpec")]),
    ("istio_traffic", &[("VirtualService", "VirtualServiceSpec")]),
    ("istio_destination", &[("DestinationRule", "DestinationRuleSpec")]),
    (
        "route",
        &[
            ("HTTPRoute", "RouteSpec<HttpRule>"),
            ("GRPCRoute", "RouteSpec<GrpcRule>"),
            ("TCPRoute", "RouteSpec<StreamRule>"),
            ("TLSRoute", "RouteSpec<StreamRule>"),
        ],
    ),
    ("rate_limit", &[("RateLimit", "RateLimitSpec")]),
    ("external_processor", &[("ExternalProcessor", "ExternalProcessorSpec")]),
    ("gateway", &[("Gateway", "GatewaySpec")]),
];
/// Kinds whose `spec` is read as it is, field by field where it is used; or not at all.
const BY_HAND: [&str; 10] = [
    "Namespace",
    "Node",
    "Pod",
    "Service",
    "ServiceAccount",
    "EndpointSlice",
    "BackendTLSPolicy",
    "Telemetry",
    "ReferenceGrant",
    "NetworkPolicy",
];

/// A field of a structure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    name: String,
    kind: String,
    is_flat: bool,
}

/// Structures by name.
pub(super) type Structures = BTreeMap<String, Vec<Field>>;

/// The structures of a file, as objects are written.
pub(super) fn structures(code: &str) -> Structures {
    let mut found = Structures::new();
    let (mut inside, mut renamed, mut is_flat) = (None::<String>, None::<String>, false);
    for line in code.lines().map(str::trim_end) {
        if let Some(rest) = bare(line).strip_prefix("struct ").filter(|rest| rest.ends_with('{')) {
            let end = rest.find([' ', '<']).unwrap();
            inside = Some(rest[..end].to_owned());
            found.insert(rest[..end].to_owned(), Vec::new());
        } else if line == "}" {
            inside = None;
        } else if let (Some(structure), Some((name, kind))) = (&inside, field(line)) {
            let name = renamed.take().unwrap_or_else(|| camel(name.trim_start_matches("r#")));
            found.get_mut(structure).unwrap().push(Field { name, kind: kind.to_owned(), is_flat });
            is_flat = false;
        } else if let Some(attribute) = line.trim().strip_prefix("#[serde(") {
            is_flat |= attribute.contains("flatten");
            let rename = attribute.split_once("rename = \"").and_then(|(_, rest)| rest.split_once('"'));
            renamed = rename.map(|(name, _)| name.to_owned()).or(renamed);
        }
    }
    found
}

/// A line without who may see what it defines.
fn bare(line: &str) -> &str {
    let mut words = ["pub ", "pub(crate) ", "pub(super) "].iter();
    words.find_map(|word| line.strip_prefix(word)).unwrap_or(line)
}

/// The name and the type of a field, if the line is one.
fn field(line: &str) -> Option<(&str, &str)> {
    let (name, kind) = bare(line.trim()).strip_suffix(',')?.split_once(": ")?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_#".contains(&byte));
    is_name.then_some((name, kind))
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

/// What a type is made of, and how a path goes on to that.
fn inner(kind: &str) -> (&str, String) {
    let wrapped = |wrapper: &str| kind.strip_prefix(wrapper).and_then(|rest| rest.strip_suffix('>'));
    if let Some(item) = wrapped("Option<").or(wrapped("Box<")) {
        return inner(item);
    }
    if let Some(item) = wrapped("Vec<") {
        let (item, path) = inner(item);
        return (item, format!("[]{path}"));
    }
    if let Some((_, value)) = wrapped("BTreeMap<").and_then(|pair| pair.split_once(", ")) {
        let (value, path) = inner(value);
        return (value, format!(".*{path}"));
    }
    (kind, String::new())
}

/// Each place of an object with the fields that are read there, outer ones first; what is the same as at a place before is not
/// repeated.
pub(super) fn places(structures: &Structures, start: &str, root: &str) -> Vec<(String, String)> {
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    let mut next = VecDeque::from([(start.to_owned(), root.to_owned())]);
    while let Some((path, name)) = next.pop_front() {
        let (plain, parameter) =
            name.split_once('<').map_or((&*name, None), |(plain, it)| (plain, it.strip_suffix('>')));
        let Some(fields) = structures.get(plain).filter(|_| seen.insert(name.clone())) else { continue };
        let flat =
            fields.iter().filter(|field| field.is_flat).filter_map(|field| structures.get(&field.kind)).flatten();
        let fields: Vec<&Field> = fields.iter().chain(flat).filter(|field| !field.is_flat).collect();
        let names: Vec<String> = fields.iter().map(|field| format!("`{}`", field.name)).collect();
        found.push((path.clone(), names.join(", ")));
        for field in fields {
            let (kind, rest) = inner(&field.kind);
            let kind = if kind == "Rule" { parameter.unwrap_or(kind) } else { kind };
            next.push_back((format!("{path}.{}{rest}", field.name), kind.to_owned()));
        }
    }
    found
}

/// What is read of objects of a kind.
fn read(kind: Kind) -> Vec<(String, String)> {
    let readers = READERS.iter().flat_map(|(file, kinds)| kinds.iter().map(move |kind| (file, kind)));
    let Some((file, (_, structure))) = readers.into_iter().find(|(_, (name, _))| *name == kind.as_str()) else {
        assert!(BY_HAND.contains(&kind.as_str()), "say in READERS what {kind} is read into");
        return vec![("object".to_owned(), "–".to_owned())];
    };
    let text = |file: &str| fs::read_to_string(root().join(format!("core/src/source/{file}.rs"))).unwrap();
    // Of two structures of one name the file's own counts.
    let mut all = Structures::new();
    READERS.iter().for_each(|(file, _)| all.extend(structures(&text(file))));
    all.extend(structures(&text(file)));
    places(&all, "spec", structure)
}

#[test]
fn objects_are_listed() {
    let known = rows(&written(PAGE));
    let mut page = String::from(
        "# Objects\n\nEvery kind that a mesh reads, with every field that its reader knows.\n\n| Word | What it means |\n|---|---|\n\
         | supported | it has the effect that its own documentation says |\n| conditioned | it has that effect under the condition beside it, or a part of it |\n\
         | not | it is read, and has no effect |\n\nA field that is not listed is never passed over in silence. Of AuthorizationPolicy, PeerAuthentication, RequestAuthentication, RateLimit and\n\
         ExternalProcessor it makes the object invalid, so that the last good version holds or everything is refused ([ADR 0008](../adr/0008-fail-closed-policies.md)).\n\
         Of routes, VirtualServices and DestinationRules it is named in the condition `Accepted`, and what would need it is answered with\n\
         500 or holds without it, as the message says. `fairway analyze` tells the same of files ([analyze](../guides/analyze.md)).\n",
    );
    for kind in Kind::ALL {
        let group = if kind.group().is_empty() { "core".to_owned() } else { format!("`{}`", kind.group()) };
        let versions = kind.versions().join(", ");
        write!(page, "\n## {kind}\n\n{group}, {versions}\n\n| Where | Fields | Support | Notes |\n|---|---|---|---|\n")
            .unwrap();
        for (place, fields) in read(kind) {
            let place = format!("`{place}`");
            let told = known.get(&(kind.to_string(), place.clone())).filter(|cells| cells.len() == 4);
            let column = |index: usize| told.map_or(OPEN, |cells| cells[index].as_str());
            let support = column(2);
            assert!(
                support == OPEN || SUPPORT.contains(&support),
                "{kind} {place}: {support:?} is none of {SUPPORT:?}"
            );
            writeln!(page, "| {place} | {fields} | {support} | {} |", column(3)).unwrap();
        }
    }
    check(PAGE, &page);
}

#[test]
fn structures_are_read_as_objects_are_written() {
    let code = "#[serde(rename_all = \"camelCase\")]\npub struct ASpec<Rule> {\n    /// Doc.\n    #[serde(default)]\n    pub some_names: Vec<String>,\n    \
                #[serde(rename = \"match\")]\n    pub matches: Option<Vec<B>>,\n    pub rules: Vec<Rule>,\n    #[serde(flatten)]\n    pub unread: Unread,\n}\n\
                pub struct B {\n    pub by: BTreeMap<String, C>,\n    pub again: Option<B>,\n}\npub struct C {\n    pub r#type: u8,\n    #[serde(flatten)]\n    pub b: D,\n}\n\
                pub struct D {\n    pub e: u8,\n}\n";
    let found = places(&structures(code), "spec", "ASpec<D>");
    let found: Vec<(&str, &str)> = found.iter().map(|(place, fields)| (place.as_str(), fields.as_str())).collect();
    assert_eq!(
        found,
        [
            ("spec", "`someNames`, `match`, `rules`"),
            ("spec.match[]", "`by`, `again`"),
            ("spec.rules[]", "`e`"),
            ("spec.match[].by.*", "`type`, `e`"),
        ]
    );
}
