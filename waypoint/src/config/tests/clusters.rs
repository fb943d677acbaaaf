//! Tests of what is read of clusters and their endpoints.

use fairway_proto::envoy::cluster as cluster_proto;
use prost::Message;

use super::super::*;
use super::seconds;

/// The cluster with discovered endpoints, as changed.
fn read_cluster(change: impl FnOnce(&mut cluster_proto::Cluster)) -> Result<Cluster, String> {
    use cluster_proto::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    let mut message = cluster_proto::Cluster { name: "c".into(), cluster_discovery_type: kind, ..Default::default() };
    change(&mut message);
    cluster(&message.encode_to_vec()).map_err(|wrong| wrong.to_string())
}

#[test]
fn clusters_have_envoys_values_where_nothing_is_said() {
    assert_eq!(read_cluster(|_| {}).unwrap(), Cluster::named("c"));
}

#[test]
fn silence_on_upgraded_connections_is_bounded_as_the_cluster_says() {
    use fairway_proto::envoy::upstream_tcp::TcpProtocolOptions;
    let read = |idle_timeout| {
        let kind = "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions";
        let value = TcpProtocolOptions { idle_timeout }.encode_to_vec();
        let options = prost_types::Any { type_url: format!("type.googleapis.com/{kind}"), value };
        read_cluster(|cluster| cluster.typed_extension_protocol_options = [(kind.to_owned(), options)].into())
            .map(|cluster| cluster.upgraded_idle)
    };
    assert_eq!(read(seconds(60)), Ok(Some(Duration::from_secs(60))));
    assert_eq!((read(None), read(seconds(0))), (Ok(None), Ok(None)), "zero is none");
    assert!(read(seconds(-1)).unwrap_err().ends_with("TcpProtocolOptions].idle_timeout: is negative"));
}

#[test]
fn a_budget_of_repetitions_comes_in_place_of_a_number() {
    use cluster_proto::circuit_breakers::{Thresholds, thresholds::RetryBudget};
    let read = |retry_budget| {
        let thresholds = vec![Thresholds { max_retries: Some(7), retry_budget, ..Default::default() }];
        read_cluster(|cluster| cluster.circuit_breakers = Some(cluster_proto::CircuitBreakers { thresholds }))
            .map(|cluster| (cluster.bounds.retries, cluster.bounds.budget))
    };
    let percent = |value| Some(fairway_proto::envoy::fraction::Percent { value });
    let budget = |budget_percent, min_retry_concurrency| Some(RetryBudget { budget_percent, min_retry_concurrency });
    assert_eq!(read(None), Ok((7, Budget { percent: 20.0, at_least: 3 })));
    assert_eq!(read(budget(None, None)), Ok((u32::MAX, Budget { percent: 20.0, at_least: 3 })));
    assert_eq!(read(budget(percent(5.5), Some(0))), Ok((u32::MAX, Budget { percent: 5.5, at_least: 0 })));
    let at = "circuit_breakers.thresholds[0].retry_budget.budget_percent: must be from 0 to 100";
    assert_eq!(read(budget(percent(101.0), None)), Err(at.to_owned()));
}

#[test]
fn endpoints_are_left_out_as_the_cluster_says() {
    let read = |change: fn(&mut cluster_proto::OutlierDetection)| {
        let mut message = cluster_proto::OutlierDetection {
            enforcing_success_rate: Some(0),
            enforcing_local_origin_success_rate: Some(0),
            ..Default::default()
        };
        change(&mut message);
        read_cluster(|cluster| cluster.outlier_detection = Some(message)).map(|cluster| cluster.outliers.unwrap())
    };
    let usual = read(|_| {}).unwrap();
    assert_eq!((usual.errors, usual.gateway_errors, usual.local_errors), (Some(5), None, None));
    assert_eq!((usual.most_percent, usual.panic_percent), (10, 50.0));
    assert_eq!(usual.success_rate, None);
    let compared = read(|message| {
        message.enforcing_success_rate = None;
        message.success_rate_request_volume = Some(10);
    });
    let expected = SuccessRate { endpoints: 5, requests: 10, deviations: 1900 };
    assert_eq!(compared.unwrap().success_rate, Some(expected), "Envoy's own where nothing is said");
    let split = read(|message| {
        message.split_external_local_origin_errors = true;
        message.consecutive_local_origin_failure = Some(2);
        message.enforcing_consecutive_5xx = Some(0);
        message.base_ejection_time = seconds(7);
    });
    let split = split.unwrap();
    assert_eq!((split.errors, split.local_errors, split.time), (None, Some(2), Duration::from_secs(7)));
    for (change, field) in [
        (
            (|message| message.enforcing_success_rate = Some(50)) as fn(&mut cluster_proto::OutlierDetection),
            "enforcing_success_rate",
        ),
        (|message| message.enforcing_consecutive_5xx = Some(50), "enforcing_consecutive_5xx"),
        (|message| message.enforcing_local_origin_success_rate = None, "enforcing_local_origin_success_rate"),
    ] {
        let wrong = read(change).unwrap_err();
        assert!(wrong.starts_with(&format!("outlier_detection.{field}: must be 0")), "{wrong}");
    }
}

#[test]
fn the_first_known_way_to_spread_requests_counts() {
    let with = |kinds: &[&str]| {
        let named = |kind: &&str| {
            let type_url = format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{kind}");
            let typed_config = Some(prost_types::Any { type_url, value: Vec::new() });
            let config = fairway_proto::envoy::core::TypedExtensionConfig { name: "n".into(), typed_config };
            cluster_proto::load_balancing_policy::Policy { typed_extension_config: Some(config) }
        };
        let policies = kinds.iter().map(named).collect();
        read_cluster(|cluster| cluster.load_balancing_policy = Some(cluster_proto::LoadBalancingPolicy { policies }))
            .map(|cluster| (cluster.balancer, cluster.warm_up))
    };
    for (kinds, expected) in [
        (&["round_robin.v3.RoundRobin"][..], Balancer::RoundRobin),
        (&["least_request.v3.LeastRequest", "round_robin.v3.RoundRobin"], Balancer::LeastRequest),
        (&["random.v3.Random"], Balancer::Random),
        (&["ring_hash.v3.RingHash"], Balancer::Ring(1024)),
        (&["maglev.v3.Maglev", "ring_hash.v3.RingHash"], Balancer::Table(65_537)),
    ] {
        assert_eq!(with(kinds), Ok((expected, None)), "{kinds:?}");
    }
    assert_eq!(with(&[]).unwrap_err(), "load_balancing_policy: names no policy that is known");
}

#[test]
fn new_endpoints_are_warmed_up_as_the_cluster_says() {
    use fairway_proto::envoy::core::{RuntimeDouble, TypedExtensionConfig};
    use fairway_proto::envoy::fraction::Percent;
    use fairway_proto::envoy::slow_start::SlowStartConfig;
    use fairway_proto::envoy::{least_request::LeastRequest, round_robin::RoundRobin};
    let with = |kind: &str, value: Vec<u8>| {
        let type_url = format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{kind}");
        let typed_config = Some(prost_types::Any { type_url, value });
        let config = Some(TypedExtensionConfig { name: "n".into(), typed_config });
        let policies = vec![cluster_proto::load_balancing_policy::Policy { typed_extension_config: config }];
        read_cluster(|cluster| cluster.load_balancing_policy = Some(cluster_proto::LoadBalancingPolicy { policies }))
            .map(|cluster| cluster.warm_up)
    };
    let read = |config: SlowStartConfig| {
        let least = LeastRequest { slow_start_config: Some(config.clone()) };
        let round = RoundRobin { slow_start_config: Some(config) };
        let found = with("round_robin.v3.RoundRobin", round.encode_to_vec());
        assert_eq!(found, with("least_request.v3.LeastRequest", least.encode_to_vec()));
        found
    };
    let config = |window, aggression: Option<f64>, percent: Option<f64>| SlowStartConfig {
        slow_start_window: window,
        aggression: aggression.map(|default_value| RuntimeDouble { default_value, runtime_key: "k".into() }),
        min_weight_percent: percent.map(|value| Percent { value }),
    };
    let window = Duration::from_secs(60);
    assert_eq!(
        read(config(seconds(60), None, None)),
        Ok(Some(WarmUp { window, aggression: 1.0, least_percent: 10.0 }))
    );
    assert_eq!(
        read(config(seconds(60), Some(2.0), Some(0.0))),
        Ok(Some(WarmUp { window, aggression: 2.0, least_percent: 0.0 }))
    );
    assert_eq!(read(config(None, None, None)), Ok(None));
    for (wrong, field) in [
        (config(seconds(60), Some(0.0), None), "aggression.default_value"),
        (config(seconds(60), Some(f64::NAN), None), "aggression.default_value"),
        (config(seconds(60), None, Some(100.5)), "min_weight_percent"),
    ] {
        let wrong = read(wrong).unwrap_err();
        assert!(wrong.starts_with(&format!("load_balancing_policy.slow_start_config.{field}: ")), "{wrong}");
    }
}

#[test]
fn localities_and_endpoints_are_weighed() {
    use fairway_proto::envoy::core::{Address, SocketAddress, address::Address as Kind, socket_address::PortSpecifier};
    use fairway_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
    use fairway_proto::envoy::endpoint::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
    let endpoint = |(port, weight): &(u32, Option<u32>)| {
        let port_specifier = Some(PortSpecifier::PortValue(*port));
        let socket = SocketAddress { address: "10.0.0.1".into(), port_specifier };
        let address = Some(Address { address: Some(Kind::SocketAddress(socket)) });
        LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address, ..Default::default() })),
            load_balancing_weight: *weight,
            ..Default::default()
        }
    };
    let locality = |priority, weight, endpoints: &[(u32, Option<u32>)]| LocalityLbEndpoints {
        lb_endpoints: endpoints.iter().map(endpoint).collect(),
        load_balancing_weight: weight,
        priority,
        ..Default::default()
    };
    let read = |endpoints: Vec<LocalityLbEndpoints>| {
        let message = ClusterLoadAssignment { cluster_name: "c".into(), endpoints };
        let read = assignment(&message.encode_to_vec()).map_err(|wrong| wrong.to_string())?;
        let ports = read.priorities.iter().map(|all| all.iter().map(SocketAddr::port).collect::<Vec<_>>()).collect();
        let whole = |weights: &Vec<u64>| weights.iter().map(|weight| weight * 4 / UNIT).collect::<Vec<_>>();
        Ok::<(Vec<_>, Vec<_>), String>((ports, read.weights.iter().map(whole).collect()))
    };
    let none = |port| (port, None);
    let rows = [
        (
            vec![locality(0, Some(2), &[none(1), none(2)]), locality(0, Some(1), &[none(3)])],
            vec![vec![1, 2, 3]],
            vec![vec![]],
        ),
        (
            vec![locality(0, None, &[none(1), none(2)]), locality(0, None, &[none(3)])],
            vec![vec![1, 2, 3]],
            vec![vec![]],
        ),
        (
            vec![locality(0, Some(80), &[none(1), none(2)]), locality(0, Some(20), &[none(3)])],
            vec![vec![1, 2, 3]],
            vec![vec![160, 160, 80]],
        ),
        (vec![locality(0, None, &[(1, Some(3)), none(2)])], vec![vec![1, 2]], vec![vec![12, 4]]),
        (vec![locality(0, Some(1), &[(1, Some(3)), none(2)])], vec![vec![1, 2]], vec![vec![3, 1]]),
        (vec![locality(0, Some(0), &[none(1)]), locality(0, Some(1), &[none(2)])], vec![vec![2]], vec![vec![]]),
        (
            vec![locality(1, Some(1), &[none(1)]), locality(0, Some(9), &[none(2)])],
            vec![vec![2], vec![1]],
            vec![vec![], vec![]],
        ),
    ];
    for (localities, ports, weights) in rows {
        assert_eq!(read(localities.clone()), Ok((ports, weights)), "{localities:?}");
    }
    let wrong = read(vec![locality(0, None, &[(1, Some(0))])]).unwrap_err();
    assert_eq!(wrong, "endpoints[0].lb_endpoints[0].load_balancing_weight: must be 1 at least");
}

/// A cluster whose endpoint is `api.example:443`, as changed.
fn read_named(change: impl FnOnce(&mut cluster_proto::Cluster)) -> Result<Cluster, String> {
    use cluster_proto::cluster::{ClusterDiscoveryType, DiscoveryType, DnsLookupFamily};
    use fairway_proto::envoy::core::socket_address::PortSpecifier;
    use fairway_proto::envoy::core::{Address, SocketAddress, address};
    use fairway_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
    use fairway_proto::envoy::endpoint::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
    let socket = SocketAddress { address: "API.example".into(), port_specifier: Some(PortSpecifier::PortValue(443)) };
    let endpoint = Endpoint {
        address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        ..Default::default()
    };
    let lb_endpoints =
        vec![LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }];
    let endpoints = vec![LocalityLbEndpoints { lb_endpoints, ..Default::default() }];
    read_cluster(|cluster| {
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into()));
        cluster.load_assignment = Some(ClusterLoadAssignment { cluster_name: "c".into(), endpoints });
        cluster.dns_lookup_family = DnsLookupFamily::V4Preferred.into();
        cluster.respect_dns_ttl = true;
        change(cluster);
    })
}

#[test]
fn names_of_endpoints_are_read() {
    use cluster_proto::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = |kind: DiscoveryType| Some(ClusterDiscoveryType::Type(kind.into()));
    let one = |one_at_a_time| Some(Arc::new(Names::one("api.example", 443, one_at_a_time)));
    let read = read_named(|_| {}).unwrap();
    assert_eq!((read.names.clone(), &*read.endpoints), (one(false), "c"));
    let logical =
        |cluster: &mut cluster_proto::Cluster| cluster.cluster_discovery_type = kind(DiscoveryType::LogicalDns);
    assert_eq!(read_named(logical).unwrap().names, one(true));
    type Row = (fn(&mut cluster_proto::Cluster), &'static str);
    let rows: [Row; 4] = [
        (|cluster| cluster.respect_dns_ttl = false, "respect_dns_ttl: must be set"),
        (|cluster| cluster.dns_lookup_family = 0, "dns_lookup_family: must be V4_PREFERRED"),
        (|cluster| cluster.load_assignment = None, "load_assignment: is missing"),
        (
            |cluster| {
                let all = cluster.load_assignment.as_mut().unwrap();
                all.endpoints.push(all.endpoints[0].clone());
                cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::LogicalDns.into()));
            },
            "load_assignment.endpoints: must be one, as the type is LOGICAL_DNS",
        ),
    ];
    for (change, expected) in rows {
        assert_eq!(read_named(change).unwrap_err(), expected);
    }
}

#[test]
fn tls_to_endpoints_is_read_and_always_has_somebody_to_prove() {
    use fairway_proto::envoy::core::{DataSource, TransportSocket, data_source::Specifier};
    use fairway_proto::envoy::matcher::{StringMatcher, string_matcher::MatchPattern};
    use fairway_proto::envoy::tls::common_tls_context::ValidationContextType;
    use fairway_proto::envoy::tls::{
        CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsCertificate, UpstreamTlsContext,
    };
    let file = |path: &str| Some(DataSource { specifier: Some(Specifier::Filename(path.into())) });
    let own = TlsCertificate { certificate_chain: file("/tls.crt"), private_key: file("/tls.key") };
    let read_with = |own: &[TlsCertificate], change: fn(&mut UpstreamTlsContext, &mut CertificateValidationContext)| {
        let exact = Some(MatchPattern::Exact("api.example".into()));
        let name = SubjectAltNameMatcher {
            san_type: 2,
            matcher: Some(StringMatcher { match_pattern: exact, ignore_case: false }),
        };
        let mut validation =
            CertificateValidationContext { trusted_ca: file("/roots.pem"), match_typed_subject_alt_names: vec![name] };
        let mut context = UpstreamTlsContext { sni: "edge.example".into(), ..Default::default() };
        change(&mut context, &mut validation);
        let validation = (validation != CertificateValidationContext::default())
            .then_some(ValidationContextType::ValidationContext(validation));
        let alpn_protocols = vec!["http/1.1".to_owned()];
        let tls_certificates = own.to_vec();
        let common = CommonTlsContext { validation_context_type: validation, alpn_protocols, tls_certificates };
        context.common_tls_context = Some(common);
        let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        let typed_config = prost_types::Any { type_url: kind.into(), value: context.encode_to_vec() };
        let socket = TransportSocket { name: "tls".into(), typed_config: Some(typed_config) };
        read_cluster(|cluster| cluster.transport_socket = Some(socket)).map(|cluster| cluster.tls)
    };
    let read = |change| read_with(&[], change);
    let expected = Origination {
        server_name: "edge.example".into(),
        names: vec!["api.example".into()],
        roots: "/roots.pem".into(),
        own: None,
    };
    assert_eq!(read(|_, _| {}).unwrap(), Some(Arc::new(expected.clone())));
    let files = Some(OwnCertificate { chain: "/tls.crt".into(), key: "/tls.key".into() });
    let proven = read_with(std::slice::from_ref(&own), |_, _| {}).unwrap();
    assert_eq!(proven, Some(Arc::new(Origination { own: files, ..expected })));
    let wrong = [
        read_with(&[own.clone(), own.clone()], |_, _| {}),
        read_with(&[TlsCertificate { private_key: None, ..own.clone() }], |_, _| {}),
        read_with(&[TlsCertificate { certificate_chain: file(""), ..own }], |_, _| {}),
        read(|context, _| context.sni.clear()),
        read(|_, validation| validation.trusted_ca = None),
        read(|_, validation| validation.match_typed_subject_alt_names.clear()),
        read(|_, validation| validation.match_typed_subject_alt_names[0].san_type = 3),
        read(|_, validation| *validation = CertificateValidationContext::default()),
    ];
    for wrong in wrong {
        assert!(wrong.unwrap_err().starts_with("transport_socket.typed_config."));
    }
}

#[test]
fn whoever_was_dialled_is_a_cluster_without_a_choice() {
    use cluster_proto::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
    let read = |change: fn(&mut cluster_proto::Cluster)| {
        read_cluster(|cluster| {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
            cluster.lb_policy = LbPolicy::ClusterProvided.into();
            change(cluster);
        })
    };
    assert_eq!(read(|_| {}), Ok(Cluster { is_dialled: true, ..Cluster::named("c") }));
    assert!(!read(|_| {}).unwrap().is_discovered() && read_cluster(|_| {}).unwrap().is_discovered());
    let absent = "must be absent where type is ORIGINAL_DST";
    let rows: [(Result<Cluster, String>, String); 5] = [
        (
            read(|cluster| cluster.lb_policy = 0),
            "lb_policy: must be CLUSTER_PROVIDED where type is ORIGINAL_DST".into(),
        ),
        (
            read_cluster(|cluster| cluster.lb_policy = 6),
            "lb_policy: must be absent: load_balancing_policy says it".into(),
        ),
        // A number that nobody knows is no policy either.
        (
            read_cluster(|cluster| cluster.lb_policy = 99),
            "lb_policy: must be absent: load_balancing_policy says it".into(),
        ),
        (read(|cluster| cluster.outlier_detection = Some(Default::default())), format!("outlier_detection: {absent}")),
        (
            read(|cluster| cluster.load_balancing_policy = Some(Default::default())),
            format!("load_balancing_policy: {absent}"),
        ),
    ];
    for (found, expected) in rows {
        assert_eq!(found, Err(expected));
    }
}
