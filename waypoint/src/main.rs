//! The waypoint's process: read the environment, build, run, exit code.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use fairway_core::io::logging;
use fairway_waypoint::app;
use fairway_waypoint::settings::Settings;

/// A request over HTTP/2 is some hundred pieces of memory that come and go; with the C library's allocator they take a quarter of
/// its processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| matches!(word.as_str(), "version" | "--version" | "-V")) {
        println!("waypoint {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waypoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let settings = Settings::read(&environment)?;
    let log = logging::init_gathered(settings.log_shape, &settings.log_filter, &settings.limits)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(settings.worker_threads).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let result = runtime.block_on(app::run(settings, &log));
    // Connections that outlived the drain are cut here.
    runtime.shutdown_background();
    result
}
