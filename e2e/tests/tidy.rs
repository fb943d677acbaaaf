//! House rules as a test: what compiler and clippy do not see, and reviewers forget.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use fairway_core::reason::Reason;

/// Longest file, in lines: past it a file surely holds two ideas.
const MAX_LINES: usize = 700;

/// Files that may be longer, each with the reason. An entry that is no longer needed fails the test.
const LONG_FILES: &[(&str, &str)] = &[];

/// Files that may contain unsafe code, each with the reason.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("core/src/io/memory.rs", "the C library's malloc_trim, which takes no pointers, has no safe wrapper"),
    ("core/src/io/memory/program.rs", "madvise(2) on read-only code of our own has no safe wrapper"),
];

/// What each crate may use of the others: arrows point down, and no binary crate uses another.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("proto", &[]),
    ("core", &["fairway-proto"]),
    // The chart and its renderer, which know nothing of the mesh.
    ("manifests", &[]),
    ("ztunnel", &["fairway-core", "fairway-proto"]),
    ("waypoint", &["fairway-core", "fairway-proto"]),
    ("controller", &["fairway-core", "fairway-proto"]),
    // The lab in tests alone: it is the container runtime.
    ("cni-plugin", &["fairway-core", "fairway-proto", "fairway-lab"]),
    // The controller's judgement of objects, so that the command has none of its own.
    ("cli", &["fairway-core", "fairway-proto", "fairway-lab", "fairway-manifests", "fairway-controller"]),
    // Controller and waypoint in tests alone, which hold evaluators of policies against each other.
    ("e2e", &["fairway-core", "fairway-proto", "fairway-manifests", "fairway-controller", "fairway-waypoint"]),
    ("benches", &["fairway-core", "fairway-proto", "fairway-lab"]),
    ("fuzz", &["fairway-core", "fairway-proto", "fairway-waypoint", "fairway-ztunnel"]),
];

/// Text that ties the project to one machine or one mirror. In halves, so that this file does not contain it.
const MACHINE_BOUND: [(&str, &str); 6] = [
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("index.cra", "tes.io"),
    ("static.cra", "tes.io"),
    ("static.rust", "-lang.org"),
    ("deb.deb", "ian.org"),
];

/// Unfinished work, in halves for the same reason.
const UNFINISHED: [(&str, &str); 3] = [("to", "do!"), ("unimple", "mented!"), ("db", "g!")];

#[test]
fn rust_files_follow_the_rules() {
    let files = files();
    let rust: Vec<&PathBuf> =
        files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect();
    assert!(rust.len() > 20, "the files of the project were not found: {rust:?}");
    let mut problems = Vec::new();
    for path in rust {
        let Some(text) = text_of(path) else { continue };
        problems.extend(broken_rules(&path.to_string_lossy(), &text));
    }
    assert_tidy(&problems);
}

#[test]
fn no_file_names_a_machine() {
    let mut problems = Vec::new();
    for path in files() {
        let Some(text) = text_of(&path) else { continue };
        for word in MACHINE_BOUND.map(|(head, tail)| format!("{head}{tail}")) {
            if let Some(number) = text.lines().position(|line| line.contains(&word)) {
                problems.push(format!("{}:{}: names {word}", path.display(), number + 1));
            }
        }
    }
    assert_tidy(&problems);
}

#[test]
fn crates_depend_downwards() {
    let mut manifests: Vec<String> = files()
        .into_iter()
        .filter(|path| path.ends_with("Cargo.toml"))
        .filter_map(|path| Some(path.parent()?.to_string_lossy().into_owned()))
        .filter(|folder| !folder.is_empty())
        .collect();
    let mut listed = MAY_USE.map(|(folder, _)| folder.to_owned()).to_vec();
    manifests.sort();
    listed.sort();
    assert_eq!(manifests, listed, "MAY_USE lists every crate");
    let mut problems = Vec::new();
    for (folder, allowed) in MAY_USE {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        for used in crates_of_ours(&manifest).iter().filter(|used| !allowed.contains(&used.as_str())) {
            problems.push(format!("{folder}/Cargo.toml: may not use {used}"));
        }
    }
    assert_tidy(&problems);
}

#[test]
fn documents_name_files_that_exist() {
    let mut problems = Vec::new();
    for path in files().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let Some(text) = text_of(&path) else { continue };
        let folder = path.parent().unwrap_or(Path::new(""));
        let broken_links = links(&text).into_iter().filter(|link| !root().join(folder).join(link).exists());
        problems.extend(broken_links.map(|link| format!("{}: no such file: {link}", path.display())));
        // CONTRIBUTING speaks of files by example, and the changelog of files that were.
        if path == Path::new("README.md") || path.starts_with("docs") {
            let missing = source_paths(&text).into_iter().filter(|named| !root().join(named).is_file());
            problems.extend(missing.map(|named| format!("{}: no such file: {named}", path.display())));
        }
    }
    assert_tidy(&problems);
}

#[test]
fn manifests_in_the_documents_are_valid() {
    let manifests: Vec<PathBuf> = files().into_iter().filter(|path| path.starts_with("docs/tour")).collect();
    assert!(!manifests.is_empty());
    for path in manifests {
        // Each by itself, as the tour applies them.
        let directory = tempfile::tempdir().unwrap();
        fs::copy(root().join(&path), directory.path().join("manifest.yaml")).unwrap();
        let loaded = fairway_core::source::directory::load(directory.path(), None);
        assert_eq!(loaded.errors, [], "{}", path.display());
        assert_eq!(loaded.objects.unknown, [], "{}", path.display());
    }
}

#[test]
fn every_reason_has_a_section() {
    let page = fs::read_to_string(root().join("docs/guides/troubleshooting.md")).unwrap();
    let sections: Vec<&str> = page.split("\n### ").skip(1).collect();
    let mut problems = Vec::new();
    for reason in Reason::ALL {
        let section = sections.iter().find(|section| section.lines().next() == Some(reason.label()));
        let told = section.copied().unwrap_or_default();
        for text in [reason.message(), reason.hint()] {
            if !told.contains(text) {
                problems.push(format!("docs/guides/troubleshooting.md: section {reason} does not say: {text}"));
            }
        }
    }
    assert_eq!(sections.len(), Reason::ALL.len(), "a section is about a reason that is no more");
    assert_tidy(&problems);
}

#[test]
fn limits_that_can_be_set_are_read_as_set() {
    let table = fs::read_to_string(root().join("core/src/limits.rs")).unwrap();
    let settable = settable_limits(&table);
    assert!(settable.len() > 30, "the table of limits was not found: {settable:?}");
    let mut problems = Vec::new();
    for path in files() {
        let name = path.to_string_lossy().into_owned();
        let ours = ["core/src/io/", "core/src/dns", "ztunnel/src/"].iter().any(|folder| name.starts_with(folder));
        let Some(text) = text_of(&path)
            .filter(|_| ours && !["tests", "testing.rs", "strangers.rs"].iter().any(|part| name.contains(part)))
        else {
            continue;
        };
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        problems.extend(defaults_read(code, &settable).map(|limit| {
            format!("{name}: reads the default of {limit}, whatever it is set to; ask the `Limits` that are in force")
        }));
    }
    assert_tidy(&problems);
}

/// The limits that the table gives a variable.
fn settable_limits(table: &str) -> Vec<&str> {
    table
        .lines()
        .filter(|line| line.ends_with("\");"))
        .filter_map(|line| line.trim().split_once(", \""))
        .map(|(name, _)| name)
        .collect()
}

/// Where code asks a limit itself for its value, and so for the default.
fn defaults_read<'a>(code: &'a str, settable: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let reads = |limit: &&str| {
        [".size()", ".number()", ".duration()", ".default"].iter().any(|read| code.contains(&format!("{limit}{read}")))
    };
    settable.iter().copied().filter(reads)
}

#[test]
fn the_rules_catch_what_they_forbid() {
    let rules = |path: &str, text: &str| broken_rules(path, &format!("//! Doc.\n{text}\n")).len();
    let unfinished = UNFINISHED.map(|(head, tail)| format!("{head}{tail}(x)"));
    assert_eq!(broken_rules("a.rs", "fn main() {}\n").len(), 1, "no module comment");
    assert_eq!(rules("a.rs", &"\n".repeat(MAX_LINES)), 1);
    assert!(unfinished.iter().all(|code| rules("a.rs", code) == 1 && rules("a.rs", &format!("// {code}")) == 0));
    assert_eq!(rules("a.rs", concat!("let x = uns", "afe { y };")), 1);
    assert_eq!(rules("a.rs", "#![deny(unsafe_code)]"), 0);
    let pause = concat!("sle", "ep(second).await;");
    assert_eq!(rules("a.rs", pause), 0);
    assert_eq!(rules("a.rs", &format!("#[cfg(test)]\nmod tests {{\n{pause}")), 1);
    assert_eq!(rules("a.rs", &format!("#[cfg(test)]\nmod tests;\n{pause}")), 0);
    assert_eq!(rules("x/tests/a.rs", pause), 1);
    assert_eq!(rules("x/tests/a.rs", &format!("{pause} // the clock is paused")), 0);
    assert_eq!(
        crates_of_ours("[package]\nname = \"fairway-a\"\n[dependencies]\nfairway-b.workspace = true\n"),
        ["fairway-b"]
    );
    let settable = settable_limits(
        "    ONE, \"one\", Count, 1, 1..=2, Some(\"ONE\");\n    TWO, \"two\", Count, 1, 1..=1, None;\n",
    );
    assert_eq!(settable, ["ONE"]);
    assert_eq!(defaults_read("limits::ONE.size() + limits::TWO.size()", &settable).collect::<Vec<_>>(), ["ONE"]);
    assert_eq!(defaults_read("limits.size(&limits::ONE)", &settable).count(), 0);
    assert_eq!(source_paths("see `a/b.rs`, `c`\n```text\n`d.rs`\n```\n"), ["a/b.rs"]);
    assert_eq!(links("[a](b/c.md#d), [e](https://f) and [g](#h)"), ["b/c.md"]);
}

fn broken_rules(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//! ") {
        problems.push(format!("{path}: open with a `//!` line that says what the file is for"));
    }
    let lines = text.lines().count();
    match (lines > MAX_LINES, is_excepted(LONG_FILES, path)) {
        (true, false) => problems.push(format!("{path}: {lines} lines; split it, or say in LONG_FILES why not")),
        (false, true) => problems.push(format!("{path}: {lines} lines; LONG_FILES need not list it any more")),
        _ => {}
    }
    let unfinished = UNFINISHED.map(|(head, tail)| format!("{head}{tail}"));
    let mut in_tests = path.contains("/tests/") || path.ends_with("tests.rs");
    let mut previous = "";
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        let (code, comment) = line.split_once("//").unwrap_or((line, ""));
        in_tests |= previous.trim() == "#[cfg(test)]" && code.starts_with("mod ") && code.trim_end().ends_with('{');
        for word in unfinished.iter().filter(|word| has_word(code, word)) {
            problems.push(format!("{path}:{number}: {word}"));
        }
        if is_unsafe(code) && !is_excepted(UNSAFE_FILES, path) {
            problems.push(format!("{path}:{number}: unsafe code in a file that UNSAFE_FILES does not list"));
        }
        let explained = !comment.is_empty() || previous.trim_start().starts_with("// ");
        if in_tests && has_word(code, concat!("sle", "ep(")) && !explained {
            problems.push(format!("{path}:{number}: wait for a condition, or say in a comment why only time will do"));
        }
        previous = line;
    }
    problems
}

fn is_excepted(list: &[(&str, &str)], path: &str) -> bool {
    list.iter().any(|(file, _)| *file == path)
}

/// Whether `word` occurs without being the end of a longer name.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

fn is_unsafe(code: &str) -> bool {
    let after = ["{", "fn ", "impl", "trait ", "extern "].map(|next| format!("{} {next}", concat!("uns", "afe")));
    after.iter().any(|word| has_word(code, word)) || code.contains(concat!("#[uns", "afe("))
}

/// Our own crates that a manifest depends on, in any kind of dependency.
fn crates_of_ours(manifest: &str) -> Vec<String> {
    let mut in_dependencies = false;
    let mut used = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if in_dependencies && line.starts_with("fairway-") {
            used.push(line.split(['.', '=', ' ']).next().unwrap_or(line).to_owned());
        }
    }
    used
}

/// Lines of a document outside its code blocks.
fn prose(document: &str) -> impl Iterator<Item = &str> {
    document.split("```").step_by(2).flat_map(str::lines)
}

/// Paths of Rust files that a document names between backticks.
fn source_paths(document: &str) -> Vec<&str> {
    let spans = prose(document).flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.filter(|span| span.ends_with(".rs") && span.contains('/')).collect()
}

/// Targets of a document's links to files of the project.
fn links(document: &str) -> Vec<&str> {
    prose(document)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

fn assert_tidy(problems: &[String]) {
    assert!(problems.is_empty(), "house rules broken:\n{}", problems.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The text of a file of the project; none for binary files and for those deleted but not yet committed as such.
fn text_of(path: &Path) -> Option<String> {
    fs::read(root().join(path)).ok().and_then(|bytes| String::from_utf8(bytes).ok())
}

/// Files of the project relative to its root: what git tracks or would. Outside a git checkout, every file but build results.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        // The checkout may belong to another user than the one who tests it.
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    match listed {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_terminator('\0').map(PathBuf::from).collect()
        }
        _ => {
            let mut files = Vec::new();
            walk(&root(), &mut files);
            files
        }
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    // Cargo tags its target directories, wherever they are.
    if folder.join("CACHEDIR.TAG").exists() || folder.ends_with(".git") {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else {
            files.push(path.strip_prefix(root()).unwrap_or(&path).to_owned());
        }
    }
}
