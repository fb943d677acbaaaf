//! Golden translations: manifests and what proxies are told of them, in one file.
//!
//! A file in `tests/golden` holds manifests, a line `# === expected ===` and the expected outcome as JSON. Several states of
//! the manifests, one after the other, are parted by a line `# === then ===`. `UPDATE_GOLDEN=1` writes the outcome into the
//! files.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fairway_controller::dump;
use fairway_controller::state::Published;
use fairway_controller::translate::{Problem, Settings, Severity};
use fairway_core::source::directory::load;
use serde_json::{Value, json};

mod golden {
    pub(crate) mod lint;
    pub(crate) mod outcome;
}

const EXPECTED: &str = "# === expected ===\n";
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
    let settings = Settings::default();
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
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let (input, expected) = text.split_once(EXPECTED).unwrap_or((&text, ""));
        let outcome = outcome(input);
        count += 1;
        if update {
            fs::write(&path, format!("{input}{EXPECTED}{outcome}")).unwrap();
        } else if outcome != expected {
            wrong.push(format!("{}: expected\n{expected}\nbut it is\n{outcome}", path.display()));
        }
    }
    assert!(count >= 8, "only {count} golden files were found");
    assert!(wrong.is_empty(), "{}\nUPDATE_GOLDEN=1 rewrites the files; read the difference", wrong.join("\n"));
}
