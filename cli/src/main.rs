//! The `fairway` command.

mod install;
mod lab;
mod mesh;
mod namespace;
mod objects;
mod output;
mod proxy_status;
mod status;
mod waypoint;
mod why;
mod ztunnel_config;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

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
    /// Put the mesh on a cluster
    Install(Box<install::Arguments>),
    /// Bring an installation to this version, or to other values
    Upgrade(Box<install::UpgradeArguments>),
    /// Take everything out of the mesh, and the mesh from the cluster
    Uninstall(install::UninstallArguments),
    /// Show how the mesh is, and what is wrong with it
    Status(status::Arguments),
    /// Put namespaces into the mesh, take them out, show which are in
    #[command(visible_alias = "ns")]
    Namespace(namespace::Arguments),
    /// Make, show and delete waypoints
    Waypoint(waypoint::Arguments),
    /// Show how far each proxy is with its configuration
    #[command(visible_alias = "ps")]
    ProxyStatus(proxy_status::Arguments),
    /// Show what node proxies hold
    #[command(visible_alias = "zc")]
    ZtunnelConfig(ztunnel_config::Arguments),
    /// Say what would become of a connection, and why
    Why(why::Arguments),
    /// Print what makes a shell complete this command
    Completion {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    // No runtime here: `lab exec` and the lab's boot stage join namespaces, which takes a process with a single thread.
    let result = match Cli::parse().command {
        Command::Lab(lab) => lab.run(),
        Command::Install(arguments) => install::run(&arguments),
        Command::Upgrade(arguments) => install::upgrade(&arguments),
        Command::Uninstall(arguments) => install::uninstall(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Namespace(arguments) => namespace::run(&arguments),
        Command::Waypoint(arguments) => waypoint::run(&arguments),
        Command::ProxyStatus(arguments) => proxy_status::run(&arguments),
        Command::ZtunnelConfig(arguments) => ztunnel_config::run(&arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "fairway", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
