//! Small host programs for pods and tests: `fairway lab tool ...`.

mod capture;
mod echo;
mod exchange;
mod garbage;
mod hold;
mod http_get;
mod http_server;
mod net;
mod send;

use std::process::ExitCode;

use clap::Subcommand;

use crate::error::{Doing, Result};

pub(crate) use capture::PCAP_HEADER_LENGTH;

/// The programs.
#[derive(Clone, Debug, Subcommand)]
pub enum Tool {
    /// Answer every HTTP request with a text and the caller's address
    HttpServer(http_server::Arguments),
    /// GET a URL, once or for ever, each time over a new connection, and print one line per answer or error
    HttpGet(http_get::Arguments),
    /// Send back whatever arrives over TCP
    Echo(echo::Arguments),
    /// Open many connections, prove each with one byte, and report as JSON lines how they end, until standard input closes;
    /// each line of it proves them once more
    Hold(hold::Arguments),
    /// Send a text and wait for the same text to come back; the exit code tells how it went
    Send(send::Arguments),
    /// Send much, or in small pieces, over many connections, and compare what comes back
    Exchange(exchange::Arguments),
    /// Send random bytes and report how the connection ends
    Garbage(garbage::Arguments),
    /// Write every packet of an interface to standard output as pcap, until standard input closes
    Capture(capture::Arguments),
}

/// Runs a program to its end.
///
/// # Errors
/// What kept it from doing its work.
pub fn run(tool: Tool) -> Result<ExitCode> {
    if let Tool::Capture(arguments) = tool {
        return capture::run(&arguments);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(|| "starting a runtime")?;
    let code = runtime.block_on(async {
        match tool {
            Tool::HttpServer(arguments) => http_server::run(arguments).await,
            Tool::HttpGet(arguments) => http_get::run(arguments).await,
            Tool::Echo(arguments) => echo::run(arguments).await,
            Tool::Hold(arguments) => hold::run(arguments).await,
            Tool::Send(arguments) => send::run(arguments).await,
            Tool::Exchange(arguments) => exchange::run(arguments).await,
            Tool::Garbage(arguments) => garbage::run(arguments).await,
            Tool::Capture(_) => Ok(ExitCode::SUCCESS),
        }
    });
    // A thread may still wait for standard input; nothing else is worth waiting for.
    runtime.shutdown_background();
    code
}
