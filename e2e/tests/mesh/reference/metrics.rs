//! `metrics.md`: names and meanings are those of the code; types, labels and components are those of live pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use fairway_lab::Lab;

use super::{OPEN, UPDATE, cell, check, root, rows, written};
use crate::mesh::labs;

const PAGE: &str = "metrics.md";
/// Where metrics are made.
const SOURCES: [&str; 5] = ["core/src", "ztunnel/src", "waypoint/src", "controller/src", "cni-plugin/src"];
/// Labels that say which part of a histogram or summary a line is.
const PARTS: [&str; 2] = ["le", "quantile"];
/// How it is written that there are no labels.
const NONE: &str = "–";
/// What a table has behind the name of a metric.
const COLUMNS: usize = 4;

/// Names and descriptions that are given to the registry.
fn described() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    SOURCES.iter().for_each(|folder| walk(&root().join(folder), &mut found));
    found
}

fn walk(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            walk(&path, found);
        } else if name.ends_with(".rs") && !name.contains("test") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let named = pairs(code).into_iter().filter(|_| code.contains("describe("));
            for (name, meaning) in named.chain(of_signals(code)) {
                let before = found.insert(name.clone(), meaning.clone()).unwrap_or_else(|| meaning.clone());
                assert_eq!(before, meaning, "{name} means the same everywhere");
            }
        }
    }
}

/// Every `(NAME, "Meaning.")` of a file, where the name is a text or a constant of the file.
fn pairs(code: &str) -> Vec<(String, String)> {
    let is_metric = |name: &str| {
        name.contains('_')
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let mut pairs = Vec::new();
    for (at, _) in code.match_indices('(') {
        let rest = code[at + 1..].trim_start();
        let named = match literal(rest) {
            Some((name, rest)) => Some((name, rest)),
            None => {
                let end =
                    rest.find(|letter: char| !letter.is_ascii_uppercase() && !letter.is_ascii_digit() && letter != '_');
                let (constant, rest) = rest.split_at(end.unwrap_or(rest.len()));
                let value =
                    code.split_once(&format!("const {constant}: &str = ")).and_then(|(_, value)| literal(value));
                value.filter(|_| !constant.is_empty()).map(|(name, _)| (name, rest))
            }
        };
        let Some((name, rest)) = named.filter(|(name, _)| is_metric(name)) else { continue };
        let Some((meaning, rest)) = rest.trim_start().strip_prefix(',').and_then(|rest| literal(rest.trim_start()))
        else {
            continue;
        };
        if rest.trim_start().trim_start_matches(',').trim_start().starts_with(')') && meaning.ends_with('.') {
            pairs.push((name, meaning));
        }
    }
    pairs
}

/// Names and meanings that are constants of an implementation: `COUNTED`, and `HELP` right behind it.
fn of_signals(code: &str) -> Vec<(String, String)> {
    let after = |code: &str| literal(code.trim_start()).map(|(text, rest)| (text, rest.to_owned()));
    let parts = code.split("const COUNTED: &'static str =").skip(1);
    parts
        .filter_map(|part| {
            let (name, rest) = after(part)?;
            let (meaning, _) =
                after(rest.trim_start_matches(';').trim_start().strip_prefix("const HELP: &'static str =")?)?;
            Some((name, meaning))
        })
        .collect()
}

/// The text at the beginning of `code`, and what follows it.
fn literal(code: &str) -> Option<(String, &str)> {
    let mut letters = code.strip_prefix('"')?.char_indices();
    let mut text = String::new();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((text, &code[at + 2..])),
            // A line that goes on in the next one, or a quotation mark.
            '\\' => match letters.next()? {
                (_, '\n') => {
                    let indented = letters.as_str();
                    let skipped = indented.len() - indented.trim_start().len();
                    letters.by_ref().take(skipped).for_each(drop);
                }
                (_, escaped) => text.push(escaped),
            },
            letter => text.push(letter),
        }
    }
    None
}

/// What a page of metrics says of one of them.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    meaning: String,
    kind: String,
    labels: BTreeSet<String>,
}

/// What is on a page in Prometheus' text format.
fn on_page(page: &str) -> BTreeMap<String, Seen> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.is_empty()) {
        if let Some((name, meaning)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) {
            seen.entry(name.to_owned()).or_default().meaning = meaning.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|line| line.split_once(' ')) {
            seen.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            let (name, rest) = line.split_at(end);
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| {
                let family = name.strip_suffix(part)?;
                seen.contains_key(family).then(|| family.to_owned())
            });
            let labels = &mut seen.entry(family.unwrap_or_else(|| name.to_owned())).or_default().labels;
            // No value of a label has what comes between two of them.
            let named = rest.strip_prefix('{').and_then(|rest| rest.rsplit_once('}')).map_or("", |(inner, _)| inner);
            labels.extend(named.split("\",").filter_map(|pair| Some(pair.split_once("=\"")?.0.to_owned())));
        }
    }
    for seen in seen.values_mut() {
        seen.labels.retain(|label| !PARTS.contains(&label.as_str()));
    }
    seen
}

/// The page of the reference: what the code says of each metric, beside what is known of it.
fn page(known: &BTreeMap<String, Vec<String>>) -> String {
    let mut page = String::from(
        "# Metrics\n\nWhat the programs count, as Prometheus reads it: node proxies and waypoints at port 15020, agents at 15114, the controller at\n\
         15014, each at `/metrics`. Labels that metrics of traffic share are Istio's. A metric has at most as many series as the\n\
         limit `metric_series` says ([limits.md](limits.md)); the value `overflow` of all labels stands for the rest. Alerts on\n\
         them: [alerts](../guides/alerts.md).\n\n| Metric | Type | Labels | Of | Meaning |\n|---|---|---|---|---|\n",
    );
    for (name, meaning) in described() {
        let name = format!("`{name}`");
        let told = known.get(&name).filter(|cells| cells.len() > COLUMNS);
        let column = |index: usize| told.map_or(OPEN, |cells| cells[index].as_str()).to_owned();
        writeln!(page, "| {name} | {} | {} | {} | {} |", column(1), column(2), column(3), cell(&meaning)).unwrap();
    }
    page
}

fn known() -> BTreeMap<String, Vec<String>> {
    rows(&written(PAGE)).into_iter().map(|((_, name), cells)| (name, cells)).collect()
}

#[test]
fn metrics_are_listed() {
    check(PAGE, &page(&known()));
}

/// Every metric of a live page is in the reference as it is. Where the reference is to be written, it learns from the page.
pub(crate) fn are_in_reference(component: &str, live: &str) {
    let mut known = known();
    let mut problems = Vec::new();
    for (name, Seen { meaning, kind, labels }) in on_page(live) {
        if meaning.is_empty() {
            problems.push(format!("{name} of {component} has no description: `describe` it where it is registered"));
        }
        let cells = known.entry(format!("`{name}`")).or_default();
        cells.resize(COLUMNS + 1, OPEN.to_owned());
        let mut listed = |index: usize, wanted: BTreeSet<String>| {
            let mut there: BTreeSet<String> =
                cells[index].split(", ").map(|it| it.trim_matches('`').to_owned()).collect();
            let before = there.clone();
            there.extend(wanted);
            there.retain(|it| it != OPEN);
            if there.len() > 1 {
                there.remove(NONE);
            }
            let is_code = index == 2;
            let written = |it: &String| if is_code && it != NONE { format!("`{it}`") } else { it.clone() };
            cells[index] = there.iter().map(written).collect::<Vec<_>>().join(", ");
            there == before
        };
        let labels = if labels.is_empty() { BTreeSet::from([NONE.to_owned()]) } else { labels };
        let is_known =
            [(1, BTreeSet::from([kind.clone()])), (2, labels.clone()), (3, BTreeSet::from([component.to_owned()]))]
                .map(|(index, wanted)| listed(index, wanted));
        let is_meant = cells[COLUMNS] == cell(&meaning) || env::var_os(UPDATE).is_some();
        if is_known != [true; 3] || !is_meant {
            problems.push(format!(
                "{name} of {component} ({kind}, {labels:?}, {meaning:?}) is not in docs/reference/{PAGE} as such"
            ));
        }
    }
    if env::var_os(UPDATE).is_some() {
        return fs::write(super::path_of(PAGE), page(&known)).unwrap();
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// All pages of metrics of a lab, with what they are of.
pub(crate) fn pages(lab: &Lab, node: &str, waypoint: &str) -> [(&'static str, String); 4] {
    let of = |node: &str, port: u16| lab.http(node, &format!("http://127.0.0.1:{port}/metrics")).unwrap().body;
    let from_waypoint = labs::output(lab, waypoint, &["curl", "-sS", "http://127.0.0.1:15020/metrics"]);
    [
        ("ztunnel", of(node, 15_020)),
        ("agent", of(node, 15_114)),
        ("controller", of("underlay", 15_014)),
        ("waypoint", from_waypoint),
    ]
}

#[test]
fn descriptions_and_pages_are_read() {
    let code = "const A: &str = \"a_total\";\nfn f() { m.describe(A, \"Counts \\\"a\\\" \\\n      and b.\"); g(\"b_c\", \"Is b.\",) (\"no\", \"No.\") }";
    let found = pairs(code);
    assert_eq!(
        found,
        [("a_total".to_owned(), "Counts \"a\" and b.".to_owned()), ("b_c".to_owned(), "Is b.".to_owned())]
    );
    let code = "const COUNTED: &'static str;\nconst COUNTED: &'static str = \"a_total\";\n    const HELP: &'static str =\n        \"Counts.\";\n";
    assert_eq!(of_signals(code), [("a_total".to_owned(), "Counts.".to_owned())]);
    let page = "# HELP a_total Counts a.\n# TYPE a_total counter\na_total{x=\"1,2\",y=\"}\"} 1\n# HELP t Took.\n# TYPE t histogram\n\
                t_bucket{z=\"1\",le=\"5\"} 1\nt_sum{z=\"1\"} 3\nloose 7\n";
    let seen = on_page(page);
    assert_eq!(seen["a_total"].labels, BTreeSet::from(["x".to_owned(), "y".to_owned()]));
    assert_eq!((seen["t"].kind.as_str(), seen["t"].labels.len()), ("histogram", 1));
    assert_eq!((seen["loose"].meaning.as_str(), seen.len()), ("", 3));
}
