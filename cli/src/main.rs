//! The `fairway` command.

// `println!` and `eprintln!` panic when nobody reads any more: `say!` and `complain!` do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod analyze;
mod authz;
mod bug_report;
mod check;
mod connection;
mod dashboard;
mod install;
mod lab;
mod mesh;
mod metrics;
mod namespace;
mod objects;
mod output;
mod proxy_status;
mod status;
mod tap;
mod top;
mod trace_config;
mod version;
mod waypoint;
mod why;
mod ztunnel_config;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
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
    /// Check that the mesh can be installed, or that it is well; each failure with what to do
    Check(check::Arguments),
    /// Say what is wrong with the objects of a mesh, or with files before they are applied
    Analyze(analyze::Arguments),
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
    /// Show policies at workloads
    Authz(authz::Arguments),
    /// Show which proxies hold what became of an object
    TraceConfig(trace_config::Arguments),
    /// Show live traffic between workloads
    Top(top::Arguments),
    /// Show connections as they are opened and closed
    Tap(tap::Arguments),
    /// Serve the pages of a part of the mesh, or of Prometheus or Grafana, at an address of this machine
    Dashboard(dashboard::Arguments),
    /// Put what a helper needs to see into one archive, without secrets
    BugReport(bug_report::Arguments),
    /// Say what would become of a connection, and why
    Why(why::Arguments),
    /// Show versions of this command and of the proxies
    Version(version::Arguments),
    /// Print what makes a shell complete this command
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// What was asked; as a plugin of kubectl under that name.
fn parsed() -> Cli {
    let command = Cli::command();
    let command = if mesh::is_kubectl_plugin() { command.bin_name("kubectl fairway") } else { command };
    let matches = command.clone().get_matches();
    if names_lab_and_cluster(&matches) {
        let problem = "--lab names a lab, and --context and --kubeconfig a cluster: which one is meant?";
        command.clone().error(ErrorKind::ArgumentConflict, problem).exit();
    }
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Whether flags contradict each other. A lab that the environment names does not count: flags go before it.
fn names_lab_and_cluster(matches: &ArgMatches) -> bool {
    let is_given = |wanted: &str| {
        let is_known = matches!(matches.try_get_raw(wanted), Ok(Some(_)));
        is_known && matches.value_source(wanted) == Some(ValueSource::CommandLine)
    };
    (is_given("lab") && (is_given("context") || is_given("kubeconfig")))
        || matches.subcommand().is_some_and(|(_, matches)| names_lab_and_cluster(matches))
}

fn main() -> ExitCode {
    // No runtime here: `lab exec` and the lab's boot stage join namespaces, which takes a process with a single thread.
    let result = match parsed().command {
        Command::Lab(lab) => lab.run(),
        Command::Install(arguments) => install::run(&arguments),
        Command::Upgrade(arguments) => install::upgrade(&arguments),
        Command::Uninstall(arguments) => install::uninstall(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Analyze(arguments) => analyze::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Namespace(arguments) => namespace::run(&arguments),
        Command::Waypoint(arguments) => waypoint::run(&arguments),
        Command::ProxyStatus(arguments) => proxy_status::run(&arguments),
        Command::ZtunnelConfig(arguments) => ztunnel_config::run(&arguments),
        Command::Authz(arguments) => authz::run(&arguments),
        Command::TraceConfig(arguments) => trace_config::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Tap(arguments) => tap::run(&arguments),
        Command::Dashboard(arguments) => dashboard::run(&arguments),
        Command::BugReport(arguments) => bug_report::run(&arguments),
        Command::Why(arguments) => why::run(&arguments),
        Command::Version(arguments) => version::run(&arguments),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fairway", &mut script);
            fairway_lab::say!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(ExitCode::SUCCESS)
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            fairway_lab::complain!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_and_a_cluster_contradict_each_other_on_the_command_line_alone() {
        let conflict = |line: &str| names_lab_and_cluster(&Cli::command().get_matches_from(line.split(' ')));
        for (line, expected) in [
            ("fairway status", false),
            ("fairway status --lab a", false),
            ("fairway status --context c", false),
            ("fairway status --lab a --context c", true),
            ("fairway status --kubeconfig f --lab a", true),
            ("fairway waypoint list --lab a --context c", true),
            ("fairway lab status --lab a", false),
        ] {
            assert_eq!(conflict(line), expected, "{line}");
        }
        // As `FAIRWAY_LAB` says it, which is nobody's flag.
        let by_environment = |arg: clap::Arg| if arg.get_id() == "lab" { arg.default_value("mine") } else { arg };
        let command = Cli::command().mut_subcommand("status", |status| status.mut_args(by_environment));
        assert!(!names_lab_and_cluster(&command.get_matches_from(["fairway", "status", "--context", "c"])));
    }
}
