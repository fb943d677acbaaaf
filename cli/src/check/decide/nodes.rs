//! Nodes: whether proxy and agent of each run, are told what there is, and serve their pods.

use super::super::facts::{Agent, Facts, Node, NodeProxy};
use super::{Check, Section, for_long, log_of};
use crate::proxy_status::State;

/// Clocks that differ more are told of, in seconds: what is measured is good to a second or two.
const SKEW_DOUBTFUL: i64 = 5;
/// Clocks that differ more are broken: certificates of a moment ago do not hold yet, or tokens no more.
const SKEW_BROKEN: i64 = 60;
/// A proxy that has not heard from the controller for longer is told of, in seconds.
const SILENT_FOR: u64 = 60;
/// Certificates that end sooner should have been renewed, in seconds: they are at half of a day.
const ENDS_SOON: i64 = 7_200;

fn proxies(facts: &Facts) -> impl Iterator<Item = (&Node, &NodeProxy)> {
    facts.nodes.iter().filter_map(|node| Some((node, node.proxy.as_ref().ok()?)))
}

fn agents(facts: &Facts) -> impl Iterator<Item = (&Node, &Agent)> {
    facts.nodes.iter().filter_map(|node| Some((node, node.agent.as_ref().ok()?)))
}

/// The pod, or the component of a lab, that a part of a node is.
fn part<'a>(facts: &'a Facts, kind: &str, node: Option<&str>) -> &'a str {
    let mut of_node = facts.components.iter().filter(|it| node.is_some() && it.node.as_deref() == node);
    of_node.find(|it| it.name.contains(kind)).map_or("NAME", |it| it.name.as_str())
}

pub(super) fn section(facts: &Facts) -> Section {
    let nodes = facts.nodes.len();
    let silent = |error: &dyn Fn(&Node) -> Option<String>| -> Vec<String> {
        facts.nodes.iter().filter_map(|node| Some(format!("{}: {}", node.name, error(node)?))).collect()
    };
    let down = facts.nodes.iter().find(|node| node.proxy.is_err()).map(|node| node.name.as_str());
    let without_agent = facts.nodes.iter().find(|node| node.agent.is_err()).map(|node| node.name.as_str());
    let not_installed = agents(facts).filter(|(_, agent)| agent.is_installed == Some(false));
    let not_installed: Vec<&str> = not_installed.map(|(node, _)| node.name.as_str()).collect();
    let restart = |kind: &str, node: Option<&str>| {
        let part = part(facts, kind, node);
        let log = log_of(facts, part);
        if facts.is_lab {
            format!("see why: {log}; it is started again when it ends")
        } else {
            format!("see why: {log}; start it again: kubectl -n {} delete pod {part}", facts.mesh_namespace)
        }
    };
    let (doubtful, broken) = clocks(facts);
    let checks = vec![
        Check::of(
            "proxies-answer",
            format!("the proxy of every node answers ({nodes})"),
            silent(&|node| node.proxy.as_ref().err().cloned()),
            restart("ztunnel", down),
        ),
        Check::of(
            "agents-answer",
            format!("the agent of every node answers ({nodes})"),
            silent(&|node| node.agent.as_ref().err().cloned()),
            restart(if facts.is_lab { "agent" } else { "cni" }, without_agent),
        ),
        Check::of(
            "plugin-installed",
            "the CNI plugin is in the chain of every node",
            not_installed.iter().map(|node| format!("{node}: pods start before they are captured")).collect(),
            format!(
                "the agent puts it back by itself when it finds a configuration of another CNI that it can read; its log says \
                 what is in the way: {}",
                log_of(facts, part(facts, if facts.is_lab { "agent" } else { "cni" }, not_installed.first().copied()))
            ),
        ),
        Check::of(
            "clocks-agree",
            "the clocks of all nodes agree",
            broken,
            "run a time service (chrony, systemd-timesyncd) on the node: timedatectl set-ntp true",
        ),
        Check::doubtful(
            "clocks-close",
            format!("no clock is more than {SKEW_DOUBTFUL} s off"),
            doubtful,
            "see the node's time service: timedatectl timesync-status",
        ),
    ];
    Section { title: "nodes", checks }
}

/// Clocks that are somewhat off, and those that are too far, compared with that of the controller: it signs.
fn clocks(facts: &Facts) -> (Vec<String>, Vec<String>) {
    let answered = facts.controllers.iter().find_map(|(_, it)| it.as_ref().ok()?.clock);
    let api = facts.api.as_ref().and_then(|api| api.as_ref().ok()?.clock);
    let (base, whose) = match (answered, api) {
        (Some(clock), _) => (clock, "the controller's"),
        (None, Some(clock)) => (clock, "the API server's"),
        (None, None) => (0, "this machine's"),
    };
    let nodes = proxies(facts).filter_map(|(node, proxy)| Some((node.name.as_str(), proxy.clock?)));
    let server = api.into_iter().filter(|_| answered.is_some()).map(|clock| ("the API server", clock));
    let (mut doubtful, mut broken) = (Vec::new(), Vec::new());
    for (name, clock) in nodes.chain(server) {
        let ahead = clock - base;
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        let told = format!("the clock of {name} is {} {way} {whose}", for_long(ahead));
        match ahead.abs() {
            skew if skew > SKEW_BROKEN => broken.push(told),
            skew if skew > SKEW_DOUBTFUL => doubtful.push(told),
            _ => {}
        }
    }
    (doubtful, broken)
}

/// What node proxies are told, and by whom they are known.
pub(super) fn configuration(facts: &Facts) -> Section {
    let other = proxies(facts).filter_map(|(node, proxy)| {
        let told = proxy.told_trust_domains.iter().find(|told| **told != proxy.trust_domain)?;
        let own = &proxy.trust_domain;
        Some(format!("{}: its proxy is of trust domain {own}, and the controller's workloads are of {told}", node.name))
    });
    let cut = proxies(facts).filter_map(|(node, proxy)| {
        let since =
            proxy.silent_seconds.map_or_else(|| "since it started".to_owned(), |seconds| format!("for {seconds} s"));
        let is_cut = proxy.is_connected == Some(false) || proxy.silent_seconds.is_some_and(|it| it > SILENT_FOR);
        is_cut.then(|| {
            format!("{}: its proxy has not heard from the controller {since}, and serves what it has", node.name)
        })
    });
    let mut checks = vec![
        Check::of(
            "trust-domain",
            "every node proxy is of the mesh's trust domain",
            other.collect(),
            "set TRUST_DOMAIN of the node proxies to the controller's --trust-domain, or leave it out, and start them again",
        ),
        Check::of(
            "controller-reached",
            "every node proxy hears from the controller",
            cut.collect(),
            "see whether TCP port 15012 of the controller can be reached from the node, and that a firewall lets it pass",
        ),
    ];
    checks.extend(synced(facts));
    Section { title: "configuration", checks }
}

fn synced(facts: &Facts) -> Vec<Check> {
    const WHAT: &str = "every proxy has taken what the controller sent last";
    let proxies = match &facts.proxies {
        Ok(proxies) => proxies,
        // Whoever cannot be asked has been told of.
        Err(_) => return Vec::new(),
    };
    let (mut stale, mut refused) = (Vec::new(), Vec::new());
    for proxy in proxies {
        for (kind, sent) in &proxy.types {
            match sent.state() {
                State::Synced => {}
                State::Stale => stale.push(format!("{} has not answered the last {kind}", proxy.name)),
                State::Rejected => {
                    refused.push(format!("{} refused {kind}: {}", proxy.name, sent.rejection().unwrap_or_default()));
                }
            }
        }
    }
    let known = |node: &Node| proxies.iter().any(|proxy| proxy.kind == "ztunnel" && proxy.node == node.name);
    let absent = facts.nodes.iter().filter(|node| node.proxy.is_ok() && !known(node));
    stale.extend(absent.map(|node| format!("the proxy of {} is not connected to the controller", node.name)));
    vec![
        Check::of(
            "configuration-current",
            WHAT,
            stale,
            "fairway proxy-status again in a moment; if it lasts, see the proxy's log and whether its node reaches TCP port \
             15012 of the controller",
        ),
        Check::of(
            "configuration-taken",
            "no proxy refuses what it is sent",
            refused,
            "correct the object that is named; if none is, controller and proxy are of versions that do not fit: fairway version",
        ),
    ]
}

/// Pods of the mesh: captured, served, and with certificates.
pub(super) fn workloads(facts: &Facts) -> Section {
    let mut taken = Vec::new();
    let mut pending = Vec::new();
    for (node, proxy) in proxies(facts) {
        for (pod, error) in &proxy.pending {
            let told = format!("{pod} on {}: {error}", node.name);
            if is_port_taken(error) { taken.push(told) } else { pending.push(told) }
        }
    }
    let is_told = |pod: &str| taken.iter().chain(&pending).any(|told| told.starts_with(&format!("{pod} on ")));
    let missing = agents(facts).flat_map(|(node, agent)| {
        agent.not_captured.iter().map(move |(pod, why)| (node, pod, why.as_deref().unwrap_or("on its way")))
    });
    let missing: Vec<String> = missing
        .filter(|(_, pod, _)| !is_told(pod))
        .map(|(node, pod, why)| format!("{pod} on {}: {why}", node.name))
        .collect();
    let (mut without, mut ending) = (Vec::new(), Vec::new());
    for (node, proxy) in proxies(facts) {
        for certificate in &proxy.certificates {
            let why = certificate.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            let told = |what: &str| format!("{} on {} {what}{why}", certificate.identity, node.name);
            match certificate.holds {
                None => without.push(told("has none")),
                Some((_, to)) if to <= facts.now => without.push(told("has one that ended")),
                Some((from, _)) if from > facts.now + SKEW_BROKEN => {
                    without.push(told("has one that does not hold yet"))
                }
                Some((_, to)) if to < facts.now + ENDS_SOON => {
                    ending.push(told("has one that ends and is not renewed"))
                }
                Some(_) => {}
            }
        }
    }
    let checks = vec![
        Check::of(
            "ports-free",
            "no program in a pod has taken a port of the mesh (15001, 15006, 15008, 15053)",
            taken,
            "let the program in the pod listen on another port, or label the pod istio.io/dataplane-mode=none",
        ),
        Check::of(
            "pods-served",
            "every node proxy serves the pods that it was handed",
            pending,
            "the error names what is in the way; the proxy tries again by itself",
        ),
        Check::of(
            "pods-captured",
            "every pod that is to be in the mesh is",
            missing,
            "kubectl describe pod says it in Events; in a lab fairway lab logs agent-NODE",
        ),
        Check::of(
            "certificates-valid",
            "every identity has a certificate that holds",
            without,
            "the authority's error is beside it; see the checks of the control plane and clocks above",
        ),
        Check::doubtful(
            "certificates-renewed",
            "certificates are renewed in time",
            ending,
            "see whether the node reaches the controller, and its audit log: a request may be refused",
        ),
    ];
    Section { title: "workloads", checks }
}

/// What the kernel says of a port that is in use (`EADDRINUSE`).
fn is_port_taken(error: &str) -> bool {
    error.contains("in use")
}
