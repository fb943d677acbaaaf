//! The node agent's entry point: arguments, logging, signals, exit code.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use fairway_cni::config::{Config, ignored};
use fairway_cni::kernel::RealKernel;
use fairway_core::io::logging;
use fairway_core::io::memory::use_one_heap;
use fairway_core::io::open_files;
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
    // Each captured pod costs a descriptor for its namespace.
    open_files::raise("pods may not be captured");
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
