//! Everything that is wrong with the objects of a state, in one list: for who looks at all of them, from wherever they are.
//!
//! Nothing is decided here. What conditions, Events and `/debug/sources` say one by one is gathered, and what kind of thing it is
//! is told with it.

use fairway_core::source::{Location, ObjectKey};

use super::{TARGETS, unserved};
use crate::enrolment;
use crate::l7::verdict::{Class, Verdict};
use crate::state::Published;
use crate::translate::{Problem, Severity};

/// Fields of policies that only who reads requests can see.
const OF_REQUESTS: [&str; 10] = [
    "requestPrincipals",
    "notRequestPrincipals",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
    "hosts",
    "notHosts",
    "methods",
    "notMethods",
    "paths",
    "notPaths",
];
/// Where an object says which waypoint it is to have.
const USE_WAYPOINT: &str = "metadata.labels[istio.io/use-waypoint";

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// It cannot be read.
    Unreadable,
    /// A policy that is not what is in force.
    PolicyInvalid,
    /// A rule about requests, for a proxy that does not look into them.
    RuleNeedsWaypoint,
    /// The targets of a policy have no waypoint that could enforce it.
    TargetNeedsWaypoint,
    /// A part of a policy that has no effect, or another one.
    PolicyDifferent,
    /// A route that is not attached to what it names.
    NotAttached,
    /// Another route has its place.
    Conflict,
    /// It refers to something that is not there, or not for it.
    Reference,
    /// A field that is not supported.
    Unsupported,
    /// A field that is followed in another way than it says.
    Different,
    /// The waypoint that is to be used cannot be.
    WaypointMissing,
    /// It has no effect at all, or a part of it has none.
    NoEffect,
    /// A NetworkPolicy that keeps tunnels from pods of the mesh.
    BlocksTunnels,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What kind of thing.
    pub trouble: Trouble,
    /// The object, where it is known.
    pub object: Option<ObjectKey>,
    /// Path of the field; empty where it is not about one.
    pub field: String,
    /// What is wrong, and what holds instead.
    pub message: String,
    /// Where it is written, where that is known.
    pub location: Option<Location>,
}

/// All of it, in the order of the objects.
#[must_use]
pub fn of(published: &Published) -> Vec<Judgement> {
    let errors = published.loaded.errors.iter().map(|error| Judgement {
        trouble: Trouble::Unreadable,
        object: error.object.clone(),
        field: error.field.clone().unwrap_or_default(),
        message: error.message.clone(),
        location: (!error.file.is_empty()).then(|| Location {
            file: error.file.clone(),
            line: error.line,
            column: error.column,
        }),
    });
    let problems = published.problems.iter().map(|problem| Judgement {
        trouble: trouble(published, problem),
        object: Some(problem.object.clone()),
        field: problem.field.clone(),
        message: problem.message.clone(),
        location: problem.location.clone(),
    });
    let whole = |trouble, object: ObjectKey, message: String| Judgement {
        trouble,
        location: published.loaded.locate(&object, ""),
        object: Some(object),
        field: String::new(),
        message,
    };
    let without_effect = unserved::telemetry(published)
        .into_iter()
        .filter(|(_, verdict)| !verdict.holds)
        .map(|(key, verdict)| whole(Trouble::NoEffect, key, verdict.message))
        .chain(
            unserved::backend_tls(published)
                .into_iter()
                .map(|(key, _)| whole(Trouble::NoEffect, key, unserved::BACKEND_TLS.to_owned())),
        );
    // What Events tell of waypoints is among the problems.
    let blocking = enrolment::network_policies(&published.loaded.objects)
        .into_iter()
        .map(|event| whole(Trouble::BlocksTunnels, event.about, event.message));
    let mut all: Vec<Judgement> = errors.chain(problems).chain(without_effect).chain(blocking).collect();
    all.sort_by(|left, right| {
        (&left.object, left.trouble, &left.field).cmp(&(&right.object, right.trouble, &right.field))
    });
    all
}

fn trouble(published: &Published, problem: &Problem) -> Trouble {
    let Problem { object, field, message, severity, .. } = problem;
    if field.starts_with(USE_WAYPOINT) {
        return Trouble::WaypointMissing;
    }
    if object.kind.is_policy() {
        return match severity {
            Severity::Error => Trouble::PolicyInvalid,
            Severity::Warning if field.starts_with(TARGETS) => Trouble::TargetNeedsWaypoint,
            // One with targets has no need of another waypoint: no waypoint knows.
            Severity::Warning if is_for_node_proxies(published, object) && is_of_requests(field) => {
                Trouble::RuleNeedsWaypoint
            }
            Severity::Warning => Trouble::PolicyDifferent,
        };
    }
    let routes = published.routes().verdicts.get(object);
    match routes.or_else(|| published.destinations().verdicts.get(object)) {
        Some(verdict) => of_route(verdict, field, message),
        None => Trouble::NoEffect,
    }
}

/// Whether it is an AuthorizationPolicy without targets.
fn is_for_node_proxies(published: &Published, object: &ObjectKey) -> bool {
    let policy = published.loaded.objects.authorization_policies.get(object);
    policy.is_some_and(|policy| policy.spec.target_ref.is_none() && policy.spec.target_refs.is_empty())
}

fn is_of_requests(field: &str) -> bool {
    let list = field.split('[').collect::<Vec<_>>();
    // The last name of the path, whatever its index.
    let last = list
        .iter()
        .rev()
        .flat_map(|part| part.rsplit(['.', ']']))
        .find(|name| !name.is_empty() && !name.bytes().all(|byte| byte.is_ascii_digit()));
    last.is_some_and(|name| OF_REQUESTS.contains(&name)) || field.contains(".when[")
}

fn of_route(verdict: &Verdict, field: &str, message: &str) -> Trouble {
    let found = verdict.findings.iter().find(|finding| finding.field == field && finding.message == message);
    match found.map(|finding| finding.class) {
        Some(Class::Reference(_)) => Trouble::Reference,
        Some(Class::Unsupported) => Trouble::Unsupported,
        Some(Class::Different) => Trouble::Different,
        // It is about a parent.
        None if message.starts_with("Conflicted") => Trouble::Conflict,
        None => Trouble::NotAttached,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fairway_core::source::directory::load;

    use super::*;
    use crate::translate::Settings;

    fn told(manifests: &str) -> Vec<(Trouble, String)> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), manifests).unwrap();
        let published = Published::default().next(Arc::new(load(root.path(), None)), &Settings::default());
        of(&published)
            .into_iter()
            .map(|told| (told.trouble, told.object.map(|object| object.to_string()).unwrap_or_default()))
            .collect()
    }

    const SHOP: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                        spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n---\n";

    fn policy(spec: &str) -> String {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: it, namespace: shop}}\nspec: {spec}\n"
        )
    }

    fn route(kind: &str, spec: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: it, namespace: shop}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn each_thing_that_is_wrong_is_of_one_kind() {
        let to_web = "parentRefs: [{group: \"\", kind: Service, name: web, port: 80}]";
        let other = format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: other, namespace: shop}}\nspec: {{{to_web}}}\n"
        );
        let gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: way, namespace: shop}\n\
                       spec: {gatewayClassName: fairway-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n\
                       status: {addresses: [{value: 10.96.0.9}]}\n---\n";
        let api = SHOP
            .replace("name: web, namespace: shop", "name: api, namespace: shop, labels: {istio.io/use-waypoint: way}");
        let (bound, targets) = (format!("{gateway}{api}"), "targetRefs: [{group: \"\", kind: Service, name: api}]");
        let remote = "from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]";
        let sni = "when: [{key: connection.sni, values: [a.example]}]";
        let unknown = "when: [{key: \"experimental.envoy.filters.a[b]\", values: [c]}]";
        let waypoint = SHOP.replace("namespace: shop", "namespace: shop, labels: {istio.io/use-waypoint: none-such}");
        for (manifests, expected) in [
            (policy("{rules: [{from: [{source: {namespaces: [shop]}}]}]}"), None),
            (policy("{action: MAYBE}"), Some(Trouble::Unreadable)),
            (policy("{rules: [{to: [{operation: {ports: [http]}}]}]}"), Some(Trouble::PolicyInvalid)),
            (policy("{rules: [{to: [{operation: {methods: [GET]}}]}]}"), Some(Trouble::RuleNeedsWaypoint)),
            (
                policy("{rules: [{when: [{key: \"request.headers[a]\", values: [b]}]}]}"),
                Some(Trouble::RuleNeedsWaypoint),
            ),
            (
                policy("{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]}"),
                Some(Trouble::RuleNeedsWaypoint),
            ),
            (format!("{bound}{}", policy(&format!("{{{targets}, rules: [{{{remote}, {sni}}}]}}"))), None),
            (format!("{bound}{}", policy(&format!("{{{targets}, rules: [{{{unknown}}}]}}"))), Some(Trouble::PolicyDifferent)),
            (policy("{action: AUDIT, rules: [{}]}"), Some(Trouble::PolicyDifferent)),
            (policy("{targetRefs: [{group: \"\", kind: Service, name: web}]}"), Some(Trouble::TargetNeedsWaypoint)),
            (route("HTTPRoute", &format!("{{{to_web}}}")), None),
            (
                route("HTTPRoute", "{parentRefs: [{group: \"\", kind: Service, name: none}]}"),
                Some(Trouble::NotAttached),
            ),
            (format!("{}{other}", route("HTTPRoute", &format!("{{{to_web}}}"))), Some(Trouble::Conflict)),
            (
                route("HTTPRoute", &format!("{{{to_web}, rules: [{{backendRefs: [{{name: none, port: 80}}]}}]}}")),
                Some(Trouble::Reference),
            ),
            (
                route("HTTPRoute", &format!("{{{to_web}, rules: [{{filters: [{{type: ExtensionRef}}]}}]}}")),
                Some(Trouble::Unsupported),
            ),
            (
                "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: it, namespace: shop}\n\
                 spec: {targetRefs: [{group: \"\", kind: Service, name: web}]}\n"
                    .to_owned(),
                Some(Trouble::NoEffect),
            ),
        ] {
            let told = told(&format!("{SHOP}{manifests}"));
            let kinds: Vec<Trouble> = told.iter().map(|(trouble, _)| *trouble).collect();
            assert_eq!(kinds.first().copied(), expected, "{told:?} of {manifests}");
        }
        assert_eq!(told(&waypoint), [(Trouble::WaypointMissing, "Service shop/web".to_owned())]);
    }

    #[test]
    fn fields_of_requests_are_told_whatever_their_index() {
        for (field, expected) in [
            ("spec.rules[0].to[0].operation.methods", true),
            ("spec.rules[0].to[0].operation.paths[3]", true),
            ("spec.rules[0].when[1].key", true),
            ("spec.rules[0].to[0].operation.ports[3]", false),
            ("spec.action", false),
        ] {
            assert_eq!(is_of_requests(field), expected, "{field}");
        }
    }
}
