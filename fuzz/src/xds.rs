//! Responses of a controller: decoded, converted, applied, and the snapshot's indexes compared with its contents.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use fairway_core::addr::NetworkAddress;
use fairway_core::io::xds::{NodeInfo, Session};
use fairway_core::route;
use fairway_core::snapshot::{Snapshot, Update, World};
use fairway_core::workload::NetworkMode;
use fairway_proto::discovery::DeltaDiscoveryResponse;

use crate::input::Input;

/// Plays the responses of one stream.
pub fn run(data: &[u8]) {
    let mut session = Session::new(NodeInfo::default());
    session.connected();
    let mut world = World::new();
    for response in Input::new(data).messages::<DeltaDiscoveryResponse>() {
        let (nonce, type_url) = (response.nonce.clone(), response.type_url.clone());
        let outcome = session.received(response);
        let answer = outcome.answer.expect("every response is answered");
        assert_eq!((answer.response_nonce, answer.type_url), (nonce, type_url));
        assert_eq!(answer.error_detail.is_some(), !outcome.rejections.is_empty());
        let before = world.snapshot();
        let after = world.apply(outcome.updates.clone());
        assert!(after.version() >= before.version());
        assert_eq!(
            world.apply(outcome.updates.clone()).version() == after.version() || repeats(&outcome.updates),
            true
        );
        check(&world.snapshot());
    }
    let snapshot = world.snapshot();
    same_when_rebuilt(&snapshot);
    plans(&snapshot);
    empty_when_removed(world);
}

/// Whether one batch says several things of one name; applied again it then changes something, and changes it back.
fn repeats(updates: &[Update]) -> bool {
    let mut names = HashSet::new();
    updates.iter().any(|update| {
        let name = match update {
            Update::Workload(workload) => workload.uid.as_str().to_owned(),
            Update::Service(service) => service.key.as_str().to_owned(),
            Update::Policy(policy) => policy.key.resource_name().to_owned(),
            Update::InvalidPolicy(rejected) => rejected.key.resource_name().to_owned(),
            Update::RefusedAddress(_) => return true,
            Update::RemoveAddress(name) => name.clone(),
            Update::RemovePolicy(key) => key.resource_name().to_owned(),
            Update::Complete => return false,
        };
        !names.insert(name)
    })
}

/// Every index leads to what is there, and to nothing else.
fn check(snapshot: &Snapshot) {
    for workload in snapshot.workloads() {
        let found = snapshot.workload_by_uid(workload.uid.as_str()).expect("by uid");
        assert!(Arc::ptr_eq(found, workload));
        if workload.network_mode == NetworkMode::Standard {
            for ip in &workload.addresses {
                assert_eq!(*ip, ip.to_canonical());
                let owner = snapshot.workload_by_address(&NetworkAddress::new(workload.network.clone(), *ip));
                assert!(owner.expect("by address").addresses.contains(ip));
            }
        }
        if !workload.node.is_empty() {
            assert!(snapshot.workloads_on(&workload.node).iter().any(|other| Arc::ptr_eq(other, workload)));
        }
        for entry in &workload.services {
            let endpoints = snapshot.endpoints(&entry.key);
            let mine = endpoints.iter().filter(|endpoint| Arc::ptr_eq(&endpoint.workload, workload));
            assert_eq!(mine.count(), 1, "{} serves {}", workload.uid, entry.key);
        }
        let view = snapshot.view_of(workload);
        assert!(view.policies.len() >= workload_policies(snapshot, workload));
    }
    for service in snapshot.services() {
        assert!(Arc::ptr_eq(snapshot.service(&service.key).expect("by key"), service));
        for endpoint in snapshot.endpoints(&service.key) {
            let current = snapshot.workload_by_uid(endpoint.workload.uid.as_str()).expect("an endpoint is known");
            assert!(Arc::ptr_eq(current, &endpoint.workload), "an endpoint is up to date");
            assert!(endpoint.service().is_some_and(|entry| entry.key == service.key));
        }
        for vip in &service.vips {
            if service.is_visible_to(service.namespace()) {
                assert!(snapshot.service_by_vip(vip, service.namespace()).is_some());
            }
        }
    }
}

/// Policies listed by name that are not merely rehearsed: each must show in the view, known or refusing.
fn workload_policies(snapshot: &Snapshot, workload: &fairway_core::workload::Workload) -> usize {
    let rehearsed = |key: &&fairway_core::policy::PolicyKey| {
        snapshot.policy(key).is_none() && snapshot.rejected_policy(key).is_some_and(|rejected| rejected.dry_run)
    };
    let listed: HashSet<_> = workload.authorization_policies.iter().filter(|key| !rehearsed(key)).collect();
    listed.len()
}

/// The order and history of updates leave no trace.
fn same_when_rebuilt(snapshot: &Snapshot) {
    let workloads = snapshot.workloads().map(|workload| Update::Workload(Box::new((**workload).clone())));
    let services = snapshot.services().map(|service| Update::Service(Box::new((**service).clone())));
    let policies = snapshot.policies().map(|policy| Update::Policy(Box::new((**policy).clone())));
    let rejected = snapshot.rejected_policies().map(|policy| Update::InvalidPolicy(Box::new((**policy).clone())));
    let mut updates: Vec<_> = workloads.chain(services).chain(policies).chain(rejected).collect();
    updates.push(Update::Complete);
    let rebuilt = World::new().apply(updates);
    assert_eq!(rebuilt.counts(), snapshot.counts());
    for workload in snapshot.workloads() {
        let again = rebuilt.workload_by_uid(workload.uid.as_str()).expect("rebuilt");
        assert!(snapshot.view_of(workload) == rebuilt.view_of(again), "the view of {}", workload.uid);
        for ip in &workload.addresses {
            let address = NetworkAddress::new(workload.network.clone(), *ip);
            let owner = |world: &Snapshot| world.workload_by_address(&address).map(|owner| owner.uid.clone());
            assert_eq!(owner(snapshot), owner(&rebuilt));
        }
    }
    for service in snapshot.services() {
        let uids = |world: &Snapshot| -> Vec<_> {
            world.endpoints(&service.key).iter().map(|endpoint| endpoint.workload.uid.clone()).collect()
        };
        assert_eq!(uids(snapshot), uids(&rebuilt));
        for vip in &service.vips {
            let owner = |world: &Snapshot| world.service_by_vip(vip, "shop").map(|owner| owner.key.clone());
            assert_eq!(owner(snapshot), owner(&rebuilt));
        }
    }
}

/// Every workload dials every address there is.
fn plans(snapshot: &Snapshot) {
    struct Zero;
    impl rand::rand_core::TryRng for Zero {
        type Error = std::convert::Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            Ok(0)
        }
        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            Ok(0)
        }
        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
            bytes.fill(0);
            Ok(())
        }
    }
    let own = snapshot.workloads().flat_map(|workload| workload.addresses.iter().copied());
    let virtual_ones = snapshot.services().flat_map(|service| service.vips.iter().map(|vip| vip.ip));
    let addresses: Vec<_> = own.chain(virtual_ones).take(16).collect();
    for source in snapshot.workloads().take(8) {
        for ip in &addresses {
            let _ = route::plan(snapshot, source, SocketAddr::new(*ip, 80), &mut Zero);
        }
    }
}

fn empty_when_removed(mut world: World) {
    let (addresses, policies) = world.snapshot().resource_names();
    let addresses = addresses.into_iter().map(Update::RemoveAddress);
    let policies =
        policies.into_iter().map(|name| Update::RemovePolicy(fairway_core::policy::PolicyKey::of_resource(&name)));
    let empty = world.apply(addresses.chain(policies).collect());
    let counts = empty.counts();
    assert_eq!((counts.workloads, counts.services, counts.policies, counts.rejected_policies), (0, 0, 0, 0));
    let (addresses, policies) = empty.resource_names();
    assert!(addresses.is_empty() && policies.is_empty());
}
