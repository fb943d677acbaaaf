//! The lab's kube-proxy: packet rules that send a service's address to its ready pods.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use crate::addresses::Dual;
use crate::error::Result;
use crate::reaper::Reaper;
use crate::services::Frontend;

const TABLE: &str = "inet fairway-lab-services";

/// The rules of a node whose own address is `node`, as one transaction that replaces the previous ones.
pub(crate) fn script(frontends: &[Frontend], node: Dual) -> String {
    let mut dispatch = String::new();
    let mut chains = String::new();
    let mut refuse = String::new();
    for (number, frontend) in frontends.iter().enumerate() {
        let selector = matches(frontend);
        if frontend.endpoints.is_empty() {
            let answer = if frontend.protocol == "tcp" { "reject with tcp reset" } else { "reject" };
            let _ = writeln!(refuse, "    {selector} {answer}");
            continue;
        }
        let _ = writeln!(dispatch, "    {selector} goto service-{number}");
        chains.push_str(&service_chain(number, frontend));
    }
    format!(
        "table {TABLE} {{}}\n\
         delete table {TABLE}\n\
         table {TABLE} {{\n\
         {chains}\
         \x20 chain services {{\n{dispatch}  }}\n\
         \x20 chain refuse {{\n{refuse}  }}\n\
         \x20 chain prerouting {{\n    type nat hook prerouting priority -100\n    jump services\n  }}\n\
         \x20 chain output {{\n    type nat hook output priority -100\n    jump services\n  }}\n\
         \x20 chain forward {{\n    type filter hook forward priority 0\n    jump refuse\n  }}\n\
         \x20 chain output-filter {{\n    type filter hook output priority 0\n    jump refuse\n  }}\n\
         \x20 chain postrouting {{\n    type nat hook postrouting priority 100\n{}  }}\n\
         }}\n",
        hairpin(frontends, node)
    )
}

fn matches(frontend: &Frontend) -> String {
    let SocketParts { family, ip, port } = parts(frontend.address);
    format!("{family} daddr {ip} {} dport {port}", frontend.protocol)
}

/// One chain per service port, and one per endpoint: a chain cannot map to an address and port in one step on older nft.
fn service_chain(number: usize, frontend: &Frontend) -> String {
    let mut chains = String::new();
    let mut choices = Vec::new();
    for (index, endpoint) in frontend.endpoints.iter().enumerate() {
        let family = parts(*endpoint).family;
        let _ = writeln!(
            chains,
            "  chain endpoint-{number}-{index} {{\n    meta l4proto {} dnat {family} to {endpoint}\n  }}",
            frontend.protocol
        );
        choices.push(format!("{index} : goto endpoint-{number}-{index}"));
    }
    let _ = writeln!(
        chains,
        "  chain service-{number} {{\n    comment \"{}\"\n    numgen random mod {} vmap {{ {} }}\n  }}",
        frontend.service,
        choices.len(),
        choices.join(", ")
    );
    chains
}

/// A pod that reaches itself through its service would answer itself directly; the node's address in between prevents that.
fn hairpin(frontends: &[Frontend], node: Dual) -> String {
    let endpoints: BTreeSet<IpAddr> =
        frontends.iter().flat_map(|frontend| &frontend.endpoints).map(SocketAddr::ip).collect();
    let mut rules = String::new();
    for v4 in [true, false] {
        let pairs: Vec<String> =
            endpoints.iter().filter(|ip| ip.is_ipv4() == v4).map(|ip| format!("{ip} . {ip}")).collect();
        if pairs.is_empty() {
            continue;
        }
        let (family, source): (_, IpAddr) = if v4 { ("ip", node.v4.into()) } else { ("ip6", node.v6.into()) };
        let _ = writeln!(
            rules,
            "    ct status dnat {family} saddr . {family} daddr {{ {} }} snat {family} to {source}",
            pairs.join(", ")
        );
    }
    rules
}

struct SocketParts {
    family: &'static str,
    ip: IpAddr,
    port: u16,
}

fn parts(address: SocketAddr) -> SocketParts {
    SocketParts { family: if address.is_ipv4() { "ip" } else { "ip6" }, ip: address.ip(), port: address.port() }
}

/// Replaces the rules of the calling thread's network namespace.
pub(crate) fn apply(reaper: &Reaper, path: &str, script: &str) -> Result<()> {
    reaper.run(Command::new("nft").args(["-f", "-"]).env("PATH", path), script)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(address: &str, endpoints: &[&str]) -> Frontend {
        Frontend {
            service: "shop/server".to_owned(),
            address: address.parse().unwrap(),
            protocol: "tcp",
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        }
    }

    const NODE: fn() -> Dual = || crate::addresses::node(1);

    #[test]
    fn endpoints_share_a_service_in_both_families() {
        let script = script(
            &[
                frontend("10.96.1.1:80", &["10.101.0.2:8080", "10.102.0.2:8080"]),
                frontend("[fd00:96::1]:80", &["[fd00:100:1::2]:8080"]),
            ],
            NODE(),
        );
        for expected in [
            "ip daddr 10.96.1.1 tcp dport 80 goto service-0",
            "numgen random mod 2 vmap { 0 : goto endpoint-0-0, 1 : goto endpoint-0-1 }",
            "dnat ip to 10.102.0.2:8080",
            "ip6 daddr fd00:96::1 tcp dport 80 goto service-1",
            "dnat ip6 to [fd00:100:1::2]:8080",
            "ip saddr . ip daddr { 10.101.0.2 . 10.101.0.2, 10.102.0.2 . 10.102.0.2 } snat ip to 10.99.0.11",
        ] {
            assert!(script.contains(expected), "{expected} not in\n{script}");
        }
    }

    #[test]
    fn a_service_without_endpoints_refuses_at_once() {
        let script = script(&[frontend("10.96.1.1:80", &[])], NODE());
        assert!(script.contains("ip daddr 10.96.1.1 tcp dport 80 reject with tcp reset"), "{script}");
        assert!(!script.contains("numgen"), "{script}");
    }

    #[test]
    fn every_script_replaces_the_last_in_one_transaction() {
        let script = script(&[], NODE());
        assert!(
            script.starts_with("table inet fairway-lab-services {}\ndelete table inet fairway-lab-services\n"),
            "{script}"
        );
    }
}
