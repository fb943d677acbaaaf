//! The waypoint's process: read the environment, build, run, exit code.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use fairway_core::io::logging;
use fairway_waypoint::settings::Settings;
use fairway_waypoint::{app, help};

/// A request over HTTP/2 is some hundred pieces of memory that come and go; with the C library's allocator they take a quarter of
/// its processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for arguments that nobody understands, as clap has it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("version" | "--version" | "-V") => return said(&help::version()),
        Some("help" | "--help" | "-h") => return said(&help::help()),
        Some(other) => {
            eprintln!("waypoint: there is no argument {other:?}; see waypoint --help");
            return ExitCode::from(USAGE);
        }
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waypoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever asked may have read enough before the end.
fn said(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
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
