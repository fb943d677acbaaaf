//! Whom waypoints tell what requests took, and who counts requests for several of them: providers of the mesh configuration, in
//! no proxy's language (api-surface A5).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::authorizers::BadMesh;
use super::model::Target;
use super::rules::text;

/// For the answer of a rate limiter, where nothing is said; Envoy's default.
const TIMEOUT: Duration = Duration::from_millis(20);
/// The status where a rate limiter does not answer and requests do not pass; Envoy's default.
const STATUS: u16 = 500;

/// All of them, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Providers {
    /// Collectors of traces, or why one cannot be used.
    pub collectors: BTreeMap<String, Result<Target, String>>,
    /// Rate limiters.
    pub limiters: BTreeMap<String, Limiter>,
    /// The collector where a Telemetry names none.
    pub tracing: Option<String>,
}

/// Who counts requests for several proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limiter {
    /// Where.
    pub target: Target,
    /// What its limits are said for.
    pub domain: String,
    /// An answer has to be there by then.
    pub timeout: Duration,
    /// Requests pass where there is none.
    pub fails_open: bool,
    /// The status where there is none, and they do not.
    pub status: u16,
}

/// What of a mesh configuration means something here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mesh {
    extension_providers: Vec<Provider>,
    default_providers: Defaults,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Defaults {
    tracing: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Provider {
    name: String,
    opentelemetry: Option<Value>,
    fairway_rate_limit_grpc: Option<WrittenLimiter>,
}

/// Istio's fields, of which some are not for us.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenCollector {
    service: String,
    port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenLimiter {
    service: String,
    port: u16,
    domain: String,
    timeout: Option<String>,
    #[serde(default = "yes")]
    fail_open: bool,
    status_on_error: Option<String>,
}

fn yes() -> bool {
    true
}

/// Reads the providers of a mesh configuration, as Istio's config map has it in `mesh`. A collector that cannot be used is a
/// fault of who names it, as Istio knows more kinds of them.
///
/// # Errors
/// The first rate limiter that cannot be used.
pub fn read(text: &str) -> Result<Providers, BadMesh> {
    let mesh: Option<Mesh> = serde_saphyr::from_str(text).map_err(|error| BadMesh::Unread(error.to_string()))?;
    let Mesh { extension_providers, default_providers } = mesh.unwrap_or_default();
    let mut all = Providers { tracing: default_providers.tracing.into_iter().next(), ..Providers::default() };
    for (index, provider) in extension_providers.into_iter().enumerate() {
        if let Some(written) = provider.opentelemetry {
            all.collectors.insert(provider.name.clone(), collector(written));
        }
        let Some(written) = provider.fairway_rate_limit_grpc else { continue };
        let wrong = |(field, problem): (&str, &str)| BadMesh::Provider {
            index,
            field: field.to_owned(),
            problem: problem.to_owned(),
        };
        let read = limiter(&written).map_err(wrong)?;
        if provider.name.is_empty() || all.limiters.insert(provider.name, read).is_some() {
            return Err(wrong(("name", "is missing, or is there twice")));
        }
    }
    Ok(all)
}

/// `[<namespace>/]<hostname>` and a port.
fn target(service: &str, port: u16) -> Result<Target, (&'static str, &'static str)> {
    let hostname = service.rsplit_once('/').map_or(service, |(_, host)| host);
    if !text::is_host(hostname) {
        return Err(("service", "is no name of a service, such as collector.shop.svc.cluster.local"));
    }
    if port == 0 {
        return Err(("port", "is missing"));
    }
    Ok(Target { hostname: hostname.to_owned(), port, subset: None })
}

fn collector(written: Value) -> Result<Target, String> {
    let written: WrittenCollector =
        serde_json::from_value(written).map_err(|error| format!("{error}; OTLP over gRPC is what is spoken"))?;
    target(&written.service, written.port).map_err(|(field, problem)| format!("{field} {problem}"))
}

fn limiter(written: &WrittenLimiter) -> Result<Limiter, (&'static str, &'static str)> {
    let target = target(&written.service, written.port)?;
    if written.domain.is_empty() {
        return Err(("domain", "is missing"));
    }
    let timeout = match written.timeout.as_deref() {
        None => TIMEOUT,
        Some(time) => {
            text::seconds(time).filter(|time| !time.is_zero()).ok_or(("timeout", "is no time; write for example 1s"))?
        }
    };
    let status = match written.status_on_error.as_deref() {
        None => STATUS,
        Some(status) => status
            .parse()
            .ok()
            .filter(|status| (400..600).contains(status))
            .ok_or(("statusOnError", "is no status of a refusal"))?,
    };
    Ok(Limiter { target, domain: written.domain.clone(), timeout, fails_open: written.fail_open, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectors_that_cannot_be_used_are_faults_of_who_names_them() {
        let rows = [
            (
                "{service: otel/collector.otel.svc.cluster.local, port: 4317}",
                Ok("collector.otel.svc.cluster.local:4317"),
            ),
            ("{service: collector, port: 4317, http: {path: /v1/traces}}", Err("http")),
            ("{service: \"a b\", port: 1}", Err("service ")),
            ("{service: collector}", Err("port ")),
        ];
        for (written, expected) in rows {
            let mesh = format!(
                "defaultProviders: {{tracing: [c, d]}}\nextensionProviders:\n- {{name: c, opentelemetry: {written}}}\n"
            );
            let read = read(&mesh).unwrap();
            assert_eq!(read.tracing.as_deref(), Some("c"));
            match (&read.collectors["c"], expected) {
                (Ok(target), Ok(expected)) => assert_eq!(target.to_string(), expected),
                (Err(problem), Err(part)) => assert!(problem.contains(part), "{problem}"),
                other => panic!("{written}: {other:?}"),
            }
        }
    }

    #[test]
    fn rate_limiters_are_read_as_a_whole_or_refused() {
        let read = |fields: &str| {
            let mesh = format!("extensionProviders:\n- {{name: l, fairwayRateLimitGrpc: {{{fields}}}}}\n");
            read(&mesh).map(|read| read.limiters["l"].clone()).map_err(|error| error.to_string())
        };
        let target = Target { hostname: "limiter.shop".into(), port: 8081, subset: None };
        let usual = "service: limiter.shop, port: 8081, domain: shop";
        let limiter = Limiter { target, domain: "shop".into(), timeout: TIMEOUT, fails_open: true, status: 500 };
        assert_eq!(read(usual), Ok(limiter.clone()));
        let strict = format!("{usual}, timeout: 0.5s, failOpen: false, statusOnError: \"503\"");
        let timeout = Duration::from_millis(500);
        assert_eq!(read(&strict), Ok(Limiter { timeout, fails_open: false, status: 503, ..limiter }));
        for (fields, part) in [
            ("service: limiter.shop, port: 8081, domain: \"\"".to_owned(), "domain"),
            (format!("{usual}, timeout: 0s"), "timeout"),
            (format!("{usual}, statusOnError: \"200\""), "statusOnError"),
            (format!("{usual}, other: 1"), "other"),
        ] {
            let error = read(&fields).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
