//! Tells of requests and connections that have ended: our own log, or whomever the listener names.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairway_core::access_log::{Entry, Operator, Plain, Said};
use fairway_core::cel::{Attribute, End, Expression, Known, Subject, Value};
use fairway_core::ident::Identity;
use fairway_core::io::logging::in_milliseconds;
use fairway_core::reason::Reason;
use fairway_core::workload::Workload;
use http::header::HeaderName;
use http::{HeaderMap, Version};

use crate::config::{Format, Http, Logger, Logs, Metrics, Sink};
use crate::facts;
use crate::stream::Connection;
use crate::telemetry::{Done, flags};
use crate::trace::Trace;

/// One line of our own log: at `error` what did not end well, as node proxies do.
macro_rules! line {
    ($failed:expr, $message:literal, { $($fields:tt)* }) => {
        if $failed {
            tracing::event!(target: "access", tracing::Level::ERROR, $($fields)* $message);
        } else {
            tracing::event!(target: "access", tracing::Level::INFO, $($fields)* $message);
        }
    };
}

pub mod carried;

/// What is kept of a request until it has ended.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Who is told; none is our own log.
    logs: Option<Arc<Logs>>,
    /// What is counted otherwise than usual.
    metrics: Option<Arc<Metrics>>,
    version: Version,
    query: Option<String>,
    asked: Vec<(HeaderName, String)>,
    answered: Vec<(HeaderName, String)>,
    cluster: Option<Arc<str>>,
}

impl Kept {
    /// What is needed of a request, without its headers; nothing where it is told and counted as usual.
    #[must_use]
    pub fn begun(http: &Http, version: Version, query: Option<&str>) -> Option<Box<Self>> {
        if http.logs.is_none() && http.metrics.is_none() {
            return None;
        }
        let (logs, metrics, query) = (http.logs.clone(), http.metrics.clone(), query.map(str::to_owned));
        let (asked, answered) = (Vec::new(), Vec::new());
        Some(Box::new(Self { logs, metrics, version, query, asked, answered, cluster: None }))
    }

    /// What is counted otherwise than usual.
    #[must_use]
    pub fn metrics(&self) -> Option<&Arc<Metrics>> {
        self.metrics.as_ref()
    }

    /// Whether this header of requests is told.
    #[must_use]
    pub fn tells(&self, name: &HeaderName) -> bool {
        self.names().any(|known| known == name)
    }

    /// Headers of requests that are needed.
    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let of_logs = self.logs.iter().flat_map(|logs| &logs.asked);
        of_logs.chain(self.metrics.iter().flat_map(|metrics| &metrics.asked))
    }

    /// Its headers.
    pub fn ask(&mut self, headers: &HeaderMap) {
        self.asked = picked(self.names(), headers);
    }

    /// The cluster that it is sent to.
    pub fn goes_to(&mut self, cluster: &Arc<str>) {
        self.cluster = Some(Arc::clone(cluster));
    }

    /// What is left of it when it is known whose token it shows: no log keeps a token that the endpoint does not get, or what a client
    /// says of itself in our name.
    pub fn permitted(&mut self, query: Option<&str>, headers: &HeaderMap) {
        self.query = query.map(str::to_owned);
        self.ask(headers);
    }

    /// The headers of its answer.
    pub fn answer(&mut self, headers: &HeaderMap) {
        self.answered = picked(self.logs.iter().flat_map(|logs| &logs.answered), headers);
    }
}

fn picked<'a>(names: impl Iterator<Item = &'a HeaderName>, headers: &HeaderMap) -> Vec<(HeaderName, String)> {
    let said = names.filter_map(|name| Some((name.clone(), facts::joined(headers, name)?.into_owned())));
    said.collect()
}

/// A request that has ended.
pub(crate) struct Ended<'a> {
    connection: &'a Connection,
    done: &'a Done,
    kept: &'a Kept,
    milliseconds: f64,
    begun: SystemTime,
}

/// Tells of a request that has ended.
pub fn tell(connection: &Connection, done: &Done) {
    let took = done.started.elapsed();
    let milliseconds = took.as_secs_f64() * 1000.0;
    let told = done.kept.as_deref().and_then(|kept| Some((kept, kept.logs.as_ref()?)));
    let Some((kept, logs)) = told else { return usual(connection, done, milliseconds) };
    let ended = Ended::of(connection, done, kept, took);
    for logger in wanted(logs, &ended) {
        match &logger.sink {
            Sink::Usual => usual(connection, done, milliseconds),
            sink => put(connection, sink, &ended, (ended.begun, done.trace.as_deref())),
        }
    }
}

/// Those who are told of this.
fn wanted<'a>(logs: &'a Logs, subject: &impl Subject) -> impl Iterator<Item = &'a Logger> {
    let holds = |condition: &Expression| condition.holds(subject);
    logs.loggers.iter().filter(move |logger| logger.condition.as_ref().is_none_or(holds))
}

/// Tells it one of those who are not our own log.
fn put(connection: &Connection, sink: &Sink, entry: &impl Entry, (begun, trace): (SystemTime, Option<&Trace>)) {
    match sink {
        Sink::Usual => {}
        Sink::Line(format, omits_empty) => connection.waypoint.lines.write(|| line(format, *omits_empty, entry)),
        Sink::Collector(record) => {
            let text = record.body.as_ref().map(|body| body.write(entry, false));
            let pieces = record.attributes.iter();
            let pieces = pieces.map(|(name, template)| (name.as_str(), template.write(entry, false))).collect();
            connection.waypoint.exports.record(record, trace, begun, (text, pieces));
        }
    }
}

/// What is known of both ends and of the way between them, whatever came it.
fn ends(connection: &Connection, operator: Plain) -> Option<Said<'static>> {
    let text = |text: &str| Some(Said::Text(text.to_owned().into()));
    match operator {
        Plain::DownstreamLocal => text(&connection.bound.address().to_string()),
        Plain::DownstreamLocalPort => Some(Said::Number(connection.bound.address().port().into())),
        Plain::DownstreamLocalName => text(connection.local.identity().as_str()),
        Plain::DownstreamRemote => text(&connection.client.address.to_string()),
        Plain::DownstreamRemoteHost => text(&connection.client.address.ip().to_canonical().to_string()),
        Plain::DownstreamRemotePort => Some(Said::Number(connection.client.address.port().into())),
        Plain::DownstreamPeer => text(connection.client.identity.as_str()),
        _ => None,
    }
}

/// Where a client is that proxies tell of, who do not tell its port: as Envoy writes it.
fn told(remote: IpAddr, operator: Plain) -> Option<Said<'static>> {
    match operator {
        Plain::DownstreamRemote => Some(Said::Text(SocketAddr::new(remote, 0).to_string().into())),
        Plain::DownstreamRemoteHost => Some(Said::Text(remote.to_string().into())),
        Plain::DownstreamRemotePort => Some(Said::Number(0)),
        _ => None,
    }
}

/// The same for expressions, of an endpoint's workload.
fn peer<'a>(connection: &Connection, workload: Option<&Workload>, attribute: Attribute) -> Option<Value<'a>> {
    let number = |number: u16| Some(Value::Number(number.into()));
    let text = |text: &str| Some(Value::Text(text.to_owned().into()));
    match attribute {
        // No other connection comes in.
        Attribute::MutualTls => Some(Value::Truth(true)),
        Attribute::Principal => text(connection.client.identity.as_str()),
        Attribute::SourceAddress => text(&connection.client.address.to_string()),
        Attribute::SourcePort => number(connection.client.address.port()),
        Attribute::DestinationAddress => text(&connection.bound.address().to_string()),
        Attribute::DestinationPort => number(connection.bound.address().port()),
        Attribute::Peer(End::Source, Known::Principal) => text(connection.client.identity.as_str()),
        Attribute::Peer(End::Source, Known::Namespace) => text(connection.client.identity.namespace()),
        Attribute::Peer(end, known) => {
            let source = connection.client.workload.as_deref();
            let workload = if end == End::Source { source } else { workload }?;
            let said = match known {
                Known::Pod => &*workload.name,
                Known::Workload => &*workload.workload_name,
                Known::Namespace => workload.namespace(),
                Known::Principal => return text(workload.identity().as_str()),
                Known::Service => &*workload.canonical_name,
                Known::Revision => &*workload.canonical_revision,
                Known::Cluster => &*workload.cluster_id,
            };
            text(Some(said).filter(|said| !said.is_empty())?)
        }
        _ => None,
    }
}

fn line(format: &Format, omits_empty: bool, ended: &impl Entry) -> String {
    match format {
        Format::Text(template) => template.write(ended, omits_empty),
        Format::Json(entries) => {
            let mut object = serde_json::Map::new();
            for (name, template) in entries {
                let value = match template.value(ended, omits_empty) {
                    Some(Said::Number(number)) => number.into(),
                    Some(Said::Text(text)) => text.into_owned().into(),
                    None if omits_empty => continue,
                    None => serde_json::Value::Null,
                };
                object.insert(name.clone(), value);
            }
            format!("{}\n", serde_json::Value::Object(object))
        }
    }
}

impl<'a> Ended<'a> {
    pub(crate) fn of(connection: &'a Connection, done: &'a Done, kept: &'a Kept, took: Duration) -> Self {
        let (milliseconds, now) = (took.as_secs_f64() * 1000.0, SystemTime::now());
        Self { connection, done, kept, milliseconds, begun: now.checked_sub(took).unwrap_or(now) }
    }
}

impl Ended<'_> {
    fn path(&self) -> Cow<'_, str> {
        match &self.kept.query {
            Some(query) => format!("{}?{query}", self.done.path).into(),
            None => self.done.path.as_str().into(),
        }
    }

    fn protocol(&self) -> &'static str {
        match self.kept.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
    }

    /// A header of the request, or what HTTP/2 has in place of one.
    fn asked(&self, name: &str) -> Option<Cow<'_, str>> {
        Some(match name {
            ":method" => self.done.method.as_str().into(),
            ":path" => self.path(),
            ":authority" => Some(self.done.authority.as_str()).filter(|host| !host.is_empty())?.into(),
            ":scheme" => "http".into(),
            name => find(&self.kept.asked, name)?.into(),
        })
    }

    fn status(&self) -> Option<u16> {
        Some(self.done.status).filter(|status| *status != 0)
    }

    /// Where the answer is from, or why there is none of an endpoint.
    fn details(&self) -> &'static str {
        match (self.done.reason, self.done.endpoint) {
            (Reason::Ok, Some(_)) => "via_upstream",
            (Reason::Ok | Reason::RouteAnswered, None) => "direct_response",
            (reason, _) => reason.label(),
        }
    }

    fn plain(&self, operator: Plain) -> Option<Said<'_>> {
        let text = |text: &str| Some(Said::Text(text.to_owned().into()));
        let done = self.done;
        match operator {
            Plain::Protocol => text(self.protocol()),
            // Envoy writes 0 for a request whose client has left.
            Plain::ResponseCode => Some(Said::Number(done.status.into())),
            Plain::ResponseFlags => text(flags(done)),
            Plain::ResponseCodeDetails => text(self.details()),
            Plain::GrpcStatusNumber => Some(Said::Number(done.grpc_status?.into())),
            Plain::BytesReceived => Some(Said::Number(done.received)),
            Plain::BytesSent => Some(Said::Number(done.sent)),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time that has passed")]
            Plain::Duration => Some(Said::Number(self.milliseconds as u64)),
            Plain::UpstreamHost => text(&done.endpoint?.to_string()),
            Plain::UpstreamAttempts => Some(Said::Number(done.endpoint.map_or(0, |_| u64::from(done.retries) + 1))),
            Plain::UpstreamFailure => text(done.detail.as_deref().filter(|_| flags(done) == "UF")?),
            Plain::UpstreamCluster => text(self.kept.cluster.as_deref()?),
            Plain::UpstreamPeer => text(done.identity.as_ref()?.as_str()),
            Plain::RouteName => text(Some(done.route.as_str()).filter(|name| !name.is_empty())?),
            Plain::TraceId => text(&format!("{:032x}", done.trace.as_ref()?.trace)),
            plain => done.remote.and_then(|remote| told(remote, plain)).or_else(|| ends(self.connection, plain)),
        }
    }
}

fn find<'a>(kept: &'a [(HeaderName, String)], name: &str) -> Option<&'a str> {
    kept.iter().find(|(known, _)| known.as_str() == name).map(|(_, value)| value.as_str())
}

impl Entry for Ended<'_> {
    fn say(&self, operator: &Operator) -> Option<Said<'_>> {
        match operator {
            Operator::StartTime => Some(Said::Text(in_milliseconds(self.begun).into())),
            Operator::Request(name, other) => {
                let said = self.asked(name).or_else(|| self.asked(other.as_deref()?));
                said.map(Said::Text)
            }
            Operator::Response(name, other) => {
                let answered = &self.kept.answered;
                let said = find(answered, name).or_else(|| find(answered, other.as_deref()?));
                said.map(|said| Said::Text(said.into()))
            }
            Operator::Plain(operator) => self.plain(*operator),
        }
    }
}

impl Subject for Ended<'_> {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        let number = |number: u64| Some(Value::Number(i64::try_from(number).unwrap_or(i64::MAX)));
        let text = |text: &str| Some(Value::Text(text.to_owned().into()));
        let done = self.done;
        match attribute {
            Attribute::Method => self.asked(":method").map(Value::Text),
            Attribute::Path => Some(Value::Text(self.path())),
            Attribute::UrlPath => text(&done.path),
            Attribute::Query => text(self.kept.query.as_deref().unwrap_or_default()),
            Attribute::Host => self.asked(":authority").map(Value::Text),
            Attribute::Scheme => self.asked(":scheme").map(Value::Text),
            Attribute::Protocol => text(self.protocol()),
            Attribute::RequestSize => number(done.received),
            Attribute::ResponseCode => number(self.status()?.into()),
            Attribute::GrpcStatus => number(done.grpc_status?.into()),
            Attribute::ResponseSize => number(done.sent),
            Attribute::UpstreamAddress => text(&done.endpoint?.to_string()),
            Attribute::RouteName => text(&done.route),
            Attribute::Peer(End::Destination, Known::Principal) => text(done.identity.as_ref()?.as_str()),
            attribute => peer(self.connection, done.workload.as_deref(), attribute),
        }
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        find(&self.kept.asked, name).map(Cow::Borrowed)
    }
}

/// Our own log.
fn usual(connection: &Connection, done: &Done, milliseconds: f64) {
    let client = &connection.client;
    let failed = !matches!(done.reason, Reason::Ok | Reason::RouteAnswered);
    line!(failed, "request complete", {
        src.addr = %client.address,
        src.workload = client.workload.as_deref().map(|workload| &*workload.name),
        src.identity = client.identity.as_str(),
        dst.hbone_addr = %connection.bound.address(),
        dst.service = connection.bound.service().map(|service| service.hostname()),
        dst.workload = done.workload.as_deref().map(|workload| &*workload.name),
        dst.addr = done.endpoint.map(tracing::field::display),
        dst.identity = done.identity.as_ref().map(Identity::as_str),
        method = done.method.as_str(),
        authority = done.authority,
        path = done.path,
        route = done.route,
        status = done.status,
        grpc_status = done.grpc_status,
        retries = done.retries,
        audited_by = done.noted.as_ref().and_then(|noted| noted.audits()),
        dry_run = done.noted.as_ref().and_then(|noted| noted.dry_run()),
        bytes_sent = done.sent,
        bytes_recv = done.received,
        duration = format!("{milliseconds:.1}ms"),
        reason = done.reason.label(),
        error = done.detail.as_deref(),
        hint = failed.then(|| done.reason.hint()),
    });
}
