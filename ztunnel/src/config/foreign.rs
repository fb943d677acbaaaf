//! Variables of Istio's node proxy that are no flag here: metadata, headers, and those we cannot honour.

use std::collections::BTreeMap;

use fairway_core::config::SettingError;
use serde_json::Value;

use super::wrong;

/// Variables that change what the proxy must do; set to anything but what we do, starting would be a lie. Name, values
/// that are what we do, and why no other.
pub(super) const FIXED: &[(&str, &[&str], &str)] = &[
    ("ENABLE_PROXY", &["true", "1"], "the data path cannot be switched off; do not run the proxy instead"),
    ("TLS12_ENABLED", &["false", "0"], "TLS 1.3 is the only version; leave it out"),
    ("UNSTABLE_ENABLE_SOCKS5", &["false", "0"], "SOCKS is not supported; leave it out"),
    ("INPOD_PORT_REUSE", &["true", "1"], "listeners always share their ports; leave it out"),
];

/// Variables that tune or extend; without them the proxy does its work all the same. Name, and why it has no effect.
pub(super) const IGNORED: &[(&str, &str)] = &[
    ("AUTHZ_POLICY_INFO_LOGGING", "every refusal is logged with its policy, whatever this says"),
    ("PROXY_CONFIG", "each of its settings has a variable of its own"),
    ("ZTUNNEL_CPU_LIMIT", "set ZTUNNEL_WORKER_THREADS"),
    ("ZTUNNEL_RESOURCE_CPU_LIMIT", "set ZTUNNEL_WORKER_THREADS"),
    ("ZTUNNEL_RESOURCE_CPU_REQUEST", "set ZTUNNEL_WORKER_THREADS"),
];

/// Refuses what cannot be honoured; gives the names of what has no effect.
pub(super) fn check(environment: &BTreeMap<String, String>) -> Result<Vec<(&'static str, &'static str)>, SettingError> {
    let given = |name: &str| environment.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    for (name, accepted, problem) in FIXED {
        if let Some(value) = given(name).filter(|value| !accepted.contains(&value.to_ascii_lowercase().as_str())) {
            return Err(wrong(name, value, problem));
        }
    }
    Ok(IGNORED.iter().filter(|(name, _)| given(name).is_some()).copied().collect())
}

/// What the long help says of variables that are no flag.
pub(super) fn help() -> String {
    let mut text = String::from(
        "Variables without a flag:\n  \
         ISTIO_META_NAME, ISTIO_METAJSON_NAME: metadata for the control plane\n  \
         XDS_HEADER_NAME, CA_HEADER_NAME: headers for the control plane\n  \
         ISTIO_META_CLUSTER_ID: the cluster, where CLUSTER_ID is not set\n  \
         RUST_BACKTRACE: whether a crash prints where it came from\n\n\
         Variables of Istio's ztunnel that must be left out, or be what is done anyway:\n",
    );
    for (name, accepted, problem) in FIXED {
        let accepted = accepted.first().map(|value| format!(" ({value})")).unwrap_or_default();
        text.push_str(&format!("  {name}{accepted}: {problem}\n"));
    }
    text.push_str("\nVariables of Istio's ztunnel that have no effect:\n");
    for (name, reason) in IGNORED {
        text.push_str(&format!("  {name}: {reason}\n"));
    }
    text
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
