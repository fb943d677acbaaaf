//! `/etc/hosts` of a pod: the lab's answer to cluster DNS.

use std::fmt::Write as _;
use std::net::IpAddr;

use fairway_core::source::objects::{Objects, pod_ips};

use crate::services::{ServiceAddresses, is_headless, ready_pods};

/// A service's names resolve to these addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// What resolves in the lab: services by their address, headless ones by their ready pods.
pub(crate) fn entries(objects: &Objects, addresses: &ServiceAddresses) -> Vec<Entry> {
    objects
        .services
        .iter()
        .map(|(key, service)| {
            let addresses = if is_headless(service) {
                ready_pods(objects, key, service).into_iter().flat_map(pod_ips).collect()
            } else {
                addresses.of(key).to_vec()
            };
            Entry { namespace: key.namespace.clone(), name: key.name.clone(), addresses }
        })
        .collect()
}

/// The file for a pod called `pod` of `namespace`, whose own addresses are `own`.
pub(crate) fn render(entries: &[Entry], namespace: &str, pod: &str, own: &[IpAddr]) -> String {
    let mut file = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for address in own {
        let _ = writeln!(file, "{address} {pod}");
    }
    for entry in entries {
        let Entry { namespace: owner, name, .. } = entry;
        let short = if owner == namespace { format!("{name} ") } else { String::new() };
        for address in &entry.addresses {
            let _ =
                writeln!(file, "{address} {short}{name}.{owner} {name}.{owner}.svc {name}.{owner}.svc.cluster.local");
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_for_the_own_namespace() {
        let entries = [
            Entry { namespace: "shop".into(), name: "server".into(), addresses: vec!["10.96.0.9".parse().unwrap()] },
            Entry { namespace: "bank".into(), name: "server".into(), addresses: vec!["fd00:96::9".parse().unwrap()] },
        ];
        let file = render(&entries, "shop", "client", &["10.101.0.2".parse().unwrap()]);
        let lines: Vec<&str> = file.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "10.101.0.2 client",
                "10.96.0.9 server server.shop server.shop.svc server.shop.svc.cluster.local",
                "fd00:96::9 server.bank server.bank.svc server.bank.svc.cluster.local",
            ]
        );
    }
}
