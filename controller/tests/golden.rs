//! Golden translations: manifests and what becomes of them as JSON, in one file (`golden/files.rs`).
//!
//! In `tests/golden` it is what proxies are told, in `tests/waypoint` the objects of waypoints. Several states of manifests
//! for proxies, one after the other, are parted by a line `# === then ===`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::fs;
use std::sync::Arc;

use fairway_controller::dump;
use fairway_controller::l7::mesh;
use fairway_controller::state::Published;
use fairway_controller::translate::{Problem, Settings, Severity};
use fairway_core::source::directory::load;
use serde_json::{Value, json};

mod golden {
    pub(crate) mod files;
    pub(crate) mod gateway;
    pub(crate) mod lint;
    pub(crate) mod outcome;
}

const THEN: &str = "# === then ===\n";

fn problem(problem: &Problem) -> Value {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let location = problem.location.as_ref().map(|location| format!("{location}: ")).unwrap_or_default();
    format!("{severity}: {location}{}: {}: {}", problem.object, problem.field, problem.message).into()
}

/// The outcome after all states.
fn outcome(input: &str) -> String {
    let root = tempfile::tempdir().unwrap();
    // Lines `# mesh: ` are the mesh configuration.
    let mesh: Vec<&str> = input.lines().filter_map(|line| line.strip_prefix("# mesh: ")).collect();
    let settings = Settings { mesh: mesh::read(&mesh.join("\n")).unwrap(), ..Settings::default() };
    let mut published = Published::default();
    let mut loaded = None;
    for state in input.split(THEN) {
        fs::write(root.path().join("input.yaml"), state).unwrap();
        let next = load(root.path(), loaded.as_deref());
        let next = Arc::new(next);
        published = published.next(Arc::clone(&next), &settings);
        loaded = Some(next);
    }
    golden::outcome::check_all(&published);
    let errors = loaded.iter().flat_map(|loaded| &loaded.errors).map(ToString::to_string);
    let told = golden::outcome::outcome(input, &published);
    let mut outcome = told.unwrap_or_else(|| dump::desired(published.desired()));
    outcome["problems"] = published.problems.iter().map(problem).collect();
    outcome["sourceErrors"] = json!(errors.collect::<Vec<_>>());
    format!("{outcome:#}\n")
}

#[test]
fn translations() {
    golden::files::check("golden", 8, outcome);
}

#[test]
fn waypoints() {
    golden::files::check("waypoint", 3, golden::gateway::outcome);
}
