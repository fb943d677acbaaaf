//! Rates from what proxies have counted at two moments; pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::metrics::Sample;

/// Value of a label nothing is known for.
const UNKNOWN: &str = "unknown";
/// Share of requests that are not slower than the number that is shown.
const QUANTILE: f64 = 0.99;

/// Who talks to whom: `NAMESPACE/WORKLOAD`, or the name of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Flow {
    pub(super) source: String,
    pub(super) destination: String,
}

impl Flow {
    /// Whether either end is in this namespace.
    pub(super) fn is_of(&self, namespace: &str) -> bool {
        [&self.source, &self.destination].iter().any(|end| end.split_once('/').is_some_and(|(of, _)| of == namespace))
    }
}

/// What was counted of one flow by one of its ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counts {
    opened: f64,
    failed: f64,
    sent_bytes: f64,
    received_bytes: f64,
    requests: f64,
    good_requests: f64,
    /// Requests that took no longer than so many milliseconds, by the bound's text.
    durations: BTreeMap<Bound, f64>,
}

/// Upper bound of a histogram's bucket, in thousandths.
type Bound = u64;

/// What proxies have counted, by flow and by whether the client's end has counted it.
pub(super) type Counted = BTreeMap<(Flow, bool), Counts>;

/// What happens in a second; the schema of `-o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rates {
    #[serde(flatten)]
    pub(super) flow: Flow,
    /// Connections.
    pub(super) opened: f64,
    pub(super) failed: f64,
    /// Bytes from the client, and to it.
    pub(super) sent_bytes: f64,
    pub(super) received_bytes: f64,
    /// Requests that waypoints saw.
    pub(super) requests: f64,
    /// Share of them that were not answered with 5xx.
    pub(super) success: Option<f64>,
    /// Milliseconds within which 99 of 100 of them were answered, as exactly as buckets are.
    pub(super) p99: Option<f64>,
}

impl Rates {
    pub(super) fn none(flow: Flow) -> Self {
        let (opened, failed, sent_bytes, received_bytes, requests) = (0.0, 0.0, 0.0, 0.0, 0.0);
        Self { flow, opened, failed, sent_bytes, received_bytes, requests, success: None, p99: None }
    }
}

/// What each part has counted, by its name. A part that did not answer is not among them.
pub(super) type ByPart = BTreeMap<String, Counted>;

/// Adds up what one part has counted.
pub(super) fn counted(samples: &[Sample]) -> Counted {
    let mut all = Counted::new();
    for sample in samples {
        let flow = Flow { source: end(sample, "source"), destination: end(sample, "destination") };
        // Waypoints are in between, and count for both.
        let is_source = sample.label("reporter") == "source";
        let counts = all.entry((flow, is_source)).or_default();
        match sample.name.as_str() {
            "istio_tcp_connections_opened_total" => counts.opened += sample.value,
            "istio_tcp_connections_failed_total" => counts.failed += sample.value,
            // Bytes received are those from the client, at either end.
            "istio_tcp_received_bytes_total" => counts.sent_bytes += sample.value,
            "istio_tcp_sent_bytes_total" => counts.received_bytes += sample.value,
            "istio_requests_total" => {
                counts.requests += sample.value;
                if !sample.label("response_code").starts_with('5') {
                    counts.good_requests += sample.value;
                }
            }
            "istio_request_duration_milliseconds_bucket" => {
                *counts.durations.entry(bound(sample.label("le"))).or_default() += sample.value;
            }
            _ => {}
        }
    }
    all
}

fn end(sample: &Sample, which: &str) -> String {
    let known = |label: &str| Some(sample.label(label)).filter(|value| !value.is_empty() && *value != UNKNOWN);
    let workload = known(&format!("{which}_workload"));
    let namespace = known(&format!("{which}_workload_namespace"));
    match (namespace, workload, known("destination_service")) {
        (Some(namespace), Some(workload), _) => format!("{namespace}/{workload}"),
        (_, _, Some(service)) if which == "destination" => service.to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounds are small and not negative")]
fn bound(text: &str) -> Bound {
    text.parse::<f64>().ok().filter(|value| value.is_finite()).map_or(Bound::MAX, |value| (value * 1000.0) as Bound)
}

impl Counts {
    /// What was counted since. What counts anew since its part was started again counts from nothing.
    fn since(&self, past: &Self) -> Self {
        let is_started_again = self.opened < past.opened
            || self.sent_bytes < past.sent_bytes
            || self.received_bytes < past.received_bytes
            || self.requests < past.requests;
        let nothing = Self::default();
        let past = if is_started_again { &nothing } else { past };
        let grown = |now: f64, past: f64| (now - past).max(0.0);
        let durations = self.durations.iter().map(|(bound, count)| {
            let past = past.durations.get(bound).copied().unwrap_or_default();
            (*bound, grown(*count, past))
        });
        Self {
            opened: grown(self.opened, past.opened),
            failed: grown(self.failed, past.failed),
            sent_bytes: grown(self.sent_bytes, past.sent_bytes),
            received_bytes: grown(self.received_bytes, past.received_bytes),
            requests: grown(self.requests, past.requests),
            good_requests: grown(self.good_requests, past.good_requests),
            durations: durations.collect(),
        }
    }

    fn add(&mut self, more: Self) {
        self.opened += more.opened;
        self.failed += more.failed;
        self.sent_bytes += more.sent_bytes;
        self.received_bytes += more.received_bytes;
        self.requests += more.requests;
        self.good_requests += more.good_requests;
        for (bound, count) in more.durations {
            *self.durations.entry(bound).or_default() += count;
        }
    }
}

/// What parts have counted between two looks. One that did not answer both times is left out: all that it ever counted would
/// look as if it had happened in between.
fn grown(before: &ByPart, now: &ByPart) -> Counted {
    let nothing = Counts::default();
    let mut all = Counted::new();
    for (part, now) in now {
        let Some(before) = before.get(part) else { continue };
        for (flow, counts) in now {
            let past = before.get(flow).unwrap_or(&nothing);
            all.entry(flow.clone()).or_default().add(counts.since(past));
        }
    }
    all
}

/// What happened between two looks, in a second.
pub(super) fn between(before: &ByPart, now: &ByPart, took: Duration) -> Vec<Rates> {
    let grown = grown(before, now);
    let seconds = took.as_secs_f64().max(f64::MIN_POSITIVE);
    let mut flows: BTreeMap<&Flow, Rates> = BTreeMap::new();
    // The client's end last: where both tell, its word counts.
    for is_source in [false, true] {
        for ((flow, _), counts) in grown.iter().filter(|((_, source), _)| *source == is_source) {
            let rates = flows.entry(flow).or_insert_with(|| Rates::none(flow.clone()));
            let put = |rate: &mut f64, grown: f64| {
                if grown > 0.0 {
                    *rate = grown / seconds;
                }
            };
            put(&mut rates.opened, counts.opened);
            put(&mut rates.failed, counts.failed);
            put(&mut rates.sent_bytes, counts.sent_bytes);
            put(&mut rates.received_bytes, counts.received_bytes);
            if counts.requests > 0.0 {
                rates.requests = counts.requests / seconds;
                rates.success = Some((counts.good_requests / counts.requests).clamp(0.0, 1.0));
                rates.p99 = quantile(&counts.durations);
            }
        }
    }
    let is_alive = |it: &Rates| it.opened + it.failed + it.sent_bytes + it.received_bytes + it.requests > 0.0;
    flows.into_values().filter(is_alive).collect()
}

/// The bound of the first bucket that has so many of the requests in between.
fn quantile(durations: &BTreeMap<Bound, f64>) -> Option<f64> {
    let all = durations.get(&Bound::MAX).copied().filter(|all| *all > 0.0)?;
    let (bound, _) = durations.iter().find(|(_, count)| **count >= all * QUANTILE)?;
    let thousandths = u32::try_from(*bound).ok()?;
    Some(f64::from(thousandths) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::read;

    fn page(reporter: &str, opened: u32, bytes: u32) -> String {
        let labels = format!(
            "reporter=\"{reporter}\",source_workload=\"client\",source_workload_namespace=\"shop\",\
             destination_workload=\"server\",destination_workload_namespace=\"shop\""
        );
        format!(
            "istio_tcp_connections_opened_total{{{labels}}} {opened}\nistio_tcp_received_bytes_total{{{labels}}} {bytes}\n"
        )
    }

    fn look(pages: &[String]) -> ByPart {
        let samples: Vec<Sample> = pages.iter().flat_map(|page| read(page).collect::<Vec<_>>()).collect();
        ByPart::from([("node-1".to_owned(), counted(&samples))])
    }

    #[test]
    fn a_part_that_answers_only_once_says_nothing_of_what_happened_in_between() {
        let of = |part: &str, opened: u32| {
            let samples: Vec<Sample> = read(&page("source", opened, 0)).collect();
            (part.to_owned(), counted(&samples))
        };
        let one = ByPart::from([of("a", 10)]);
        let both = ByPart::from([of("a", 12), of("b", 5000)]);
        let second = Duration::from_secs(1);
        let opened = |rates: Vec<Rates>| rates.iter().map(|it| it.opened).sum::<f64>();
        assert_eq!(opened(between(&one, &both, second)), 2.0, "b has answered anew");
        assert_eq!(opened(between(&both, &ByPart::from([of("a", 15)]), second)), 3.0, "b has gone");
        let again = ByPart::from([of("a", 13), of("b", 4)]);
        assert_eq!(opened(between(&both, &again, second)), 5.0, "b has started again, a has not");
    }

    #[test]
    fn both_ends_of_a_connection_are_one_flow() {
        let before = look(&[page("source", 10, 100), page("destination", 10, 100)]);
        let now = look(&[page("source", 14, 300), page("destination", 14, 300)]);
        let rates = between(&before, &now, Duration::from_secs(2));
        assert_eq!(rates.len(), 1);
        assert_eq!((rates[0].opened, rates[0].sent_bytes), (2.0, 100.0));
        assert_eq!(rates[0].flow, Flow { source: "shop/client".to_owned(), destination: "shop/server".to_owned() });
        assert!(rates[0].flow.is_of("shop") && !rates[0].flow.is_of("server"));
        assert_eq!(between(&now, &now, Duration::from_secs(2)), [], "nothing moves");
    }

    #[test]
    fn one_end_alone_is_enough_and_a_restart_counts_from_nothing() {
        let before = look(&[page("destination", 50, 5000)]);
        let now = look(&[page("destination", 3, 30)]);
        let rates = between(&before, &now, Duration::from_secs(1));
        assert_eq!((rates[0].opened, rates[0].sent_bytes), (3.0, 30.0));
    }

    #[test]
    fn requests_have_success_and_slowness() {
        let page = |good: u32, bad: u32, quick: u32| {
            let labels = "reporter=\"waypoint\",destination_service=\"web.shop\"";
            let all = good + bad;
            format!(
                "istio_requests_total{{{labels},response_code=\"200\"}} {good}\nistio_requests_total{{{labels},response_code=\"503\"}} {bad}\n\
                 istio_request_duration_milliseconds_bucket{{{labels},le=\"5\"}} {quick}\n\
                 istio_request_duration_milliseconds_bucket{{{labels},le=\"100\"}} {all}\n\
                 istio_request_duration_milliseconds_bucket{{{labels},le=\"+Inf\"}} {all}\n"
            )
        };
        let rates = between(&look(&[page(0, 0, 0)]), &look(&[page(90, 10, 98)]), Duration::from_secs(10));
        assert_eq!((rates[0].requests, rates[0].success, rates[0].p99), (10.0, Some(0.9), Some(100.0)));
        let rates = between(&look(&[page(0, 0, 0)]), &look(&[page(100, 0, 100)]), Duration::from_secs(10));
        assert_eq!((rates[0].success, rates[0].p99), (Some(1.0), Some(5.0)));
        assert_eq!((rates[0].flow.source.as_str(), rates[0].flow.destination.as_str()), ("unknown", "web.shop"));
    }
}
