//! Defaults for what the wire leaves out, and one row per thing it must not say.

use fairway_proto::workload as proto;

use super::{PortPair, Protocol, Workload, WorkloadType};
use crate::{
    service::ServiceKey,
    testing::{gateway_by_hostname, pod, serving, workload},
};

#[test]
fn what_is_left_out_has_defaults() {
    let workload = workload(proto::Workload { uid: "u".into(), namespace: "shop".into(), ..Default::default() });
    assert_eq!(workload.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/default");
    assert_eq!(&*workload.cluster_id, "Kubernetes");
    assert_eq!(workload.capacity, 1);
    assert_eq!(workload.protocol, Protocol::Tcp);
    assert_eq!(workload.workload_type, WorkloadType::Deployment);
    assert!(workload.addresses.is_empty() && workload.hostname.is_none() && workload.waypoint.is_none());
}

#[test]
fn services_and_policies_are_kept_in_order() {
    let mut message = serving(serving(pod("w", &[]), "b", &[(81, 8081), (80, 8080), (82, 0)]), "a", &[]);
    message.authorization_policies = vec!["shop/z".into(), "bank/a".into(), "shop/z".into()];
    let workload = workload(message);
    let ports = workload.service_ports(&ServiceKey::new("shop", "b")).unwrap();
    // A port without target is one the workload does not have.
    assert_eq!(
        ports,
        [PortPair { service_port: 80, target_port: 8080 }, PortPair { service_port: 81, target_port: 8081 }]
    );
    assert_eq!(workload.service_ports(&ServiceKey::new("shop", "a")), Some(&[][..]));
    assert_eq!(workload.service_ports(&ServiceKey::new("shop", "c")), None);
    assert_eq!(
        workload.authorization_policies.iter().map(|key| key.as_str()).collect::<Vec<_>>(),
        ["bank/a", "shop/z"]
    );
}

#[test]
fn anything_invalid_names_the_field() {
    fn spoil(change: impl FnOnce(&mut proto::Workload)) -> String {
        let mut message = serving(pod("w", &["10.0.0.1"]), "web", &[(80, 8080)]);
        change(&mut message);
        Workload::try_from(message).unwrap_err().to_string()
    }
    fn port_of(message: &mut proto::Workload) -> &mut proto::Port {
        &mut message.services.get_mut("shop/web").unwrap().ports[0]
    }
    for (error, field) in [
        (spoil(|message| message.uid.clear()), "uid"),
        (spoil(|message| message.namespace.clear()), "namespace"),
        (spoil(|message| message.namespace = "a/b".into()), "namespace"),
        (spoil(|message| message.service_account = "a b".into()), "service_account"),
        (spoil(|message| message.trust_domain = "Upper".into()), "trust_domain"),
        (spoil(|message| message.addresses.push(vec![1, 2, 3])), "addresses[1]"),
        (spoil(|message| message.addresses.push(vec![])), "addresses[1]"),
        (spoil(|message| message.tunnel_protocol = 2), "tunnel_protocol"),
        (spoil(|message| message.tunnel_protocol = 9), "tunnel_protocol"),
        (spoil(|message| message.workload_type = 9), "workload_type"),
        (spoil(|message| message.status = -1), "status"),
        (spoil(|message| message.network_mode = 2), "network_mode"),
        (spoil(|message| message.authorization_policies.push("nameless".into())), "authorization_policies[0]"),
        (spoil(|message| drop(message.services.insert("web".into(), Default::default()))), "services[web]"),
        (spoil(|message| port_of(message).service_port = 0), "services[shop/web].ports[0].service_port"),
        (spoil(|message| port_of(message).target_port = 65_616), "services[shop/web].ports[0].target_port"),
        (
            spoil(|message| message.application_tunnel = Some(proto::ApplicationTunnel { protocol: 2, port: 0 })),
            "application_tunnel.protocol",
        ),
        (
            spoil(|message| message.application_tunnel = Some(proto::ApplicationTunnel { protocol: 0, port: 70_000 })),
            "application_tunnel.port",
        ),
        (spoil(|message| message.waypoint = Some(proto::GatewayAddress::default())), "waypoint.destination"),
        (
            spoil(|message| {
                message.network_gateway =
                    Some(proto::GatewayAddress { hbone_mtls_port: 0, ..gateway_by_hostname("gateway") });
            }),
            "network_gateway.hbone_mtls_port",
        ),
    ] {
        assert!(error.contains(&format!("field `{field}`")), "{field}: {error}");
        assert!(error.starts_with("workload \""), "{error}");
    }
}
