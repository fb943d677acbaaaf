//! Which service a connection that arrives for a pod counts for.

use std::sync::Arc;

use fairway_core::service::Service;
use fairway_core::snapshot::Snapshot;
use fairway_core::workload::Workload;

/// The service of `local` that the client named, else one that leads to `port`, as Istio's proxy has it: who dials a pod by its
/// address still uses what the service offers. What the client says is untrusted, and believed only about services the pod is
/// part of.
#[must_use]
pub fn service(snapshot: &Snapshot, local: &Workload, named: Option<&str>, port: Option<u16>) -> Option<Arc<Service>> {
    let by_name = named.and_then(|host| local.services.iter().find(|entry| entry.key.hostname() == host));
    let by_port = || {
        let port = port?;
        local.services.iter().find(|entry| entry.ports.iter().any(|pair| pair.target_port == port))
    };
    by_name.or_else(by_port).and_then(|entry| snapshot.service(&entry.key).cloned())
}

/// The port of an authority such as `10.0.0.1:80`, `[fd00::1]:80` or `web.shop:80`.
#[must_use]
pub fn port_of(authority: &str) -> Option<u16> {
    authority.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use fairway_core::io::live::Live;
    use fairway_core::service::Service;
    use fairway_core::workload::Workload;
    use fairway_proto::workload as proto;

    use super::*;

    fn message(name: &str) -> proto::Service {
        let hostname = format!("{name}.shop.svc.cluster.local");
        proto::Service { name: name.to_owned(), namespace: "shop".to_owned(), hostname, ..Default::default() }
    }

    #[test]
    fn the_named_service_wins_then_one_with_the_port() {
        let ports = |target_port| proto::PortList {
            ports: vec![proto::Port { service_port: 80, target_port, ..Default::default() }],
        };
        let local = proto::Workload {
            uid: "Kubernetes//Pod/shop/server".to_owned(),
            name: "server".to_owned(),
            namespace: "shop".to_owned(),
            services: [
                ("shop/web.shop.svc.cluster.local".to_owned(), ports(8080)),
                ("shop/admin.shop.svc.cluster.local".to_owned(), ports(9090)),
            ]
            .into(),
            ..Default::default()
        };
        let local = Workload::try_from(local).unwrap();
        let live = Live::new();
        let services = ["web", "admin", "other"].map(|name| Service::try_from(message(name)).unwrap().into());
        let snapshot = live.apply(services.into_iter().chain([local.clone().into()]).collect());
        let rows = [
            (Some("web.shop.svc.cluster.local"), Some(9090), Some("web")),
            (Some("other.shop.svc.cluster.local"), Some(9090), Some("admin")),
            (Some("other.shop.svc.cluster.local"), Some(7), None),
            (None, Some(8080), Some("web")),
            (None, None, None),
        ];
        for (named, port, expected) in rows {
            let found = service(&snapshot, &local, named, port);
            assert_eq!(found.as_ref().map(|service| &*service.name), expected, "{named:?} {port:?}");
        }
    }

    #[test]
    fn authorities_end_in_a_port() {
        let rows = [
            ("10.0.0.1:80", Some(80)),
            ("[fd00::1]:443", Some(443)),
            ("web.shop:8080", Some(8080)),
            ("web.shop", None),
            ("a:99999", None),
        ];
        for (authority, expected) in rows {
            assert_eq!(port_of(authority), expected, "{authority}");
        }
    }
}
