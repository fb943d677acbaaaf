//! The CNI plugin's entry point: environment and standard input in, standard output and exit code out.

use std::io::{Read, Write};
use std::process::ExitCode;

/// Longest configuration that is read, in bytes; results of many interfaces are far shorter.
const MAX_INPUT: u64 = 4 << 20;

/// What it says to people; a container runtime gives no arguments (CNI specification, section 2).
const HELP: &str = concat!(
    "fairway-cni ",
    env!("CARGO_PKG_VERSION"),
    "\n\n\
     CNI plugin of the mesh: has new pods captured before they run. A container runtime runs it, behind other plugins, with\n\
     its configuration on standard input and the request in variables of the environment (CNI_COMMAND, CNI_CONTAINERID,\n\
     CNI_NETNS, CNI_IFNAME, CNI_ARGS, CNI_PATH). The node's agent, fairway-cni-agent, installs and configures it:\n\
     docs/guides/cni.md\n"
);

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| matches!(word.as_str(), "--help" | "-h" | "--version" | "-V")) {
        let _ = std::io::stdout().write_all(HELP.as_bytes());
        return ExitCode::SUCCESS;
    }
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
