//! Whom waypoints tell what requests took, and who counts requests for several of them: providers of the mesh configuration, in
//! no proxy's language (api-surface A5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::model::Target;
use super::processors::Processors;
use super::provider::{self, Wrong};

pub mod logs;

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
    /// Who may see requests.
    pub processors: Processors,
    /// The collector where a Telemetry names none.
    pub tracing: Option<String>,
    /// Who is told of requests that have ended, or why one cannot be used.
    pub logs: BTreeMap<String, Result<logs::Sink, String>>,
    /// Those of these where no Telemetry names any.
    pub logging: Vec<String>,
    /// Names of Prometheus, which asks by itself; besides Istio's.
    pub metrics: BTreeSet<String>,
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

/// Istio's fields, of which some are not for us.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct WrittenCollector {
    service: String,
    port: u16,
}

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WrittenLimiter {
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

/// A collector, or why it cannot be used.
pub(super) fn collector(written: Value) -> Result<Target, String> {
    let written: WrittenCollector =
        serde_json::from_value(written).map_err(|error| format!("{error}; OTLP over gRPC is what is spoken"))?;
    let target = provider::target(&written.service, written.port, "collector");
    target.map_err(|(field, problem)| format!("{field} {problem}"))
}

/// A rate limiter.
pub(super) fn limiter(written: &WrittenLimiter) -> Result<Limiter, Wrong> {
    let target = provider::target(&written.service, written.port, "collector")?;
    if written.domain.is_empty() {
        return Err(("domain", "is missing".to_owned()));
    }
    let timeout = provider::timeout(written.timeout.as_deref(), TIMEOUT)?;
    let status = provider::status(written.status_on_error.as_deref(), STATUS)?;
    Ok(Limiter { target, domain: written.domain.clone(), timeout, fails_open: written.fail_open, status })
}

#[cfg(test)]
mod tests {
    use super::super::mesh::read;
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
            let read = read(&mesh).unwrap().providers;
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
            read(&mesh).map(|read| read.providers.limiters["l"].clone()).map_err(|error| error.to_string())
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
