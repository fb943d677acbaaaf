//! The CNI plugin's entry point: environment and standard input in, standard output and exit code out.

use std::io::{Read, Write};
use std::process::ExitCode;

/// Longest configuration that is read, in bytes; results of many interfaces are far shorter.
const MAX_INPUT: u64 = 4 << 20;

fn main() -> ExitCode {
    let mut input = String::new();
    // What cannot be read is reported as what cannot be understood.
    let _ = std::io::stdin().take(MAX_INPUT).read_to_string(&mut input);
    let outcome = fairway_cni::plugin::run(|name| std::env::var(name).ok(), &input);
    if !outcome.complaint.is_empty() {
        let _ = writeln!(std::io::stderr(), "fairway-cni: {}", outcome.complaint);
    }
    if std::io::stdout().write_all(outcome.output.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(outcome.code)
}
