//! Which requests go where: what the routes of users come to, in no proxy's language.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fairway_core::source::ObjectKey;

use super::verdict::Verdict;

/// One port of a service, or a part of its endpoints: what routes are attached to, and what requests are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Full DNS name of the service.
    pub hostname: String,
    /// Port of the service.
    pub port: u16,
    /// The part, by the name that a DestinationRule has for it; none is the whole.
    pub subset: Option<String>,
}

impl Target {
    /// The target called `<hostname>:<port>` or `<hostname>:<port>/<subset>`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (whole, subset) = name.split_once('/').map_or((name, None), |(whole, subset)| (whole, Some(subset)));
        let (hostname, port) = whole.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
        let target = Self { hostname: hostname.to_owned(), port, subset: subset.map(str::to_owned) };
        // One thing has one name: no sign or leading zero.
        (!hostname.is_empty() && target.to_string() == name).then_some(target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.hostname, self.port)?;
        self.subset.as_ref().map_or(Ok(()), |subset| write!(f, "/{subset}"))
    }
}

/// The routes of the whole mesh, and what became of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    /// What is attached to each port of a service; ports that nothing is attached to are not here.
    pub attached: BTreeMap<Target, Attached>,
    /// What is to be said of each route.
    pub verdicts: BTreeMap<ObjectKey, Verdict>,
}

/// What is attached to one port of a service (GAMMA, api-surface A16).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attached {
    /// From the service's namespace, for everybody; none when only consumers attached something.
    pub producer: Option<Vec<Entry>>,
    /// From other namespaces, for clients of those, in place of the producer's.
    pub consumers: BTreeMap<String, Vec<Entry>>,
    /// What is done with connections; they are told apart by name, and where any of these is, requests are not.
    pub streams: Vec<Stream>,
}

/// What is done with connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// The route.
    pub route: ObjectKey,
    /// Where it is from: namespace and name of the route, and the rule where it has several.
    pub name: String,
    /// The names that TLS clients ask for, or `*.` and parts of them; none is for all connections.
    pub servers: Vec<String>,
    /// Where they go, by weight; none is nowhere, they are closed.
    pub shares: Vec<(u32, Option<Target>)>,
}

impl Routes {
    /// What is attached to the ports of a host.
    pub(super) fn of_host(&self, hostname: &str) -> impl Iterator<Item = &Attached> {
        let first = Target { hostname: hostname.to_owned(), port: 0, subset: None };
        self.attached
            .range(first..)
            .take_while(move |(target, _)| target.hostname == hostname)
            .map(|(_, attached)| attached)
    }

    /// What is attached to a port, for the clients of one namespace or for all.
    pub(super) fn entries(&mut self, (target, scope): (Target, Option<String>)) -> &mut Vec<Entry> {
        let attached: &mut Attached = self.attached.entry(target).or_default();
        match scope {
            None => attached.producer.get_or_insert_default(),
            Some(namespace) => attached.consumers.entry(namespace).or_default(),
        }
    }
}

impl Attached {
    /// What counts for clients of one namespace.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Option<&[Entry]> {
        self.consumers.get(namespace).or(self.producer.as_ref()).map(Vec::as_slice)
    }

    /// All of them.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.consumers.values().chain(&self.producer).flatten()
    }

    /// Everything that requests and connections may be sent to.
    pub fn backends(&self) -> impl Iterator<Item = &Target> {
        self.entries().flat_map(Entry::backends).chain(self.streams.iter().flat_map(Stream::backends))
    }
}

impl Stream {
    /// Everything that connections may be sent to.
    pub fn backends(&self) -> impl Iterator<Item = &Target> {
        self.shares.iter().filter_map(|(_, target)| target.as_ref())
    }
}

/// One match and what follows from it; of several that match the first counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where it is from: namespace, name, rule and match of the route.
    pub name: String,
    /// The route.
    pub route: ObjectKey,
    /// Which requests.
    pub matching: Match,
    /// What is done with them.
    pub rule: Arc<Rule>,
}

impl Entry {
    /// Everything that requests may be sent to.
    pub fn backends(&self) -> impl Iterator<Item = &Target> {
        let forward = match &self.rule.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Reply { .. } | Action::Refuse => None,
        };
        forward.into_iter().flat_map(|forward| {
            let mirrors = forward.mirrors.iter().map(|mirror| &mirror.target);
            forward.backends.iter().filter_map(|backend| backend.target.as_ref()).chain(mirrors)
        })
    }
}

/// What a request must be like: all of this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Its path.
    pub path: Path,
    /// Its method.
    pub method: Option<String>,
    /// Its headers, names in lower case.
    pub headers: Vec<Compare>,
    /// Its query parameters.
    pub query: Vec<Compare>,
    /// What only VirtualServices ask for.
    pub more: Conditions,
    /// How specific this is; the greater comes first (api-surface A14.3).
    pub rank: [usize; 5],
}

/// What only VirtualServices ask of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Whatever the case of the path's letters, where it is no pattern.
    pub any_case: bool,
    /// Headers that it must not have, names in lower case; without a value they must not be there at all.
    pub without: Vec<(String, Option<Text>)>,
    /// The namespace of its client.
    pub namespace: Option<String>,
}

/// A path to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// This one.
    Exact(String),
    /// This one and those below, element by element; without a slash at the end, and empty for every path.
    Prefix(String),
    /// Those that begin with this text.
    Start(String),
    /// Those that match as a whole.
    Regex(String),
}

/// A named value to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Whose value.
    pub name: String,
    /// What it must be.
    pub value: Text,
}

/// A text to compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// This one.
    Exact(String),
    /// Those that match as a whole.
    Regex(String),
}

/// What is done with requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Changes to their headers.
    pub request: Edits,
    /// Changes to the headers of answers.
    pub response: Edits,
    /// What pages from other origins may do; without, the endpoint is asked.
    pub cors: Option<Cors>,
    /// What goes wrong on purpose.
    pub fault: Option<Fault>,
    /// Where they go.
    pub action: Action,
}

impl Rule {
    /// Nothing but this.
    #[must_use]
    pub fn only(action: Action) -> Self {
        Self { request: Edits::default(), response: Edits::default(), cors: None, fault: None, action }
    }
}

/// What pages from other origins may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Which origins.
    pub origins: Vec<Text>,
    /// With which methods, or a star.
    pub methods: Vec<String>,
    /// With which headers, or a star.
    pub headers: Vec<String>,
    /// Which headers of answers they see.
    pub exposed: Vec<String>,
    /// How long browsers remember it.
    pub max_age: Option<Duration>,
    /// Whether with cookies and the like.
    pub has_credentials: bool,
    /// Whether the endpoint is asked about other origins.
    pub passes_others: bool,
}

/// What goes wrong on purpose, each for so many in a million, one independent of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Requests wait.
    pub delay: Option<(Duration, u32)>,
    /// Requests fail.
    pub abort: Option<(Abort, u32)>,
}

/// With what a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// A status of HTTP.
    Http(u16),
    /// A status of gRPC.
    Grpc(u32),
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Replaced, or added.
    pub set: Vec<(String, String)>,
    /// Added.
    pub add: Vec<(String, String)>,
    /// Removed.
    pub remove: Vec<String>,
}

/// Where requests go.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To one of several services.
    Forward(Forward),
    /// Back, with another address.
    Redirect(Redirect),
    /// Back, with this answer.
    Reply {
        /// Its status.
        status: u16,
        /// What is in it.
        body: String,
    },
    /// Back, with 500: what was asked for cannot be done.
    Refuse,
}

/// To services, by weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forward {
    /// Each with a weight of at least 1.
    pub backends: Vec<Backend>,
    /// Another host.
    pub host: Option<String>,
    /// Another path.
    pub path: Option<NewPath>,
    /// Copies.
    pub mirrors: Vec<Mirror>,
    /// For a request with all its attempts; none is without limit.
    pub timeout: Option<Duration>,
    /// For each attempt.
    pub attempt_timeout: Option<Duration>,
    /// When it is tried again.
    pub retry: Retry,
    /// Whether an attempt that is late goes on, and another one is sent beside it.
    pub hedges: bool,
    /// How clients come back to the endpoint that has answered them.
    pub session: Option<Session>,
}

/// How clients come back to the endpoint that has answered them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Name of the cookie or header that says which one it was.
    pub name: String,
    /// Where clients keep it.
    pub kept: Kept,
}

/// Where clients keep which endpoint has answered them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In a cookie.
    Cookie {
        /// For how long; none is for as long as the browser is open.
        longest: Option<Duration>,
    },
    /// In a header that they send again.
    Header,
}

/// A share of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Its size, relative to the others'.
    pub weight: u32,
    /// Where they go; none is back, with 500.
    pub target: Option<Target>,
    /// Changes to their headers.
    pub request: Edits,
    /// Changes to the headers of answers.
    pub response: Edits,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewPath {
    /// In place of all of it.
    Full(String),
    /// In place of the prefix that matched; without a slash at the end, and empty to take it away.
    Prefix(String),
    /// In place of the text that matched.
    Start(String),
}

/// Copies of some requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where to.
    pub target: Target,
    /// How many in a million.
    pub per_million: u32,
}

/// When requests are tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Retry {
    /// Where the endpoint has not begun with them, which no application can tell from a first attempt.
    #[default]
    Untouched,
    /// Also after these answers, so often, with this time before the first repetition.
    Answers {
        /// HTTP statuses.
        codes: Vec<u32>,
        /// Also after every answer of 500 and above, and after none.
        errors: bool,
        /// Also where the endpoint breaks off.
        resets: bool,
        /// Whether at other endpoints than those that have failed.
        elsewhere: bool,
        /// How often.
        attempts: u32,
        /// Time before.
        backoff: Option<Duration>,
    },
    /// Never.
    Never,
}

/// Back, with another address; what is none is as in the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub host: Option<String>,
    /// Path.
    pub path: Option<NewPath>,
    /// Port.
    pub port: Option<u16>,
    /// Status of the answer.
    pub status: u16,
}
