//! How endpoints are used, and which parts of them there are: what DestinationRules come to, in no proxy's language.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fairway_core::source::ObjectKey;

use super::model::Target;
use super::verdict::Verdict;

pub mod read;

/// Why TLS with somebody else's certificate comes about with nobody.
const OTHERS_FILES: &str = "client-certificate-of-another-namespace";

/// Why TLS that believes whom somebody else's file says comes about with nobody.
const OTHERS_ROOTS: &str = "ca-certificates-of-another-namespace";

/// All of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Destinations {
    /// By the namespace that they are from.
    rules: BTreeMap<String, Vec<Rule>>,
    /// The mesh's root namespace.
    root: String,
    /// Which services each object is about; those that are about none are not here.
    hosts: BTreeMap<ObjectKey, Hosts>,
    /// What is to be said of each.
    pub verdicts: BTreeMap<ObjectKey, Verdict>,
}

/// What one namespace says of some services.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    hosts: Hosts,
    /// Namespaces that see it besides its own; none is all.
    exported: Option<BTreeSet<String>>,
    used: Used,
    subsets: BTreeMap<String, Subset>,
}

/// Which services a rule is about; what is more specific is greater.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hosts {
    /// Those whose names end so: the length, and what.
    Below(usize, String),
    /// This one.
    One(String),
}

impl Hosts {
    fn hold(&self, hostname: &str) -> bool {
        match self {
            Self::Below(_, suffix) => hostname.ends_with(suffix.as_str()),
            Self::One(name) => hostname == name,
        }
    }
}

/// How endpoints are used, and those of single ports in place of that.
#[derive(Clone, Debug, Default, PartialEq)]
struct Used {
    policy: Policy,
    ports: BTreeMap<u16, Policy>,
}

impl Used {
    fn at(&self, port: u16) -> &Policy {
        self.ports.get(&port).unwrap_or(&self.policy)
    }
}

/// A named part of the endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subset {
    used: Used,
    /// What its workloads have.
    pub labels: BTreeMap<String, String>,
}

/// How endpoints are used; each part is as a whole or not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// Connections, and what is on them.
    pub pool: Option<Pool>,
    /// Which endpoint is next.
    pub balancing: Option<Balancing>,
    /// Which endpoints are left out.
    pub outliers: Option<Outliers>,
    /// How many repetitions there may be.
    pub retries: Option<RetryBudget>,
    /// TLS with endpoints outside of the mesh; none is what is said in a more general place.
    pub tls: Option<Tls>,
}

/// Whether TLS is begun with endpoints outside of the mesh. That it is not is something that is said, too: a part of the endpoints
/// may be without it where the whole has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// It is not.
    Off,
    /// It is.
    Begin(Origination),
}

/// TLS that is begun on behalf of clients, with servers that show a certificate of the world outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origination {
    /// The name that is asked for; none is the service's own.
    pub server_name: Option<String>,
    /// Names of which the certificate has one; none is the one that is asked for.
    pub names: Vec<String>,
    /// File of whom is believed, where the proxy is; none is whom its machine believes.
    pub roots: Option<Roots>,
    /// What the proxy proves itself with; none is nothing.
    pub own: Option<OwnCertificate>,
}

/// Whom a proxy believes, in a file where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The file.
    pub file: String,
    /// Namespace of the rule that says so.
    pub namespace: String,
}

/// A certificate that a proxy has, in files where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The certificate, and those that lead to a root.
    pub chain: String,
    /// Its key.
    pub key: String,
    /// Namespace of the rule that says so.
    pub namespace: String,
}

impl Origination {
    /// TLS that comes about with nobody, at any proxy, as no certificate has such a name (RFC 6761 §6.4): what was to be encrypted in a way that is
    /// not known is not sent in another. The name says why to who reads a log.
    #[must_use]
    pub fn with_nobody(why: &str) -> Self {
        Self { names: vec![format!("{why}.invalid")], ..Self::default() }
    }
}

/// How many repetitions there may be at a time, in place of what a pool says of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Of a hundred requests under way.
    pub percent: f64,
    /// In any case.
    pub least: u32,
}

/// Connections, and what is on them. Without a bound there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// For an endpoint to accept one.
    pub connect_timeout: Option<Duration>,
    /// Probes while nothing is said.
    pub keepalive: Option<Keepalive>,
    /// Connections at a time.
    pub connections: Option<u32>,
    /// Requests that wait for one.
    pub waiting: Option<u32>,
    /// Requests at a time.
    pub requests: Option<u32>,
    /// Repetitions at a time.
    pub retries: Option<u32>,
    /// Requests on one connection.
    pub requests_per_connection: Option<u32>,
    /// Longest life of a connection.
    pub life: Option<Duration>,
    /// Longest time in which nothing is said on one.
    pub idle: Option<Duration>,
    /// Longest time without requests on one.
    pub idle_http: Option<Duration>,
}

/// Probes on a connection while nothing is said; what is not set is as the system has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// How many without an answer.
    pub probes: Option<u32>,
    /// Before the first.
    pub time: Option<Duration>,
    /// Between them.
    pub interval: Option<Duration>,
}

/// Which endpoint is next, with what belongs to that.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Balancing {
    /// Which one; none is as it is where nobody says.
    pub balancer: Option<Balancer>,
    /// How new endpoints get their share; none is at once.
    pub warm_up: Option<WarmUp>,
    /// Who comes first, by where they are; none is as the service says.
    pub locality: Option<Locality>,
}

/// Who comes first, or who gets how much, by where endpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locality {
    /// It does not matter.
    Off,
    /// The nearer; of other regions, for clients of the first of a pair, the second.
    Near(Vec<(String, String)>),
    /// Who has more of these labels in common with the client, from the first on.
    Labels(Vec<String>),
    /// Of clients of a place each of these gets so much, the more specific first.
    Shares(Vec<(String, Vec<(String, u32)>)>),
}

/// New endpoints get more and more of their share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmUp {
    /// For how long.
    pub window: Duration,
    /// How fast: 1 is evenly, more is faster at first.
    pub aggression: f64,
    /// Of a hundred, at first.
    pub least_percent: f64,
}

/// Which endpoint is next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// Each in turn.
    RoundRobin,
    /// Of two the one with fewer requests.
    LeastRequest,
    /// Any.
    Random,
    /// The same for the same key, on a ring of at least so many places.
    Ring(Key, Option<u64>),
    /// The same for the same key, by a table of so many places.
    Table(Key, Option<u64>),
}

impl Balancer {
    /// What requests for the same endpoint have in common.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Ring(key, _) | Self::Table(key, _) => Some(key),
            Self::RoundRobin | Self::LeastRequest | Self::Random => None,
        }
    }
}

/// What requests for the same endpoint have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A header, name in lower case.
    Header(String),
    /// A cookie, which clients without it get if it has a time to live.
    Cookie {
        /// Its name.
        name: String,
        /// Its path.
        path: String,
        /// How long a new one lasts; zero is until the browser is closed.
        ttl: Option<Duration>,
    },
    /// The client's address.
    Source,
    /// A parameter.
    Parameter(String),
}

/// Which endpoints are left out for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outliers {
    /// Answers of 500 and above, one after the other; none is five, 0 is never.
    pub errors: Option<u32>,
    /// Answers of 502, 503 and 504; none and 0 are never.
    pub gateway_errors: Option<u32>,
    /// Whether connections that fail are counted by themselves.
    pub is_split: bool,
    /// Connections that fail, if they are; none is five, 0 is never.
    pub local_errors: Option<u32>,
    /// Time between looks.
    pub interval: Option<Duration>,
    /// For how long, times how often before.
    pub time: Option<Duration>,
    /// How many of a hundred at most.
    pub most: Option<u32>,
    /// With fewer of a hundred left, all are used.
    pub least_left: u32,
    /// Who fails more often than the others by so many thousandths of a standard deviation; none where nobody compares.
    pub deviations: Option<u32>,
}

impl Policy {
    /// This one, and the other's parts where it has none.
    fn over(&self, other: &Self) -> Self {
        let own = self.clone();
        Self {
            pool: own.pool.or_else(|| other.pool.clone()),
            balancing: own.balancing.or_else(|| other.balancing.clone()),
            outliers: own.outliers.or_else(|| other.outliers.clone()),
            retries: own.retries.or(other.retries),
            tls: own.tls.or_else(|| other.tls.clone()),
        }
    }
}

/// Who looks at a service, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Namespace of the client; none is a waypoint, which is nobody's client.
    pub client: Option<&'a str>,
    /// Namespace of the service.
    pub owner: &'a str,
}

impl Destinations {
    /// What counts: of the client's namespace, then the service's, then the root; there the most specific name (api-surface A9).
    fn rule(&self, view: View<'_>, hostname: &str) -> Option<&Rule> {
        let namespaces = view.client.into_iter().chain([view.owner, self.root.as_str()]);
        namespaces.into_iter().find_map(|namespace| {
            let sees = |rule: &&Rule| {
                let client = view.client.unwrap_or(view.owner);
                client == namespace || rule.exported.as_ref().is_none_or(|exported| exported.contains(client))
            };
            let rules = self.rules.get(namespace).into_iter().flatten().filter(sees);
            rules.filter(|rule| rule.hosts.hold(hostname)).max_by(|left, right| left.hosts.cmp(&right.hosts))
        })
    }

    /// A part of a service's endpoints.
    #[must_use]
    pub fn subset(&self, view: View<'_>, hostname: &str, name: &str) -> Option<&Subset> {
        self.rule(view, hostname)?.subsets.get(name)
    }

    /// Whether an object says anything of the service with this name, as it is for its own namespace.
    #[must_use]
    pub fn is_about(&self, object: &ObjectKey, hostname: &str) -> bool {
        self.hosts.get(object).is_some_and(|hosts| hosts.hold(hostname))
    }

    /// The name of the only service that an object says anything of, if it is for a single one.
    #[must_use]
    pub fn only_about(&self, object: &ObjectKey) -> Option<&str> {
        match self.hosts.get(object)? {
            Hosts::One(name) => Some(name),
            Hosts::Below(..) => None,
        }
    }

    /// The same, unless it names files to a proxy in `namespace` that are not for the rule's namespace to use: what is in a waypoint's pod
    /// belongs to the waypoint's namespace, and others that are bound to it must not borrow it. The root's rules are the mesh's.
    #[must_use]
    pub fn own_files_only(&self, tls: Origination, namespace: &str) -> Origination {
        if tls.roots.as_ref().is_some_and(|roots| roots.namespace != namespace && !self.is_root(&roots.namespace)) {
            return Origination::with_nobody(OTHERS_ROOTS);
        }
        self.own_certificate_only(tls, namespace)
    }

    /// The same of what a client proves itself with that begins TLS by itself. Whose certificates it believes is for the service's
    /// rules to say, as with Istio: they name a file that all its clients have.
    #[must_use]
    pub fn own_certificate_only(&self, tls: Origination, namespace: &str) -> Origination {
        match &tls.own {
            Some(own) if own.namespace != namespace && !self.is_root(&own.namespace) => {
                Origination::with_nobody(OTHERS_FILES)
            }
            _ => tls,
        }
    }

    /// Whether what this namespace says counts for every client.
    #[must_use]
    pub fn is_root(&self, namespace: &str) -> bool {
        self.root == namespace
    }

    /// Whether anything depends on the labels of workloads.
    #[must_use]
    pub fn asks_for_labels(&self) -> bool {
        let compares = |policy: &Policy| {
            let locality = policy.balancing.as_ref().and_then(|balancing| balancing.locality.as_ref());
            matches!(locality, Some(Locality::Labels(_)))
        };
        let is_compared = |used: &Used| compares(&used.policy) || used.ports.values().any(compares);
        self.rules.values().flatten().any(|rule| !rule.subsets.is_empty() || is_compared(&rule.used))
    }

    /// The names of all parts of a service's endpoints.
    pub fn subsets<'a>(&'a self, view: View<'_>, hostname: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.rule(view, hostname).into_iter().flat_map(|rule| rule.subsets.keys().map(String::as_str))
    }

    /// How the endpoints of a target are used.
    #[must_use]
    pub fn policy(&self, view: View<'_>, target: &Target) -> Policy {
        let Some(rule) = self.rule(view, &target.hostname) else { return Policy::default() };
        let whole = rule.used.at(target.port);
        let subset = target.subset.as_ref().and_then(|name| rule.subsets.get(name));
        subset.map_or_else(|| whole.clone(), |subset| subset.used.at(target.port).over(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(hosts: Hosts, exported: Option<&[&str]>, connections: u32) -> Rule {
        let pool = Pool { connections: Some(connections), ..Pool::default() };
        let policy = Policy { pool: Some(pool), ..Policy::default() };
        let exported = exported.map(|namespaces| namespaces.iter().map(|it| (*it).to_owned()).collect());
        Rule { hosts, exported, used: Used { policy, ports: BTreeMap::new() }, subsets: BTreeMap::new() }
    }

    #[test]
    fn a_part_says_that_there_is_no_tls_where_the_whole_has_it() {
        let begin = || Policy { tls: Some(Tls::Begin(Origination::default())), ..Policy::default() };
        let off = || Policy { tls: Some(Tls::Off), ..Policy::default() };
        for (own, whole, expected) in [
            (off(), begin(), Some(Tls::Off)),
            (begin(), off(), Some(Tls::Begin(Origination::default()))),
            (Policy::default(), begin(), Some(Tls::Begin(Origination::default()))),
            (Policy::default(), Policy::default(), None),
        ] {
            assert_eq!(own.over(&whole).tls, expected, "{own:?} over {whole:?}");
        }
        assert_ne!(off(), Policy::default(), "a rule that says it comes before a younger one");
    }

    #[test]
    fn a_certificate_is_for_rules_of_the_waypoints_namespace_and_the_root() {
        let destinations = Destinations { root: "root".to_owned(), ..Destinations::default() };
        let own =
            |namespace: &str| OwnCertificate { chain: "c".into(), key: "k".into(), namespace: namespace.to_owned() };
        for (rule, is_allowed) in [("shop", true), ("root", true), ("other", false)] {
            let tls = Origination { own: Some(own(rule)), ..Origination::default() };
            let found = destinations.own_files_only(tls.clone(), "shop");
            assert_eq!(found == tls, is_allowed, "{rule}");
            assert_eq!(found.names.is_empty() && found.own.is_some(), is_allowed, "{rule}: {found:?}");
            let roots = Roots { file: "r".to_owned(), namespace: rule.to_owned() };
            let tls = Origination { roots: Some(roots), ..Origination::default() };
            let found = destinations.own_files_only(tls.clone(), "shop");
            assert_eq!(found == tls, is_allowed, "{rule}");
            assert_eq!(found.names.is_empty() && found.roots.is_some(), is_allowed, "{rule}: {found:?}");
        }
        let simple = Origination::default();
        assert_eq!(destinations.own_files_only(simple.clone(), "shop"), simple);
    }

    #[test]
    fn the_clients_namespace_comes_first_and_there_the_most_specific_name() {
        let one = |name: &str| Hosts::One(name.to_owned());
        let below = |suffix: &str| Hosts::Below(suffix.len(), suffix.to_owned());
        let rules = [
            ("client", vec![rule(one("a.shop"), None, 1)]),
            (
                "shop",
                vec![
                    rule(below(".shop"), None, 2),
                    rule(one("a.shop"), Some(&["friend"]), 3),
                    rule(below("b.shop"), None, 4),
                ],
            ),
            ("root", vec![rule(below(""), None, 5), rule(one("c.shop"), Some(&[]), 6)]),
        ];
        let rules = rules.into_iter().map(|(namespace, rules)| (namespace.to_owned(), rules)).collect();
        let destinations = Destinations { rules, root: "root".to_owned(), ..Destinations::default() };
        for (client, hostname, expected) in [
            (Some("client"), "a.shop", 1),
            (Some("client"), "b.shop", 4),
            (Some("other"), "a.shop", 2),
            (Some("friend"), "a.shop", 3),
            (Some("shop"), "a.shop", 3),
            (None, "a.shop", 3),
            (None, "x.example", 5),
            (Some("client"), "x.example", 5),
            (Some("root"), "c.example", 5),
        ] {
            let view = View { client, owner: "shop" };
            let target = Target { hostname: hostname.to_owned(), port: 80, subset: None };
            let found = destinations.policy(view, &target).pool.and_then(|pool| pool.connections);
            assert_eq!(found, Some(expected), "{client:?} {hostname}");
        }
    }
}
