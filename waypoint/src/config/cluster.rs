//! Clusters: how endpoints are used.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fairway_proto::envoy::cluster::circuit_breakers::thresholds::RetryBudget;
use fairway_proto::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, LbPolicy};
use fairway_proto::envoy::cluster::{Cluster as ClusterMessage, LoadBalancingPolicy, OutlierDetection};
use fairway_proto::envoy::core::{DataSource, HttpProtocolOptions as CommonOptions, TransportSocket, data_source};
use fairway_proto::envoy::least_request::LeastRequest;
use fairway_proto::envoy::maglev::Maglev;
use fairway_proto::envoy::matcher::StringMatcher;
use fairway_proto::envoy::matcher::string_matcher::MatchPattern;
use fairway_proto::envoy::ring_hash::{RingHash, ring_hash::HashFunction};
use fairway_proto::envoy::round_robin::RoundRobin;
use fairway_proto::envoy::slow_start::SlowStartConfig;
use fairway_proto::envoy::tls::common_tls_context::ValidationContextType;
use fairway_proto::envoy::tls::subject_alt_name_matcher::SanType;
use fairway_proto::envoy::tls::{SubjectAltNameMatcher, UpstreamTlsContext};
use fairway_proto::envoy::upstream_http::HttpProtocolOptions;
use fairway_proto::envoy::upstream_http::http_protocol_options::UpstreamProtocolOptions;
use fairway_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use fairway_proto::envoy::upstream_tcp::TcpProtocolOptions;
use prost::Message;

use super::assignment::{self, Names};
use super::wrong::{Within, Wrong, all};
use super::{Protocol, duration, fields};

/// Key of the options that say what endpoints speak.
const UPSTREAM_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Key of the options of connections that nobody looks into.
const TCP_OPTIONS: &str = "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions";
/// TLS to endpoints.
const UPSTREAM_TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
/// Where the resource names no time to connect in; Envoy's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where the resource does not bound connections, and requests and those that wait; Envoy's defaults.
const AT_ONCE: u32 = 1024;
/// Where the resource does not bound repetitions; Envoy's default.
const RETRIES: u32 = 3;
/// Where the resource has no budget of them; Envoy's defaults.
const BUDGET: Budget = Budget { percent: 20.0, at_least: 3 };
/// Where the resource does not say how long a connection waits for a request; less than most servers wait.
const IDLE: Duration = Duration::from_secs(30);
/// Before the name of a way to spread requests.
const POLICIES: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies.";
/// Places on a ring where the resource says nothing of it; Envoy's default.
const RING: u64 = 1024;
/// Places of a table where the resource says nothing of it; Envoy's default.
const TABLE: u64 = 65_537;
/// How new endpoints get their share, where the resource says that they do and not how; Envoy's defaults.
const AGGRESSION: f64 = 1.0;
/// See [`AGGRESSION`].
const LEAST_PERCENT: f64 = 10.0;
/// Failures one after the other, where the resource does not count them; Envoy's default.
const FAILURES: u32 = 5;
/// How often endpoints that were left out are forgiven, for how long one is left out, and how many of a hundred at most, where
/// the resource does not say; Envoy's defaults.
const LEFT_OUT: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(30), 10);
/// Who is compared with the others, where the resource does not say; Envoy's defaults.
const SUCCESS_RATE: SuccessRate = SuccessRate { endpoints: 5, requests: 100, deviations: 1900 };
/// With fewer of a hundred that are left all are used, where the resource does not say; Envoy's default.
const PANIC_PERCENT: f64 = 50.0;

/// How the endpoints of a cluster are spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Name of its endpoints.
    pub endpoints: String,
    /// What they speak.
    pub protocol: Protocol,
    /// For an endpoint to accept a connection.
    pub connect_timeout: Duration,
    /// How much there may be at once.
    pub bounds: Bounds,
    /// Who is next.
    pub balancer: Balancer,
    /// How new endpoints get their share; none where they have it at once.
    pub warm_up: Option<WarmUp>,
    /// Who is left out; nobody if it is none.
    pub outliers: Option<Outliers>,
    /// How connections for requests are used again.
    pub reuse: Reuse,
    /// Longest time without a byte on a connection that went on as something else; none is as the waypoint's limit says.
    pub upgraded_idle: Option<Duration>,
    /// How the kernel finds out that an endpoint is gone, where a connection is to the endpoint itself.
    pub keepalive: Option<Keepalive>,
    /// Its endpoints, where some of them have only a name; none where they are told of by themselves.
    pub names: Option<Arc<Names>>,
    /// Whether its only endpoint is whoever the client has dialled.
    pub is_dialled: bool,
    /// TLS that is spoken to endpoints, inside of whatever leads to them.
    pub tls: Option<Arc<Origination>>,
}

/// TLS that is begun on behalf of clients, with servers that prove themselves by the world's certificates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origination {
    /// The name that is asked for.
    pub server_name: String,
    /// Names of which the certificate has one.
    pub names: Vec<String>,
    /// Whom it leads to, a file of PEM.
    pub roots: PathBuf,
    /// What we prove ourselves with, if the server asks for it.
    pub own: Option<OwnCertificate>,
}

/// A certificate of our own, in files of PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnCertificate {
    /// It, and those that lead to a root.
    pub chain: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Cluster {
    /// What Envoy has where nothing is said, with endpoints of this name.
    #[must_use]
    pub fn named(endpoints: &str) -> Self {
        Self {
            endpoints: endpoints.to_owned(),
            protocol: Protocol::Http1,
            connect_timeout: CONNECT_TIMEOUT,
            bounds: Bounds {
                connections: AT_ONCE,
                waiting: AT_ONCE,
                requests: AT_ONCE,
                retries: RETRIES,
                budget: BUDGET,
            },
            balancer: Balancer::RoundRobin,
            warm_up: None,
            outliers: None,
            reuse: Reuse { idle: Some(IDLE), life: None, requests: None },
            upgraded_idle: None,
            keepalive: None,
            names: None,
            is_dialled: false,
            tls: None,
        }
    }

    /// Whether its endpoints are told of by themselves, and have to be asked for.
    #[must_use]
    pub fn is_discovered(&self) -> bool {
        self.names.is_none() && !self.is_dialled
    }
}

/// How much a cluster has at once at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for connections.
    pub waiting: u32,
    /// Requests.
    pub requests: u32,
    /// Repetitions of requests.
    pub retries: u32,
    /// And for so many requests under way.
    pub budget: Budget,
}

/// For how many requests under way there may be repetitions: with a fifth more load a service in trouble is not pushed over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// So many of a hundred.
    pub percent: f64,
    /// So many in any case, so that a quiet service has some.
    pub at_least: u32,
}

impl Budget {
    /// How many repetitions there may be beside so many requests.
    #[must_use]
    pub fn of(&self, requests: u32) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a number is within its type"
        )]
        let share = (f64::from(requests) * self.percent / 100.0) as u32;
        share.max(self.at_least)
    }
}

/// Which endpoint is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balancer {
    /// Each in turn.
    RoundRobin,
    /// Of two that are drawn the one with fewer requests under way.
    LeastRequest,
    /// One that is drawn.
    Random,
    /// The one that a ring with at least so many places has for the request.
    Ring(usize),
    /// The one that a table with so many places has for the request.
    Table(usize),
}

/// New endpoints get more and more of their share for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmUp {
    /// For so long.
    pub window: Duration,
    /// By the time that has gone, to the power of one by this.
    pub aggression: f64,
    /// So many of a hundred at least.
    pub least_percent: f64,
}

/// Who is left out for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Outliers {
    /// After so many answers of 500 and above, one after the other.
    pub errors: Option<u32>,
    /// After so many answers of 502, 503 and 504.
    pub gateway_errors: Option<u32>,
    /// After so many connections that failed.
    pub local_errors: Option<u32>,
    /// Whether those are counted by themselves, or as answers of 503.
    pub is_split: bool,
    /// Those that fail more often than the others.
    pub success_rate: Option<SuccessRate>,
    /// After so much time that went well one time less is remembered.
    pub interval: Duration,
    /// For so long, times how often it happened.
    pub time: Duration,
    /// So many of a hundred endpoints at most.
    pub most_percent: u32,
    /// With fewer of a hundred that are left, all are used.
    pub panic_percent: f64,
}

/// Who fails more often than the others in an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// Among so many that can be compared, at least.
    pub endpoints: u32,
    /// Who had so many requests can be.
    pub requests: u32,
    /// So many thousandths of a standard deviation below the mean.
    pub deviations: u32,
}

/// How connections are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Longest time without a request.
    pub idle: Option<Duration>,
    /// Longest time at all.
    pub life: Option<Duration>,
    /// Most requests.
    pub requests: Option<u32>,
}

/// Probes of TCP; what is none is the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How many go unanswered.
    pub probes: Option<u32>,
    /// After so much silence.
    pub time: Option<Duration>,
    /// So much apart.
    pub interval: Option<Duration>,
}

/// Reads a `Cluster`.
///
/// # Errors
/// The field that cannot be used.
pub fn cluster(bytes: &[u8]) -> Result<Cluster, Wrong> {
    fields::check("envoy.config.cluster.v3.Cluster", bytes)?;
    let message = ClusterMessage::decode(bytes).map_err(|error| Wrong::here(error.to_string()))?;
    let kind = match message.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind).ok(),
        None => None,
    };
    let names = match kind {
        Some(DiscoveryType::Eds) => None,
        Some(kind @ (DiscoveryType::StrictDns | DiscoveryType::LogicalDns)) => {
            Some(Arc::new(names(&message, kind == DiscoveryType::LogicalDns)?))
        }
        Some(DiscoveryType::OriginalDst) => None,
        _ => return Err(Wrong::new("type", "must be EDS, STRICT_DNS, LOGICAL_DNS or ORIGINAL_DST")),
    };
    let is_dialled = kind == Some(DiscoveryType::OriginalDst);
    chosen(&message, is_dialled)?;
    let endpoints = message.eds_cluster_config.map(|config| config.service_name).unwrap_or_default();
    let own = if endpoints.is_empty() || names.is_some() { &message.name } else { &endpoints };
    let mut cluster = Cluster { names, is_dialled, ..Cluster::named(own) };
    cluster.tls =
        message.transport_socket.as_ref().map(origination).transpose().within("transport_socket")?.map(Arc::new);
    for (key, options) in &message.typed_extension_protocol_options {
        let field = || format!("typed_extension_protocol_options[{key}]");
        if key == TCP_OPTIONS {
            let options: TcpProtocolOptions = decode(&options.value).within(field())?;
            let idle = options.idle_timeout.as_ref().map(duration).transpose();
            let idle = idle.within(format_args!("{}.idle_timeout", field()))?;
            cluster.upgraded_idle = idle.filter(|idle| !idle.is_zero());
            continue;
        }
        if key != UPSTREAM_OPTIONS {
            return Err(Wrong::new(field(), "is not supported"));
        }
        let options: HttpProtocolOptions = decode(&options.value).within(field())?;
        cluster.protocol = protocol(&options).within(field())?;
        let common = options.common_http_protocol_options.unwrap_or_default();
        cluster.reuse = reuse(&common).within(format_args!("{}.common_http_protocol_options", field()))?;
    }
    if let Some(policies) = &message.load_balancing_policy {
        (cluster.balancer, cluster.warm_up) = balancer(policies).within("load_balancing_policy")?;
    }
    let thresholds = message.circuit_breakers.unwrap_or_default().thresholds.into_iter().next().unwrap_or_default();
    let usual = cluster.bounds;
    cluster.bounds = Bounds {
        connections: thresholds.max_connections.unwrap_or(usual.connections),
        waiting: thresholds.max_pending_requests.unwrap_or(usual.waiting),
        requests: thresholds.max_requests.unwrap_or(usual.requests),
        // A budget comes in the place of a number, as with Envoy.
        retries: match thresholds.retry_budget {
            Some(_) => u32::MAX,
            None => thresholds.max_retries.unwrap_or(usual.retries),
        },
        budget: match &thresholds.retry_budget {
            Some(message) => budget(message).within("circuit_breakers.thresholds[0].retry_budget")?,
            None => usual.budget,
        },
    };
    if let Some(timeout) = &message.connect_timeout {
        cluster.connect_timeout = duration(timeout).within("connect_timeout")?;
    }
    let panic_percent = message.common_lb_config.and_then(|config| config.healthy_panic_threshold);
    let panic_percent = panic_percent.map_or(PANIC_PERCENT, |percent| percent.value);
    let outliers = message.outlier_detection.as_ref().map(|message| outliers(message, panic_percent));
    cluster.outliers = outliers.transpose().within("outlier_detection")?;
    let keepalive = message.upstream_connection_options.and_then(|options| options.tcp_keepalive);
    cluster.keepalive = keepalive.map(|keepalive| {
        let seconds = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
        Keepalive {
            probes: keepalive.keepalive_probes,
            time: seconds(keepalive.keepalive_time),
            interval: seconds(keepalive.keepalive_interval),
        }
    });
    Ok(cluster)
}

/// Whether endpoints are chosen as their kind of cluster can be: of one there is no choice, and nothing else to ask if it fails.
fn chosen(message: &ClusterMessage, is_dialled: bool) -> Result<(), Wrong> {
    match (is_dialled, LbPolicy::try_from(message.lb_policy)) {
        (false, Ok(LbPolicy::RoundRobin)) => return Ok(()),
        (false, _) => return Err(Wrong::new("lb_policy", "must be absent: load_balancing_policy says it")),
        (true, Ok(LbPolicy::ClusterProvided)) => {}
        (true, _) => return Err(Wrong::new("lb_policy", "must be CLUSTER_PROVIDED where type is ORIGINAL_DST")),
    }
    let fields = [
        ("eds_cluster_config", message.eds_cluster_config.is_some()),
        ("load_assignment", message.load_assignment.is_some()),
        ("load_balancing_policy", message.load_balancing_policy.is_some()),
        ("outlier_detection", message.outlier_detection.is_some()),
    ];
    match fields.into_iter().find(|(_, is_there)| *is_there) {
        Some((field, _)) => Err(Wrong::new(field, "must be absent where type is ORIGINAL_DST")),
        None => Ok(()),
    }
}

/// Endpoints that are told of here. Of two families the one that counts is the waypoint's own, and answers hold as long as they
/// say: what asks for something else is not understood.
fn names(message: &ClusterMessage, one_at_a_time: bool) -> Result<Names, Wrong> {
    if message.dns_lookup_family() != DnsLookupFamily::V4Preferred {
        return Err(Wrong::new("dns_lookup_family", "must be V4_PREFERRED"));
    }
    if !message.respect_dns_ttl {
        return Err(Wrong::new("respect_dns_ttl", "must be set"));
    }
    let all = message.load_assignment.as_ref().ok_or_else(|| Wrong::missing("load_assignment"))?;
    assignment::names(all, one_at_a_time).within("load_assignment")
}

/// TLS to endpoints.
fn origination(message: &TransportSocket) -> Result<Origination, Wrong> {
    let any = message.typed_config.as_ref().ok_or_else(|| Wrong::missing("typed_config"))?;
    if any.type_url != UPSTREAM_TLS {
        return Err(Wrong::new("typed_config", "must be an UpstreamTlsContext"));
    }
    let context: UpstreamTlsContext = decode(&any.value).within("typed_config")?;
    let missing = |field: &str| Wrong::missing(field).within("typed_config");
    let common = context.common_tls_context.ok_or_else(|| missing("common_tls_context"))?;
    // Without it any server would be believed.
    let Some(ValidationContextType::ValidationContext(validation)) = common.validation_context_type else {
        return Err(missing("common_tls_context.validation_context"));
    };
    let file = |source: Option<DataSource>, field: &str| match source.and_then(|source| source.specifier) {
        Some(data_source::Specifier::Filename(path)) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err(missing(&format!("common_tls_context.{field}.filename"))),
    };
    let roots = file(validation.trusted_ca, "validation_context.trusted_ca")?;
    let mut certificates = common.tls_certificates.into_iter();
    let own = match (certificates.next(), certificates.next()) {
        (None, _) => None,
        (Some(own), None) => Some(OwnCertificate {
            chain: file(own.certificate_chain, "tls_certificates[0].certificate_chain")?,
            key: file(own.private_key, "tls_certificates[0].private_key")?,
        }),
        (Some(_), Some(_)) => {
            return Err(Wrong::new("common_tls_context.tls_certificates", "must be one").within("typed_config"));
        }
    };
    let name = |matcher: &SubjectAltNameMatcher| match (matcher.san_type(), &matcher.matcher) {
        (SanType::Dns, Some(StringMatcher { match_pattern: Some(MatchPattern::Exact(name)), .. })) => Ok(name.clone()),
        _ => Err(Wrong::here("must be an exact name of the type DNS")),
    };
    let names = all("match_typed_subject_alt_names", &validation.match_typed_subject_alt_names, name)
        .within("typed_config.common_tls_context.validation_context")?;
    if context.sni.is_empty() || names.is_empty() {
        let field = if names.is_empty() { "match_typed_subject_alt_names" } else { "sni" };
        return Err(missing(field));
    }
    Ok(Origination { server_name: context.sni, names, roots, own })
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Wrong> {
    M::decode(bytes).map_err(|error| Wrong::here(error.to_string()))
}

fn protocol(options: &HttpProtocolOptions) -> Result<Protocol, Wrong> {
    match &options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => Ok(Protocol::AsClient),
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::HttpProtocolOptions(_)) => Ok(Protocol::Http1),
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => Ok(Protocol::Http2),
            None => Err(Wrong::here("says no protocol")),
        },
        None => Err(Wrong::here("says no protocol")),
    }
}

fn budget(message: &RetryBudget) -> Result<Budget, Wrong> {
    let percent = message.budget_percent.as_ref().map_or(BUDGET.percent, |percent| percent.value);
    if !(0.0..=100.0).contains(&percent) {
        return Err(Wrong::new("budget_percent", "must be from 0 to 100"));
    }
    Ok(Budget { percent, at_least: message.min_retry_concurrency.unwrap_or(BUDGET.at_least) })
}

fn reuse(message: &CommonOptions) -> Result<Reuse, Wrong> {
    // Zero is none of it.
    let time =
        |field: &str, message: &Option<prost_types::Duration>| message.as_ref().map(duration).transpose().within(field);
    let idle = time("idle_timeout", &message.idle_timeout)?.unwrap_or(IDLE);
    let life = time("max_connection_duration", &message.max_connection_duration)?;
    Ok(Reuse {
        idle: Some(idle).filter(|idle| !idle.is_zero()),
        life: life.filter(|life| !life.is_zero()),
        requests: message.max_requests_per_connection.filter(|requests| *requests > 0),
    })
}

/// The first of the policies that is known.
fn balancer(message: &LoadBalancingPolicy) -> Result<(Balancer, Option<WarmUp>), Wrong> {
    let configs =
        message.policies.iter().filter_map(|policy| policy.typed_extension_config.as_ref()?.typed_config.as_ref());
    let places = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    for config in configs {
        let mut warming = None;
        let balancer = match config.type_url.strip_prefix(POLICIES) {
            Some("round_robin.v3.RoundRobin") => {
                warming = decode::<RoundRobin>(&config.value)?.slow_start_config;
                Balancer::RoundRobin
            }
            Some("least_request.v3.LeastRequest") => {
                warming = decode::<LeastRequest>(&config.value)?.slow_start_config;
                Balancer::LeastRequest
            }
            Some("random.v3.Random") => Balancer::Random,
            Some("ring_hash.v3.RingHash") => {
                let ring: RingHash = decode(&config.value)?;
                if ring.hash_function() == HashFunction::MurmurHash2 {
                    return Err(Wrong::new("hash_function", "must be XX_HASH"));
                }
                let size = ring.minimum_ring_size.unwrap_or(RING).min(ring.maximum_ring_size.unwrap_or(u64::MAX));
                Balancer::Ring(places(size))
            }
            Some("maglev.v3.Maglev") => {
                let table: Maglev = decode(&config.value)?;
                Balancer::Table(places(table.table_size.unwrap_or(TABLE)))
            }
            _ => continue,
        };
        return Ok((balancer, warming.as_ref().map(warm_up).transpose().within("slow_start_config")?.flatten()));
    }
    Err(Wrong::here("names no policy that is known"))
}

/// None where it takes no time.
fn warm_up(message: &SlowStartConfig) -> Result<Option<WarmUp>, Wrong> {
    let window = message.slow_start_window.as_ref().map(duration).transpose().within("slow_start_window")?;
    let aggression = message.aggression.as_ref().map_or(AGGRESSION, |aggression| aggression.default_value);
    let least_percent = message.min_weight_percent.as_ref().map_or(LEAST_PERCENT, |percent| percent.value);
    if !(aggression > 0.0 && aggression.is_finite()) {
        return Err(Wrong::new("aggression.default_value", "must be above 0"));
    }
    if !(0.0..=100.0).contains(&least_percent) {
        return Err(Wrong::new("min_weight_percent", "must be from 0 to 100"));
    }
    let window = window.filter(|window| !window.is_zero());
    Ok(window.map(|window| WarmUp { window, aggression, least_percent }))
}

fn outliers(message: &OutlierDetection, panic_percent: f64) -> Result<Outliers, Wrong> {
    // Connections that fail are not compared with the others', which has to be said: Envoy does so otherwise.
    if message.enforcing_local_origin_success_rate != Some(0) {
        return Err(Wrong::new("enforcing_local_origin_success_rate", "must be 0"));
    }
    let success_rate = match message.enforcing_success_rate {
        Some(0) => None,
        None | Some(100) => Some(SuccessRate {
            endpoints: message.success_rate_minimum_hosts.unwrap_or(SUCCESS_RATE.endpoints),
            requests: message.success_rate_request_volume.unwrap_or(SUCCESS_RATE.requests),
            deviations: message.success_rate_stdev_factor.unwrap_or(SUCCESS_RATE.deviations),
        }),
        Some(_) => return Err(Wrong::new("enforcing_success_rate", "must be 0 or 100")),
    };
    let counted = |field: &str, count: Option<u32>, enforced: u32| match enforced {
        0 => Ok(None),
        100 => Ok(Some(count.unwrap_or(FAILURES).max(1))),
        _ => Err(Wrong::new(field, "must be 0 or 100")),
    };
    let is_split = message.split_external_local_origin_errors;
    let local = if is_split { message.enforcing_consecutive_local_origin_failure.unwrap_or(100) } else { 0 };
    let (interval, time, most_percent) = LEFT_OUT;
    let read = |field: &str, message: &Option<prost_types::Duration>, usual: Duration| {
        Ok(message.as_ref().map(duration).transpose().within(field)?.unwrap_or(usual))
    };
    Ok(Outliers {
        errors: counted(
            "enforcing_consecutive_5xx",
            message.consecutive_5xx,
            message.enforcing_consecutive_5xx.unwrap_or(100),
        )?,
        gateway_errors: counted(
            "enforcing_consecutive_gateway_failure",
            message.consecutive_gateway_failure,
            message.enforcing_consecutive_gateway_failure.unwrap_or(0),
        )?,
        local_errors: counted(
            "enforcing_consecutive_local_origin_failure",
            message.consecutive_local_origin_failure,
            local,
        )?,
        is_split,
        success_rate,
        interval: read("interval", &message.interval, interval)?,
        time: read("base_ejection_time", &message.base_ejection_time, time)?,
        most_percent: message.max_ejection_percent.unwrap_or(most_percent),
        panic_percent,
    })
}
