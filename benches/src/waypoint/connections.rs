//! Many connections at once that nobody looks into: how many of them answer, what one takes, and what stays of it.

use super::stage::{NAMES, Stage};
use super::{manifests, row};
use crate::load::IdleOutcome;
use crate::measured::{Measured, float};

/// One of the rows: name and unit, its bar in relation to Envoy, and what it says of one waypoint.
type Column = (String, &'static str, String, fn(&IdleOutcome) -> Measured);

/// Rows of so many connections that are open at once, and of memory some time after they have gone.
pub(super) fn rows(stage: &Stage, connections: u32, settle_seconds: f64) -> Vec<Vec<String>> {
    let outcomes = NAMES.map(|name| {
        eprintln!("{name}: {connections} connections at once");
        held(stage, name, connections, settle_seconds)
    });
    let columns: [Column; 3] = [
        (format!("of {connections} connections at once answered"), "", "all".to_owned(), answered),
        (format!("one of {connections} idle connections"), "bytes", "≤ 0.4".to_owned(), each),
        (format!("RSS {settle_seconds} s after them"), "% of before", String::new(), after),
    ];
    let rows = columns.iter().map(|(name, unit, bar, value)| {
        let of = |outcome: &Result<IdleOutcome, String>| outcome.as_ref().map_or_else(Measured::missing, value);
        row(name, unit, bar, outcomes.iter().map(of).collect())
    });
    rows.collect()
}

fn held(stage: &Stage, name: &str, connections: u32, settle_seconds: f64) -> Result<IdleOutcome, String> {
    let (count, settle) = (connections.to_string(), settle_seconds.to_string());
    let arguments = ["idle", "--connections", &count, "--settle", &settle];
    let outcome: IdleOutcome = stage.load(name, manifests::ECHO, &arguments).map_err(|error| format!("{error:#}"))?;
    if let Some(failure) = &outcome.first_failure {
        eprintln!("{name}: {} connections held, {} of them answered: {failure}", outcome.held, outcome.answered);
    }
    Ok(outcome)
}

fn answered(outcome: &IdleOutcome) -> Measured {
    Measured::Value(float(outcome.answered))
}

fn each(outcome: &IdleOutcome) -> Measured {
    Measured::per(sum(&outcome.with) - sum(&outcome.before), float(outcome.held), "connections")
}

fn after(outcome: &IdleOutcome) -> Measured {
    Measured::per(sum(&outcome.after), sum(&outcome.before), "bytes").times(100.0)
}

fn sum(stage: &[u64]) -> f64 {
    stage.iter().copied().map(float).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_connections_added_and_what_of_it_stays() {
        let (before, with, after_them) = (vec![1000], vec![2000], vec![1100]);
        let outcome = IdleOutcome { held: 10, answered: 9, before, with, after: after_them, first_failure: None };
        assert_eq!((answered(&outcome), each(&outcome)), (Measured::Value(9.0), Measured::Value(100.0)));
        assert!((after(&outcome).value().unwrap() - 110.0).abs() < 1e-9);
        assert!(each(&IdleOutcome::default()).value().is_none());
    }
}
