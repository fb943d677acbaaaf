//! Tests of `real`.

use std::borrow::Cow;
use std::io::Write as _;
use std::process::Command;

use super::super::netfilter::{Conversation, Described, Do, Get};
use super::super::{Tools, attribute};
use super::*;
use crate::rules::{InterfaceName, Phase, Probes};

/// A namespace with a name of its own, removed when dropped.
struct Scratch(String);

impl Scratch {
    fn new(purpose: &str) -> Option<Self> {
        let name = format!("fairway-test-{}-{purpose}", std::process::id());
        let made =
            Command::new("ip").args(["netns", "add", &name]).output().is_ok_and(|output| output.status.success());
        let nft = Command::new("nft").arg("--version").output().is_ok();
        let scratch = made.then(|| Self(name));
        if scratch.is_none() || !nft {
            // Written past the test harness, so that it shows without --nocapture.
            let _ = writeln!(std::io::stderr(), "SKIPPED: real kernel rules: needs root, `ip` and `nft`");
            return None;
        }
        let up = scratch.as_ref()?.run(&["ip", "link", "set", "lo", "up"]);
        assert_eq!(up, "");
        scratch
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("ip").args(["netns", "exec", &self.0]).args(arguments).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

#[test]
fn rules_are_written_read_back_and_removed() {
    let Some(scratch) = Scratch::new("rules") else { return };
    let kernel = RealKernel::default();
    let own = kernel.identify(Path::new("/proc/self/ns/net")).unwrap();
    let namespace = kernel.open(&scratch.path()).unwrap();
    let state = |scratch: &Scratch| {
        let mut state = scratch.run(&["nft", "list", "ruleset"]);
        for family in ["-4", "-6"] {
            state += &scratch.run(&["ip", family, "rule"]);
            state += &scratch.run(&["ip", family, "route", "show", "table", "all"]);
        }
        state
    };
    let foreign = "table inet fairway-other { chain c { counter accept; }; }";
    scratch.run(&["nft", foreign]);
    let before = state(&scratch);
    assert_eq!(kernel.inspect(&namespace, &Capture::default()).unwrap(), Inspection::Absent);
    kernel.remove(&namespace).unwrap();

    let plain = Capture::default();
    let interface = InterfaceName::parse("tap0").unwrap();
    let dns = Capture { dns: true, virtual_interfaces: [interface].into(), ..Capture::default() };
    let only_ipv4 = Capture { ipv6: false, inbound: false, ..Capture::default() };
    let probes =
        Probes { sources: ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into(), ports: [80, 81].into() };
    let probed = Capture { probes, ..Capture::default() };
    let settled = Capture { phase: Phase::Settled, ..Capture::default() };
    let leaving = Capture { phase: Phase::Leaving, ..Capture::default() };
    for capture in [&plain, &dns, &only_ipv4, &probed, &settled, &leaving, &plain] {
        assert_ne!(kernel.inspect(&namespace, capture).unwrap(), Inspection::Same);
        for _ in 0..2 {
            kernel.apply(&namespace, capture).unwrap();
            // A second reader, as after a restart, recognises what the first one wrote.
            assert_eq!(RealKernel::default().inspect(&namespace, capture).unwrap(), Inspection::Same, "{capture:?}");
        }
    }
    for meddling in [
        &["nft", "add rule inet fairway-nat output counter accept"][..],
        &["nft", "flush chain inet fairway-mangle output"],
        &["nft", "add table inet fairway-raw"],
        &["ip", "-6", "rule", "del", "priority", "32764"],
        &["ip", "route", "flush", "table", "100"],
    ] {
        assert_eq!(scratch.run(meddling), "", "{meddling:?}");
        assert_eq!(kernel.inspect(&namespace, &plain).unwrap(), Inspection::Different, "{meddling:?}");
        kernel.apply(&namespace, &plain).unwrap();
        assert_eq!(kernel.inspect(&namespace, &plain).unwrap(), Inspection::Same, "{meddling:?}");
    }
    kernel.remove(&namespace).unwrap();
    kernel.remove(&namespace).unwrap();
    assert_eq!(kernel.inspect(&namespace, &plain).unwrap(), Inspection::Absent);
    assert_eq!(state(&scratch), before);
    assert_eq!(kernel.identify(Path::new("/proc/self/ns/net")).unwrap(), own);
}

#[test]
fn a_copy_through_netlink_is_what_nft_writes() {
    let (Some(copied), Some(written)) = (Scratch::new("copied"), Scratch::new("written")) else { return };
    let kernel = RealKernel::default();
    let (to, of) = [&copied, &written].map(|scratch| kernel.open(&scratch.path()).unwrap()).into();
    let interface = InterfaceName::parse("tap0").unwrap();
    let probes = Probes { sources: ["10.0.0.1".parse().unwrap()].into(), ports: [80, 81].into() };
    let most = Capture { dns: true, virtual_interfaces: [interface].into(), probes, ..Capture::default() };
    for phase in [Phase::Joining, Phase::Settled, Phase::Leaving] {
        let capture = Capture { phase, ..most.clone() };
        within(&of, || Backend::Nftables.write(&capture)).unwrap();
        let listing = within(&of, || Backend::Nftables.list()).unwrap();
        // Not by way of `copy`, which writes with nft what the kernel does not take.
        within(&to, || listing.tables.write().map_err(KernelError::Tables)).unwrap();
        let rules = copied.run(&["nft", "--stateless", "list", "ruleset"]);
        assert_eq!(rules, written.run(&["nft", "--stateless", "list", "ruleset"]));
        assert!(rules.contains("counter") && rules.contains("fairway-mangle"), "{rules}");
    }
    // Some step is refused: nothing of the whole happens.
    copied.run(&["nft", "add table inet fairway-other"]);
    let before = copied.run(&["nft", "list", "ruleset"]);
    let broken = within(&of, || Backend::Nftables.list()).unwrap().tables.without_chains();
    assert!(within(&to, || broken.write().map_err(KernelError::Tables)).is_err());
    assert_eq!(copied.run(&["nft", "list", "ruleset"]), before);
}

#[test]
fn tables_that_somebody_makes_meanwhile_are_looked_at_before_ours_are_written() {
    let Some(scratch) = Scratch::new("meanwhile") else { return };
    let namespace = RealKernel::default().open(&scratch.path()).unwrap();
    let mut name = Vec::new();
    attribute::put(&mut name, 1, b"ours\0");
    let ours = Described { family: 1, attributes: name };
    let mut seen = Vec::new();
    let change = |present: Vec<Described>| {
        if seen.is_empty() {
            assert_eq!(scratch.run(&["nft", "add table inet theirs"]), "");
        }
        seen.push(present.len());
        vec![(Do::NewTable, Cow::Borrowed(&ours))]
    };
    let open = || Conversation::open().map_err(KernelError::Tables);
    within(&namespace, || open()?.change(Get::Tables, change).map_err(KernelError::Tables)).unwrap();
    assert_eq!(seen, [0, 1], "what was decided without it is not done");
    let rules = scratch.run(&["nft", "list", "tables"]);
    assert!(rules.contains("theirs") && rules.contains("ours"), "{rules}");
}

#[test]
fn iptables_rules_are_written_read_back_and_removed() {
    let Some(scratch) = Scratch::new("iptables") else { return };
    if Command::new("iptables-restore").arg("--version").output().is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: rules of iptables: needs the package iptables");
        return;
    }
    let kernel = RealKernel::new(Path::new("/proc"), Backend::Iptables(Tools::Any));
    let namespace = kernel.open(&scratch.path()).unwrap();
    let plain = Capture::default();
    let probes = Probes {
        sources: ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()].into(),
        ports: (80..100).collect(),
    };
    let interface = InterfaceName::parse("tap0").unwrap();
    let most = Capture { dns: true, virtual_interfaces: [interface].into(), probes, ..Capture::default() };
    let only_ipv4 = Capture { ipv6: false, inbound: false, ..Capture::default() };
    let settled = Capture { phase: Phase::Settled, ..Capture::default() };
    let leaving = Capture { phase: Phase::Leaving, ..Capture::default() };
    assert_eq!(kernel.inspect(&namespace, &plain).unwrap(), Inspection::Absent);
    for capture in [&plain, &most, &only_ipv4, &settled, &leaving, &plain] {
        assert_ne!(kernel.inspect(&namespace, capture).unwrap(), Inspection::Same);
        for _ in 0..2 {
            kernel.apply(&namespace, capture).unwrap();
            assert_eq!(kernel.inspect(&namespace, capture).unwrap(), Inspection::Same, "{capture:?}");
        }
    }
    for meddling in [
        &["iptables", "-t", "nat", "-A", "FAIRWAY_OUTPUT", "-j", "ACCEPT"][..],
        &["iptables", "-t", "nat", "-F", "PREROUTING"],
        &["ip6tables", "-t", "mangle", "-F", "FAIRWAY_OUTPUT"],
    ] {
        assert_eq!(scratch.run(meddling), "", "{meddling:?}");
        assert_eq!(kernel.inspect(&namespace, &plain).unwrap(), Inspection::Different, "{meddling:?}");
        kernel.apply(&namespace, &plain).unwrap();
        assert_eq!(kernel.inspect(&namespace, &plain).unwrap(), Inspection::Same, "{meddling:?}");
    }
    // A node that has nft by now sees what the other way has left, and takes it away.
    let newer = RealKernel::default();
    assert_eq!(newer.inspect(&namespace, &plain).unwrap(), Inspection::Different);
    newer.apply(&namespace, &plain).unwrap();
    assert_eq!(newer.inspect(&namespace, &plain).unwrap(), Inspection::Same);
    assert!(!scratch.run(&["iptables-save"]).contains("FAIRWAY"));
    newer.remove(&namespace).unwrap();
    assert_eq!(newer.inspect(&namespace, &plain).unwrap(), Inspection::Absent);
    // And the other way alone removes all of its own.
    kernel.apply(&namespace, &settled).unwrap();
    kernel.remove(&namespace).unwrap();
    assert_eq!(kernel.inspect(&namespace, &plain).unwrap(), Inspection::Absent);
}

#[test]
fn what_another_way_has_left_is_seen_and_removed_whichever_way_this_agent_writes() {
    let Some(scratch) = Scratch::new("leftovers") else { return };
    let works = |tools: &&str| Command::new(tools).arg("--version").output().is_ok();
    if !["iptables-restore", "iptables-nft-restore", "iptables-legacy-restore"].iter().all(works) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: rules of iptables: needs the package iptables");
        return;
    }
    let ways = [
        Backend::Nftables,
        Backend::Iptables(Tools::Any),
        Backend::Iptables(Tools::Nft),
        Backend::Iptables(Tools::Legacy),
    ];
    let kernels = ways.map(|backend| RealKernel::new(Path::new("/proc"), backend));
    let namespace = kernels[0].open(&scratch.path()).unwrap();
    let capture = Capture { phase: Phase::Settled, ..Capture::default() };
    let is_clean = || {
        let rules = [&["nft", "list", "ruleset"][..], &["iptables-legacy-save"], &["ip6tables-legacy-save"]];
        let rules: String = rules.iter().map(|program| scratch.run(program).to_lowercase()).collect();
        !rules.contains("fairway")
    };
    let tools = |backend| match backend {
        Backend::Nftables => None,
        // The node's own are one of the two.
        Backend::Iptables(Tools::Any | Tools::Nft) if scratch.run(&["iptables-save", "-V"]).contains("nf_tables") => {
            Some(Tools::Nft)
        }
        Backend::Iptables(Tools::Any | Tools::Legacy) => Some(Tools::Legacy),
        Backend::Iptables(Tools::Nft) => Some(Tools::Nft),
    };
    for before in &kernels {
        for now in &kernels {
            let (left_by, written_by) = (before.backend(), now.backend());
            let name = format!("{left_by}, then {written_by}");
            before.apply(&namespace, &capture).unwrap();
            let expected = if tools(left_by) == tools(written_by) { Inspection::Same } else { Inspection::Different };
            assert_eq!(now.inspect(&namespace, &capture).unwrap(), expected, "{name}");
            now.apply(&namespace, &capture).unwrap();
            for kernel in [now, before] {
                assert_eq!(kernel.inspect(&namespace, &capture).unwrap() == Inspection::Same, {
                    tools(kernel.backend()) == tools(written_by)
                });
            }
            // Beside what it has written itself.
            let elsewhere = match tools(written_by) {
                Some(Tools::Legacy) => &["iptables-nft", "-t", "nat", "-N", "FAIRWAY_X"][..],
                Some(_) => &["iptables-legacy", "-t", "nat", "-N", "FAIRWAY_X"],
                None => &["iptables", "-t", "nat", "-N", "FAIRWAY_X"],
            };
            for left in [elsewhere, &["nft", "add table inet fairway-raw"]] {
                assert_eq!(scratch.run(left), "", "{left:?}");
                assert_eq!(now.inspect(&namespace, &capture).unwrap(), Inspection::Different, "{name}: {left:?}");
                now.apply(&namespace, &capture).unwrap();
                assert_eq!(now.inspect(&namespace, &capture).unwrap(), Inspection::Same, "{name}: {left:?}");
            }
            now.remove(&namespace).unwrap();
            assert!(is_clean(), "{name}");
            // Without having written anything itself.
            before.apply(&namespace, &capture).unwrap();
            now.remove(&namespace).unwrap();
            assert_eq!(now.inspect(&namespace, &capture).unwrap(), Inspection::Absent, "{name}");
            assert!(is_clean(), "{name}");
        }
    }
}

#[test]
fn the_way_that_works_is_found_and_what_does_not_is_said() {
    if Scratch::new("works").is_none() {
        return;
    }
    let (kernel, refused) = RealKernel::that_works(Path::new("/proc"), &Backend::ALL);
    assert_eq!(kernel.backend(), Backend::Nftables);
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn a_pod_without_ipv6_is_captured_without_it() {
    let Some(scratch) = Scratch::new("no-ipv6") else { return };
    scratch.run(&["sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.lo.disable_ipv6=1"]);
    let kernel = RealKernel::default();
    let namespace = kernel.open(&scratch.path()).unwrap();
    let capture = Capture::default();
    kernel.apply(&namespace, &capture).unwrap();
    assert_eq!(kernel.inspect(&namespace, &capture).unwrap(), Inspection::Same);
    assert!(!scratch.run(&["nft", "list", "ruleset"]).contains("ip6 "));
    kernel.remove(&namespace).unwrap();
    assert_eq!(kernel.inspect(&namespace, &capture).unwrap(), Inspection::Absent);
}

#[test]
fn only_network_namespaces_of_others_are_opened() {
    let kernel = RealKernel::default();
    let file = tempfile::NamedTempFile::new().unwrap();
    let open = |path: &Path| kernel.open(path).map(|_| ());
    assert!(matches!(open(file.path()), Err(KernelError::NotANamespace(_))));
    assert!(matches!(open(Path::new("/nowhere")), Err(KernelError::NoNamespace(_))));
    assert!(matches!(open(Path::new("/proc/self/ns/net")), Err(KernelError::HostNamespace(_))));
    assert!(open(Path::new("/proc/self/ns/uts")).is_err());
}
