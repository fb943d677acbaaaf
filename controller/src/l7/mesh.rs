//! The mesh configuration, in the form that Istio's config map has it in `mesh`: who may be asked about requests, and who is told
//! of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::authorizers::{self, Authorizers};
use super::processors;
use super::provider::Wrong;
use super::providers::{self, Providers, logs};
use super::proxies::{self, ProxyConfig};

/// What of a mesh configuration means something here. Clones are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Who may be asked by policies.
    pub authorizers: Arc<Authorizers>,
    /// Whom waypoints tell what requests took, and who counts or sees requests for them.
    pub providers: Arc<Providers>,
    /// Who is believed about where requests come from, unless a waypoint says otherwise.
    pub proxies: proxies::Mesh,
    /// What of it means nothing here, and what follows: it counts without these.
    pub odd: Arc<Vec<String>>,
}

/// Kinds of providers that Istio knows, whether they mean something here or not.
const KINDS: [&str; 9] =
    ["zipkin", "lightstep", "datadog", "skywalking", "opencensus", "stackdriver", "envoyHttpAls", "envoyTcpAls", "sds"];

/// What cannot be used of a mesh configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMesh {
    /// It is none.
    #[error("the mesh configuration cannot be read: {0}")]
    Unread(String),
    /// Who is to be believed cannot be read.
    #[error("fairwayTrustedProxies {0}")]
    Proxies(String),
    /// A provider is wrong.
    #[error("extensionProviders[{index}].{field} {problem}")]
    Provider {
        /// Its place.
        index: usize,
        /// Which field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What is read of it; the rest is Istio's own.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    extension_providers: Vec<Provider>,
    default_providers: Defaults,
    default_config: Option<ProxyConfig>,
    fairway_trusted_proxies: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Defaults {
    tracing: Vec<String>,
    access_logging: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Provider {
    name: String,
    envoy_ext_authz_http: Option<authorizers::Written>,
    envoy_ext_authz_grpc: Option<authorizers::Written>,
    opentelemetry: Option<Value>,
    envoy_file_access_log: Option<Value>,
    envoy_otel_als: Option<Value>,
    prometheus: Option<Value>,
    fairway_rate_limit_grpc: Option<providers::WrittenLimiter>,
    fairway_external_processor_grpc: Option<processors::Written>,
    /// What else is there: another kind, or one that is misspelt.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Reads a mesh configuration. A collector or an access log that cannot be used is a fault of who names it, as Istio knows more kinds of them.
///
/// # Errors
/// The first authorizer, processor or rate limiter that cannot be used.
pub fn read(text: &str) -> Result<Mesh, BadMesh> {
    let written: Option<Written> = serde_saphyr::from_str(text).map_err(|error| BadMesh::Unread(error.to_string()))?;
    let Written { extension_providers, default_providers, default_config, fairway_trusted_proxies } =
        written.unwrap_or_default();
    let proxies = proxies::Mesh::read(default_config.as_ref(), &fairway_trusted_proxies).map_err(BadMesh::Proxies)?;
    let mut authorizers = Authorizers::new();
    let mut providers = Providers {
        tracing: default_providers.tracing.into_iter().next(),
        logging: default_providers.access_logging,
        ..Providers::default()
    };
    let mut odd: Vec<String> = proxies.odd().into_iter().collect();
    for (index, provider) in extension_providers.into_iter().enumerate() {
        let at = format!("extensionProviders[{index}]");
        for kind in provider.others.keys().filter(|kind| !KINDS.contains(&kind.as_str())) {
            odd.push(format!("{at}.{kind} is no kind of provider; who names {:?} finds none", provider.name));
        }
        let wrong = |(field, problem): Wrong| BadMesh::Provider { index, field: field.to_owned(), problem };
        let twice = || wrong(("name", "is missing, or is there twice".to_owned()));
        let Provider { name, envoy_ext_authz_http, envoy_ext_authz_grpc, opentelemetry, .. } = provider;
        let asked = match (&envoy_ext_authz_http, &envoy_ext_authz_grpc) {
            (Some(written), None) => Some(authorizers::authorizer(written, true).map_err(wrong)?),
            (None, Some(written)) => Some(authorizers::authorizer(written, false).map_err(wrong)?),
            (Some(_), Some(_)) => {
                return Err(wrong(("envoyExtAuthzGrpc", "excludes envoyExtAuthzHttp".to_owned())));
            }
            // Of another kind: nothing that policies name.
            (None, None) => None,
        };
        if let Some(authorizer) = asked
            && (name.is_empty() || authorizers.insert(name.clone(), authorizer).is_some())
        {
            return Err(twice());
        }
        if let Some(written) = opentelemetry {
            let read = providers::collector(written);
            odd.extend(read.as_ref().err().map(|problem| format!("{at}.opentelemetry: {problem}; nobody is told")));
            insert(&mut providers.collectors, name.clone(), read);
        }
        let file = provider.envoy_file_access_log.map(logs::file);
        if let Some(read) = file.or_else(|| provider.envoy_otel_als.map(logs::collector)) {
            odd.extend(read.as_ref().err().map(|problem| format!("{at} ({name}): {problem}; nobody is told")));
            insert(&mut providers.logs, name.clone(), read);
        }
        if provider.prometheus.is_some() {
            providers.metrics.insert(name.clone());
        }
        if let Some(written) = provider.fairway_external_processor_grpc {
            let processor = written.read().map_err(wrong)?;
            if name.is_empty() || providers.processors.insert(name.clone(), processor).is_some() {
                return Err(twice());
            }
        }
        if let Some(written) = provider.fairway_rate_limit_grpc {
            let limiter = providers::limiter(&written).map_err(wrong)?;
            if name.is_empty() || providers.limiters.insert(name, limiter).is_some() {
                return Err(twice());
            }
        }
    }
    Ok(Mesh { authorizers: Arc::new(authorizers), providers: Arc::new(providers), proxies, odd: Arc::new(odd) })
}

/// Of two by one name neither can be used.
fn insert<T>(known: &mut BTreeMap<String, Result<T, String>>, name: String, read: Result<T, String>) {
    let read = if known.contains_key(&name) { Err("is there twice".to_owned()) } else { read };
    known.insert(name, read);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_told_and_the_rest_counts() {
        let text = "extensionProviders:\n\
                    - {name: a, envoyExtAuthzGrp: {service: a.shop, port: 1}}\n\
                    - {name: b, opentelemetry: {service: b.shop, port: 70000}}\n\
                    - {name: c, zipkin: {service: c.shop, port: 9411}}\n\
                    - {name: d, envoyExtAuthzGrpc: {service: d.shop, port: 1}}\n\
                    - {name: e, envoyOtelAls: {service: e.shop, port: 70000}}\n";
        let mesh = read(text).unwrap();
        assert_eq!(mesh.authorizers.keys().collect::<Vec<_>>(), ["d"]);
        let [kind, port, other] = mesh.odd.as_slice() else { panic!("{:?}", mesh.odd) };
        assert!(kind.starts_with("extensionProviders[0].envoyExtAuthzGrp is no kind of provider"), "{kind}");
        assert!(port.starts_with("extensionProviders[1].opentelemetry: ") && port.contains("70000"), "{port}");
        assert!(other.starts_with("extensionProviders[4] (e): "), "{other}");
    }
}
