//! What the waypoint does with which traffic: Envoy's resources, checked, and immutable from then on.
//!
//! Everything in a resource is understood or the resource is refused by the name of the field, and the last good one stays.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use fairway_core::upgrade::Upgrades;
use fairway_proto::envoy::fraction::FractionalPercent;
use fairway_proto::envoy::fraction::fractional_percent::DenominatorType;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use regex::Regex;
use tokio::sync::watch;

pub use assignment::{Assignment, Names, UNIT, assignment};
pub use authorizer::{Authorizer, Custom, Shown, Speech};
pub use cluster::{
    Balancer, Bounds, Budget, Cluster, Keepalive, Origination, Outliers, OwnCertificate, Reuse, SuccessRate, WarmUp,
    cluster,
};
pub use limiter::Limiter;
pub use listener::listener;
pub use logs::{Format, Logger, Logs, Record, Sink};
pub use metrics::{Change, Metrics};
pub use opaque::{Chain, Opaque, ServerName};
pub use per_route::{Abort, Before, Cors, Fault};
pub use policy::{ClaimMatch, Permission, Policy, Principal, Purpose, Rules, Silent, Verdict};
pub use processor::{BodyMode, Modes, Parts, Processing, Processor};
pub use proxies::Proxies;
pub use rates::{Bucket, Counting, Rate, Rates, Value};
pub use route::table;
pub use session::Session;
pub use text::Text;
pub use tokens::{Issuer, Place, Tokens};
pub use trace::{Collector, Tag, TagValue, Tracing};
pub use wrong::Wrong;

mod assignment;
mod authorizer;
mod cluster;
mod fields;
mod leads;
mod limiter;
mod listener;
mod logs;
mod metrics;
mod opaque;
mod per_route;
mod policy;
mod processor;
mod proxies;
mod rates;
mod route;
mod session;
mod spoken;
mod text;
mod tokens;
mod trace;
mod wrong;

#[cfg(test)]
mod tests;

/// One state of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// By name, `<hostname>:<port>`.
    pub listeners: HashMap<String, Arc<Listener>>,
    /// By name.
    pub routes: HashMap<String, Arc<Table>>,
    /// By name.
    pub clusters: HashMap<String, Arc<Cluster>>,
    /// By name.
    pub endpoints: HashMap<String, Arc<Assignment>>,
    /// Listeners that the controller says do not exist.
    pub absent: HashSet<String>,
    /// What is wrong with resources of which there is no good version, by name.
    pub faults: HashMap<String, String>,
    /// Names of what has been received and waits for what it leads to: something before it is in force, or nothing.
    pub warming: BTreeSet<String>,
}

/// Addresses of names of endpoints.
pub type Addresses = HashMap<Arc<str>, Arc<[IpAddr]>>;

impl Config {
    /// The names of endpoints.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clusters.values().filter_map(|cluster| cluster.names.as_deref()).flat_map(Names::all)
    }

    /// The endpoints that clusters have by these addresses, where they are others than now.
    fn changed(&self, known: &Addresses) -> Vec<(String, Arc<Assignment>)> {
        let changed = |cluster: &Arc<Cluster>| {
            let found = cluster.names.as_ref()?.resolved(|name| known.get(name).map(|addresses| &**addresses));
            let is_same = self.endpoints.get(&cluster.endpoints).is_some_and(|now| **now == found);
            (!is_same).then(|| (cluster.endpoints.clone(), Arc::new(found)))
        };
        self.clusters.values().filter_map(changed).collect()
    }

    /// Puts the endpoints of these addresses in place. What is as it was stays the same, so that what was made of it holds.
    fn resolve(&mut self, before: &Self, known: &Addresses) {
        for cluster in self.clusters.values() {
            let Some(names) = &cluster.names else { continue };
            let found = names.resolved(|name| known.get(name).map(|addresses| &**addresses));
            let same = before.endpoints.get(&cluster.endpoints).filter(|before| ***before == found);
            let found = same.cloned().unwrap_or_else(|| Arc::new(found));
            self.endpoints.insert(cluster.endpoints.clone(), found);
        }
    }
}

/// The configuration in force, and who hears when it changes.
#[derive(Debug)]
pub struct Current {
    now: ArcSwap<Config>,
    /// What is known of names; held while anything changes.
    known: Mutex<Addresses>,
    version: watch::Sender<u64>,
}

impl Default for Current {
    fn default() -> Self {
        Self { now: ArcSwap::default(), known: Mutex::default(), version: watch::Sender::new(0) }
    }
}

impl Current {
    /// The one in force. Take it once for a whole decision.
    #[must_use]
    pub fn load(&self) -> Arc<Config> {
        self.now.load_full()
    }

    /// Puts another one in force, with what is known of names.
    pub fn publish(&self, mut config: Config) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        config.resolve(&self.now.load(), &known);
        self.now.store(Arc::new(config));
        drop(known);
        self.version.send_modify(|version| *version += 1);
    }

    /// From now on these are the addresses of names. Nobody hears of it: what it decides is decided for each request.
    pub fn learn(&self, addresses: Addresses) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == addresses {
            return;
        }
        *known = addresses;
        let before = self.now.load_full();
        // Resolvers often say the same in another order.
        let changed = before.changed(&known);
        if changed.is_empty() {
            return;
        }
        let mut config = Config::clone(&before);
        config.endpoints.extend(changed);
        self.now.store(Arc::new(config));
    }

    /// Hears of changes from now on.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

/// What is done with the connections to one port.
#[derive(Clone, Debug, PartialEq)]
pub enum Listener {
    /// They carry requests.
    Http(Box<Http>),
    /// They are passed on as they are.
    Opaque(Opaque),
}

impl Listener {
    /// Who is told of a connection that was passed on as it is, for this name of TLS; none is our own log.
    #[must_use]
    pub fn logs(&self, server_name: Option<&str>) -> Option<&Arc<Logs>> {
        match self {
            Self::Http(http) => http.otherwise.as_ref().map_or(&http.logs, |chain| &chain.logs).as_ref(),
            Self::Opaque(opaque) => opaque.chain(server_name).or(opaque.chains().next())?.logs.as_ref(),
        }
    }

    /// What is only told of a connection whose client asks for this name, and what decides about it.
    #[must_use]
    pub fn silent(&self, server_name: Option<&str>) -> (&[Silent], &[Rules]) {
        match self {
            Self::Http(http) => match &http.otherwise {
                Some(chain) => (&chain.silent, &chain.policies),
                None => (&http.silent, &http.policies),
            },
            Self::Opaque(opaque) => {
                opaque.chain(server_name).map_or((&[], &[]), |chain| (&chain.silent, &chain.policies))
            }
        }
    }

    /// What is counted otherwise than usual.
    #[must_use]
    pub fn metrics(&self) -> Option<&Arc<Metrics>> {
        match self {
            Self::Http(http) => http.metrics.as_ref(),
            Self::Opaque(opaque) => opaque.metrics.as_ref(),
        }
    }
}

/// What is done with requests before they are routed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Http {
    /// Who is asked about which, before anything else is: all must agree.
    pub custom: Vec<Custom>,
    /// Whose tokens are believed; none where nobody looks for them.
    pub tokens: Option<Arc<Tokens>>,
    /// Who may do what, in order: all must agree.
    pub policies: Vec<Rules>,
    /// What is only told of.
    pub silent: Vec<Silent>,
    /// Name of the routes.
    pub routes: String,
    /// Several slashes in a path are one.
    pub merge_slashes: bool,
    /// Who is believed about where requests come from.
    pub proxies: Proxies,
    /// How many requests may pass; none where they are not counted.
    pub rates: Option<Rates>,
    /// Who counts them for several proxies.
    pub limiter: Option<Limiter>,
    /// Who sees requests and their answers, and changes them.
    pub processor: Option<Arc<Processor>>,
    /// Who is told what requests took; none where nothing of a trace is read or written.
    pub tracing: Option<Arc<Tracing>>,
    /// Who is told of requests that have ended; none is our own log.
    pub logs: Option<Arc<Logs>>,
    /// What is counted otherwise than usual.
    pub metrics: Option<Arc<Metrics>>,
    /// What connections may go on as.
    pub upgrades: Upgrades,
    /// What is done with connections whose clients turn out not to speak HTTP, where that is said.
    pub otherwise: Option<Arc<Chain>>,
}

/// Alternatives with weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted<T> {
    entries: Vec<(u32, T)>,
    total: u64,
}

impl<T> Weighted<T> {
    /// Alternatives of which one has a weight at least; none otherwise.
    #[must_use]
    pub fn new(entries: Vec<(u32, T)>) -> Option<Self> {
        let total = entries.iter().map(|(weight, _)| u64::from(*weight)).sum();
        (total > 0).then_some(Self { entries, total })
    }

    /// The sum of the weights.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The first one with a weight that is as wanted.
    pub fn find(&self, is_wanted: impl Fn(&T) -> bool) -> Option<&T> {
        self.entries.iter().filter(|(weight, _)| *weight > 0).map(|(_, entry)| entry).find(|entry| is_wanted(entry))
    }

    /// The alternative that `draw`, which is below the sum of the weights, falls on.
    #[must_use]
    pub fn at(&self, mut draw: u64) -> Option<&T> {
        for (weight, entry) in &self.entries {
            match draw.checked_sub(u64::from(*weight)) {
                Some(rest) => draw = rest,
                None => return Some(entry),
            }
        }
        None
    }

    /// All of them, with their weights.
    pub fn weighted(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().map(|(weight, entry)| (*weight, entry))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|(_, entry)| entry)
    }
}

/// Routes of some hosts.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// These, or all (`*`).
    pub domains: Vec<String>,
    /// In order.
    pub routes: Vec<Route>,
    /// What requests that are sent on are counted by, whatever their route.
    pub counted: Vec<Counting>,
}

/// Routes in order; the first that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Which hosts there are routes for.
    pub hosts: Vec<Host>,
}

impl Table {
    /// Clusters that requests may be sent to.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        let routes = self.hosts.iter().flat_map(|host| &host.routes);
        routes.flat_map(|route| {
            let (backends, mirrors) = match &route.action {
                Action::Forward(forward) => (Some(forward.backends.iter()), Some(forward.mirrors.iter())),
                _ => (None, None),
            };
            let backends = backends.into_iter().flatten().map(|backend| &*backend.cluster);
            backends.chain(mirrors.into_iter().flatten().map(|mirror| &*mirror.cluster))
        })
    }
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// For the log.
    pub name: String,
    /// Which requests.
    pub matching: Match,
    /// What is done with them.
    pub action: Action,
    /// Changes of their headers.
    pub request: Edits,
    /// Changes of their answers' headers.
    pub response: Edits,
    /// What happens before that.
    pub before: Before,
}

/// What a request must be like: all of this.
#[derive(Clone, Debug)]
pub struct Match {
    /// Its path, without the query.
    pub path: PathMatch,
    /// Whatever the case of the path's ASCII letters, where it is no pattern.
    pub any_case: bool,
    /// Its headers.
    pub headers: Vec<HeaderMatch>,
    /// What it must not have.
    pub without: Vec<Without>,
    /// Its query parameters.
    pub query: Vec<(String, Text)>,
    /// Namespaces of its client, each of them.
    pub namespace: Vec<Text>,
}

/// A path to compare with.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// It begins so.
    Prefix(String),
    /// It is this one.
    Exact(String),
    /// It matches as a whole.
    Regex(Regex),
    /// There is none, as of CONNECT.
    Connect,
}

/// A header to compare with.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderMatch {
    /// Whose value.
    pub name: Header,
    /// What it must be.
    pub value: Text,
}

/// A header that must not be there.
#[derive(Clone, Debug, PartialEq)]
pub struct Without {
    /// Which one.
    pub name: Header,
    /// With a value like this; none is any. One that is not there is empty.
    pub value: Option<Text>,
}

/// A header or what HTTP/2 has in place of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// `:method`
    Method,
    /// `:authority`
    Authority,
    /// `:path`, with the query.
    Path,
    /// `:scheme`
    Scheme,
    /// Any other.
    Named(HeaderName),
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Removed, before the others.
    pub remove: Vec<HeaderName>,
    /// Set or added.
    pub put: Vec<Put>,
}

/// One header to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// What of one that is there.
    pub manner: Manner,
}

/// What becomes of a header that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It gets one more value.
    Append,
    /// It stays as it is.
    AddIfAbsent,
    /// It is replaced.
    Overwrite,
    /// It is replaced, and not written if it is not there.
    OverwriteIfPresent,
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sent on.
    Forward(Box<Forward>),
    /// Sent elsewhere by the client.
    Redirect(Redirect),
    /// Answered at once.
    Reply {
        /// With this status.
        status: StatusCode,
        /// And this text.
        body: bytes::Bytes,
    },
}

/// How a request is sent on.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Where to.
    pub backends: Weighted<Backend>,
    /// The status where there is no such cluster.
    pub no_cluster: StatusCode,
    /// Another path.
    pub path: Option<PathRewrite>,
    /// Another host.
    pub host: Option<HeaderValue>,
    /// For a request with all its attempts, until the end of the answer.
    pub timeout: Option<Duration>,
    /// Longest time in which nothing of it moves, for ever where it is zero; as the waypoint's limit says where it is not said.
    pub idle: Option<Duration>,
    /// When it is tried again.
    pub retry: Option<Retry>,
    /// Who gets a copy.
    pub mirrors: Vec<Mirror>,
    /// What tells requests apart where those that belong together go to one endpoint.
    pub hash: Option<HashBy>,
    /// What its requests are counted by, besides what those of its host are.
    pub counted: Vec<Counting>,
}

/// What tells requests apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// A header.
    Header(HeaderName),
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// For which paths it is.
        path: String,
        /// Clients that have none get one for so long; zero is for as long as a browser is open.
        ttl: Option<Duration>,
    },
    /// Where the client is.
    Source,
    /// A query parameter.
    Parameter(String),
}

/// One share of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where they go.
    pub cluster: Arc<str>,
    /// Changes of their headers.
    pub request: Edits,
    /// Changes of their answers' headers.
    pub response: Edits,
}

/// Another path.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// In place of the part that matched.
    Matched(String),
    /// In place of what matches.
    Regex(Regex, String),
}

/// Copies of some requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where to.
    pub cluster: Arc<str>,
    /// How many in a million.
    pub per_million: u32,
}

/// When a request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// The endpoint could not be reached.
    pub connect_failure: bool,
    /// The endpoint said that it has not begun.
    pub refused_stream: bool,
    /// The endpoint broke off without an answer.
    pub reset: bool,
    /// After these statuses.
    pub statuses: Vec<StatusCode>,
    /// After every status from 500 on.
    pub server_errors: bool,
    /// After these statuses of gRPC.
    pub grpc_statuses: Vec<u32>,
    /// How often.
    pub attempts: u32,
    /// Whether at other endpoints than those that have failed, as long as there are any.
    pub elsewhere: bool,
    /// For each attempt.
    pub attempt_timeout: Option<Duration>,
    /// Whether an attempt that takes longer goes on, and another one is sent beside it.
    pub hedges: bool,
    /// Before the first repetition, and at most.
    pub back_off: (Duration, Duration),
}

/// Where a client is sent; what is none is as in its request.
#[derive(Clone, Debug, Default)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<RedirectPath>,
    /// Status of the answer.
    pub status: StatusCode,
}

/// The path of a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    /// In place of all of it.
    Full(String),
    /// In place of the part that matched.
    Matched(String),
}

/// What endpoints speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without asking.
    Http2,
    /// What the client speaks.
    AsClient,
}

/// An address of an Envoy message.
fn address(message: Option<&fairway_proto::envoy::core::Address>) -> Result<SocketAddr, Wrong> {
    use fairway_proto::envoy::core::address::Address;
    use fairway_proto::envoy::core::socket_address::PortSpecifier;
    let Some(Address::SocketAddress(socket)) = message.and_then(|message| message.address.as_ref()) else {
        return Err(Wrong::missing("socket_address"));
    };
    let ip: IpAddr = socket.address.parse().map_err(|_| Wrong::new("socket_address.address", "is no IP address"))?;
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Err(Wrong::missing("socket_address.port_value"));
    };
    let port = u16::try_from(port).map_err(|_| Wrong::new("socket_address.port_value", "is above 65535"))?;
    Ok(SocketAddr::new(ip, port))
}

/// The whole that shares are parts of.
pub const MILLION: u32 = 1_000_000;

/// How many in a million.
fn per_million(share: &FractionalPercent) -> u32 {
    let times = match share.denominator() {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    };
    share.numerator.saturating_mul(times).min(MILLION)
}

/// A duration of a message.
fn duration(message: &prost_types::Duration) -> Result<Duration, Wrong> {
    Duration::try_from(*message).map_err(|_| Wrong::here("is negative"))
}
