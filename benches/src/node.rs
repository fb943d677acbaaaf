//! The path client pod, two proxies, server pod: without a mesh, through HAProxy, through our mesh, through another ztunnel.

mod haproxy;
mod measure;
mod memory;
mod report;
mod stage;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

pub(crate) use self::haproxy::become_announced;
use self::measure::{LOADS, Round};
use self::memory::Memory;
use self::report::Report;
use self::stage::{Path, Stage};
use crate::facts::{self, Facts};

/// What is measured, and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// One short round: shows that everything works, its numbers are rough.
    #[arg(long)]
    quick: bool,
    /// Seconds that each load is measured [default: 3, quick 1].
    #[arg(long)]
    seconds: Option<f64>,
    /// Idle connections that are held.
    #[arg(long, default_value_t = 10_000)]
    idle_connections: u32,
    /// Seconds after the idle connections have gone until memory is looked at again [default: 60, quick 5].
    #[arg(long)]
    settle_seconds: Option<f64>,
    /// Threads that relay in each proxy.
    #[arg(long, default_value_t = 2)]
    threads: u32,
    /// Another ztunnel that is measured as well, in a lab of its own.
    #[arg(long, value_name = "PATH")]
    peer_ztunnel: Option<PathBuf>,
    /// Also measure between two pods of one node.
    #[arg(long)]
    same_node: bool,
    /// Keep proxies on the first processor, client and server on the last.
    #[arg(long)]
    pin: bool,
    /// Take the mesh's binaries beside this one as they are.
    #[arg(long)]
    no_build: bool,
    /// Also write everything, every round included, to this file as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Options {
    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.quick { 1.0 } else { 3.0 })
    }

    fn settle_seconds(&self) -> f64 {
        self.settle_seconds.unwrap_or(if self.quick { 5.0 } else { 60.0 })
    }

    /// The processors of proxies, and of client and server.
    fn processors(&self) -> Result<Option<(usize, usize)>> {
        let count = std::thread::available_parallelism().context("counting processors")?.get();
        Ok(self.pin.then(|| (0, count - 1)))
    }
}

/// Measures and prints.
///
/// # Errors
/// When no lab can be brought up. What cannot be measured in it is part of the table.
pub(crate) fn run(options: &Options) -> Result<()> {
    let own = Stage::up("bench", options, None)?;
    let mut facts = Facts {
        processors: facts::processors(),
        kernel: facts::kernel(),
        profile: facts::PROFILE,
        haproxy: facts::version(std::path::Path::new("haproxy"), "-v"),
        ztunnel: facts::version(&own.ztunnel()?, "version"),
        peer_ztunnel: None,
    };
    let peer = match &options.peer_ztunnel {
        Some(path) => {
            facts.peer_ztunnel = Some(facts::version(path, "version"));
            Some(Stage::up("bench-peer", options, Some(path))?)
        }
        None => None,
    };
    let haproxy = haproxy::Pair::start(&own, options.threads);
    let mut paths = vec![Path::direct(&own), Path::haproxy(&own, &haproxy), Path::mesh("fairway", &own)];
    paths.extend(peer.as_ref().map(|peer| Path::mesh("peer", peer)));
    if options.same_node {
        paths.push(Path::same_node(&own));
    }
    let mut report = Report::new(facts, options, paths.iter().map(|path| path.name));
    for path in &mut paths {
        progress(&format!("{}: first traffic", path.name));
        path.prove();
        if let Some((proxies, _)) = options.processors()? {
            path.pin(proxies);
        }
    }
    // Before any load, so that memory left over from it neither counts nor is used again.
    for (number, path) in paths.iter().enumerate() {
        progress(&format!("{}: memory, {} idle connections", path.name, options.idle_connections));
        report.memory(number, Memory::measure(path, options));
    }
    for round in 0..options.rounds() {
        progress(&format!("round {} of {}", round + 1, options.rounds()));
        let mut results: Vec<Round> = paths.iter().map(|_| Round::default()).collect();
        for load in &LOADS {
            // Close in time, and in another order each round, so that what disturbs the machine disturbs all alike.
            for turn in 0..paths.len() {
                let number = (turn + usize::try_from(round)?) % paths.len();
                if let (Some(path), Some(result)) = (paths.get(number), results.get_mut(number)) {
                    load.measure(path, options, result)?;
                }
            }
        }
        report.round(results);
    }
    println!("{}", report.text());
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&report.json())?)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    ensure!(report.has_values(), "nothing could be measured; the table says why");
    Ok(())
}

fn progress(text: &str) {
    eprintln!("{text}");
}
