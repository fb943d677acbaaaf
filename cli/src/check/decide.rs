//! Decides from facts whether a mesh is well: sections of checks, each with what to do where it is not. Pure.

mod control;
mod nodes;
mod objects;
mod platform;

use serde::Serialize;

use super::facts::Facts;

/// Checks of one part of a mesh; the schema of `-o json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Check {
    /// Stable name of the check, for programs.
    pub(super) id: &'static str,
    /// What should be so.
    pub(super) what: String,
    pub(super) outcome: Outcome,
    /// What is not so: one entry for each thing.
    pub(super) findings: Vec<String>,
    /// What to do about it.
    pub(super) hint: Option<String>,
}

/// What came of a check, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Outcome {
    Good,
    Warning,
    Failed,
}

impl Check {
    /// A check that holds unless something is found.
    fn of(id: &'static str, what: impl Into<String>, findings: Vec<String>, hint: impl Into<String>) -> Self {
        Self::judged(id, what, findings, hint, Outcome::Failed)
    }

    /// As [`Check::of`], for what is doubtful and not yet broken.
    fn doubtful(id: &'static str, what: impl Into<String>, findings: Vec<String>, hint: impl Into<String>) -> Self {
        Self::judged(id, what, findings, hint, Outcome::Warning)
    }

    fn judged(
        id: &'static str,
        what: impl Into<String>,
        findings: Vec<String>,
        hint: impl Into<String>,
        otherwise: Outcome,
    ) -> Self {
        let outcome = if findings.is_empty() { Outcome::Good } else { otherwise };
        let hint = (outcome != Outcome::Good).then(|| hint.into());
        Self { id, what: what.into(), outcome, findings, hint }
    }
}

/// What must hold before the mesh is installed.
pub(super) fn before(facts: &Facts) -> Vec<Section> {
    sections(vec![platform::before(facts), platform::rights(facts)])
}

/// What must hold while it runs.
pub(super) fn running(facts: &Facts) -> Vec<Section> {
    sections(vec![
        platform::running(facts),
        control::section(facts),
        nodes::section(facts),
        nodes::configuration(facts),
        nodes::workloads(facts),
        objects::section(facts),
    ])
}

fn sections(all: Vec<Section>) -> Vec<Section> {
    all.into_iter().filter(|section| !section.checks.is_empty()).collect()
}

/// The worst of all checks.
pub(super) fn worst(sections: &[Section]) -> Outcome {
    let all = sections.iter().flat_map(|section| &section.checks).map(|check| check.outcome);
    all.max().unwrap_or(Outcome::Good)
}

/// The command that shows the log of a part on a node, or of the controller.
fn log_of(facts: &Facts, part: &str) -> String {
    if facts.is_lab {
        format!("fairway lab logs {part}")
    } else {
        format!("kubectl -n {} logs {part}", facts.mesh_namespace)
    }
}

/// Seconds in words that people compare.
fn for_long(seconds: i64) -> String {
    match seconds.abs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
