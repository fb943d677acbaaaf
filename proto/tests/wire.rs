//! The bytes on the wire, written by hand: a renumbered field fails here, both ways.
#![expect(clippy::expect_used, reason = "helpers of tests are tests")]

use fairway_proto::{
    ca::{IstioCertificateRequest, IstioCertificateResponse},
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    envoy_core::Node,
    rpc_status::Status,
    security::{self, Authorization, Clause, Match, Rule, ServiceAccountMatch, StringMatch, string_match},
    workload::{
        Address, ApplicationTunnel, Extension, GatewayAddress, LoadBalancing, Locality, NamespacedHostname,
        NetworkAddress, Port, PortList, Service, WeightedWaypoint, Workload, address, application_tunnel,
        gateway_address, load_balancing, service,
    },
    zds::{
        Ack, AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo, WorkloadRequest, WorkloadResponse,
        ZdsHello, workload_request, workload_response,
    },
};
use prost::Message;
use prost_types::{Any, Duration, Struct, Value, value};

/// Wire types: varint, and length-delimited.
const VARINT: u8 = 0;
const BYTES: u8 = 2;

/// Key of a field: number and wire type, as a varint.
fn key(number: u32, wire_type: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | u32::from(wire_type)), &mut bytes);
    bytes
}

/// A field with a small unsigned value.
fn number(field: u32, value: u8) -> Vec<u8> {
    assert!(value < 0x80, "one byte of varint");
    [key(field, VARINT), vec![value]].concat()
}

/// A string, bytes or message field.
fn block(field: u32, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let length = u8::try_from(content.len()).expect("short");
    assert!(length < 0x80, "one byte of length");
    [key(field, BYTES), vec![length], content.to_vec()].concat()
}

#[track_caller]
fn golden<M: Message + Default + PartialEq + std::fmt::Debug>(message: M, parts: &[Vec<u8>]) {
    let bytes = parts.concat();
    assert_eq!(message.encode_to_vec(), bytes, "encoded");
    assert_eq!(M::decode(bytes.as_slice()).expect("decodes"), message, "decoded");
}

fn network_address() -> NetworkAddress {
    NetworkAddress { network: "n".into(), address: vec![10, 0, 0, 1], length: Some(0) }
}

fn network_address_bytes() -> Vec<u8> {
    // An optional field is sent although it is zero.
    [block(1, "n"), block(2, [10, 0, 0, 1]), number(3, 0)].concat()
}

fn gateway() -> GatewayAddress {
    GatewayAddress {
        destination: Some(gateway_address::Destination::Hostname(NamespacedHostname {
            namespace: "ns".into(),
            hostname: "h".into(),
        })),
        hbone_mtls_port: 8,
    }
}

fn gateway_bytes() -> Vec<u8> {
    [block(1, [block(1, "ns"), block(2, "h")].concat()), number(3, 8)].concat()
}

#[test]
fn a_literal_example_keeps_the_helpers_honest() {
    golden(
        WorkloadRequest { payload: Some(workload_request::Payload::Del(DelWorkload { uid: "u".into() })) },
        &[vec![0x12, 0x03, 0x12, 0x01, b'u']],
    );
    golden(Workload { uid: "u".into(), ..Default::default() }, &[vec![0xa2, 0x01, 0x01, b'u']]);
    golden(Workload { capacity: Some(2), ..Default::default() }, &[vec![0xda, 0x01, 0x02, 0x08, 0x02]]);
}

#[test]
fn address() {
    golden(
        Address { r#type: Some(address::Type::Workload(Workload { name: "w".into(), ..Default::default() })) },
        &[block(1, block(1, "w"))],
    );
    golden(
        Address { r#type: Some(address::Type::Service(Service { name: "s".into(), ..Default::default() })) },
        &[block(2, block(1, "s"))],
    );
}

#[test]
fn workload() {
    golden(
        Workload {
            name: "n".into(),
            namespace: "ns".into(),
            addresses: vec![vec![1, 2, 3, 4]],
            network: "net".into(),
            tunnel_protocol: 1,
            trust_domain: "td".into(),
            service_account: "sa".into(),
            waypoint: Some(gateway()),
            node: "node".into(),
            canonical_name: "cn".into(),
            canonical_revision: "cr".into(),
            workload_type: 2,
            workload_name: "wn".into(),
            native_tunnel: true,
            authorization_policies: vec!["ns/p".into()],
            status: 1,
            cluster_id: "c".into(),
            network_gateway: Some(gateway()),
            uid: "u".into(),
            hostname: "h".into(),
            services: [("ns/h".to_owned(), PortList { ports: vec![Port::default()] })].into(),
            application_tunnel: Some(ApplicationTunnel {
                protocol: application_tunnel::Protocol::Proxy.into(),
                port: 9,
            }),
            locality: Some(Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() }),
            network_mode: 1,
            extensions: vec![Extension { name: "e".into(), config: Some(Any::default()) }],
            capacity: Some(3),
        },
        &[
            block(1, "n"),
            block(2, "ns"),
            block(3, [1, 2, 3, 4]),
            block(4, "net"),
            number(5, 1),
            block(6, "td"),
            block(7, "sa"),
            block(8, gateway_bytes()),
            block(9, "node"),
            block(10, "cn"),
            block(11, "cr"),
            number(12, 2),
            block(13, "wn"),
            number(14, 1),
            block(16, "ns/p"),
            number(17, 1),
            block(18, "c"),
            block(19, gateway_bytes()),
            block(20, "u"),
            block(21, "h"),
            block(22, [block(1, "ns/h"), block(2, block(1, []))].concat()),
            block(23, [number(1, 1), number(2, 9)].concat()),
            block(24, [block(1, "r"), block(2, "z"), block(3, "s")].concat()),
            number(25, 1),
            block(26, [block(1, "e"), block(2, [])].concat()),
            block(27, number(1, 3)),
        ],
    );
}

#[test]
fn service() {
    golden(
        Service {
            name: "n".into(),
            namespace: "ns".into(),
            hostname: "h".into(),
            addresses: vec![network_address()],
            ports: vec![Port { service_port: 80, target_port: 0, app_protocol: 2 }],
            subject_alt_names: vec!["san".into()],
            waypoint: Some(gateway()),
            load_balancing: Some(LoadBalancing {
                routing_preference: vec![load_balancing::Scope::Node.into(), load_balancing::Scope::Network.into()],
                mode: load_balancing::Mode::Passthrough.into(),
                health_policy: load_balancing::HealthPolicy::AllowAll.into(),
            }),
            ip_families: 3,
            extensions: vec![Extension { name: "e".into(), config: None }],
            canonical: true,
            ingress_use_waypoint: true,
            weighted_waypoints: vec![WeightedWaypoint { destination: Some(gateway()), weight: 7 }],
            visibility: service::Visibility::Namespace.into(),
        },
        &[
            block(1, "n"),
            block(2, "ns"),
            block(3, "h"),
            block(4, network_address_bytes()),
            block(5, [number(1, 80), number(3, 2)].concat()),
            block(6, "san"),
            block(7, gateway_bytes()),
            block(8, [block(1, [4, 6]), number(2, 3), number(3, 1)].concat()),
            number(9, 3),
            block(10, block(1, "e")),
            number(11, 1),
            number(12, 1),
            block(13, [block(1, gateway_bytes()), number(2, 7)].concat()),
            number(14, 1),
        ],
    );
}

#[test]
fn gateway_by_address() {
    golden(
        GatewayAddress {
            destination: Some(gateway_address::Destination::Address(network_address())),
            hbone_mtls_port: 0,
        },
        &[block(2, network_address_bytes())],
    );
}

#[test]
fn port() {
    golden(Port { service_port: 1, target_port: 2, app_protocol: 5 }, &[number(1, 1), number(2, 2), number(3, 5)]);
}

#[test]
fn authorization() {
    let exact = |value: &str| StringMatch { match_type: Some(string_match::MatchType::Exact(value.into())) };
    let block_of = |last: u8| security::Address { address: vec![10, 0, 0, last], length: 32 };
    let account = |name: &str| ServiceAccountMatch { namespace: "ns".into(), service_account: name.into() };
    let rules = [Rule {
        clauses: vec![Clause {
            matches: vec![Match {
                namespaces: vec![exact("a")],
                not_namespaces: vec![exact("b")],
                principals: vec![exact("c")],
                not_principals: vec![exact("d")],
                source_ips: vec![block_of(5)],
                not_source_ips: vec![block_of(6)],
                destination_ips: vec![block_of(7)],
                not_destination_ips: vec![block_of(8)],
                destination_ports: vec![80, 81],
                not_destination_ports: vec![82],
                service_accounts: vec![account("x")],
                not_service_accounts: vec![account("y")],
                extensions: vec![Extension::default()],
            }],
        }],
    }];
    let address_bytes = |last: u8| [block(1, [10, 0, 0, last]), number(2, 32)].concat();
    let account_bytes = |name: &str| [block(1, "ns"), block(2, name)].concat();
    let match_bytes = [
        block(1, block(1, "a")),
        block(2, block(1, "b")),
        block(3, block(1, "c")),
        block(4, block(1, "d")),
        block(5, address_bytes(5)),
        block(6, address_bytes(6)),
        block(7, address_bytes(7)),
        block(8, address_bytes(8)),
        block(9, [80, 81]),
        block(10, [82]),
        block(11, account_bytes("x")),
        block(12, account_bytes("y")),
        block(13, []),
    ]
    .concat();
    golden(rules[0].clauses[0].matches[0].clone(), std::slice::from_ref(&match_bytes));
    // Clause.matches is 2.
    golden(Clause { matches: vec![Match::default()] }, &[block(2, [])]);
    golden(Rule { clauses: vec![Clause::default()] }, &[block(1, [])]);
    golden(
        Authorization {
            name: "n".into(),
            namespace: "ns".into(),
            scope: security::Scope::WorkloadSelector.into(),
            action: security::Action::Deny.into(),
            rules: vec![Rule::default()],
            dry_run: true,
            extensions: vec![Extension::default()],
        },
        &[block(1, "n"), block(2, "ns"), number(3, 2), number(4, 1), block(5, []), number(6, 1), block(7, [])],
    );
}

#[test]
fn string_match() {
    use string_match::MatchType;
    let of = |match_type| StringMatch { match_type: Some(match_type) };
    golden(of(MatchType::Exact("v".into())), &[block(1, "v")]);
    golden(of(MatchType::Prefix("v".into())), &[block(2, "v")]);
    golden(of(MatchType::Suffix("v".into())), &[block(3, "v")]);
    golden(of(MatchType::Presence(())), &[block(4, [])]);
}

#[test]
fn node_socket() {
    use workload_request::Payload;
    let of = |payload| WorkloadRequest { payload: Some(payload) };
    golden(ZdsHello { version: 1 }, &[number(1, 1)]);
    golden(
        of(Payload::Add(AddWorkload {
            uid: "u".into(),
            workload_info: Some(WorkloadInfo {
                name: "n".into(),
                namespace: "ns".into(),
                service_account: "sa".into(),
            }),
        })),
        &[block(1, [block(1, "u"), block(2, [block(1, "n"), block(2, "ns"), block(3, "sa")].concat())].concat())],
    );
    // DelWorkload.uid is 2 and WorkloadRequest.keep is 5.
    golden(of(Payload::Del(DelWorkload { uid: "u".into() })), &[block(2, block(2, "u"))]);
    golden(of(Payload::SnapshotSent(SnapshotSent {})), &[block(3, [])]);
    golden(of(Payload::Keep(KeepWorkload { uid: "u".into() })), &[block(5, block(1, "u"))]);
    golden(
        WorkloadResponse { payload: Some(workload_response::Payload::Ack(Ack { error: "e".into() })) },
        &[block(1, block(1, "e"))],
    );
}

fn metadata() -> Struct {
    let value = Value { kind: Some(value::Kind::StringValue("v".into())) };
    Struct { fields: [("k".to_owned(), value)].into() }
}

fn metadata_bytes() -> Vec<u8> {
    block(1, [block(1, "k"), block(2, block(3, "v"))].concat())
}

#[test]
fn discovery() {
    golden(
        DeltaDiscoveryRequest {
            node: Some(Node { id: "i".into(), cluster: "c".into(), metadata: Some(metadata()), ..Node::default() }),
            type_url: "t".into(),
            resource_names_subscribe: vec!["*".into()],
            resource_names_unsubscribe: vec!["u".into()],
            initial_resource_versions: [("n".to_owned(), "v".to_owned())].into(),
            response_nonce: "r".into(),
            error_detail: Some(Status {
                code: 3,
                message: "m".into(),
                details: vec![Any { type_url: "t".into(), value: vec![1] }],
            }),
        },
        &[
            block(1, [block(1, "i"), block(2, "c"), block(3, metadata_bytes())].concat()),
            block(2, "t"),
            block(3, "*"),
            block(4, "u"),
            block(5, [block(1, "n"), block(2, "v")].concat()),
            block(6, "r"),
            block(7, [number(1, 3), block(2, "m"), block(3, [block(1, "t"), block(2, [1])].concat())].concat()),
        ],
    );
    golden(
        DeltaDiscoveryResponse {
            system_version_info: "s".into(),
            resources: vec![Resource {
                version: "v".into(),
                resource: Some(Any { type_url: "t".into(), value: vec![] }),
                name: "n".into(),
                aliases: vec!["a".into()],
                ttl: Some(Duration { seconds: 1, nanos: 0 }),
                cache_control: Some(fairway_proto::discovery::resource::CacheControl { do_not_cache: true }),
            }],
            type_url: "t".into(),
            nonce: "o".into(),
            removed_resources: vec!["r".into()],
        },
        &[
            block(1, "s"),
            block(
                2,
                [
                    block(1, "v"),
                    block(2, block(1, "t")),
                    block(3, "n"),
                    block(4, "a"),
                    block(6, number(1, 1)),
                    block(7, number(1, 1)),
                ]
                .concat(),
            ),
            block(4, "t"),
            block(5, "o"),
            block(6, "r"),
        ],
    );
}

#[test]
fn certificates() {
    golden(
        IstioCertificateRequest { csr: "c".into(), validity_duration: 60, metadata: Some(metadata()) },
        &[block(1, "c"), number(3, 60), block(4, metadata_bytes())],
    );
    golden(
        IstioCertificateResponse { cert_chain: vec!["leaf".into(), "root".into()] },
        &[block(1, "leaf"), block(1, "root")],
    );
}

#[test]
fn reserved_fields_are_skipped() {
    let bytes = [block(15, "x"), block(20, "u")].concat();
    assert_eq!(Workload::decode(bytes.as_slice()).expect("decodes").uid, "u");
    let bytes = [number(4, 1), number(3, 8)].concat();
    assert_eq!(GatewayAddress::decode(bytes.as_slice()).expect("decodes").hbone_mtls_port, 8);
}

#[test]
fn enum_values() {
    use fairway_proto::{workload as w, zds};
    let values: &[(i32, &str)] = &[
        (w::TunnelProtocol::None.into(), "0 NONE"),
        (w::TunnelProtocol::Hbone.into(), "1 HBONE"),
        (w::TunnelProtocol::LegacyIstioMtls.into(), "2 LEGACY_ISTIO_MTLS"),
        (w::WorkloadType::Deployment.into(), "0 DEPLOYMENT"),
        (w::WorkloadType::Cronjob.into(), "1 CRONJOB"),
        (w::WorkloadType::Pod.into(), "2 POD"),
        (w::WorkloadType::Job.into(), "3 JOB"),
        (w::WorkloadStatus::Unhealthy.into(), "1 UNHEALTHY"),
        (w::NetworkMode::HostNetwork.into(), "1 HOST_NETWORK"),
        (w::IpFamilies::Ipv4Only.into(), "1 IPV4_ONLY"),
        (w::IpFamilies::Ipv6Only.into(), "2 IPV6_ONLY"),
        (w::IpFamilies::Dual.into(), "3 DUAL"),
        (w::AppProtocol::Http11.into(), "1 HTTP11"),
        (w::AppProtocol::Http2.into(), "2 HTTP2"),
        (w::AppProtocol::Grpc.into(), "3 GRPC"),
        (w::AppProtocol::Tcp.into(), "4 TCP"),
        (w::AppProtocol::Tls.into(), "5 TLS"),
        (load_balancing::Scope::Region.into(), "1 REGION"),
        (load_balancing::Scope::Zone.into(), "2 ZONE"),
        (load_balancing::Scope::Subzone.into(), "3 SUBZONE"),
        (load_balancing::Scope::Node.into(), "4 NODE"),
        (load_balancing::Scope::Cluster.into(), "5 CLUSTER"),
        (load_balancing::Scope::Network.into(), "6 NETWORK"),
        (load_balancing::Mode::Strict.into(), "1 STRICT"),
        (load_balancing::Mode::Failover.into(), "2 FAILOVER"),
        (load_balancing::Mode::Passthrough.into(), "3 PASSTHROUGH"),
        (security::Scope::Global.into(), "0 GLOBAL"),
        (security::Scope::Namespace.into(), "1 NAMESPACE"),
        (security::Scope::WorkloadSelector.into(), "2 WORKLOAD_SELECTOR"),
        (security::Action::Allow.into(), "0 ALLOW"),
        (security::Action::Deny.into(), "1 DENY"),
        (zds::Version::NotUsed.into(), "0 NOT_USED"),
        (zds::Version::V1.into(), "1 V1"),
    ];
    for (value, expected) in values {
        assert_eq!(expected.split(' ').next(), Some(value.to_string().as_str()), "{expected}");
    }
}

#[test]
fn type_urls() {
    assert_eq!(fairway_proto::type_url::ADDRESS, "type.googleapis.com/istio.workload.Address");
    assert_eq!(fairway_proto::type_url::AUTHORIZATION, "type.googleapis.com/istio.security.Authorization");
    assert_eq!(fairway_proto::type_url::WORKLOAD, "type.googleapis.com/istio.workload.Workload");
}

#[cfg(feature = "rpc")]
#[test]
fn service_paths() {
    assert_eq!(
        fairway_proto::discovery::aggregated_discovery_service_server::SERVICE_NAME,
        "envoy.service.discovery.v3.AggregatedDiscoveryService"
    );
    assert_eq!(
        fairway_proto::ca::istio_certificate_service_server::SERVICE_NAME,
        "istio.v1.auth.IstioCertificateService"
    );
}
