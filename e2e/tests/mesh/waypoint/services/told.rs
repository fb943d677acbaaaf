//! What a collector is told: traces that clients have begun, in both forms, a share of the others, and requests that have ended.

use serde_json::Value;

use super::super::{CLIENT, ask, counted, shop};
use super::{Shop, TRACE, hexadecimal};

/// Spans of clients.
const SPAN: &str = "00f067aa0ba902b7";
/// Traces whose clients say so in B3's forms: to be told, and not.
const SEVERAL: &str = "1af7651916cd43dd8448eb211c80319c";
const SINGLE: &str = "2af7651916cd43dd8448eb211c80319c";

/// The value behind a name in an answer.
fn value<'a>(answer: &'a str, name: &str) -> &'a str {
    let found = answer.split_once(&format!(" {name}: ")).and_then(|(_, rest)| rest.split_whitespace().next());
    found.unwrap_or_else(|| panic!("no {name} in {answer}"))
}

pub(super) fn of_what_clients_trace(shop: &Shop) {
    let answer = shop.hears(&[], "/", &["200 ", "traceparent: 00-", "-00"]);
    assert!(!answer.contains(TRACE), "{answer}");
    let parent = format!("traceparent: 00-{TRACE}-{SPAN}-01");
    let answer = shop.hears(&["-H", &parent], "/seen", &["200 ", TRACE]);
    let span = value(&answer, "traceparent").get(36..52).unwrap().to_owned();
    let told = shop.told(&[TRACE, &span]);
    for part in ["waypoint.shop", "web.shop.svc.cluster.local:80/*", "/seen", shop::CLIENT_IDENTITY] {
        assert!(told.contains(&hexadecimal(part)), "{part}");
    }

    let silent = format!("b3: {SINGLE}-{SPAN}-0");
    let answer = shop.hears(&["-H", &silent], "/silent", &["200 "]);
    let fields: Vec<&str> = value(&answer, "b3").split('-').collect();
    assert!(matches!(*fields, [SINGLE, span, "0", SPAN] if span != SPAN), "{answer}");
    let several =
        [("traceid", SEVERAL), ("spanid", SPAN), ("sampled", "1")].map(|(name, it)| format!("x-b3-{name}: {it}"));
    let several: Vec<&str> = several.iter().flat_map(|line| ["-H", line]).collect();
    let answer = shop.hears(&several, "/several", &["200 "]);
    let (trace, span) = (value(&answer, "x-b3-traceid"), value(&answer, "x-b3-spanid"));
    assert!(trace == SEVERAL && span != SPAN && value(&answer, "traceparent").contains(span), "{answer}");
    assert!(!shop.told(&[SEVERAL, span]).contains(SINGLE), "what was before, and not to be told of, is told of");
}

/// All of what no client has decided about.
const SAMPLED: &str = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: traces, namespace: shop}\n\
    spec: {tracing: [{randomSamplingPercentage: 100}]}\n";

pub(super) fn of_a_share_of_what_nobody_traces(shop: &Shop) {
    shop.lab.apply(SAMPLED).unwrap();
    let answer = shop.lab.wait_until("a trace that is told of", || {
        let answer = ask(&shop.lab, CLIENT, "http://web/sampled", &[]);
        if value(&answer, "traceparent").ends_with("-01") { Ok(answer) } else { Err(answer) }
    });
    let answer = answer.unwrap();
    let parent = value(&answer, "traceparent");
    shop.told(&[parent.get(3..35).unwrap(), parent.get(36..52).unwrap(), &hexadecimal("/sampled")]);
}

/// Of some requests lines are written and a collector is told.
const LOGS: &str = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: logs, namespace: shop}\nspec:\n  \
    targetRefs: [{group: \"\", kind: Service, name: web}]\n  accessLogging:\n  - providers: [{name: lines}, {name: records}]\n    \
    filter: {expression: \"request.url_path.startsWith('/logged') && response.code == 200\"}\n";

pub(super) fn of_requests_that_have_ended(shop: &Shop) {
    let start = counted::written(&shop.lab).len();
    let lines = || -> Vec<Value> {
        let log = counted::written(&shop.lab);
        log.get(start..).unwrap_or_default().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    shop.lab.apply(LOGS).unwrap();
    shop.lab
        .wait_until("a line about a request", || {
            ask(&shop.lab, CLIENT, "http://web/quiet", &[]);
            let answer = ask(&shop.lab, CLIENT, "http://web/logged?a=b", &[]);
            if lines().is_empty() { Err(answer) } else { Ok(()) }
        })
        .unwrap();
    for line in lines() {
        assert_eq!(line, serde_json::json!({"code": 200, "path": "/logged?a=b", "who": shop::CLIENT_IDENTITY}));
    }
    let told = shop.told(&[&hexadecimal("told of /logged?a=b")]);
    assert!(!told.contains(&hexadecimal("told of /quiet")), "{told}");
}
