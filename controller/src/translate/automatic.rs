//! Which services need a waypoint, in namespaces that want one made just then; pure.

use std::collections::BTreeSet;

use fairway_core::source::labels::USE_WAYPOINT;
use fairway_core::source::objects::label;
use fairway_core::source::route::ParentReference;
use fairway_core::source::{Kind, ObjectKey, Objects};

use super::Settings;
use super::policies::Policies;
use crate::l7::attach::is_of_mesh;
use crate::l7::authz::Place;
use crate::l7::catalog::{named, parent_object};

/// Label of a namespace that says where its waypoint comes from.
pub const LABEL: &str = "fairway.dev/waypoint";
/// Its value: made by the controller, exactly while something needs it.
const AUTOMATIC: &str = "automatic";
/// Name of the gateway that is made.
pub const NAME: &str = "waypoint";

/// Services and ServiceEntries that need the waypoint of their namespace.
pub type Needed = BTreeSet<ObjectKey>;

/// The services that something of their own namespace does more with than node proxies can: routes that are attached to them, and
/// policies with them as a target. Those of other namespaces make nobody a waypoint. What says itself which waypoint it uses,
/// or none, needs no other.
pub(super) fn needed(objects: &Objects, policies: &Policies, settings: &Settings) -> Needed {
    let asks = |namespace: &str| {
        let label = |key| objects.namespace_label(namespace, key);
        label(LABEL) == Some(AUTOMATIC) && label(USE_WAYPOINT).is_none()
    };
    let mut needed = Needed::new();
    if !objects.namespaces.keys().any(|key| asks(&key.name)) {
        return needed;
    }
    let attached = |key: &ObjectKey, parent: &ParentReference| {
        parent_object(&key.namespace, parent).filter(|object| object.namespace == key.namespace)
    };
    let http = objects.http_routes.iter().map(|(key, route)| (key, &route.spec.parent_refs));
    let grpc = objects.grpc_routes.iter().map(|(key, route)| (key, &route.spec.parent_refs));
    let tcp = objects.tcp_routes.iter().map(|(key, route)| (key, &route.spec.parent_refs));
    let tls = objects.tls_routes.iter().map(|(key, route)| (key, &route.spec.parent_refs));
    for (key, parents) in http.chain(grpc).chain(tcp).chain(tls) {
        needed.extend(parents.iter().filter_map(|parent| attached(key, parent)));
    }
    for (key, object) in objects.virtual_services.iter().filter(|(_, object)| is_of_mesh(object)) {
        let hosts = object.spec.hosts.iter().filter_map(|host| named(objects, settings, &key.namespace, host).ok());
        needed.extend(hosts.filter(|service| service.namespace == key.namespace));
    }
    let of_policies = policies.attached.iter().flat_map(|(key, policy)| policy.places.iter().map(move |it| (key, it)));
    let of_tokens = policies.tokens.iter().flat_map(|(key, policy)| policy.places.iter().map(move |it| (key, it)));
    // Those of routes need what the routes do.
    let of_rates = policies.rates.iter().flat_map(|(key, policy)| policy.places.iter().map(move |it| (key, it)));
    let of_processors =
        policies.processors.iter().flat_map(|(key, policy)| policy.places.iter().map(move |it| (key, it)));
    for (key, place) in of_policies.chain(of_tokens).chain(of_rates).chain(of_processors) {
        match place {
            Place::Object(object) if object.namespace == key.namespace => drop(needed.insert(object.clone())),
            // What it is for cannot be read: everything that it may be for is refused, at a waypoint.
            Place::Namespace(namespace) if *namespace == key.namespace => {
                let services = Objects::within(&objects.services, Kind::Service, namespace).map(|(key, _)| key);
                let entries = Objects::within(&objects.service_entries, Kind::ServiceEntry, namespace);
                needed.extend(services.chain(entries.map(|(key, _)| key)).cloned());
            }
            Place::Object(_) | Place::Namespace(_) | Place::Class(_) => {}
        }
    }
    let says = |key: &ObjectKey| {
        let metadata = match key.kind {
            Kind::Service => objects.services.get(key).map(|service| &service.metadata),
            Kind::ServiceEntry => objects.service_entries.get(key).map(|entry| &entry.metadata),
            _ => None,
        };
        metadata.is_none_or(|metadata| label(metadata, USE_WAYPOINT).is_some())
    };
    needed.retain(|key| asks(&key.namespace) && !says(key));
    needed
}

#[cfg(test)]
mod tests {
    use fairway_core::source::directory::load;

    use super::super::policies;
    use super::*;

    const BASE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {fairway.dev/waypoint: automatic}}\n\
                        ---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n\
                        ---\napiVersion: v1\nkind: Service\nmetadata: {name: own, namespace: shop, labels: {istio.io/use-waypoint: mine}}\n\
                        spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}\n\
                        ---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: far, namespace: shop}\n\
                        spec: {hosts: [far.example.org], addresses: [240.0.0.9], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}\n\
                        ---\napiVersion: v1\nkind: Service\nmetadata: {name: vault, namespace: bank}\nspec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}\n---\n";

    fn of(manifests: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.yaml"), manifests).unwrap();
        let (loaded, settings) = (load(root.path(), None), Settings::default());
        let policies =
            policies::translate(&loaded.objects, &loaded.rejected, &settings, &policies::Accepted::default());
        needed(&loaded.objects, &policies, &settings).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_waypoint_is_needed_while_something_of_the_namespace_asks_for_more_than_node_proxies_do() {
        let route = |namespace: &str, to: &str| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: it, namespace: {namespace}}}\n\
                 spec: {{parentRefs: [{{group: \"\", kind: Service, {to}}}]}}\n"
            )
        };
        let policy = |spec: &str| {
            format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: it, namespace: shop}}\n\
                 spec: {spec}\n"
            )
        };
        let traffic = |hosts: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: it, namespace: shop}}\n\
                 spec: {{hosts: [{hosts}], http: [{{route: [{{destination: {{host: web}}}}]}}]}}\n"
            )
        };
        let rates = |namespace: &str, target: &str| {
            format!(
                "apiVersion: fairway.dev/v1alpha1\nkind: RateLimit\nmetadata: {{name: slow, namespace: {namespace}}}\n\
                 spec: {{targetRefs: [{target}], limits: [{{requests: 5, period: 1s}}]}}\n"
            )
        };
        let entry = "{group: networking.istio.io, kind: ServiceEntry, name: far}";
        let of_route = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: it}";
        let web: &[&str] = &["Service shop/web"];
        for (object, expected) in [
            (String::new(), &[][..]),
            (route("shop", "name: web"), web),
            (route("shop", "name: none"), &[]),
            // It has one already.
            (route("shop", "name: own"), &[]),
            // A tenant makes no other tenant a waypoint.
            (route("bank", "name: web, namespace: shop"), &[]),
            (route("bank", "name: vault"), &[]),
            (policy("{targetRefs: [{group: \"\", kind: Service, name: web}]}"), web),
            (policy("{action: MAYBE, targetRefs: [{group: \"\", kind: Service, name: web}]}"), web),
            // Node proxies enforce it.
            (policy("{selector: {matchLabels: {app: web}}}"), &[]),
            (traffic("web"), web),
            (traffic("web.shop.svc.cluster.local"), web),
            (traffic("vault.bank.svc.cluster.local"), &[]),
            // What it is for cannot be read.
            (policy("{targetRefs: [web]}"), &["Service shop/web", "ServiceEntry shop/far"]),
            (rates("shop", "{group: \"\", kind: Service, name: web}"), web),
            (rates("shop", entry), &["ServiceEntry shop/far"]),
            (rates("bank", "{group: \"\", kind: Service, name: vault}"), &[]),
            (rates("shop", of_route), &[]),
            (format!("{}---\n{}", rates("shop", of_route), route("shop", "name: web")), web),
        ] {
            assert_eq!(of(&format!("{BASE}{object}")), expected, "{object}");
        }
        let asked = format!("{BASE}{}", route("shop", "name: web"));
        for other in ["{fairway.dev/waypoint: other}", "{fairway.dev/waypoint: automatic, istio.io/use-waypoint: none}"]
        {
            assert_eq!(of(&asked.replace("{fairway.dev/waypoint: automatic}", other)), [""; 0], "{other}");
        }
    }
}
