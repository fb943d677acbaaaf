//! The `fairway` command.

mod lab;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Fairway, an ambient service mesh.
#[derive(Debug, Parser)]
#[command(name = "fairway", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A mesh of real processes in network namespaces on this machine
    Lab(Box<lab::Lab>),
}

fn main() -> ExitCode {
    // No runtime here: `lab exec` and the lab's boot stage join namespaces, which takes a process with a single thread.
    let Cli { command: Command::Lab(lab) } = Cli::parse();
    match lab.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
