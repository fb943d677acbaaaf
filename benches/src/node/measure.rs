//! The loads of a round, and the numbers taken from each.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::Options;
use super::stage::{Path, Port};
use crate::load::Outcome;
use crate::measured::{Measured, float};

/// Failed operations that a load may have, out of a thousand: one more, and its numbers would describe something else.
const TOLERATED_FAILURES_PER_MILLE: u64 = 1;
const NANOSECONDS_PER_MICROSECOND: f64 = 1e3;
const BYTES_PER_GIGABYTE: f64 = 1e9;
const MICROSECONDS_PER_SECOND: f64 = 1e6;

/// One number of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    CpuPerGigabyte,
    CpuPerGigabyteOfEight,
    CpuPerRequest,
    CpuPerConnection,
    PingMedian,
    PingTail,
    Throughput,
    ThroughputOfEight,
    Requests,
    Connections,
    RequestTail,
    RequestFarTail,
    PingFarTail,
}

impl Metric {
    pub(super) const ALL: [Self; 13] = [
        Self::CpuPerGigabyte,
        Self::CpuPerGigabyteOfEight,
        Self::CpuPerRequest,
        Self::CpuPerConnection,
        Self::PingMedian,
        Self::PingTail,
        Self::Throughput,
        Self::ThroughputOfEight,
        Self::Requests,
        Self::Connections,
        Self::RequestTail,
        Self::RequestFarTail,
        Self::PingFarTail,
    ];

    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::CpuPerGigabyte => "CPU per GB, 1 stream",
            Self::CpuPerGigabyteOfEight => "CPU per GB, 8 streams",
            Self::CpuPerRequest => "CPU per keep-alive request",
            Self::CpuPerConnection => "CPU per new connection",
            Self::PingMedian => "ping-pong p50",
            Self::PingTail => "ping-pong p99",
            Self::Throughput => "throughput, 1 stream",
            Self::ThroughputOfEight => "throughput, 8 streams",
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::RequestTail => "request p99 at full load",
            Self::RequestFarTail => "request p99.9 at full load",
            Self::PingFarTail => "ping-pong p99.9",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::CpuPerGigabyte | Self::CpuPerGigabyteOfEight => "CPU-s",
            Self::CpuPerRequest | Self::CpuPerConnection => "µs CPU",
            Self::PingMedian | Self::PingTail | Self::PingFarTail | Self::RequestTail | Self::RequestFarTail => "µs",
            Self::Throughput | Self::ThroughputOfEight => "GB/s",
            Self::Requests | Self::Connections => "1/s",
        }
    }

    /// Whether it is shown for information: it says as much about the machine's two ends as about the proxies.
    pub(super) fn is_information(self) -> bool {
        self >= Self::Throughput
    }

    /// The number in an outcome.
    fn of(self, outcome: &Outcome, has_proxies: bool) -> Measured {
        let cpu = outcome.cpu_seconds.iter().sum::<f64>();
        let per = |count: f64, counted: &str| match (has_proxies, cpu > 0.0) {
            (false, _) => Measured::missing("there is no proxy"),
            (true, false) => Measured::missing("the proxies used no processor time: did the traffic pass them?"),
            (true, true) => Measured::per(cpu, count, counted),
        };
        let rate = |count: f64, counted: &str| match count > 0.0 {
            true => Measured::per(count, outcome.seconds, counted),
            false => Measured::missing(format!("no {counted} in the measured time")),
        };
        let latency = |part: fn(&crate::histogram::Percentiles) -> u64| match &outcome.latency {
            Some(latency) => Measured::Value(float(part(latency)) / NANOSECONDS_PER_MICROSECOND),
            None => Measured::missing("no operation in the measured time"),
        };
        let gigabytes = float(outcome.bytes) / BYTES_PER_GIGABYTE;
        let operations = float(outcome.operations);
        match self {
            Self::CpuPerGigabyte | Self::CpuPerGigabyteOfEight => per(gigabytes, "bytes"),
            Self::CpuPerRequest => per(operations, "requests").times(MICROSECONDS_PER_SECOND),
            Self::CpuPerConnection => per(operations, "connections").times(MICROSECONDS_PER_SECOND),
            Self::PingMedian => latency(|latency| latency.p50),
            Self::PingTail | Self::RequestTail => latency(|latency| latency.p99),
            Self::PingFarTail | Self::RequestFarTail => latency(|latency| latency.p999),
            Self::Throughput | Self::ThroughputOfEight => rate(gigabytes, "bytes"),
            Self::Requests => rate(operations, "requests"),
            Self::Connections => rate(operations, "connections"),
        }
    }
}

/// One load, and what it measures.
pub(super) struct Load {
    port: Port,
    arguments: &'static [&'static str],
    metrics: &'static [Metric],
}

/// The loads of a round.
pub(super) const LOADS: [Load; 5] = [
    Load {
        port: Port::Bulk,
        arguments: &["bulk", "--streams", "1"],
        metrics: &[Metric::CpuPerGigabyte, Metric::Throughput],
    },
    Load {
        port: Port::Bulk,
        arguments: &["bulk", "--streams", "8"],
        metrics: &[Metric::CpuPerGigabyteOfEight, Metric::ThroughputOfEight],
    },
    Load {
        port: Port::Http,
        arguments: &["requests", "--connections", "32"],
        metrics: &[Metric::CpuPerRequest, Metric::Requests, Metric::RequestTail, Metric::RequestFarTail],
    },
    Load {
        port: Port::Http,
        arguments: &["connect", "--workers", "4"],
        metrics: &[Metric::CpuPerConnection, Metric::Connections],
    },
    Load {
        port: Port::Echo,
        arguments: &["ping"],
        metrics: &[Metric::PingMedian, Metric::PingTail, Metric::PingFarTail],
    },
];

/// What one round gave for one path.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    pub(super) values: BTreeMap<Metric, Measured>,
    /// Operations that failed without voiding the numbers.
    pub(super) failures: Vec<String>,
}

impl Load {
    /// Runs the load on `path`; what goes wrong there becomes the reason why its numbers are missing.
    pub(super) fn measure(&self, path: &Path<'_>, options: &Options, round: &mut Round) -> Result<()> {
        let seconds = options.seconds().to_string();
        let cpu = options.processors()?.map(|(_, load)| load.to_string());
        let mut arguments = self.arguments.to_vec();
        arguments.extend(["--seconds", &seconds]);
        arguments.extend(cpu.iter().flat_map(|cpu| ["--cpu", cpu.as_str()]));
        let outcome = path.load::<Outcome>(self.port, &arguments).and_then(|outcome| check(outcome, round));
        for metric in self.metrics {
            let value = match &outcome {
                Ok(outcome) => metric.of(outcome, path.has_proxies()),
                Err(error) => Measured::missing(format!("{error:#}")),
            };
            round.values.insert(*metric, value);
        }
        Ok(())
    }
}

/// Refuses an outcome in which more than a very few operations failed.
fn check(outcome: Outcome, round: &mut Round) -> Result<Outcome> {
    if let Some(failure) = &outcome.first_failure {
        let all = outcome.operations + outcome.failures;
        let tolerated = outcome.failures * 1000 <= all * TOLERATED_FAILURES_PER_MILLE;
        ensure!(tolerated, "{} of {all} operations failed, the first one so: {failure}", outcome.failures);
        round.failures.push(format!("{} of {all} operations failed, the first one so: {failure}", outcome.failures));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Percentiles;

    fn outcome() -> Outcome {
        Outcome {
            seconds: 2.0,
            bytes: 4_000_000_000,
            operations: 1_000,
            latency: Some(Percentiles { p50: 50_000, p99: 99_000, p999: 999_000 }),
            cpu_seconds: vec![0.5, 1.5],
            ..Outcome::default()
        }
    }

    #[test]
    fn numbers_come_from_the_outcome() {
        let value = |metric: Metric| metric.of(&outcome(), true).value().unwrap();
        assert_eq!(value(Metric::CpuPerGigabyte), 0.5);
        assert_eq!(value(Metric::CpuPerRequest), 2_000.0);
        assert_eq!(value(Metric::PingTail), 99.0);
        assert_eq!(value(Metric::ThroughputOfEight), 2.0);
        assert_eq!(value(Metric::Connections), 500.0);
    }

    #[test]
    fn nothing_is_made_up() {
        let missing = |metric: Metric, outcome: &Outcome, proxies| match metric.of(outcome, proxies) {
            Measured::Missing(why) => why,
            Measured::Value(value) => panic!("{metric:?} was {value}"),
        };
        let nothing = Outcome { seconds: 1.0, cpu_seconds: vec![0.1], ..Outcome::default() };
        for metric in Metric::ALL {
            assert!(!missing(metric, &nothing, true).is_empty());
        }
        assert_eq!(missing(Metric::CpuPerRequest, &outcome(), false), "there is no proxy");
        let unused = Outcome { cpu_seconds: vec![0.0, 0.0], ..outcome() };
        assert!(missing(Metric::CpuPerGigabyte, &unused, true).contains("did the traffic pass"));
    }

    #[test]
    fn every_metric_is_measured_by_one_load() {
        for metric in Metric::ALL {
            assert_eq!(LOADS.iter().filter(|load| load.metrics.contains(&metric)).count(), 1, "{metric:?}");
        }
    }

    #[test]
    fn a_few_failures_are_noted_and_many_void_the_outcome() {
        let failed = |failures| Outcome { failures, first_failure: Some("reset".into()), ..outcome() };
        let mut round = Round::default();
        assert!(check(failed(1), &mut round).is_ok());
        assert_eq!(round.failures, ["1 of 1001 operations failed, the first one so: reset"]);
        let error = check(failed(2), &mut round).unwrap_err();
        assert_eq!(error.to_string(), "2 of 1002 operations failed, the first one so: reset");
    }
}
