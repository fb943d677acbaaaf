//! On what machine, and with what programs, something was measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// How this binary, and with it the mesh's, was built.
pub(crate) const PROFILE: &str = if cfg!(debug_assertions) {
    "UNOPTIMISED dev build: numbers of our own programs mean nothing"
} else {
    "release build"
};

/// What a table of measurements has to say about where it comes from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    pub(crate) processors: String,
    pub(crate) kernel: String,
    pub(crate) profile: &'static str,
    pub(crate) haproxy: String,
    pub(crate) ztunnel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_ztunnel: Option<String>,
}

/// How many processors of which model.
pub(crate) fn processors() -> String {
    let count = std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |count| count.to_string());
    let described = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = described.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{count} x {}", model.map_or("processor of unknown model", |(_, model)| model.trim()))
}

/// Name and release of the kernel.
pub(crate) fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "n/a: unknown".to_owned(), |text| format!("Linux {}", text.trim()))
}

/// What a program says of its version, on one line.
pub(crate) fn version(program: &Path, argument: &str) -> String {
    match Command::new(program).arg(argument).output() {
        Ok(output) if output.status.success() => one_line(&String::from_utf8_lossy(&output.stdout)),
        Ok(output) => format!("n/a: `{} {argument}` ended with {}", program.display(), output.status),
        Err(error) => format!("n/a: `{} {argument}`: {error}", program.display()),
    }
}

/// HAProxy adds lines about its support and known bugs; ztunnel prints its facts over several lines.
fn one_line(text: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.lines().next() {
        Some(first) if first.starts_with("HAProxy") => words(first),
        _ => words(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_fit_on_one_line() {
        assert_eq!(one_line("HAProxy version 2.6  https\nStatus: x\n"), "HAProxy version 2.6 https");
        assert_eq!(one_line("{\n  \"version\": 1\n}\n"), "{ \"version\": 1 }");
    }

    #[test]
    fn a_program_that_is_not_there_is_said_so() {
        assert!(version(Path::new("/nonexistent/program"), "-v").starts_with("n/a: "));
        assert!(version(Path::new("false"), "-v").contains("ended with"));
    }

    #[test]
    fn the_machine_is_described() {
        assert!(kernel().starts_with("Linux ") && processors().contains(" x "));
    }
}
