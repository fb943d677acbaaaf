//! Cost of one policy decision.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_core::authz::decide;
use fairway_core::facts::ConnectionFacts;
use fairway_core::ident::Identity;
use fairway_core::policy::{Policy, PolicyKey};
use fairway_core::snapshot::{Update, World};
use fairway_core::view::PodView;
use fairway_core::workload::Workload;
use nix::time::{ClockId, clock_gettime};

use crate::facts;
use crate::measured::{Measured, float};
use crate::population::{LARGE, Population};
use crate::table::{Table, significant};

/// Runs per case, of which the median is shown.
const RUNS: usize = 15;
/// Decisions between two looks at the clock.
const DECISIONS: u64 = 20_000;
/// In a run, policies asked in all: keeps the long cases as short as the short ones.
const POLICIES_ASKED: u64 = 2_000_000;
/// The port that the policies are about.
const PORT: u16 = 8080;

/// One line of the table.
struct Case {
    name: &'static str,
    /// Policies of the mesh.
    known: u32,
    /// Policies that the pod is covered by.
    applying: u32,
    /// Who connects: the account that only the last policy asked allows, or nobody's.
    allowed: bool,
}

const CASES: [Case; 5] = [
    Case { name: "10 policies apply, the last one asked allows", known: 10, applying: 10, allowed: true },
    Case { name: "10 policies apply, none allows", known: 10, applying: 10, allowed: false },
    Case { name: "1,000 in the mesh, 10 apply, the last one asked allows", known: 1_000, applying: 10, allowed: true },
    Case { name: "1,000 policies apply, the last one asked allows", known: 1_000, applying: 1_000, allowed: true },
    Case { name: "1,000 policies apply, none allows", known: 1_000, applying: 1_000, allowed: false },
];

/// Prints the cost of each case.
///
/// # Errors
/// When a case does not decide as it should: then its cost would mean nothing.
pub(crate) fn run() -> Result<()> {
    let mut table = Table::default();
    table.row(["one decision", "ns/op", "spread"]);
    for case in &CASES {
        let runs = case.measure()?;
        let spread = Measured::spread(&runs).map_or_else(String::new, |spread| format!("±{:.0} %", spread * 100.0));
        let median = Measured::median(&runs).value().map_or_else(|| "n/a".to_owned(), significant);
        table.row([case.name.to_owned(), median, spread]);
    }
    println!("{}\nmedian of {RUNS} runs; {}\n\n{}", facts::processors(), facts::PROFILE, table.render());
    Ok(())
}

impl Case {
    fn measure(&self) -> Result<Vec<Measured>> {
        let view = self.view()?;
        let facts = self.connection(&view)?;
        let decision = decide(&view, &facts);
        ensure!(decision.is_allowed() == self.allowed, "`{}` was decided as {decision:?}", self.name);
        let decisions = (POLICIES_ASKED / u64::from(self.applying)).min(DECISIONS);
        let run = |_| {
            let started = processor_time()?;
            for _ in 0..decisions {
                black_box(decide(black_box(&view), black_box(&facts)));
            }
            let nanoseconds = (processor_time()? - started).as_secs_f64() * 1e9;
            Ok(Measured::per(nanoseconds, float(decisions), "decisions"))
        };
        // The first one warms the caches.
        (0..=RUNS).map(run).skip(1).collect()
    }

    fn view(&self) -> Result<PodView> {
        let mesh = Population { policies: self.known, ..LARGE };
        let mut world = World::new();
        let policies: Vec<Policy> =
            (0..self.known).map(|number| Policy::try_from(mesh.policy(number))).collect::<Result<_, _>>()?;
        let mut workload = Workload::try_from(mesh.workload(0))?;
        let count = usize::try_from(self.applying)?;
        workload.authorization_policies = policies.iter().take(count).map(|policy| policy.key.clone()).collect();
        let uid = workload.uid.clone();
        let updates = policies.into_iter().map(Update::from).chain([Update::from(workload)]).collect();
        let snapshot = world.apply(updates);
        let workload = snapshot.workload_by_uid(uid.as_str()).context("the workload was not loaded")?;
        let view = snapshot.view_of(workload);
        ensure!(view.policies.len() == count, "{} policies apply instead of {count}", view.policies.len());
        Ok(view)
    }

    /// A connection from the account that only the last policy of the view names, or from one that none names.
    fn connection(&self, view: &PodView) -> Result<ConnectionFacts> {
        let last: &PolicyKey = view.policies.last().context("no policy applies")?.key();
        let number: u32 = last.name().strip_prefix("policy-").context("not one of ours")?.parse()?;
        let caller = LARGE.member(if self.allowed { Population::caller(number) } else { 0 });
        let identity = Identity::new("cluster.local", &caller.namespace, &caller.service_account)?;
        Ok(ConnectionFacts {
            source: SocketAddr::from(([10, 0, 0, 1], 40_000)),
            source_identity: Some(identity),
            original: None,
            destination: SocketAddr::from(([10, 0, 0, 2], PORT)),
            http: None,
        })
    }
}

/// Of this thread, so that whatever else the machine does is not counted.
fn processor_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_decides_as_it_says() {
        for case in &CASES {
            let view = case.view().unwrap();
            let facts = case.connection(&view).unwrap();
            assert_eq!(decide(&view, &facts).is_allowed(), case.allowed, "{}", case.name);
        }
    }

    #[test]
    fn only_the_last_policy_asked_allows() {
        for case in CASES.iter().filter(|case| case.allowed) {
            let mut view = case.view().unwrap();
            let facts = case.connection(&view).unwrap();
            let fewer: Vec<_> = view.policies[..view.policies.len() - 1].to_vec();
            view.policies = fewer.into();
            assert!(!decide(&view, &facts).is_allowed(), "{}", case.name);
        }
    }
}
