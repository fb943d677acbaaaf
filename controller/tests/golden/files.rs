//! Golden files: an input, a line `# === expected ===` and the outcome. `UPDATE_GOLDEN=1` writes the outcome into the files.

use std::fs;
use std::path::Path;

const EXPECTED: &str = "# === expected ===\n";

/// Checks the files of a directory below `tests`, of which there must be `least`.
pub(crate) fn check(directory: &str, least: usize, outcome: impl Fn(&str) -> String) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
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
    assert!(count >= least, "only {count} golden files were found");
    assert!(wrong.is_empty(), "{}\nUPDATE_GOLDEN=1 rewrites the files; read the difference", wrong.join("\n"));
}
