//! The node tunnel's process: parse, build, run, exit code.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use fairway_core::io::logging;
use fairway_core::io::tls::profile::Report;
use fairway_ztunnel::app;
use fairway_ztunnel::config::{Arguments, Command};
use fairway_ztunnel::workers::Workers;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.command()? == Command::Version {
        let profile = arguments.tls_profile()?;
        let provider = profile.provider()?;
        println!("ztunnel {}\n{}", env!("CARGO_PKG_VERSION"), Report::of(&provider, profile));
        return Ok(());
    }
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let config = arguments.check(&environment)?;
    let log_filter = logging::init(config.log_shape, &config.log_filter)?;
    raise_open_files();
    // The control plane, the agent and the operators' ports share this thread; connections have the workers.
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let control = control.context("cannot start the runtime")?;
    let (workers, threads) = Workers::start(config.worker_threads).context("cannot start the worker threads")?;
    let result = control.block_on(app::run(config, log_filter, workers));
    control.shutdown_background();
    // Connections that outlived the drain are cut here.
    drop(threads);
    result
}

/// Every connection costs one or two descriptors, and the usual soft limit of 1024 is meant for programs that use
/// select(2). A lower limit is no reason not to start.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok((soft, hard))
    });
    match raised {
        Ok((before, now)) => tracing::debug!(before, now, "limit on open files raised"),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit on open files; many connections may be refused (ulimit -n)");
        }
    }
}
