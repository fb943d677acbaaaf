//! Links, addresses and routes of the lab's nodes: scripts for `ip -batch` as data, and running them.

use std::fmt::Write as _;
use std::process::Command;

use crate::addresses::{self, UNDERLAY_V4, UNDERLAY_V6};
use crate::error::{Doing, Result};
use crate::reaper::Reaper;

/// The interface that carries traffic between nodes, in each node; also a pod's own interface.
pub(crate) const UPLINK: &str = "eth0";
/// The bridge in the underlay.
const BRIDGE: &str = "fabric";

/// The bridge that links the nodes, in the underlay's namespace.
pub(crate) fn underlay() -> String {
    format!(
        "link set lo up\n\
         link add {BRIDGE} type bridge\n\
         addr add {UNDERLAY_V4}/24 dev {BRIDGE}\n\
         addr add {UNDERLAY_V6}/64 dev {BRIDGE} nodad\n\
         link set {BRIDGE} up\n"
    )
}

/// Plugs node `number` into the bridge, run in the underlay's namespace; the node's namespace already exists.
pub(crate) fn plug_node(number: u8) -> String {
    let name = addresses::node_name(number);
    let address = addresses::node(number);
    let mut script = format!(
        "link add {name} type veth peer name {UPLINK} netns {name}\n\
         link set {name} master {BRIDGE}\n\
         link set {name} up\n"
    );
    for (network, via) in addresses::pod_networks(number).iter().zip(address.both()) {
        let _ = writeln!(script, "route add {network} via {via}");
    }
    script
}

/// Addresses and routes of node `number` of `nodes`, run in its namespace.
pub(crate) fn node(number: u8, nodes: u8) -> String {
    let own = addresses::node(number);
    let mut script = format!(
        "link set lo up\n\
         addr add {}/24 dev {UPLINK}\n\
         addr add {}/64 dev {UPLINK} nodad\n\
         link set {UPLINK} up\n\
         route add default via {UNDERLAY_V4} src {}\n\
         route add ::/0 via {UNDERLAY_V6} src {}\n",
        own.v4, own.v6, own.v4, own.v6
    );
    for other in (1..=nodes).filter(|other| *other != number) {
        for (network, via) in addresses::pod_networks(other).iter().zip(addresses::node(other).both()) {
            let _ = writeln!(script, "route add {network} via {via} src {}", own.like(via));
        }
    }
    script
}

/// Kernel settings of every namespace: addresses are usable at once, and asymmetric paths are fine.
const SETTINGS: [(&str, &str); 5] = [
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

/// Kernel settings of nodes and the underlay, which forward.
const FORWARDING: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Writes the kernel settings of the calling thread's network namespace.
pub(crate) fn configure(forwards: bool) -> Result<()> {
    let forwarding = if forwards { &FORWARDING[..] } else { &[] };
    for (name, value) in SETTINGS.iter().chain(forwarding) {
        std::fs::write(format!("/proc/sys/net/{name}"), value).doing(|| format!("setting net/{name}"))?;
    }
    Ok(())
}

/// Runs an `ip` script in the calling thread's network namespace.
pub(crate) fn apply(reaper: &Reaper, path: &str, script: &str) -> Result<()> {
    reaper.run(Command::new("ip").args(["-batch", "-"]).env("PATH", path), script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_route_to_each_other_and_not_to_themselves() {
        let script = node(2, 3);
        assert!(script.contains("route add 10.101.0.0/24 via 10.99.0.11 src 10.99.0.12\n"), "{script}");
        assert!(script.contains("route add fd00:100:3::/64 via fd00:99::d src fd00:99::c\n"), "{script}");
        assert!(!script.contains("route add 10.102.0.0/24"), "{script}");
    }
}
