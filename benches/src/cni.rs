//! What enrolment costs: the plugin in a pod's start, five hundred pods at once, the agent's memory, the plugin's size.
//!
//! One node, made of a network namespace and directories: Debian's plugins, the real plugin, agent and node proxy.

mod node;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::facts;
use crate::histogram::{Histogram, Percentiles};
use crate::procfs;
use crate::table::{Table, significant};
use node::Node;

const MEGABYTE: f64 = 1e6;
const MICROSECONDS: f64 = 1e6;
/// From the end of all work until the agent's memory is looked at: it gives back a second later.
const SETTLE: Duration = Duration::from_secs(4);

/// What is measured, and with which programs.
#[derive(Args)]
pub(crate) struct Options {
    /// Pods started with each chain, in turns.
    #[arg(long, default_value_t = 200)]
    pods: usize,
    /// Pods that are running when their namespace is enrolled.
    #[arg(long, default_value_t = 500)]
    crowd: usize,
    /// Directory of fairway-cni-agent, fairway-cni and ztunnel; that of this program unless it is set.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Measures and prints.
///
/// # Errors
/// When a program is missing, or the machine does not allow network namespaces.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces of its own take root");
    ensure!(options.pods > 0, "--pods must be 1 or more");
    let beside = std::env::current_exe()?.parent().context("a program without a directory")?.to_owned();
    let programs = options.programs.clone().unwrap_or(beside);
    let starts = starts(&Node::start(&programs)?, options.pods)?;
    let crowd = crowd(&Node::start(&programs)?, options.crowd)?;
    let size = fs::metadata(programs.join("fairway-cni")).context("the plugin")?.len();
    let mut table = Table::default();
    table.row(["measure", "unit", "p50", "p99"]);
    for (name, times) in [
        ("chain without the plugin", &starts.bare),
        ("chain with it, pod outside the mesh", &starts.outside),
        ("chain with it, enrolled pod", &starts.enrolled),
        ("  the plugin's own part, pod outside", &starts.part_outside),
        ("  the plugin's own part, enrolled pod", &starts.part_enrolled),
        ("back in a configuration that was rewritten", &starts.rewritten),
    ] {
        let Percentiles { p50, p99, .. } = times.percentiles().context("nothing was measured")?;
        table.row([name.to_owned(), "ms".to_owned(), milliseconds(p50), milliseconds(p99)]);
    }
    println!("{}", table.render());
    let mut table = Table::default();
    table.row(["measure", "unit", "value"]);
    let per_pod = crowd.after.saturating_sub(crowd.before) / u64::try_from(options.crowd.max(1))?;
    for (name, unit, value) in [
        (format!("{} running pods enrolled from cold", options.crowd), "s", crowd.time.as_secs_f64()),
        ("  processor time of the agent meanwhile".to_owned(), "CPU-s", crowd.agent.as_secs_f64()),
        ("RSS of the agent without pods".to_owned(), "MB", as_float(crowd.before) / MEGABYTE),
        (format!("RSS of the agent with {} pods", options.crowd), "MB", as_float(crowd.after) / MEGABYTE),
        ("  a pod".to_owned(), "bytes", as_float(per_pod)),
        ("size of the plugin".to_owned(), "MB", as_float(size) / MEGABYTE),
    ] {
        table.row([name, unit.to_owned(), significant(value)]);
    }
    println!("{}", table.render());
    println!("{}, {}, {}, programs of {}", facts::processors(), facts::kernel(), load(), programs.display());
    Ok(())
}

/// Processes that want to run: what else the machine does decides what figures are worth.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("load {}", text.split(' ').next().unwrap_or("unknown"))
}

fn milliseconds(nanoseconds: u64) -> String {
    significant(as_float(nanoseconds) / MICROSECONDS)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_float(value: u64) -> f64 {
    value as f64
}

#[derive(Default)]
struct Starts {
    bare: Histogram,
    outside: Histogram,
    enrolled: Histogram,
    part_outside: Histogram,
    part_enrolled: Histogram,
    rewritten: Histogram,
}

/// Starts pods with each chain in turns, so that whatever else the machine does meets all of them alike.
fn starts(node: &Node, pods: usize) -> Result<Starts> {
    let mut starts = Starts::default();
    node.enrol("shop")?;
    let chain = node.chain();
    for number in 0..pods {
        let name = format!("p{number}");
        for (namespace, is_chained) in [("none", false), ("street", true), ("shop", true)] {
            let pod = node.pod(namespace, &name)?;
            if is_chained {
                node.declare(&pod)?;
                node.wait_seen(&pod)?;
            }
            let list = if is_chained { &chain } else { node.bare() };
            let started = Instant::now();
            let part = node.add(list, &pod)?;
            let whole = started.elapsed();
            match (namespace, part) {
                ("street", Some(part)) => {
                    starts.outside.record(whole);
                    starts.part_outside.record(part);
                }
                ("shop", Some(part)) => {
                    starts.enrolled.record(whole);
                    starts.part_enrolled.record(part);
                }
                ("none", None) => starts.bare.record(whole),
                _ => bail!("the chain of {namespace} is not what it should be"),
            }
            node.delete(list, &pod)?;
        }
    }
    for round in 0..pods {
        starts.rewritten.record(node.rewrite(round)?);
    }
    Ok(starts)
}

struct Crowd {
    time: Duration,
    agent: Duration,
    before: u64,
    after: u64,
}

/// From the label on their namespace until all pods are captured: rules read back, and the proxy's word.
fn crowd(node: &Node, pods: usize) -> Result<Crowd> {
    let before = settled(node)?;
    for number in 0..pods {
        let pod = node.pod("crowd", &format!("p{number}"))?;
        node.run(&pod, number)?;
    }
    node.wait_count("fairway_agent_pods{state=\"captured\"}", 0)?;
    let cpu = procfs::cpu_time(node.agent())?;
    let started = Instant::now();
    node.enrol("crowd")?;
    node.wait_count("fairway_agent_pods{state=\"captured\"}", pods)?;
    let time = started.elapsed();
    let agent = procfs::cpu_time(node.agent())?.saturating_sub(cpu);
    Ok(Crowd { time, agent, before, after: settled(node)? })
}

/// The agent's memory once it has nothing to do.
fn settled(node: &Node) -> Result<u64> {
    std::thread::sleep(SETTLE);
    procfs::resident(node.agent())
}
