//! Memory of the proxies: at rest, with idle connections, and after they have gone.

use anyhow::{Result, ensure};

use super::Options;
use super::stage::{Path, Port};
use crate::load::IdleOutcome;
use crate::measured::{Measured, float};

const BYTES_PER_MEGABYTE: f64 = 1e6;
const PERCENT: f64 = 100.0;

/// What was measured of one path, once. Of the two proxies the larger number counts.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) idle: Measured,
    pub(super) per_connection: Measured,
    pub(super) after: Measured,
    /// Threads of each proxy.
    pub(super) threads: Measured,
    /// Idle connections that were held.
    pub(super) held: u64,
}

impl Memory {
    /// Measures the proxies of `path`, which must not have carried any load yet.
    pub(super) fn measure(path: &Path<'_>, options: &Options) -> Self {
        if !path.has_proxies() {
            return Self::missing("there is no proxy");
        }
        let usage = path.usage().and_then(|usage| {
            ensure!(!usage.is_empty(), "no proxy was watched");
            Ok(usage)
        });
        let of_usage = |number: fn(&crate::load::Usage) -> f64| match &usage {
            Ok(usage) => Measured::Value(largest(usage.iter().map(number))),
            Err(error) => Measured::missing(format!("{error:#}")),
        };
        let idle = of_usage(|usage| float(usage.resident) / BYTES_PER_MEGABYTE);
        let threads = of_usage(|usage| float(usage.threads));
        match hold(path, options) {
            Ok(outcome) => Self {
                idle,
                per_connection: Measured::Value(per_connection(&outcome)),
                after: Measured::Value(after(&outcome)),
                threads,
                held: outcome.held,
            },
            Err(error) => {
                let missing = Measured::missing(format!("{error:#}"));
                Self { idle, per_connection: missing.clone(), after: missing, threads, held: 0 }
            }
        }
    }

    fn missing(why: &str) -> Self {
        let missing = Measured::missing(why);
        Self {
            idle: missing.clone(),
            per_connection: missing.clone(),
            after: missing.clone(),
            threads: missing,
            held: 0,
        }
    }

    /// The rows of the table: name, unit, number.
    pub(super) fn rows(&self, options: &Options) -> [(String, &'static str, Measured); 3] {
        [
            ("RSS idle, a proxy".to_owned(), "MB", self.idle.clone()),
            ("RSS per idle connection, a proxy".to_owned(), "bytes", self.per_connection.clone()),
            (
                format!("RSS {} s after {} connections", options.settle_seconds(), options.idle_connections),
                "% of before",
                self.after.clone(),
            ),
        ]
    }
}

fn hold(path: &Path<'_>, options: &Options) -> Result<IdleOutcome> {
    let wanted = u64::from(options.idle_connections).min(path.capacity());
    let (connections, settle) = (wanted.to_string(), options.settle_seconds().to_string());
    let arguments = ["idle", "--connections", &connections, "--settle", &settle];
    let outcome: IdleOutcome = path.load(Port::Echo, &arguments)?;
    let failure = outcome.first_failure.as_deref().unwrap_or("none failed");
    ensure!(
        outcome.answered == wanted,
        "{} of {wanted} connections were held and answered: {failure}",
        outcome.answered
    );
    let proxies = path.proxies()?.len();
    let complete = [&outcome.before, &outcome.with, &outcome.after].iter().all(|stage| stage.len() == proxies);
    ensure!(complete, "not all proxies were watched");
    Ok(outcome)
}

fn per_connection(outcome: &IdleOutcome) -> f64 {
    let growth = outcome.with.iter().zip(&outcome.before).map(|(with, before)| float(*with) - float(*before));
    largest(growth) / float(outcome.held.max(1))
}

fn after(outcome: &IdleOutcome) -> f64 {
    largest(outcome.after.iter().zip(&outcome.before).map(|(after, before)| float(*after) / float(*before) * PERCENT))
}

fn largest(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.fold(f64::MIN, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_of_the_two_proxies_counts() {
        let outcome = IdleOutcome {
            held: 1_000,
            before: vec![10_000_000, 10_000_000],
            with: vec![12_000_000, 14_000_000],
            after: vec![11_000_000, 10_500_000],
            ..IdleOutcome::default()
        };
        assert_eq!(per_connection(&outcome), 4_000.0);
        assert!((after(&outcome) - 110.0).abs() < 1e-9);
    }
}
