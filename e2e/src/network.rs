//! Links, addresses and routes of the lab: scripts for `ip -batch` as data, and running them.

use std::fmt::Write as _;
use std::process::Command;

use crate::addresses::{self, Dual, POD_GATEWAY_V4, POD_GATEWAY_V6, UNDERLAY_V4, UNDERLAY_V6};
use crate::error::{Doing, Result};
use crate::reaper::Reaper;

/// The interface that carries traffic between nodes, in each node; also a pod's own interface.
pub(crate) const UPLINK: &str = "eth0";
/// The bridge in the underlay.
const BRIDGE: &str = "fabric";
/// Hardware address of the node's end of every pod link. Locally administered; the same everywhere, as each link has two ends only.
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";

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
    let probe = addresses::probe_source();
    let mut script = format!(
        "link set lo up\n\
         addr add {}/32 dev lo\n\
         addr add {}/128 dev lo nodad\n\
         addr add {}/24 dev {UPLINK}\n\
         addr add {}/64 dev {UPLINK} nodad\n\
         link set {UPLINK} up\n\
         route add default via {UNDERLAY_V4} src {}\n\
         route add ::/0 via {UNDERLAY_V6} src {}\n",
        probe.v4, probe.v6, own.v4, own.v6, own.v4, own.v6
    );
    for other in (1..=nodes).filter(|other| *other != number) {
        for (network, via) in addresses::pod_networks(other).iter().zip(addresses::node(other).both()) {
            let _ = writeln!(script, "route add {network} via {via} src {}", own.like(via));
        }
    }
    script
}

/// Name of the node's end of a pod's link.
pub(crate) fn pod_link(host: u8) -> String {
    format!("pod{host}")
}

fn pod_mac(host: u8) -> String {
    format!("0a:58:00:00:00:{host:02x}")
}

/// The node's half of a pod's link, run in the node's namespace; the pod's namespace `netns` already exists. Neighbours are written
/// down on both sides: no packet waits for address resolution.
pub(crate) fn pod_on_node(node: u8, host: u8, address: Dual, netns: &str) -> String {
    let link = pod_link(host);
    let mac = pod_mac(host);
    let own = addresses::node(node);
    format!(
        "link add {link} address {GATEWAY_MAC} type veth peer name {UPLINK} address {mac} netns {netns}\n\
         link set {link} up\n\
         addr add {POD_GATEWAY_V6}/64 dev {link} nodad\n\
         neigh replace {} lladdr {mac} dev {link} nud permanent\n\
         neigh replace {} lladdr {mac} dev {link} nud permanent\n\
         route add {}/32 dev {link} src {}\n\
         route add {}/128 dev {link} src {}\n",
        address.v4, address.v6, address.v4, own.v4, address.v6, own.v6
    )
}

/// The pod's half, run in its namespace.
pub(crate) fn pod(address: Dual) -> String {
    format!(
        "link set lo up\n\
         addr add {}/32 dev {UPLINK}\n\
         addr add {}/128 dev {UPLINK} nodad\n\
         link set {UPLINK} up\n\
         neigh replace {POD_GATEWAY_V4} lladdr {GATEWAY_MAC} dev {UPLINK} nud permanent\n\
         neigh replace {POD_GATEWAY_V6} lladdr {GATEWAY_MAC} dev {UPLINK} nud permanent\n\
         route add {POD_GATEWAY_V4} dev {UPLINK} scope link\n\
         route add default via {POD_GATEWAY_V4} dev {UPLINK} src {}\n\
         route add ::/0 via {POD_GATEWAY_V6} dev {UPLINK} src {}\n",
        address.v4, address.v6, address.v4, address.v6
    )
}

/// Removes a pod's link, run in the node's namespace.
pub(crate) fn remove_pod(host: u8) -> String {
    format!("link del {}\n", pod_link(host))
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

    #[test]
    fn both_ends_of_a_pod_link_know_each_other() {
        let (host, address) = addresses::PodAddresses::of(1).allocate().unwrap();
        let on_node = pod_on_node(1, host, address, "uid");
        assert!(
            on_node.contains("neigh replace 10.101.0.2 lladdr 0a:58:00:00:00:02 dev pod2 nud permanent"),
            "{on_node}"
        );
        assert!(pod(address).contains("neigh replace 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent"));
    }
}
