//! `output.md`: what commands print for programs, as the structures that they print say. A field that goes or changes its name
//! shows as a change of the page.

use std::fmt::Write as _;
use std::fs;

use super::api::{Structures, places, structures};
use super::{check, root};

/// Parts of the answers of proxies that a command passes on.
const OF_PROXIES: [&str; 2] = ["core/src/why.rs", "core/src/why/passage.rs"];
/// Commands, what they print, where that is and what it is made of is defined, and whether it is a list.
const PRINTED: [(&str, &str, &[&str], bool); 15] = [
    ("analyze", "Message", &["cli/src/analyze.rs"], true),
    ("analyze --list", "Code", &["cli/src/analyze/codes.rs"], true),
    ("authz check", "Answer", &["cli/src/authz.rs"], false),
    ("check", "Answer", &["cli/src/check/decide.rs", "cli/src/check.rs"], false),
    ("lab status", "Status", &["e2e/src/status.rs"], false),
    ("namespace list", "Row", &["cli/src/namespace.rs"], true),
    ("proxy-status", "Proxy", &["cli/src/proxy_status.rs"], true),
    ("status", "Overview", &["cli/src/proxy_status.rs", "cli/src/status.rs"], false),
    ("tap", "Event", &["cli/src/tap.rs"], false),
    ("top", "Rates", &["cli/src/top/rates.rs"], true),
    ("trace-config", "Holding", &["cli/src/trace_config.rs"], true),
    ("version", "Versions", &["cli/src/version.rs"], false),
    ("waypoint list, waypoint status", "Waypoint", &["cli/src/waypoint.rs"], true),
    ("waypoint requests", "InFlight", &["cli/src/waypoint/requests.rs"], false),
    ("why", "Answer", &["cli/src/why.rs"], false),
];

#[test]
fn what_commands_print_is_listed() {
    let mut page = String::from(
        "# What commands print for programs\n\n`-o json` and `-o yaml` print the same. Fields are not renamed and do not go without a line in the changelog; new ones may\n\
         come, so ignore what you do not know. `[]` is each element of a list, `.*` each value of a map, and the first row is the whole.\n\
         A field whose own fields were listed before is not repeated. `tap` prints an object a line. `ztunnel-config` prints, by\n\
         section, what node proxies hold as they hold it, with `heldBy`.\n",
    );
    let text = |file: &&str| fs::read_to_string(root().join(file)).unwrap();
    for (command, structure, files, is_list) in PRINTED {
        let all: Structures = OF_PROXIES.iter().chain(files).map(text).flat_map(|code| structures(&code)).collect();
        write!(page, "\n## {command}\n\n| Where | Fields |\n|---|---|\n").unwrap();
        let found = places(&all, if is_list { "[]" } else { "." }, structure);
        assert!(!found.is_empty(), "{command}: there is no {structure} in {files:?}");
        for (place, fields) in found {
            writeln!(page, "| `{}` | {fields} |", place.trim_start_matches("..").replace("[]..", "[].")).unwrap();
        }
    }
    check("output.md", &page);
}
