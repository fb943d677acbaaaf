//! The `fairway` command.

mod lab;
mod mesh;
mod why;

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
    /// Say what would become of a connection, and why
    Why(why::Arguments),
}

fn main() -> ExitCode {
    // No runtime here: `lab exec` and the lab's boot stage join namespaces, which takes a process with a single thread.
    let result = match Cli::parse().command {
        Command::Lab(lab) => lab.run(),
        Command::Why(arguments) => why::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
