//! What requests are sent to, and how.

use std::time::Duration;

use fairway_proto::envoy::cluster::circuit_breakers::Thresholds;
use fairway_proto::envoy::cluster::circuit_breakers::thresholds::RetryBudget;
use fairway_proto::envoy::cluster::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbPolicy,
};
use fairway_proto::envoy::cluster::load_balancing_policy::Policy as Named;
use fairway_proto::envoy::cluster::{
    CircuitBreakers, Cluster, LoadBalancingPolicy, OutlierDetection, UpstreamConnectionOptions,
};
use fairway_proto::envoy::core::{
    DataSource, Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions, RuntimeDouble,
    TcpKeepalive, TransportSocket, TypedExtensionConfig, data_source,
};
use fairway_proto::envoy::endpoint::ClusterLoadAssignment;
use fairway_proto::envoy::fraction::Percent;
use fairway_proto::envoy::least_request::LeastRequest;
use fairway_proto::envoy::maglev::Maglev;
use fairway_proto::envoy::matcher::StringMatcher;
use fairway_proto::envoy::matcher::string_matcher::MatchPattern;
use fairway_proto::envoy::random::Random;
use fairway_proto::envoy::ring_hash::{RingHash, ring_hash::HashFunction};
use fairway_proto::envoy::round_robin::RoundRobin;
use fairway_proto::envoy::slow_start::SlowStartConfig;
use fairway_proto::envoy::tls::common_tls_context::ValidationContextType;
use fairway_proto::envoy::tls::subject_alt_name_matcher::SanType;
use fairway_proto::envoy::tls::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsCertificate, UpstreamTlsContext,
};
use fairway_proto::envoy::upstream_http::HttpProtocolOptions;
use fairway_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use fairway_proto::envoy::upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
};
use fairway_proto::envoy::upstream_tcp::TcpProtocolOptions;
use fairway_proto::workload::AppProtocol;
use prost::Message;

use super::super::destinations::{
    Balancer, Balancing, Keepalive, Origination, Outliers, OwnCertificate, Policy, Pool, Tls, WarmUp,
};
use super::{ads, any, duration};

/// For an endpoint to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until somebody asks for a limit there is none; Envoy's own defaults would cut off at 1024 requests.
const UNLIMITED: u32 = u32::MAX;
/// Places on a ring where nobody says how many.
const RING: u64 = 1024;
/// Most places on a ring: what Envoy has by itself.
const MAXIMUM_RING: u64 = 8 * 1024 * 1024;
/// Failures one after the other that leave an endpoint out, where nobody says how many.
const ERRORS: u32 = 5;

/// Before the name and version of a policy's type.
const POLICIES: &str = "type.googleapis.com/envoy.extensions.load_balancing_policies";
const HTTP_PROTOCOL_OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Key of [`HTTP_PROTOCOL_OPTIONS`] in a cluster.
const UPSTREAM_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

const UPSTREAM_TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
/// Where most distributions, and the images of proxies, have the certificate authorities that they believe.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

const TCP_PROTOCOL_OPTIONS: &str = "type.googleapis.com/envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions";
/// Key of [`TCP_PROTOCOL_OPTIONS`] in a cluster.
const TCP_OPTIONS: &str = "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions";

/// Who is in a cluster.
pub enum Endpoints {
    /// Those of the same name, which are asked for by themselves.
    Discovered,
    /// These, whose names the proxy resolves; of each all addresses, or one at a time.
    Named {
        /// Who they are.
        all: ClusterLoadAssignment,
        /// Whether of a name one address at a time is used.
        one_at_a_time: bool,
    },
}

/// Who is in a cluster, and how they are spoken to.
#[must_use]
pub fn cluster(name: &str, protocol: AppProtocol, policy: &Policy, endpoints: Endpoints) -> Cluster {
    let discovered = EdsClusterConfig { eds_config: Some(ads()), service_name: name.to_owned() };
    let (kind, discovered, assignment) = match endpoints {
        Endpoints::Discovered => (DiscoveryType::Eds, Some(discovered), None),
        Endpoints::Named { all, one_at_a_time: false } => (DiscoveryType::StrictDns, None, Some(all)),
        Endpoints::Named { all, one_at_a_time: true } => (DiscoveryType::LogicalDns, None, Some(all)),
    };
    let is_resolved = assignment.is_some();
    let tls = match &policy.tls {
        Some(Tls::Begin(tls)) => Some(tls),
        Some(Tls::Off) | None => None,
    };
    // TLS agrees on one protocol before there is a request, so that it cannot be the one of each client.
    let protocol = match protocol {
        AppProtocol::Http2 | AppProtocol::Grpc | AppProtocol::Tcp | AppProtocol::Tls => protocol,
        _ if tls.is_some() => AppProtocol::Http11,
        _ => protocol,
    };
    let none = Pool::default();
    let pool = policy.pool.as_ref().unwrap_or(&none);
    let thresholds = Thresholds {
        max_connections: Some(pool.connections.unwrap_or(UNLIMITED)),
        max_pending_requests: Some(pool.waiting.unwrap_or(UNLIMITED)),
        max_requests: Some(pool.requests.unwrap_or(UNLIMITED)),
        max_retries: Some(pool.retries.unwrap_or(UNLIMITED)),
        retry_budget: policy.retries.map(|budget| RetryBudget {
            budget_percent: Some(Percent { value: budget.percent }),
            min_retry_concurrency: Some(budget.least),
        }),
    };
    let idle = pool.idle.map(|idle| {
        let options = TcpProtocolOptions { idle_timeout: Some(duration(idle)) };
        (TCP_OPTIONS.to_owned(), any(TCP_PROTOCOL_OPTIONS, &options))
    });
    let options = any(HTTP_PROTOCOL_OPTIONS, &protocol_options(protocol, pool));
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        eds_cluster_config: discovered,
        load_assignment: assignment,
        // Where there are both, what a proxy has an address of itself is more often IPv4.
        dns_lookup_family: if is_resolved { DnsLookupFamily::V4Preferred } else { DnsLookupFamily::Auto }.into(),
        respect_dns_ttl: is_resolved,
        transport_socket: tls.map(|tls| tls_with(tls, name, protocol)),
        connect_timeout: Some(duration(pool.connect_timeout.unwrap_or(CONNECT_TIMEOUT))),
        circuit_breakers: Some(CircuitBreakers { thresholds: vec![thresholds] }),
        outlier_detection: policy.outliers.as_ref().map(outlier_detection),
        common_lb_config: policy.outliers.as_ref().map(|outliers| CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: f64::from(outliers.least_left) }),
        }),
        upstream_connection_options: pool.keepalive.map(keepalive),
        typed_extension_protocol_options: [(UPSTREAM_OPTIONS.to_owned(), options)].into_iter().chain(idle).collect(),
        load_balancing_policy: Some(LoadBalancingPolicy { policies: balancing(policy.balancing.as_ref()) }),
        lb_policy: LbPolicy::RoundRobin.into(),
    }
}

/// Whoever the client has dialled, spoken to as the client speaks.
#[must_use]
pub fn whoever_is_dialled(name: &str) -> Cluster {
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        eds_cluster_config: None,
        // Envoy takes nothing else for this type, and not in the newer way.
        lb_policy: LbPolicy::ClusterProvided.into(),
        load_balancing_policy: None,
        ..cluster(name, AppProtocol::Unknown, &Policy::default(), Endpoints::Discovered)
    }
}

/// TLS that the proxy begins, with whom it believes by `tls`. Without a name that is to be asked for it is the service's.
fn tls_with(tls: &Origination, cluster: &str, protocol: AppProtocol) -> TransportSocket {
    let own = cluster.rsplit_once(':').map_or(cluster, |(hostname, _port)| hostname);
    let server_name = tls.server_name.clone().unwrap_or_else(|| own.trim_start_matches("*.").to_owned());
    let names = if tls.names.is_empty() { std::slice::from_ref(&server_name) } else { &tls.names };
    let exactly = |name: &String| SubjectAltNameMatcher {
        san_type: SanType::Dns.into(),
        matcher: Some(StringMatcher { match_pattern: Some(MatchPattern::Exact(name.clone())), ignore_case: false }),
    };
    let file = |path: &str| Some(DataSource { specifier: Some(data_source::Specifier::Filename(path.to_owned())) });
    let own =
        |own: &OwnCertificate| TlsCertificate { certificate_chain: file(&own.chain), private_key: file(&own.key) };
    let validation = CertificateValidationContext {
        trusted_ca: file(tls.roots.as_ref().map_or(SYSTEM_ROOTS, |roots| roots.file.as_str())),
        match_typed_subject_alt_names: names.iter().map(exactly).collect(),
    };
    let spoken = match protocol {
        AppProtocol::Http2 | AppProtocol::Grpc => Some("h2"),
        // Of what nobody looks into nobody can say what it is.
        AppProtocol::Tcp | AppProtocol::Tls => None,
        _ => Some("http/1.1"),
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            tls_certificates: tls.own.iter().map(own).collect(),
            alpn_protocols: spoken.map(str::to_owned).into_iter().collect(),
        }),
        sni: server_name,
    };
    let name = "envoy.transport_sockets.tls".to_owned();
    TransportSocket { name, typed_config: Some(any(UPSTREAM_TLS, &context)) }
}

fn protocol_options(protocol: AppProtocol, pool: &Pool) -> HttpProtocolOptions {
    let explicit =
        |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    let options = match protocol {
        AppProtocol::Http11 => explicit(ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions {})),
        AppProtocol::Http2 | AppProtocol::Grpc => {
            explicit(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {}))
        }
        // Nobody has said: what the client speaks.
        _ => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions {}),
            http2_protocol_options: Some(Http2ProtocolOptions {}),
        }),
    };
    let common = CommonOptions {
        idle_timeout: pool.idle_http.map(duration),
        max_connection_duration: pool.life.map(duration),
        max_requests_per_connection: pool.requests_per_connection,
    };
    HttpProtocolOptions {
        common_http_protocol_options: (common != CommonOptions::default()).then_some(common),
        upstream_protocol_options: Some(options),
    }
}

fn keepalive(keepalive: Keepalive) -> UpstreamConnectionOptions {
    // Whole seconds, and at least one: 0 would switch it off.
    let seconds = |time: Option<Duration>| time.map(|time| u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX));
    UpstreamConnectionOptions {
        tcp_keepalive: Some(TcpKeepalive {
            keepalive_probes: keepalive.probes,
            keepalive_time: seconds(keepalive.time),
            keepalive_interval: seconds(keepalive.interval),
        }),
    }
}

/// What is asked for, then what the next best client knows; in turn is known to all.
fn balancing(balancing: Option<&Balancing>) -> Vec<Named> {
    let slow_start_config = balancing.and_then(|balancing| balancing.warm_up.as_ref()).map(slow_start);
    let ring = |size: u64| {
        let ring = RingHash {
            hash_function: HashFunction::XxHash.into(),
            minimum_ring_size: Some(size.min(MAXIMUM_RING)),
            maximum_ring_size: Some(MAXIMUM_RING),
        };
        named("ring_hash", "RingHash", &ring)
    };
    let mut policies = match balancing.and_then(|balancing| balancing.balancer.as_ref()) {
        None | Some(Balancer::RoundRobin) => Vec::new(),
        Some(Balancer::LeastRequest) => {
            vec![named("least_request", "LeastRequest", &LeastRequest { slow_start_config: slow_start_config.clone() })]
        }
        Some(Balancer::Random) => vec![named("random", "Random", &Random {})],
        Some(Balancer::Ring(_, size)) => vec![ring(size.unwrap_or(RING))],
        Some(Balancer::Table(_, size)) => {
            vec![named("maglev", "Maglev", &Maglev { table_size: *size }), ring(RING)]
        }
    };
    policies.push(named("round_robin", "RoundRobin", &RoundRobin { slow_start_config }));
    policies
}

fn slow_start(warm_up: &WarmUp) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(duration(warm_up.window)),
        aggression: Some(RuntimeDouble {
            default_value: warm_up.aggression,
            runtime_key: "fairway.slow_start.aggression".to_owned(),
        }),
        min_weight_percent: Some(Percent { value: warm_up.least_percent }),
    }
}

fn named<M: Message>(name: &str, type_name: &str, config: &M) -> Named {
    let typed_config = Some(any(&format!("{POLICIES}.{name}.v3.{type_name}"), config));
    let name = format!("envoy.load_balancing_policies.{name}");
    Named { typed_extension_config: Some(TypedExtensionConfig { name, typed_config }) }
}

fn outlier_detection(outliers: &Outliers) -> OutlierDetection {
    let enforced = |count: u32| Some(if count == 0 { 0 } else { 100 });
    // A count of 0 is none that can be said.
    let counted = |count: u32| Some(count).filter(|count| *count > 0);
    let errors = outliers.errors.unwrap_or(ERRORS);
    let gateway = outliers.gateway_errors.unwrap_or(0);
    let local = outliers.local_errors.unwrap_or(ERRORS);
    OutlierDetection {
        consecutive_5xx: counted(errors),
        enforcing_consecutive_5xx: enforced(errors),
        consecutive_gateway_failure: counted(gateway),
        enforcing_consecutive_gateway_failure: enforced(gateway),
        split_external_local_origin_errors: outliers.is_split,
        consecutive_local_origin_failure: outliers.is_split.then(|| counted(local)).flatten(),
        enforcing_consecutive_local_origin_failure: outliers.is_split.then(|| enforced(local)).flatten(),
        // Without a word, Envoy and gRPC compare, and so does nobody here unless it is asked for.
        enforcing_success_rate: Some(if outliers.deviations.is_some() { 100 } else { 0 }),
        success_rate_stdev_factor: outliers.deviations,
        enforcing_local_origin_success_rate: Some(0),
        interval: outliers.interval.map(duration),
        base_ejection_time: outliers.time.map(duration),
        max_ejection_percent: outliers.most,
        ..OutlierDetection::default()
    }
}
