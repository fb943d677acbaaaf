//! The node agent's entry point: arguments, logging, signals, exit code.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use fairway_cni::config::{Config, ignored};
use fairway_cni::kernel::RealKernel;
use fairway_core::io::logging;
use fairway_core::io::memory::use_one_heap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    // A node's applications need the memory more, and the threads of an agent are hardly ever busy at once.
    use_one_heap();
    serve()
}

// Each thread costs memory, and there is little to do: what takes long is in the kernel and in the node proxy.
#[tokio::main(worker_threads = 2)]
async fn serve() -> ExitCode {
    match run(Config::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let shape: logging::Shape = std::env::var("LOG_FORMAT").unwrap_or_default().parse()?;
    logging::init(shape, &std::env::var("RUST_LOG").unwrap_or_default())?;
    raise_open_files();
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });
    for (name, why) in ignored(|name| std::env::var(name).ok()) {
        tracing::info!(name, why, "a setting of Istio's is ignored");
    }
    let (kernel, refused) = RealKernel::that_works(&config.proc(), config.backends());
    for (backend, error) in &refused {
        tracing::warn!(%backend, %error, "rules cannot be written this way on this node");
    }
    tracing::info!(rules = %kernel.backend(), "this is how rules are written on this node");
    if config.uninstall {
        return fairway_cni::agent::uninstall(&config, Arc::new(kernel)).await;
    }
    fairway_cni::agent::run(config, Arc::new(kernel), stop).await
}

/// Each captured pod costs a descriptor for its namespace, and the usual soft limit of 1024 is meant for programs that use
/// select(2). A lower limit is no reason not to start.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        Ok((soft, hard))
    });
    match raised {
        Ok((before, now)) => tracing::debug!(before, now, "limit on open files raised"),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit on open files; pods may not be captured (ulimit -n)");
        }
    }
}
