//! Whether a tunnel that arrives for a pod went around the waypoint that it should have come through, and who the pod's waypoints are.

use std::sync::Arc;

use super::{Arrival, Refusal, reference, waypoint};
use crate::{
    ident::Identity,
    reason::Reason,
    service::{GatewayAddress, Service},
    snapshot::Snapshot,
    workload::{Workload, WorkloadService},
};

/// Checks that `client`, who has proved to be that, came the way that the waypoints of the pod of `local` ask for.
///
/// - What is bound to a waypoint itself is reached by its waypoint, whoever dialled what. Waypoints of services of its namespace that it
///   is part of may come, too: who picks endpoints does the work of a waypoint.
/// - Of the services it is part of only the one that the client says it dialled counts, by the authority or by `named`, which
///   is what proxies pass on. Who dials a pod by its own address is no matter of a service's waypoint.
///
/// # Errors
/// A [`Refusal`] when it came another way. That a waypoint is not known does not let anybody in.
pub fn around(
    snapshot: &Snapshot,
    local: &Workload,
    client: &Identity,
    arrival: &Arrival,
    named: Option<&str>,
) -> Result<(), Box<Refusal>> {
    let dialled = dialled(snapshot, local, arrival, named);
    let is_client = |reference: &GatewayAddress| is_waypoint(snapshot, local, reference, client);
    if let Some(reference) = local.waypoint.as_deref() {
        if !believed(snapshot, local).any(is_client) {
            return Err(refusal(reference, client).with_service(dialled));
        }
    } else if let Some(service) = dialled
        && let Some(reference) = waypoint::all(service).next()
        && !waypoint::all(service).any(is_client)
    {
        return Err(refusal(reference, client).with_service(Some(service)));
    }
    Ok(())
}

/// Whoever is a waypoint of the pod of `local`, in order and each once: its own, and those of the services of its namespace that it is
/// part of. Where a pod is for its waypoint alone, these may come; and they are believed for whom they speak.
#[must_use]
pub(crate) fn waypoints(snapshot: &Snapshot, local: &Workload) -> Arc<[Identity]> {
    let mut identities: Vec<Identity> = Vec::new();
    for found in believed(snapshot, local).filter_map(|reference| reference::find(snapshot, local, reference)) {
        for identity in found.identities(snapshot) {
            // A waypoint's endpoints are all the same, as a rule.
            if !identities.contains(&identity) {
                identities.push(identity);
            }
        }
    }
    identities.sort();
    identities.into()
}

/// References to the waypoint of the pod itself, and to those of its own services, in whatever namespace these waypoints are.
fn believed<'a>(snapshot: &'a Snapshot, local: &'a Workload) -> impl Iterator<Item = &'a GatewayAddress> {
    let services = own_services(local).filter_map(|entry| snapshot.service(&entry.key));
    local.waypoint.as_deref().into_iter().chain(services.flat_map(|service| waypoint::all(service)))
}

/// What the pod is part of by the word of its own namespace. A ServiceEntry or an EndpointSlice of any other namespace can claim the pod's
/// address for a service there, and who may write one may not say who is believed at somebody else's pod.
fn own_services(local: &Workload) -> impl Iterator<Item = &WorkloadService> {
    local.services.iter().filter(move |entry| entry.key.namespace() == local.namespace())
}

/// Whether `client` is an endpoint of the waypoint.
fn is_waypoint(snapshot: &Snapshot, local: &Workload, reference: &GatewayAddress, client: &Identity) -> bool {
    let found = reference::find(snapshot, local, reference);
    found.is_some_and(|found| found.identities(snapshot).any(|identity| identity == *client))
}

/// The next thing to know before [`around`] can decide about `client`, by the name to ask for it with.
#[must_use]
pub fn missing_around(snapshot: &Snapshot, local: &Workload, client: &Identity, named: Option<&str>) -> Option<String> {
    if local.waypoint.is_some() {
        return missing_waypoints(snapshot, local, client);
    }
    let entry = entry_of(local, named?)?;
    let Some(service) = snapshot.service(&entry.key) else { return Some(entry.key.to_string()) };
    let is_client = |reference: &GatewayAddress| is_waypoint(snapshot, local, reference, client);
    if waypoint::all(service).any(is_client) { None } else { unknown(snapshot, local, waypoint::all(service)) }
}

/// The next thing to know before it can be told whether `client` is among [`waypoints`], by the name to ask for it with: a waypoint
/// that is named already before a service that may name another one. Nothing once it is.
#[must_use]
pub fn missing_waypoints(snapshot: &Snapshot, local: &Workload, client: &Identity) -> Option<String> {
    if believed(snapshot, local).any(|reference| is_waypoint(snapshot, local, reference, client)) {
        return None;
    }
    let service = || {
        let entry = own_services(local).find(|entry| snapshot.service(&entry.key).is_none())?;
        Some(entry.key.to_string())
    };
    unknown(snapshot, local, believed(snapshot, local)).or_else(service)
}

/// The first of the waypoints that is not known.
fn unknown<'a>(
    snapshot: &Snapshot,
    local: &Workload,
    mut references: impl Iterator<Item = &'a GatewayAddress>,
) -> Option<String> {
    let unknown = references.find(|reference| !reference::is_known(snapshot, local, reference));
    unknown.map(|reference| reference.destination.to_string())
}

fn refusal(reference: &GatewayAddress, client: &Identity) -> Box<Refusal> {
    Refusal::new(Reason::WaypointBypassed, format_args!("{client} is not waypoint {}", reference.destination))
}

/// The service of the pod that the client says it dialled.
fn dialled<'a>(
    snapshot: &'a Snapshot,
    local: &Workload,
    arrival: &'a Arrival,
    named: Option<&str>,
) -> Option<&'a Arc<Service>> {
    let by_name = || snapshot.service(&entry_of(local, named?)?.key);
    arrival.service.as_ref().or_else(by_name)
}

/// The pod's entry for a service of this name: that of its own namespace, as others may use the name for something else.
pub(super) fn entry_of<'a>(local: &'a Workload, hostname: &str) -> Option<&'a WorkloadService> {
    let entries = local.services.iter().filter(|entry| entry.key.hostname() == hostname);
    entries.min_by_key(|entry| entry.key.namespace() != local.namespace())
}

#[cfg(test)]
mod tests {
    use fairway_proto::workload as proto;

    use super::super::inbound;
    use super::*;
    use crate::{
        snapshot::{Update, World},
        testing::{gateway_by_hostname, identity, pod, service, service_message, serving, socket, workload},
    };

    /// A waypoint of `bank`.
    fn theirs() -> proto::GatewayAddress {
        let named = proto::NamespacedHostname { namespace: "bank".into(), hostname: "theirs".into() };
        let destination = Some(proto::gateway_address::Destination::Hostname(named));
        proto::GatewayAddress { destination, hbone_mtls_port: 15_008 }
    }

    /// `web`, bound to the waypoint `way`.
    fn web() -> Update {
        let mut web = service_message("web", &["10.96.0.1"], &[(80, 8080)]);
        web.waypoint = Some(gateway_by_hostname("way"));
        service(web).into()
    }

    fn way() -> Update {
        service(service_message("way", &["10.96.0.8"], &[(15_008, 15_008)])).into()
    }

    /// A pod of a waypoint.
    fn waypoint(name: &str, ip: &str) -> proto::Workload {
        let mut message = serving(pod(&format!("{name}-0"), &[ip]), name, &[(15_008, 15_008)]);
        message.service_account = name.to_owned();
        message
    }

    /// Waypoints `way` and `other`, a service `web` bound to `way`, a service `open` that is not, and `local`, which is part
    /// of both. By the word of `bank` it is part of a service `lent`, too, bound to a waypoint there, and of one that is called `web`
    /// as well and is not bound.
    fn world_of(local: &Workload) -> Vec<Update> {
        let of_bank = |hostname: &str, ip: &str, waypoint| {
            let message = service_message(hostname, &[ip], &[(80, 8080)]);
            service(proto::Service { namespace: "bank".into(), waypoint, ..message })
        };
        let mut theirs_0 = pod("theirs-0", &["10.0.0.10"]);
        theirs_0.uid = "Kubernetes//Pod/bank/theirs-0".into();
        (theirs_0.namespace, theirs_0.service_account) = ("bank".into(), "theirs".into());
        theirs_0.services.insert("bank/theirs".into(), proto::PortList::default());
        vec![
            web(),
            service(service_message("open", &["10.96.0.2"], &[(80, 8080)])).into(),
            way(),
            service(service_message("other", &["10.96.0.9"], &[(15_008, 15_008)])).into(),
            workload(waypoint("way", "10.0.0.8")).into(),
            workload(waypoint("other", "10.0.0.9")).into(),
            of_bank("lent", "10.96.1.1", Some(theirs())).into(),
            of_bank("web", "10.96.1.2", None).into(),
            of_bank("theirs", "10.96.1.3", None).into(),
            workload(theirs_0).into(),
            local.clone().into(),
        ]
    }

    fn local(waypoint: Option<&str>) -> Workload {
        let mut message = serving(pod("web-0", &["10.0.0.1"]), "web", &[(80, 8080)]);
        message = serving(message, "open", &[(80, 8080)]);
        for claimed in ["bank/lent", "bank/web"] {
            message.services.insert(claimed.into(), message.services["shop/web"].clone());
        }
        message.waypoint = waypoint.map(gateway_by_hostname);
        workload(message)
    }

    /// Of `shop` unless it says another namespace.
    fn named(account: &str) -> Identity {
        let (namespace, account) = account.split_once('/').unwrap_or(("shop", account));
        identity(namespace, account)
    }

    #[test]
    fn what_should_have_come_through_a_waypoint_is_refused_to_others() {
        let at = |waypoint, authority: &str, host, account: &str| {
            let local = local(waypoint);
            let mut world = World::complete();
            world.apply(world_of(&local));
            let snapshot = world.snapshot();
            let arrival = inbound(&snapshot, &local, socket("10.0.0.1:15008"), authority).unwrap();
            let checked = around(&snapshot, &local, &named(account), &arrival, host);
            checked.map_err(|refusal| refusal.reason)
        };
        let refused = Err(Reason::WaypointBypassed);
        let rows = [
            // Of a service's waypoint: what the client says it dialled.
            (None, "10.0.0.1:8080", None, "client", Ok(())),
            (None, "10.0.0.1:8080", Some("open"), "client", Ok(())),
            (None, "10.0.0.1:8080", Some("elsewhere"), "client", Ok(())),
            // That of the pod's own namespace, where others have one of the same name.
            (None, "10.0.0.1:8080", Some("web"), "client", refused),
            (None, "10.0.0.1:8080", Some("web"), "other", refused),
            (None, "10.0.0.1:8080", Some("web"), "way", Ok(())),
            (None, "web:80", None, "client", refused),
            (None, "web:80", None, "way", Ok(())),
            (None, "open:80", None, "client", Ok(())),
            (None, "10.0.0.1:8080", Some("lent"), "client", refused),
            (None, "10.0.0.1:8080", Some("lent"), "bank/theirs", Ok(())),
            // Of its own: whatever was dialled, by way of a waypoint of its services, too.
            (Some("other"), "10.0.0.1:8080", None, "client", refused),
            (Some("other"), "10.0.0.1:8080", Some("open"), "client", refused),
            (Some("other"), "10.0.0.1:8080", None, "other", Ok(())),
            (Some("other"), "10.0.0.1:8080", Some("web"), "way", Ok(())),
            // But not of what others have made of it.
            (Some("other"), "10.0.0.1:8080", Some("lent"), "bank/theirs", refused),
            (Some("other"), "10.0.0.1:8080", None, "bank/theirs", refused),
            // One that nobody knows lets nobody in.
            (Some("gone"), "10.0.0.1:8080", None, "gone", refused),
        ];
        for (waypoint, authority, host, account, expected) in rows {
            let found = at(waypoint, authority, host, account);
            assert_eq!(found, expected, "{waypoint:?} {authority} {host:?} from {account}");
        }
    }

    #[test]
    fn what_is_missing_is_asked_for_before_anybody_is_refused() {
        let bound = local(Some("other"));
        let mut world = World::complete();
        world.apply(vec![bound.clone().into()]);
        let missing =
            |world: &World, local: &Workload, host| missing_around(&world.snapshot(), local, &named("client"), host);
        assert_eq!(missing(&world, &local(None), None), None);
        assert_eq!(missing(&world, &local(None), Some("elsewhere")), None);
        assert_eq!(missing(&world, &local(None), Some("web")).as_deref(), Some("shop/web"));
        assert_eq!(missing(&world, &bound, None).as_deref(), Some("shop/other"));
        world.apply(vec![web()]);
        assert_eq!(missing(&world, &local(None), Some("web")).as_deref(), Some("shop/way"));
        world.apply(world_of(&bound));
        assert_eq!(missing(&world, &local(None), Some("web")), None);
        assert_eq!(missing(&world, &bound, Some("web")), None);
    }

    /// A waypoint that is named already comes before services that may name another one, and nothing after the client has been found
    /// among them. Services of other namespaces are never asked for.
    #[test]
    fn no_more_is_asked_for_than_tells_whether_somebody_is_a_waypoint() {
        let local = local(None);
        let mut world = World::complete();
        let steps: [(Update, Option<&str>, Option<&str>); 5] = [
            (local.clone().into(), Some("shop/open"), Some("shop/open")),
            (web(), Some("shop/way"), Some("shop/way")),
            (way(), Some("shop/open"), Some("shop/open")),
            (workload(waypoint("way", "10.0.0.8")).into(), None, Some("shop/open")),
            (service(service_message("open", &["10.96.0.2"], &[(80, 8080)])).into(), None, None),
        ];
        for (step, (update, of_waypoint, of_client)) in steps.into_iter().enumerate() {
            let snapshot = world.apply(vec![update]);
            for (account, expected) in [("way", of_waypoint), ("client", of_client)] {
                let found = missing_waypoints(&snapshot, &local, &named(account));
                assert_eq!(found.as_deref(), expected, "{step}: {account}");
            }
        }
    }

    #[test]
    fn the_waypoints_of_a_pod_are_its_own_and_those_of_its_services_now() {
        let mut open = service_message("open", &["10.96.0.2"], &[(80, 8080)]);
        open.waypoint = Some(theirs());
        let rows: [(Option<&str>, Vec<Update>, &[&str]); 4] = [
            // What is not among them: the waypoint of a service of another namespace that claims the pod.
            (None, vec![], &["way"]),
            (Some("other"), vec![], &["other", "way"]),
            (Some("gone"), vec![], &["way"]),
            // The pod's namespace says that one of there is.
            (None, vec![service(open).into()], &["bank/theirs", "way"]),
        ];
        for (waypoint, more, expected) in rows {
            let local = local(waypoint);
            let mut world = World::complete();
            world.apply(world_of(&local));
            let snapshot = world.apply(more);
            let expected: Vec<Identity> = expected.iter().map(|account| named(account)).collect();
            assert_eq!(*waypoints(&snapshot, &local), *expected, "{waypoint:?}");
        }
        let local = local(None);
        let mut world = World::complete();
        let view = |snapshot: &Snapshot| snapshot.view_of(snapshot.workload_by_uid(local.uid.as_str()).unwrap());
        let before = view(&world.apply(world_of(&local)));
        // One more endpoint of the waypoint wakes nobody.
        let mut second = serving(pod("way-1", &["10.0.0.18"]), "way", &[(15_008, 15_008)]);
        second.service_account = "way".to_owned();
        assert_eq!(view(&world.apply(vec![workload(second).into()])), before);
        let unbound = view(&world.apply(vec![service(service_message("web", &["10.96.0.1"], &[(80, 8080)])).into()]));
        assert_ne!(unbound, before);
        assert!(unbound.waypoints.is_empty());
    }
}
