//! The reference in `docs/reference` says what the programs and their code say: flags, limits, reasons, metrics, objects.
//!
//! `UPDATE_GOLDEN=1` writes the pages anew. Columns that code cannot know are taken over from the page that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use fairway_core::limits::{self, Limit, Unit};
use fairway_core::reason::Reason;

use super::labs;

mod api;
pub(crate) mod metrics;
mod output;

/// Set to have pages written.
const UPDATE: &str = "UPDATE_GOLDEN";
/// How a cell that somebody has to fill in is written; no page may have one.
const OPEN: &str = "?";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn path_of(page: &str) -> PathBuf {
    root().join("docs/reference").join(page)
}

/// The page as it is; empty where there is none.
fn written(page: &str) -> String {
    fs::read_to_string(path_of(page)).unwrap_or_default()
}

/// Holds a page against what it must be, or writes it.
fn check(page: &str, text: &str) {
    if env::var_os(UPDATE).is_some() {
        fs::write(path_of(page), text).unwrap();
    }
    let written = written(page);
    let differing = written.lines().zip(text.lines()).position(|(is, must)| is != must);
    let shorter = written.lines().count().min(text.lines().count());
    let line = differing.unwrap_or(shorter);
    assert!(
        written == text,
        "docs/reference/{page} is out of date from line {}: it says {:?}, and must say {:?}; run this test with {UPDATE}=1",
        line + 1,
        written.lines().nth(line),
        text.lines().nth(line)
    );
    let open = text.lines().find(|line| line.split('|').any(|cell| cell.trim() == OPEN));
    assert!(open.is_none(), "docs/reference/{page}: replace {OPEN:?} by what is so in {open:?}");
}

/// Cells of a row of a table.
fn cells(line: &str) -> Vec<&str> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split(" | ").map(str::trim).collect()
}

/// Rows of all tables of a page, by section and first cell.
fn rows(page: &str) -> BTreeMap<(String, String), Vec<String>> {
    let (mut section, mut rows) = (String::new(), BTreeMap::new());
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
        } else if line.starts_with("| `") {
            let cells: Vec<String> = cells(line).into_iter().map(str::to_owned).collect();
            rows.insert((section.clone(), cells[0].clone()), cells);
        }
    }
    rows
}

/// A text in a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn limits_are_listed() {
    let mut page = String::from(
        "# Limits\n\nEvery bound of the proxies and agents, from `core/src/limits.rs`. A value outside the range is refused at the start. Where no\n\
         variable is named, the value is part of a contract. Proxies and waypoints read the variables; node proxies take each as a flag, too\n\
         ([flags.md](flags.md)), and waypoints are given them by an annotation of their Gateway ([kubernetes.md](../guides/kubernetes.md#waypoints)).\n\nWhat meets a limit on the number of connections or streams ends with the reason `connection_limit`, `resource_limit` or\n\
         `timed_out` ([reasons.md](reasons.md)), which `fairway_connections_ended_total` counts. `Seen by` is the metric that shows that a limit is\n\
         reached, or how near it is ([metrics.md](metrics.md)); a reason is the label of `fairway_connections_ended_total`, and of waypoints the\n\
         one in their access log. Pauses, sizes of buffers and what is tried again have none: reaching them is ordinary.\n\n\
         | Limit | Default | Range | Variable | Seen by | Why |\n|---|---|---|---|---|---|\n",
    );
    let known = rows(&written("limits.md"));
    let metrics: BTreeSet<String> = rows(&written("metrics.md")).into_keys().map(|(_, name)| name).collect();
    for limit in limits::ALL {
        let Limit { name, default, minimum, maximum, variable, why, .. } = limit;
        let value = |number: u64| shown(number, limit.unit);
        let range =
            if minimum == maximum { "fixed".to_owned() } else { format!("{} to {}", value(*minimum), value(*maximum)) };
        let variable = variable.map_or_else(|| "–".to_owned(), |variable| format!("`{variable}`"));
        let why = cell(why).replace("[`", "`").replace("`]", "`");
        // Which metric that is cannot be known from the table of limits.
        let told = known.get(&(String::new(), format!("`{name}`"))).and_then(|cells| cells.get(4));
        let seen = told.map_or(OPEN, String::as_str);
        for shown in seen.split('`').skip(1).step_by(2) {
            let is_reason = Reason::ALL.iter().any(|reason| reason.label() == shown);
            assert!(
                is_reason || metrics.contains(&format!("`{shown}`")),
                "{name}: there is no metric or reason {shown}"
            );
        }
        writeln!(page, "| `{name}` | {} | {range} | {variable} | {seen} | {why} |", value(*default)).unwrap();
    }
    check("limits.md", &page);
}

/// A value in the largest unit that it is a whole number of.
fn shown(value: u64, unit: Unit) -> String {
    let units: &[(u64, &str)] = match unit {
        Unit::Milliseconds => &[(3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")],
        Unit::Bytes => &[(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")],
        Unit::Count => return value.to_string(),
    };
    let (size, name) =
        units.iter().find(|(size, _)| value > 0 && value.is_multiple_of(*size)).unwrap_or(&units[units.len() - 1]);
    format!("{} {name}", value / size)
}

#[test]
fn reasons_are_listed() {
    let mut page = String::from(
        "# Reasons\n\nWhy a connection or request ended otherwise than its two ends wanted: a closed list, from `core/src/reason.rs`. Where to find them,\n\
         and more of each: [troubleshooting](../guides/troubleshooting.md).\n\n\
         | Reason | `response_flags` | What happened | What to do |\n|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let (label, flag) = (reason.label(), reason.response_flag().as_str());
        let link = format!("[`{label}`](../guides/troubleshooting.md#{label})");
        writeln!(page, "| {link} | `{flag}` | {} | {} |", cell(reason.message()), cell(reason.hint())).unwrap();
    }
    check("reasons.md", &page);
}

/// What a program prints of itself; the environment would show in it.
fn help(program: &Path, words: &[String]) -> String {
    let output = Command::new(program).args(words).arg("--help").env_clear().env("COLUMNS", "100").output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "{} {words:?}: {output:?}", program.display());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// Subcommands that the help of a command names.
fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = named.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// A section for a command, and one for each of its subcommands.
fn commands(program: &Path, words: &[String], page: &mut String) {
    let help = help(program, words);
    let name = program.file_name().unwrap().to_string_lossy();
    let title = [&[name.into_owned()], words].concat().join(" ");
    writeln!(page, "\n## {title}\n\n```text\n{help}\n```").unwrap();
    for subcommand in subcommands(&help) {
        commands(program, &[words, &[subcommand]].concat(), page);
    }
}

#[test]
fn flags_and_variables_are_listed() {
    labs::build();
    let programs =
        ["fairway", "controller", "ztunnel", "fairway-cni-agent", "waypoint"].map(|name| labs::binaries().join(name));
    let mut page = String::from(
        "# Flags and environment\n\nWhat each program says of itself with `--help`. `[env: NAME=]` is the variable that has the same effect as a flag; a flag goes\n\
         before it; waypoints have variables alone. Bounds of the proxies are described in [limits.md](limits.md).\n",
    );
    programs.iter().for_each(|program| commands(program, &[], &mut page));
    page.push_str("\n## fairway-cni\n\nThe CNI plugin is run by the container runtime, with its configuration on standard input: see [cni.md](../guides/cni.md).\n");
    check("flags.md", &page);
}

#[test]
fn tables_and_help_are_read() {
    let page = "## a\n\n| N | M |\n|---|---|\n| `x` | y \\| z |\n## b\n| `x` | w |\n";
    let rows = rows(page);
    assert_eq!(rows[&("a".to_owned(), "`x`".to_owned())], ["`x`", "y \\| z"]);
    assert_eq!(rows.len(), 2);
    let help =
        "Say\n\nCommands:\n  one   Do one\n          and more\n  two   Do two\n  help  Print this\n\nOptions:\n  -h\n";
    assert_eq!(subcommands(help), ["one", "two"]);
    assert_eq!(
        (shown(90_000, Unit::Milliseconds), shown(1 << 21, Unit::Bytes)),
        ("90 s".to_owned(), "2 MiB".to_owned())
    );
    assert_eq!((shown(0, Unit::Milliseconds), shown(7, Unit::Count)), ("0 ms".to_owned(), "7".to_owned()));
}
