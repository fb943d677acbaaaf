//! Whether a tunnel that arrives for a pod went around the waypoint that it should have come through, and who the pod's waypoints are.

use std::sync::Arc;

use super::{Arrival, Refusal, reference, waypoint};
use crate::{
    ident::Identity,
    reason::Reason,
    service::{GatewayAddress, Service},
    snapshot::Snapshot,
    workload::Workload,
};

/// Checks that `client`, who has proved to be that, came the way that the waypoints of the pod of `local` ask for.
///
/// - What is bound to a waypoint itself is reached by its waypoint, whoever dialled what. Waypoints of services it is part
///   of may come, too: who picks endpoints does the work of a waypoint.
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
    let is_client = |reference: &GatewayAddress| {
        let found = reference::find(snapshot, local, reference);
        found.is_some_and(|found| found.identities(snapshot).any(|identity| identity == *client))
    };
    if let Some(reference) = local.waypoint.as_deref() {
        if !references(snapshot, local).any(is_client) {
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

/// Whoever is a waypoint of the pod of `local`, in order and each once: its own, and those of the services that it is part of. Where
/// a pod is for its waypoint alone, these may come; and they are believed for whom they speak.
#[must_use]
pub(crate) fn waypoints(snapshot: &Snapshot, local: &Workload) -> Arc<[Identity]> {
    let mut identities: Vec<Identity> = Vec::new();
    for found in references(snapshot, local).filter_map(|reference| reference::find(snapshot, local, reference)) {
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

/// References to the waypoint of the pod itself, and to those of its services.
fn references<'a>(snapshot: &'a Snapshot, local: &'a Workload) -> impl Iterator<Item = &'a GatewayAddress> {
    let services = local.services.iter().filter_map(|entry| snapshot.service(&entry.key));
    local.waypoint.as_deref().into_iter().chain(services.flat_map(|service| waypoint::all(service)))
}

/// The next thing that [`around`] needs to know of the pod's waypoints, by the name to ask for it with.
#[must_use]
pub fn missing_around(snapshot: &Snapshot, local: &Workload, named: Option<&str>) -> Option<String> {
    missing(snapshot, local, |hostname| local.waypoint.is_some() || named == Some(hostname))
}

/// The next thing that [`waypoints`] needs to know, by the name to ask for it with.
#[must_use]
pub fn missing_waypoints(snapshot: &Snapshot, local: &Workload) -> Option<String> {
    missing(snapshot, local, |_| true)
}

/// The next of the pod's own waypoint, its services whose name `counts`, and their waypoints that is not known.
fn missing(snapshot: &Snapshot, local: &Workload, counts: impl Fn(&str) -> bool) -> Option<String> {
    let own = local.waypoint.as_deref();
    let entries = local.services.iter().filter(|entry| counts(entry.key.hostname()));
    let mut services = Vec::new();
    for entry in entries {
        match snapshot.service(&entry.key) {
            Some(service) => services.push(service),
            None => return Some(entry.key.to_string()),
        }
    }
    let mut references = own.into_iter().chain(services.into_iter().flat_map(|service| waypoint::all(service)));
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
    let by_name = || {
        let entry = local.services.iter().find(|entry| Some(entry.key.hostname()) == named)?;
        snapshot.service(&entry.key)
    };
    arrival.service.as_ref().or_else(by_name)
}

#[cfg(test)]
mod tests {
    use super::super::inbound;
    use super::*;
    use crate::{
        snapshot::{Update, World},
        testing::{gateway_by_hostname, identity, pod, service, service_message, serving, socket, workload},
    };

    /// Waypoints `way` and `other`, a service `web` bound to `way`, a service `open` that is not, and `local`, which is part
    /// of both.
    fn world_of(local: &Workload) -> Vec<Update> {
        let waypoint = |name: &str, ip: &str| {
            let mut message = serving(pod(&format!("{name}-0"), &[ip]), name, &[(15_008, 15_008)]);
            message.service_account = name.to_owned();
            workload(message)
        };
        let mut web = service_message("web", &["10.96.0.1"], &[(80, 8080)]);
        web.waypoint = Some(gateway_by_hostname("way"));
        vec![
            service(web).into(),
            service(service_message("open", &["10.96.0.2"], &[(80, 8080)])).into(),
            service(service_message("way", &["10.96.0.8"], &[(15_008, 15_008)])).into(),
            service(service_message("other", &["10.96.0.9"], &[(15_008, 15_008)])).into(),
            waypoint("way", "10.0.0.8").into(),
            waypoint("other", "10.0.0.9").into(),
            local.clone().into(),
        ]
    }

    fn local(waypoint: Option<&str>) -> Workload {
        let mut message = serving(pod("web-0", &["10.0.0.1"]), "web", &[(80, 8080)]);
        message = serving(message, "open", &[(80, 8080)]);
        message.waypoint = waypoint.map(gateway_by_hostname);
        workload(message)
    }

    #[test]
    fn what_should_have_come_through_a_waypoint_is_refused_to_others() {
        let at = |waypoint, authority: &str, named, account: &str| {
            let local = local(waypoint);
            let mut world = World::complete();
            world.apply(world_of(&local));
            let snapshot = world.snapshot();
            let arrival = inbound(&snapshot, &local, socket("10.0.0.1:15008"), authority).unwrap();
            let checked = around(&snapshot, &local, &identity("shop", account), &arrival, named);
            checked.map_err(|refusal| refusal.reason)
        };
        let refused = Err(Reason::WaypointBypassed);
        let rows = [
            // Of a service's waypoint: what the client says it dialled.
            (None, "10.0.0.1:8080", None, "client", Ok(())),
            (None, "10.0.0.1:8080", Some("open"), "client", Ok(())),
            (None, "10.0.0.1:8080", Some("elsewhere"), "client", Ok(())),
            (None, "10.0.0.1:8080", Some("web"), "client", refused),
            (None, "10.0.0.1:8080", Some("web"), "other", refused),
            (None, "10.0.0.1:8080", Some("web"), "way", Ok(())),
            (None, "web:80", None, "client", refused),
            (None, "web:80", None, "way", Ok(())),
            (None, "open:80", None, "client", Ok(())),
            // Of its own: whatever was dialled, by way of a waypoint of its services, too.
            (Some("other"), "10.0.0.1:8080", None, "client", refused),
            (Some("other"), "10.0.0.1:8080", Some("open"), "client", refused),
            (Some("other"), "10.0.0.1:8080", None, "other", Ok(())),
            (Some("other"), "10.0.0.1:8080", Some("web"), "way", Ok(())),
            // One that nobody knows lets nobody in.
            (Some("gone"), "10.0.0.1:8080", None, "gone", refused),
        ];
        for (waypoint, authority, named, account, expected) in rows {
            let found = at(waypoint, authority, named, account);
            assert_eq!(found, expected, "{waypoint:?} {authority} {named:?} from {account}");
        }
    }

    #[test]
    fn what_is_missing_is_asked_for_before_anybody_is_refused() {
        let bound = local(Some("other"));
        let mut world = World::complete();
        world.apply(vec![bound.clone().into()]);
        let missing = |world: &World, local: &Workload, named| missing_around(&world.snapshot(), local, named);
        assert_eq!(missing(&world, &local(None), None), None);
        assert_eq!(missing(&world, &local(None), Some("elsewhere")), None);
        assert_eq!(missing(&world, &local(None), Some("web")).as_deref(), Some("shop/web"));
        assert!(missing(&world, &bound, None).is_some());
        // Who is to be believed hangs on all services.
        assert!(missing_waypoints(&world.snapshot(), &local(None)).is_some());
        world.apply(world_of(&bound));
        assert_eq!(missing(&world, &bound, Some("web")), None);
        assert_eq!(missing_waypoints(&world.snapshot(), &bound), None);
    }

    #[test]
    fn the_waypoints_of_a_pod_are_its_own_and_those_of_its_services_now() {
        for (waypoint, expected) in [(None, &["way"][..]), (Some("other"), &["other", "way"]), (Some("gone"), &["way"])]
        {
            let local = local(waypoint);
            let snapshot = World::complete().apply(world_of(&local));
            let expected: Vec<Identity> = expected.iter().map(|account| identity("shop", account)).collect();
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
