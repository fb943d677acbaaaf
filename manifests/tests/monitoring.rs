//! Dashboards and alerts ask for what the programs have: every metric, every label and every value is one of the code's, and
//! every alert has a text that says what to do.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// Where metrics are made.
const SOURCES: [&str; 5] = ["controller/src", "core/src", "cni-plugin/src", "waypoint/src", "ztunnel/src"];
/// Labels that scraping adds, and that histograms have.
const ADDED: [&str; 2] = ["instance", "le"];
/// Words of PromQL that could be metrics by their shape.
const WORDS: [&str; 10] =
    ["and", "bool", "by", "group_left", "group_right", "ignoring", "offset", "on", "or", "unless"];
/// What histograms and summaries append to their names.
const PARTS: [&str; 3] = ["_bucket", "_count", "_sum"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every text in quotes of the code that is no test.
fn literals() -> BTreeSet<String> {
    fn walk(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                walk(&path, found);
            } else if name.ends_with(".rs") && !name.contains("test") {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                found.extend(code.split('"').skip(1).step_by(2).map(str::to_owned));
                // Whatever an odd number of quotes (in a comment, say) would shift.
                found.extend(code.split('"').skip(2).step_by(2).map(str::to_owned));
            }
        }
    }
    let mut found = BTreeSet::new();
    SOURCES.iter().for_each(|folder| walk(&root().join(folder), &mut found));
    found
}

/// What an expression asks for: metrics, labels, and values of labels.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
    values: BTreeSet<String>,
}

fn asked(expression: &str) -> Asked {
    let mut asked = Asked::default();
    let mut rest = expression;
    while let Some(at) = rest.find('{') {
        let close = rest[at..].find('}').unwrap() + at;
        for matcher in rest[at + 1..close].split(',') {
            let (label, value) = matcher.split_once('=').unwrap();
            asked.labels.insert(label.trim_end_matches('!').trim().to_owned());
            let values = value.trim_start_matches('~').trim_matches('"').split('|');
            asked.values.extend(values.filter(|value| !value.is_empty()).map(str::to_owned));
        }
        let (before, after) = (&rest[..at], &rest[close + 1..]);
        words(before, &mut asked);
        rest = after;
    }
    words(rest, &mut asked);
    asked
}

fn words(text: &str, asked: &mut Asked) {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut rest = text;
    while let Some(start) = rest.find(|character: char| character.is_ascii_alphabetic()) {
        // A duration or a number.
        if rest[..start].ends_with(|before: char| before.is_ascii_digit()) {
            rest = &rest[start + 1..];
            continue;
        }
        let end = rest[start..].find(|character| !is_word(character)).map_or(rest.len(), |length| start + length);
        let (word, after) = (&rest[start..end], &rest[end..]);
        let lists_labels = ["by", "without", "on", "ignoring"].contains(&word) && after.trim_start().starts_with('(');
        if lists_labels {
            let (inside, behind) = after.split_once('(').unwrap().1.split_once(')').unwrap();
            asked.labels.extend(inside.split(',').map(|label| label.trim().to_owned()));
            rest = behind;
            continue;
        }
        // A function, or a sum and the like with the labels it keeps.
        let next = after.trim_start();
        let is_call = ["(", "by (", "without ("].iter().any(|start| next.starts_with(start));
        if !is_call && !WORDS.contains(&word) {
            asked.metrics.insert(word.to_owned());
        }
        rest = after;
    }
}

fn rules() -> Vec<Value> {
    let text = fs::read_to_string(root().join("manifests/monitoring/alerts.yaml")).unwrap();
    let file: Value = serde_saphyr::from_str(&text).unwrap();
    let groups = file["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn dashboards() -> Vec<(String, Value)> {
    let entries = fs::read_dir(root().join("manifests/monitoring/dashboards")).unwrap();
    let mut found: Vec<(String, Value)> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            (path.file_name().unwrap().to_string_lossy().into_owned(), serde_json::from_str(&text).unwrap())
        })
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

/// Every expression, and where it is.
fn expressions() -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all: Vec<_> = rules().iter().map(|rule| (text(&rule["alert"]), text(&rule["expr"]))).collect();
    for (file, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                all.push((format!("{file}: {}", panel["title"]), text(&target["expr"])));
            }
        }
    }
    assert!(all.len() > 60, "{}", all.len());
    all
}

#[test]
fn expressions_are_taken_apart() {
    let found = asked(
        "sum by (a, le) (rate(one_total{b=~\"x|y\", c!=\"\"}[5m])) / on (d) two_bucket > 0.05 and histogram_quantile(0.9, three) or absent(four)",
    );
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let expected = Asked {
        metrics: set(&["one_total", "two_bucket", "three", "four"]),
        labels: set(&["a", "b", "c", "d", "le"]),
        values: set(&["x", "y"]),
    };
    assert_eq!(found, expected);
}

#[test]
fn everything_asked_for_exists() {
    let literals = literals();
    let has = |name: &str| literals.contains(name);
    for (place, expression) in expressions() {
        let asked = asked(&expression);
        assert!(!asked.metrics.is_empty(), "{place}: {expression}");
        for metric in &asked.metrics {
            let whole = PARTS.iter().find_map(|part| metric.strip_suffix(part)).unwrap_or(metric);
            assert!(has(metric) || has(whole), "{place}: there is no metric {metric}");
        }
        for label in asked.labels.iter().filter(|label| !ADDED.contains(&label.as_str())) {
            assert!(has(label), "{place}: nothing has a label {label}");
        }
        for value in asked.values.iter().filter(|value| !value.starts_with(|first: char| first.is_ascii_digit())) {
            assert!(has(value), "{place}: no label is ever {value}");
        }
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let guide = fs::read_to_string(root().join("docs/guides/alerts.md")).unwrap();
    let mut told = BTreeSet::new();
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        let link = format!("docs/guides/alerts.md#{}", name.to_ascii_lowercase());
        assert_eq!(rule["annotations"]["runbook"], link, "{name}");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        let section = guide.split("\n## ").find(|section| section.lines().next() == Some(name));
        let section = section.unwrap_or_else(|| panic!("the guide does not tell of {name}"));
        assert!(section.contains("**Do:**"), "{name}: the guide does not say what to do");
        told.insert(name.to_owned());
    }
    let gone: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("## Fairway")).collect();
    assert_eq!(gone.len(), told.len(), "the guide tells of alerts that there are not: {gone:?}");
}

#[test]
fn prometheus_takes_the_rules() {
    let folder = root().join("manifests/monitoring/alerts.yaml");
    let program = env::var_os("FAIRWAY_PROMTOOL").unwrap_or_else(|| "promtool".into());
    match Command::new(program).args(["check", "rules"]).arg(folder).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => eprintln!("SKIPPED: the rules beside Prometheus: there is no promtool (Debian: prometheus)"),
    }
}

#[test]
fn dashboards_can_be_told_apart() {
    let identities: BTreeSet<String> =
        dashboards().iter().map(|(_, it)| it["uid"].as_str().unwrap().to_owned()).collect();
    assert_eq!(identities.len(), dashboards().len());
    for (file, dashboard) in dashboards() {
        for panel in dashboard["panels"].as_array().unwrap() {
            // Whoever has several sources chooses.
            let is_free = panel["type"] == "row" || panel["datasource"]["uid"] == "${datasource}";
            assert!(is_free, "{file}: {}", panel["title"]);
        }
    }
}
