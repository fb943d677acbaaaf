//! Tests of `config`.

use std::path::Path;

use super::*;

fn arguments(words: &[&str]) -> Arguments {
    let line = ["ztunnel"].iter().chain(words).copied();
    Arguments::try_parse_from(line).unwrap()
}

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn authority(config: &Config) -> &ControlPlaneConfig {
    match &config.signer {
        Signer::ControlPlane(config) => config,
        Signer::Test(root) => panic!("{root:?}"),
    }
}

fn checked(words: &[&str], pairs: &[(&str, &str)]) -> Result<Config, SettingError> {
    let with_node: Vec<&str> = ["--node-name", "node-1"].iter().chain(words).copied().collect();
    arguments(&with_node).check(&environment(pairs))
}

#[test]
fn commands() {
    let rows = [
        (&[][..], Some(Command::Proxy)),
        (&["proxy"], Some(Command::Proxy)),
        (&["proxy", "ztunnel"], Some(Command::Proxy)),
        (&["version"], Some(Command::Version)),
        (&["serve"], None),
    ];
    for (words, expected) in rows {
        assert_eq!(arguments(words).command().ok(), expected, "{words:?}");
    }
}

#[test]
fn defaults() {
    let config = checked(&[], &[]).unwrap();
    let xds = config.xds.as_ref().unwrap();
    assert_eq!(xds.address.to_string(), "https://localhost:15012");
    assert_eq!(authority(&config).address, xds.address);
    assert_eq!(xds.cluster_id, "Kubernetes");
    assert_eq!(config.certificate_lifetime, Duration::from_secs(24 * 3600));
    assert_eq!(config.drain_deadline, Duration::from_secs(5));
    assert_eq!(config.ports, Ports { admin: 15000, stats: 15020, readiness: 15021 });
    assert_eq!((config.preserve_source, config.packet_mark), (None, Some(1337)));
    assert!(config.ipv6 && config.keepalive && !config.user_timeout && config.ignored.is_empty());
    assert_eq!((config.limits.clone(), config.tls_profile), (Limits::default(), Profile::DEFAULT));
    let config = checked(&[], &[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]).unwrap();
    assert_eq!(config.xds.unwrap().address.host, "istiod.istio-system.svc");
}

/// Charts write empty values for what is not set.
#[test]
fn empty_is_not_set() {
    let words = [
        "--xds-address=",
        "--ca-address=",
        "--xds-root-ca=",
        "--ca-root-ca=",
        "--alt-xds-hostname=",
        "--auth-token=",
        "--instance-ip=",
        "--cluster-id=",
        "--trust-domain=",
        "--ipv6-enabled=",
        "--enable-orig-src=",
        "--secret-ttl=",
        "--connection-termination-deadline=",
        "--termination-grace-period-seconds=",
        "--log-format=",
        "--proxy-mode=",
        "--proxy-workload-info=",
        "--local-xds-path=",
        "--local-xds=",
        "--fake-ca=",
        "--packet-mark=",
        "--compliance-policy=",
        "--keepalive-enabled=",
        "--user-timeout-enabled=",
        "--pool-unused-release-timeout=",
        "--http2-frame-size=",
    ];
    let config = checked(&words, &[("ENABLE_PROXY", ""), ("PROXY_CONFIG", "")]).unwrap();
    assert_eq!(config.xds.as_ref().unwrap().token, TokenSource::None);
    assert!(config.ignored.is_empty());
    let with_token = checked(&[], &[]).unwrap();
    assert_eq!(config.dump(), with_token.dump());
}

#[test]
fn everything_set() {
    let words = [
        "proxy",
        "ztunnel",
        "--xds-address",
        "controller:15012",
        "--ca-address",
        "https://[fd00::1]:15013",
        "--xds-root-ca",
        "-----BEGIN CERTIFICATE-----",
        "--ca-root-ca",
        "/roots.pem",
        "--alt-xds-hostname",
        "istiod",
        "--auth-token",
        "/token",
        "--instance-ip",
        "10.99.0.11",
        "--trust-domain",
        "example.org",
        "--ipv6-enabled",
        "false",
        "--secret-ttl",
        "1h30m",
        "--termination-grace-period-seconds",
        "30",
        "--log-format",
        "json",
        "--xds-on-demand",
        "true",
        "--dns-capture",
        "false",
        "--xds-demand-wait",
        "2s",
        "--state-dir",
        "/var/lib/ztunnel",
        "--pool-unused-release-timeout",
        "1m",
        "--http2-stream-window-size",
        "33554432",
        "--compliance-policy",
        "fips",
    ];
    let pairs = [
        ("ISTIO_META_CLUSTER_ID", "east"),
        ("ISTIO_METAJSON_LABELS", "{\"app\":\"ztunnel\"}"),
        ("XDS_HEADER_X_TEST", "yes"),
        ("PROXY_CONFIG", "{}"),
        ("INPOD_ENABLED", "true"),
    ];
    let config = checked(&words, &pairs).unwrap();
    let (xds, ca) = (config.xds.as_ref().unwrap(), authority(&config));
    assert_eq!(ca.address.to_string(), "https://[fd00::1]:15013");
    assert!(matches!(xds.roots, RootSource::Literal(_)) && matches!(ca.roots, RootSource::File(_)));
    assert_eq!(xds.alternative_name.as_deref(), Some("istiod"));
    assert_eq!(xds.headers, [("x_test".to_owned(), "yes".to_owned())]);
    assert_eq!(xds.cluster_id, "east");
    assert_eq!(config.limits.duration(&limits::POOL_IDLE_TIMEOUT), Duration::from_secs(60));
    assert_eq!(config.limits.value(&limits::CONNECTION_WINDOW), 33_554_432);
    assert_eq!(config.limits.duration(&limits::DRAIN_DEADLINE), Duration::from_secs(25));
    assert_eq!(config.tls_profile, Profile::Fips);
    assert_eq!(config.dump()["limits"]["pool_unused_release_timeout"], 60_000);
    assert_eq!(config.node.metadata["LABELS"]["app"], "ztunnel");
    assert_eq!(config.node.metadata["CLUSTER_ID"], "east");
    assert_eq!(config.drain_deadline, Duration::from_secs(25));
    assert_eq!(config.log_shape, Shape::Json);
    assert_eq!(config.ignored.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["PROXY_CONFIG"]);
    assert!(!config.ipv6 && config.on_demand);
    assert_eq!(config.limits.duration(&limits::XDS_DEMAND_WAIT), Duration::from_secs(2));
    assert_eq!(config.state_directory.as_deref(), Some(Path::new("/var/lib/ztunnel")));
}

#[test]
fn mistakes_name_the_variable_and_what_to_write() {
    type Row = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);
    let rows: [Row; 29] = [
        (&["--node-name", ""], &[], "NODE_NAME"),
        (&["--xds-address", "ftp://x:1"], &[], "XDS_ADDRESS=\"ftp://x:1\": the scheme"),
        (&["--ca-address", "x"], &[], "CA_ADDRESS"),
        (&["--instance-ip", "localhost"], &[], "INSTANCE_IP"),
        (&["--trust-domain", "Not Valid"], &[], "TRUST_DOMAIN"),
        (&["--ipv6-enabled", "maybe"], &[], "IPV6_ENABLED=\"maybe\": must be true or false"),
        (&["--secret-ttl", "24"], &[], "SECRET_TTL"),
        (&["--secret-ttl", "1s"], &[], "SECRET_TTL"),
        (&["--xds-on-demand", "true"], &[], "XDS_ON_DEMAND=\"true\": the DNS proxy must know all names"),
        (&["--xds-demand-wait", "1h"], &[], "XDS_DEMAND_WAIT=\"1h\": "),
        (&["--xds-store-interval", "1ms"], &[], "XDS_STORE_INTERVAL=\"1ms\": "),
        (&["--log-format", "xml"], &[], "write `plain` or `json`"),
        (
            &["--local-xds", "{}", "--xds-address", "", "--fake-ca=1", "--xds-on-demand=1", "--dns-capture=0"],
            &[],
            "there is nobody to ask",
        ),
        (&["--proxy-mode", "sidecar"], &[], "PROXY_MODE=\"sidecar\": write `shared`"),
        (&["--proxy-mode", "dedicated"], &[], "namespace/name/serviceaccount"),
        (&["--proxy-mode", "dedicated", "--proxy-workload-info", "a/b"], &[], "PROXY_WORKLOAD_INFO=\"a/b\""),
        (&["--proxy-workload-info", "a/b/c"], &[], "it goes with PROXY_MODE=dedicated"),
        (&["--local-xds-path", "/x", "--local-xds", "{}"], &[], "leave one of them out"),
        (&["--local-xds", "{}", "--xds-address", ""], &[], "CA_ADDRESS"),
        (&["--packet-mark", "7"], &[], "only mark 1337"),
        (&["--compliance-policy", "fast"], &[], "COMPLIANCE_POLICY=\"fast\": write `pqc`"),
        (&["--metric-labels-left-out", "color"], &[], "FAIRWAY_METRIC_LABELS_LEFT_OUT=\"color\": no label"),
        (&["--fake-ca", "perhaps"], &[], "FAKE_CA"),
        (&["--http2-frame-size", "1"], &[], "HTTP2_FRAME_SIZE=\"1\": http2_frame_size is 1; it must be 16384"),
        (&["--keepalive-time", "180"], &[], "KEEPALIVE_TIME=\"180\": must be a duration"),
        (
            &["--http2-stream-window-size", "2097152", "--http2-connection-window-size", "1048576"],
            &[],
            "http2_stream_window_size must be at least 2097152",
        ),
        (&[], &[("ENABLE_PROXY", "false")], "ENABLE_PROXY"),
        (&[], &[("UNSTABLE_ENABLE_SOCKS5", "true")], "SOCKS is not supported"),
        (&[], &[("ISTIO_METAJSON_X", "{")], "ISTIO_METAJSON_X"),
    ];
    for (words, pairs, expected) in rows {
        let line: Vec<&str> = if words.first() == Some(&"--node-name") {
            words.to_vec()
        } else {
            ["--node-name", "node-1"].iter().chain(words).copied().collect()
        };
        let error = arguments(&line).check(&environment(pairs)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} / {expected}");
    }
}

#[test]
fn the_dump_holds_no_secret() {
    let config = checked(&["--auth-token", "aaa.bbb.ccc"], &[]).unwrap();
    assert!(!config.dump().to_string().contains("aaa.bbb"));
    assert!(!format!("{config:?}").contains("aaa.bbb"));
}

/// One workload from a file, nobody else involved.
#[test]
fn dedicated_without_control_plane() {
    let words = [
        "--proxy-mode=dedicated",
        "--proxy-workload-info=shop/web/account",
        "--local-xds-path=/etc/local.yaml",
        "--xds-address=",
        "--fake-ca=true",
        "--node-name=",
    ];
    let config = arguments(&words).check(&environment(&[])).unwrap();
    let info = PodInfo { name: "web".into(), namespace: "shop".into(), service_account: "account".into() };
    assert_eq!(config.mode, Mode::Dedicated(info));
    assert_eq!(config.local, Some(Local::File("/etc/local.yaml".into())));
    assert!(config.xds.is_none() && matches!(config.signer, Signer::Test(_)));
    assert_eq!((config.packet_mark, config.preserve_source), (None, Some(false)));
    let dump = config.dump();
    assert_eq!((&dump["proxyMode"], &dump["xdsAddress"]), (&"Dedicated".into(), &serde_json::Value::Null));
    // Both at once: the file is loaded first, and the control plane is asked as well.
    let both = checked(&["--local-xds", "{}", "--xds-address", "controller:15012"], &[]).unwrap();
    assert!(both.xds.is_some() && both.local.is_some());
    // Without a file an empty address is one that is not set.
    assert!(checked(&["--xds-address="], &[]).unwrap().xds.is_some());
}

/// The proxy's own pod is served when it is known who that is.
#[test]
fn our_own_pod_is_known_by_three_settings() {
    let all = ["--pod-name=z", "--pod-namespace=istio-system", "--service-account=ztunnel"];
    for (words, expected) in [(&all[..], true), (&all[..2], false), (&all[1..], false)] {
        let Mode::Shared { ourselves, .. } = checked(words, &[]).unwrap().mode else { panic!("{words:?}") };
        assert_eq!(ourselves.is_some(), expected, "{words:?}");
    }
}

/// Every variable of interop §12.1 is a flag, or is listed with the reason why it is none; and the help says which.
#[test]
fn every_variable_of_istio_is_accounted_for() {
    use clap::CommandFactory;

    let variables = "ENABLE_PROXY PROXY_MODE PROXY_WORKLOAD_INFO INPOD_UDS INPOD_PORT_REUSE PACKET_MARK ENABLE_ORIG_SRC \
        IPV6_ENABLED NETWORK NODE_NAME INSTANCE_IP CLUSTER_ID CLUSTER_DOMAIN POD_NAME POD_NAMESPACE SERVICE_ACCOUNT \
        TRUST_DOMAIN XDS_ADDRESS CA_ADDRESS XDS_ROOT_CA CA_ROOT_CA ALT_XDS_HOSTNAME ALT_CA_HOSTNAME AUTH_TOKEN \
        XDS_ON_DEMAND LOCAL_XDS_PATH LOCAL_XDS FAKE_CA SECRET_TTL CRL_PATH TLS12_ENABLED COMPLIANCE_POLICY \
        ISTIO_META_DNS_CAPTURE ISTIO_META_DNS_PROXY_ADDR PREFERED_SERVICE_NAMESPACE POOL_MAX_STREAMS_PER_CONNECTION \
        POOL_UNUSED_RELEASE_TIMEOUT HTTP2_STREAM_WINDOW_SIZE HTTP2_CONNECTION_WINDOW_SIZE HTTP2_FRAME_SIZE \
        KEEPALIVE_ENABLED KEEPALIVE_TIME KEEPALIVE_INTERVAL KEEPALIVE_RETRIES USER_TIMEOUT_ENABLED \
        CONNECTION_TERMINATION_DEADLINE TERMINATION_GRACE_PERIOD_SECONDS LOCALHOST_APP_TUNNEL ENABLE_RESPONSE_BAGGAGE \
        AUTHZ_POLICY_INFO_LOGGING UNSTABLE_ENABLE_SOCKS5 ZTUNNEL_WORKER_THREADS ZTUNNEL_CPU_LIMIT \
        ZTUNNEL_RESOURCE_CPU_LIMIT ZTUNNEL_RESOURCE_CPU_REQUEST PROXY_CONFIG RUST_LOG LOG_FORMAT";
    let by_prefix = "ISTIO_META_CLUSTER_ID XDS_HEADER_ CA_HEADER_ ISTIO_META_ ISTIO_METAJSON_ RUST_BACKTRACE";
    let mut command = <Arguments as CommandFactory>::command();
    let help = command.render_long_help().to_string();
    let flags: Vec<String> = command
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_string_lossy().into_owned()))
        .collect();
    let listed: Vec<&str> =
        foreign::FIXED.iter().map(|(name, ..)| *name).chain(foreign::IGNORED.iter().map(|(name, _)| *name)).collect();
    for variable in variables.split_whitespace() {
        let ways = usize::from(flags.iter().any(|flag| flag == variable))
            + listed.iter().filter(|listed| **listed == variable).count();
        assert_eq!(ways, 1, "{variable} must be a flag, refused or ignored, and only one of these");
    }
    for variable in variables.split_whitespace().chain(by_prefix.split_whitespace()) {
        assert!(help.contains(variable), "--help does not show {variable}");
    }
    // Ours as well: whatever can be set is in the help.
    for limit in limits::ALL {
        let shown = limit.variable.is_none_or(|variable| flags.iter().any(|flag| flag == variable));
        assert!(shown && limit.variable.is_none_or(|variable| help.contains(variable)), "{}", limit.name);
    }
}
