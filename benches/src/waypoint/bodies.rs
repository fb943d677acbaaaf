//! Long bodies, up and down: how much of them a waypoint holds at worst, and what a gigabyte costs.

use anyhow::Result;

use super::stage::{NAMES, Stage};
use super::{manifests, row};
use crate::load::BodyOutcome;
use crate::measured::{Measured, float};

/// One way to send a body.
struct Case {
    name: &'static str,
    /// Port of the waypoints' services.
    port: u16,
    arguments: &'static [&'static str],
}

const CASES: [Case; 6] = [
    Case { name: "up, HTTP/1.1, length known", port: manifests::BODIES, arguments: &[] },
    Case { name: "up, HTTP/1.1, chunked", port: manifests::BODIES, arguments: &["--chunked"] },
    Case { name: "up, HTTP/1.1, chunked, retries", port: manifests::RETRIED, arguments: &["--chunked"] },
    Case { name: "up, HTTP/2", port: manifests::BODIES2, arguments: &["--http2"] },
    Case { name: "down, HTTP/1.1", port: manifests::BODIES, arguments: &["--down"] },
    Case { name: "down, HTTP/2", port: manifests::BODIES2, arguments: &["--down", "--http2"] },
];

/// Whoever receives a body reads so much of it slowly, after reading nothing for a while: more than everybody on the way holds
/// together, so that all of their buffers fill up.
const SLOW_BYTES: u64 = 32 << 20;

/// Rows of bodies of so many megabytes.
///
/// # Errors
/// When a waypoint does not run.
pub(super) fn rows(stage: &Stage, megabytes: u32) -> Result<Vec<Vec<String>>> {
    // Before all cases, so that what an earlier one has left behind counts, too.
    let idle: Vec<f64> = NAMES.map(|name| stage.resident(name)).into_iter().collect::<Result<_>>()?;
    let mut rows = Vec::new();
    for case in &CASES {
        let size = format!("{megabytes} MB {}", case.name);
        let outcomes = NAMES.map(|name| {
            eprintln!("{name}: {size}");
            carried(stage, name, case, megabytes)
        });
        let peaks = outcomes.iter().zip(&idle).map(|(outcome, idle)| of(outcome, |it| peak_above(it, *idle)));
        rows.push(row(&format!("{size}: most RSS above idle"), "MB", "", peaks.collect()));
        let cpu = outcomes.iter().map(|outcome| of(outcome, |it| cpu_per_gigabyte(it, megabytes)));
        rows.push(row(&format!("{size}: CPU per GB"), "CPU-s", "", cpu.collect()));
    }
    Ok(rows)
}

fn carried(stage: &Stage, name: &str, case: &Case, megabytes: u32) -> Result<BodyOutcome, String> {
    let (bytes, slow) = ((u64::from(megabytes) * 1_000_000).to_string(), SLOW_BYTES.to_string());
    let arguments = [&["body", "--bytes", &bytes, "--slow-bytes", &slow], case.arguments].concat();
    stage.load(name, case.port, &arguments).map_err(|error| format!("{error:#}"))
}

fn of(outcome: &Result<BodyOutcome, String>, value: impl FnOnce(&BodyOutcome) -> Measured) -> Measured {
    outcome.as_ref().map_or_else(Measured::missing, value)
}

fn peak_above(outcome: &BodyOutcome, idle: f64) -> Measured {
    let sum = |of: &[u64]| of.iter().copied().map(float).sum::<f64>();
    // A process may have given memory back since then.
    Measured::Value((sum(&outcome.peak) - sum(&outcome.before).min(idle)) / 1e6)
}

fn cpu_per_gigabyte(outcome: &BodyOutcome, megabytes: u32) -> Measured {
    Measured::per(outcome.cpu_seconds.iter().sum(), f64::from(megabytes) / 1e3, "bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_counted_from_idle_and_time_for_a_gigabyte() {
        let (before, peak) = (vec![42_000_000], vec![50_000_000]);
        let outcome = BodyOutcome { seconds: 1.0, before, peak, cpu_seconds: vec![0.5] };
        assert_eq!(peak_above(&outcome, 40e6), Measured::Value(10.0), "what stayed of earlier ones counts");
        assert_eq!(peak_above(&outcome, 45e6), Measured::Value(8.0), "what was given back meanwhile does, too");
        assert_eq!(cpu_per_gigabyte(&outcome, 250), Measured::Value(2.0));
    }
}
