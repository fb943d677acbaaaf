//! Cost of loading a large mesh into a proxy's world: processor time and memory.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use fairway_core::policy::Policy;
use fairway_core::service::Service;
use fairway_core::snapshot::{Update, World};
use fairway_core::workload::Workload;
use fairway_proto::security::Authorization;
use fairway_proto::workload::{Address, address::Type};
use nix::time::{ClockId, clock_gettime};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::facts;
use crate::measured::{Measured, float};
use crate::population::{LARGE, Population};
use crate::procfs;
use crate::table::{Table, significant};

/// Runs per case, of which the median is shown; each is a process of its own, because memory does not come back whole.
const RUNS: usize = 5;
/// Resources that arrive together: about what fits into one discovery message.
const PAGE: u32 = 1_000;
const MEGABYTE: f64 = 1e6;

/// What one load cost.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Cost {
    /// Processor seconds of decoding and checking.
    convert: f64,
    /// Processor seconds of `World::stage` and of publishing what was staged.
    apply: f64,
    /// Growth of resident memory, in bytes, when everything that is not kept has been dropped.
    resident: f64,
    /// Growth of the most memory that was ever resident.
    peak: f64,
    /// Resources.
    count: f64,
}

/// Prints what it costs.
///
/// # Errors
/// When a load fails.
pub(crate) fn run() -> Result<()> {
    let mut table = Table::default();
    table.row(["load", "convert CPU-s", "apply CPU-s", "sum CPU-s", "ns/resource", "RSS growth MB", "peak MB"]);
    for (name, pages) in [("one message of 1,000 resources at a time", true), ("everything in one batch", false)] {
        let costs = (0..RUNS).map(|_| in_a_process(pages)).collect::<Result<Vec<Cost>>>()?;
        let median = |part: fn(&Cost) -> f64| {
            let parts: Vec<Measured> = costs.iter().map(|cost| Measured::Value(part(cost))).collect();
            Measured::median(&parts).value().map_or_else(|| "n/a".to_owned(), significant)
        };
        table.row([
            name.to_owned(),
            median(|cost| cost.convert),
            median(|cost| cost.apply),
            median(|cost| cost.convert + cost.apply),
            median(|cost| (cost.convert + cost.apply) / cost.count * 1e9),
            median(|cost| cost.resident / MEGABYTE),
            median(|cost| cost.peak / MEGABYTE),
        ]);
    }
    let Population { workloads, services, policies } = LARGE;
    println!(
        "{}\n{workloads} workloads, {services} services, {policies} policies, from wire bytes to a snapshot, on one thread with \
         the system's allocator;\nmedian of {RUNS} runs, each in a fresh process; {}\n\n{}",
        facts::processors(),
        facts::PROFILE,
        table.render()
    );
    Ok(())
}

fn in_a_process(pages: bool) -> Result<Cost> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("apply-once").args(pages.then_some("--pages"));
    let output = command.stderr(Stdio::inherit()).output().context("running one load")?;
    ensure!(output.status.success(), "one load ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("reading what one load cost")
}

/// Loads once and prints the cost as JSON.
///
/// # Errors
/// When a resource is refused.
pub(crate) fn run_once(pages: bool) -> Result<()> {
    println!("{}", serde_json::to_string(&load(LARGE, pages)?)?);
    Ok(())
}

/// A resource as it arrives.
enum Encoded {
    Address(Vec<u8>),
    Policy(Vec<u8>),
}

fn load(mesh: Population, pages: bool) -> Result<Cost> {
    let own = i32::try_from(std::process::id())?;
    let before = procfs::resident(own)?;
    let mut world = World::new();
    let (mut convert, mut apply) = (Duration::ZERO, Duration::ZERO);
    let mut batch = Vec::new();
    let total = mesh.policies + mesh.services + mesh.workloads;
    for first in (0..total).step_by(usize::try_from(PAGE)?) {
        let page: Vec<Encoded> = (first..(first + PAGE).min(total)).map(|number| encode(mesh, number)).collect();
        convert += timed(|| {
            batch.reserve(page.len());
            page.into_iter().try_for_each(|resource| {
                batch.push(decode(resource)?);
                Ok::<_, anyhow::Error>(())
            })
        })?;
        if pages {
            let page = std::mem::take(&mut batch);
            apply += timed(|| {
                // As the client does: an answer is published when all of its pages are there.
                page.into_iter().for_each(|update| world.stage(update));
                Ok(())
            })?;
        }
    }
    apply += timed(|| {
        world.apply(std::mem::take(&mut batch));
        Ok(())
    })?;
    let counts = world.snapshot().counts();
    let loaded = counts.workloads + counts.services + counts.policies;
    ensure!(loaded == usize::try_from(total)?, "{loaded} of {total} resources were loaded");
    Ok(Cost {
        convert: convert.as_secs_f64(),
        apply: apply.as_secs_f64(),
        resident: float(procfs::resident(own)?.saturating_sub(before)),
        peak: float(procfs::peak_resident(own)?.saturating_sub(before)),
        count: f64::from(total),
    })
}

fn encode(mesh: Population, number: u32) -> Encoded {
    let address = |kind| Encoded::Address(Address { r#type: Some(kind) }.encode_to_vec());
    match number.checked_sub(mesh.policies) {
        None => Encoded::Policy(mesh.policy(number).encode_to_vec()),
        Some(number) => match number.checked_sub(mesh.services) {
            None => address(Type::Service(mesh.service(number))),
            Some(number) => address(Type::Workload(mesh.workload(number))),
        },
    }
}

fn decode(resource: Encoded) -> Result<Update> {
    Ok(match resource {
        Encoded::Policy(bytes) => Policy::try_from(Authorization::decode(bytes.as_slice())?)
            .map_err(|rejected| anyhow!("a policy was refused: {rejected:?}"))?
            .into(),
        Encoded::Address(bytes) => match Address::decode(bytes.as_slice())?.r#type {
            Some(Type::Workload(workload)) => Workload::try_from(workload)?.into(),
            Some(Type::Service(service)) => Service::try_from(service)?.into(),
            None => bail!("an address that is neither workload nor service"),
        },
    })
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let started = Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?);
    work()?;
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?) - started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_load_everything() {
        let small = Population { workloads: 1_500, services: 150, policies: 15 };
        for pages in [true, false] {
            let cost = load(small, pages).unwrap();
            assert!(cost.convert > 0.0 && cost.apply > 0.0 && cost.peak >= cost.resident, "{cost:?}");
        }
    }
}
