//! Variables of Istio's node proxy that are no flag here: metadata, headers, and those we cannot honour.

use std::collections::BTreeMap;

use fairway_core::config::SettingError;
use serde_json::Value;

use super::wrong;

/// Variables that change what the proxy must do; set to anything but what we do, starting would be a lie.
const FIXED: &[(&str, &[&str], &str)] = &[
    ("ENABLE_PROXY", &["true", "1"], "the data path cannot be switched off; do not run the proxy instead"),
    ("PROXY_MODE", &["shared"], "only `shared` is supported"),
    ("PROXY_WORKLOAD_INFO", &[], "only node proxies are supported; leave it out"),
    ("LOCAL_XDS_PATH", &[], "configuration comes from XDS_ADDRESS only; leave it out"),
    ("LOCAL_XDS", &[], "configuration comes from XDS_ADDRESS only; leave it out"),
    ("FAKE_CA", &["false", "0"], "certificates come from CA_ADDRESS only; leave it out"),
    ("CRL_PATH", &[], "revocation lists are not supported yet; leave it out"),
    ("COMPLIANCE_POLICY", &[], "TLS profiles are not supported yet; leave it out"),
    ("TLS12_ENABLED", &["false", "0"], "TLS 1.3 is the only version; leave it out"),
    ("UNSTABLE_ENABLE_SOCKS5", &["false", "0"], "SOCKS is not supported; leave it out"),
    ("PACKET_MARK", &["1337"], "the capture rules know only mark 1337; leave it out"),
    ("INPOD_PORT_REUSE", &["true", "1"], "listeners always share their ports; leave it out"),
];

/// Variables that tune or extend; without them the proxy does its work all the same.
const IGNORED: &[&str] = &[
    "AUTHZ_POLICY_INFO_LOGGING",
    "ENABLE_RESPONSE_BAGGAGE",
    "HTTP2_CONNECTION_WINDOW_SIZE",
    "HTTP2_FRAME_SIZE",
    "HTTP2_STREAM_WINDOW_SIZE",
    "KEEPALIVE_ENABLED",
    "KEEPALIVE_INTERVAL",
    "KEEPALIVE_RETRIES",
    "KEEPALIVE_TIME",
    "LOCALHOST_APP_TUNNEL",
    "POOL_MAX_STREAMS_PER_CONNECTION",
    "POOL_UNUSED_RELEASE_TIMEOUT",
    "PROXY_CONFIG",
    "USER_TIMEOUT_ENABLED",
    "ZTUNNEL_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_LIMIT",
    "ZTUNNEL_RESOURCE_CPU_REQUEST",
];

/// Refuses what cannot be honoured; gives the names of what has no effect.
pub(super) fn check(environment: &BTreeMap<String, String>) -> Result<Vec<String>, SettingError> {
    let given = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    for (name, accepted, problem) in FIXED {
        if let Some(value) = given(name).filter(|value| !accepted.contains(&value.to_ascii_lowercase().as_str())) {
            return Err(wrong(name, value, problem));
        }
    }
    Ok(IGNORED.iter().filter(|name| given(name).is_some()).map(ToString::to_string).collect())
}

/// `PREFIX_NAME=value` as header `name: value`.
pub(super) fn headers(environment: &BTreeMap<String, String>, prefix: &str) -> Vec<(String, String)> {
    let header =
        |(name, value): (&String, &String)| Some((name.strip_prefix(prefix)?.to_ascii_lowercase(), value.clone()));
    environment.iter().filter_map(header).filter(|(name, _)| !name.is_empty()).collect()
}

/// `ISTIO_META_X=v` as `X: v`, `ISTIO_METAJSON_X={…}` parsed.
pub(super) fn metadata(environment: &BTreeMap<String, String>) -> Result<BTreeMap<String, Value>, SettingError> {
    let mut metadata = BTreeMap::new();
    for (name, value) in environment {
        if let Some(key) = name.strip_prefix("ISTIO_META_") {
            metadata.insert(key.to_owned(), Value::from(value.as_str()));
        } else if let Some(key) = name.strip_prefix("ISTIO_METAJSON_") {
            let value =
                serde_json::from_str(value).map_err(|error| wrong(name, value, &format!("must be JSON: {error}")))?;
            metadata.insert(key.to_owned(), value);
        }
    }
    Ok(metadata)
}
