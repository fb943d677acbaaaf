//! `fairway-bench`: what the mesh costs, side by side with what it is compared to.

mod affinity;
mod apply;
mod body;
mod cni;
mod controller;
mod decide;
mod enforce;
mod facts;
mod histogram;
mod limits;
mod load;
mod measured;
mod node;
mod population;
mod procfs;
mod sink;
mod table;
mod waypoint;

use std::process::ExitCode;

use clap::Parser;

/// Measures what the mesh costs.
#[derive(Parser)]
#[command(name = "fairway-bench", version)]
enum Command {
    /// What a connection through two nodes costs, next to HAProxy on the same path.
    Node(node::Options),
    /// What a request through a waypoint costs, next to Envoy in its place.
    Waypoint(waypoint::Options),
    /// What enrolment costs: in a pod's start, for a crowd of pods, in the agent's memory.
    Cni(cni::Options),
    /// What a large mesh costs the controller, and how fast it tells of changes.
    Controller(controller::Options),
    /// How soon a policy that is applied with kubectl cuts open connections on every node.
    Enforce(enforce::Options),
    /// Cost of one policy decision.
    Decide,
    /// Cost of loading a large mesh.
    Apply,
    /// One load of `apply`.
    #[command(hide = true)]
    ApplyOnce {
        /// In messages of limited size.
        #[arg(long)]
        pages: bool,
    },
    /// The server pod of `node`.
    #[command(hide = true)]
    Sink {
        /// Stay on this processor.
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Starts another program and says which process it is.
    #[command(hide = true)]
    Announced {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// The client pod of `node`.
    #[command(hide = true)]
    Load {
        /// What to do.
        #[command(subcommand)]
        kind: load::Kind,
    },
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Node(options) => node::run(&options),
        Command::Waypoint(options) => waypoint::run(&options),
        Command::Cni(options) => cni::run(&options),
        Command::Controller(options) => controller::run(&options),
        Command::Enforce(options) => enforce::run(&options),
        Command::Announced { command } => node::become_announced(&command),
        Command::Decide => decide::run(),
        Command::Apply => apply::run(),
        Command::ApplyOnce { pages } => apply::run_once(pages),
        Command::Sink { cpu } => cpu.map_or(Ok(()), affinity::pin_self).and_then(|()| sink::run()),
        Command::Load { kind } => load::run(kind),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
