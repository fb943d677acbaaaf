//! The node tunnel's process: parse, build, run, exit code.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use fairway_core::io::tls::profile::Report;
use fairway_core::io::{logging, open_files};
use fairway_ztunnel::app;
use fairway_ztunnel::config::{Arguments, Command};
use fairway_ztunnel::workers::Workers;

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
    let log = logging::init_gathered(config.log_shape, &config.log_filter, &config.limits)?;
    // Every connection costs one or two descriptors.
    open_files::raise("many connections may be refused");
    // The control plane, the agent and the operators' ports share this thread; connections have the workers.
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let control = control.context("cannot start the runtime")?;
    let (workers, threads) = Workers::start(config.worker_threads).context("cannot start the worker threads")?;
    let result = control.block_on(app::run(config, &log, workers));
    control.shutdown_background();
    // Connections that outlived the drain are cut here.
    drop(threads);
    result
}
