//! The controller's process: parse, build, run, exit code.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use fairway_controller::app::Controller;
use fairway_controller::config::{Args, Config};
use fairway_core::io::{drain, logging};
use tokio::signal::unix::{SignalKind, signal};

/// Time for clients to take note that they must go elsewhere.
const DRAIN: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let _filter = logging::init(args.log_format.parse()?, &args.log)?;
    let config = Config::try_from(args)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let (trigger, drain) = drain::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
        let controller = tokio::select! {
            controller = Controller::start(config, drain) => controller?,
            // Where the authority is in a secret, the start waits for the API server.
            _ = terminate.recv() => return Ok(()),
        };
        tokio::select! {
            _ = terminate.recv() => {}
            interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for SIGINT")?,
        }
        tracing::info!("shutting down");
        trigger.start(drain::Mode::Graceful);
        if tokio::time::timeout(DRAIN, controller.finished()).await.is_err() {
            tracing::warn!("clients are still connected; ending anyway");
        }
        Ok(())
    })
}
