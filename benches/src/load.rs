//! The client pod: produces one kind of load for a while and prints one JSON line about the measured part of it.

pub(crate) mod body;
mod bulk;
mod connect;
mod idle;
mod ping;
mod requests;
pub(crate) mod web;
mod window;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::histogram::Percentiles;
use crate::{affinity, limits, procfs};

/// Options of every load.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Where the server listens, or a relay to it.
    #[arg(long)]
    target: SocketAddr,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds of load before that, not measured.
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Processes whose processor time is sampled at both ends of the measured part.
    #[arg(long = "watch")]
    watched: Vec<i32>,
    /// Stay on this processor.
    #[arg(long)]
    cpu: Option<usize>,
}

impl Common {
    fn measured(&self) -> Result<Duration> {
        Duration::try_from_secs_f64(self.seconds).context("--seconds")
    }

    fn warm_up(&self) -> Result<Duration> {
        Duration::try_from_secs_f64(self.warm_up).context("--warm-up")
    }
}

/// Kinds of load.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Kind {
    /// Streams of bytes from client to server.
    Bulk {
        #[command(flatten)]
        common: Common,
        /// Parallel streams.
        #[arg(long, default_value_t = 1)]
        streams: usize,
    },
    /// HTTP/1.1 requests over connections that are kept.
    Requests {
        #[command(flatten)]
        common: Common,
        /// Connections, each with one request at a time.
        #[arg(long, default_value_t = 32)]
        connections: usize,
    },
    /// Requests of a real HTTP client.
    Web {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        shape: web::Shape,
    },
    /// One long body, up or down.
    Body {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        shape: body::Shape,
    },
    /// A new connection for every request.
    Connect {
        #[command(flatten)]
        common: Common,
        /// Connections at once.
        #[arg(long, default_value_t = 4)]
        workers: usize,
    },
    /// Small messages to and fro on one connection.
    Ping {
        #[command(flatten)]
        common: Common,
    },
    /// Connections that do nothing.
    Idle {
        #[command(flatten)]
        common: Common,
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// Seconds after they have gone until memory is looked at again.
        #[arg(long, default_value_t = 60.0)]
        settle: f64,
    },
    /// No load: memory, threads and name of the watched processes.
    Usage {
        /// The processes.
        #[arg(long = "watch")]
        watched: Vec<i32>,
    },
    /// No load: keeps processes on one processor.
    Pin {
        /// The processes.
        #[arg(long = "watch")]
        watched: Vec<i32>,
        /// The processor.
        #[arg(long)]
        cpu: usize,
    },
}

/// What a load says of its measured part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// How long that was.
    pub(crate) seconds: f64,
    /// Bytes of bulk data.
    pub(crate) bytes: u64,
    /// Requests, connections or messages.
    pub(crate) operations: u64,
    /// Operations that went wrong, at any time.
    pub(crate) failures: u64,
    /// How the first of them went wrong.
    pub(crate) first_failure: Option<String>,
    /// Time from the start of an operation to its end.
    pub(crate) latency: Option<Percentiles>,
    /// Processor seconds of each watched process.
    pub(crate) cpu_seconds: Vec<f64>,
}

/// Resident bytes of each watched process, at the stages of the idle load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct IdleOutcome {
    /// Connections that were open at once.
    pub(crate) held: u64,
    /// Of those, how many still carried a message both ways once all were open.
    pub(crate) answered: u64,
    /// How the first that could not be opened, or did not answer, went wrong.
    pub(crate) first_failure: Option<String>,
    /// Before the first connection.
    pub(crate) before: Vec<u64>,
    /// With all of them.
    pub(crate) with: Vec<u64>,
    /// Some time after they were closed.
    pub(crate) after: Vec<u64>,
}

/// What one long body took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct BodyOutcome {
    /// How long it took.
    pub(crate) seconds: f64,
    /// Resident bytes of each watched process before.
    pub(crate) before: Vec<u64>,
    /// The most that were resident meanwhile.
    pub(crate) peak: Vec<u64>,
    /// Processor seconds of each.
    pub(crate) cpu_seconds: Vec<f64>,
}

/// What a process uses now.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Resident bytes.
    pub(crate) resident: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// Processor seconds since its start.
    pub(crate) cpu_seconds: f64,
}

/// Produces the load, then prints its outcome.
///
/// # Errors
/// When the load cannot be produced at all. Operations that fail are part of the outcome.
pub(crate) fn run(kind: Kind) -> Result<()> {
    limits::raise_open_files();
    match kind {
        Kind::Bulk { common, streams } => print(&start(&common, || bulk::run(&common, streams))?),
        Kind::Requests { common, connections } => print(&start(&common, || requests::run(&common, connections))?),
        Kind::Web { common, shape } => print(&start(&common, || web::run(&common, &shape))?),
        Kind::Body { common, shape } => print(&start(&common, || body::run(&common, &shape))?),
        Kind::Connect { common, workers } => print(&start(&common, || connect::run(&common, workers))?),
        Kind::Ping { common } => print(&start(&common, || ping::run(&common))?),
        Kind::Idle { common, connections, settle } => {
            let settle = Duration::try_from_secs_f64(settle).context("--settle")?;
            print(&start(&common, || idle::run(&common, connections, settle))?)
        }
        Kind::Usage { watched } => {
            let usage = |pid: &i32| {
                let cpu_seconds = procfs::cpu_time(*pid)?.as_secs_f64();
                Ok(Usage { resident: procfs::resident(*pid)?, threads: procfs::threads(*pid)?, cpu_seconds })
            };
            print(&watched.iter().map(usage).collect::<Result<Vec<Usage>>>()?)
        }
        Kind::Pin { watched, cpu } => {
            watched.iter().try_for_each(|pid| affinity::pin_process(*pid, cpu))?;
            print(&watched)
        }
    }
}

fn start<T>(common: &Common, load: impl FnOnce() -> Result<T>) -> Result<T> {
    if let Some(cpu) = common.cpu {
        affinity::pin_self(cpu)?;
    }
    load().with_context(|| format!("load on {}", common.target))
}

fn print(outcome: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(outcome)?);
    Ok(())
}

#[cfg(test)]
mod tests;
