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
    assert_eq!(config.xds.address.to_string(), "https://localhost:15012");
    assert_eq!(config.ca.address, config.xds.address);
    assert_eq!(config.xds.cluster_id, "Kubernetes");
    assert_eq!(config.certificate_lifetime, Duration::from_secs(24 * 3600));
    assert_eq!(config.drain_deadline, Duration::from_secs(5));
    assert_eq!(config.ports, Ports { admin: 15000, stats: 15020, readiness: 15021 });
    assert!(config.ipv6 && config.preserve_source && config.ignored.is_empty());
    let config = checked(&[], &[("KUBERNETES_SERVICE_HOST", "10.96.0.1")]).unwrap();
    assert_eq!(config.xds.address.host, "istiod.istio-system.svc");
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
    ];
    let config = checked(&words, &[("PROXY_MODE", ""), ("POOL_UNUSED_RELEASE_TIMEOUT", "")]).unwrap();
    assert_eq!(config.xds.token, TokenSource::None);
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
    ];
    let pairs = [
        ("ISTIO_META_CLUSTER_ID", "east"),
        ("ISTIO_METAJSON_LABELS", "{\"app\":\"ztunnel\"}"),
        ("XDS_HEADER_X_TEST", "yes"),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "1m"),
        ("INPOD_ENABLED", "true"),
    ];
    let config = checked(&words, &pairs).unwrap();
    assert_eq!(config.ca.address.to_string(), "https://[fd00::1]:15013");
    assert!(matches!(config.xds.roots, RootSource::Literal(_)) && matches!(config.ca.roots, RootSource::File(_)));
    assert_eq!(config.xds.alternative_name.as_deref(), Some("istiod"));
    assert_eq!(config.xds.headers, [("x_test".to_owned(), "yes".to_owned())]);
    assert_eq!(config.xds.cluster_id, "east");
    assert_eq!(config.node.metadata["LABELS"]["app"], "ztunnel");
    assert_eq!(config.node.metadata["CLUSTER_ID"], "east");
    assert_eq!(config.drain_deadline, Duration::from_secs(25));
    assert_eq!(config.log_shape, Shape::Json);
    assert_eq!(config.ignored, ["POOL_UNUSED_RELEASE_TIMEOUT"]);
    assert!(!config.ipv6 && config.on_demand);
    assert_eq!(config.demand_wait, Duration::from_secs(2));
    assert_eq!(config.state_directory.as_deref(), Some(Path::new("/var/lib/ztunnel")));
}

#[test]
fn mistakes_name_the_variable_and_what_to_write() {
    type Row = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static str);
    let rows: [Row; 15] = [
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
        (&[], &[("PROXY_MODE", "dedicated")], "PROXY_MODE=\"dedicated\": only `shared`"),
        (&[], &[("CRL_PATH", "/crl")], "CRL_PATH"),
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
