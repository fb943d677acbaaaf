//! What a reference to a waypoint or network gateway means, and which of its endpoints to use.

use std::{net::IpAddr, sync::Arc};

use rand::Rng;

use crate::{
    addr::NetworkAddress,
    balance::{self, Pick, Role, Target},
    ident::Identity,
    service::{GatewayAddress, GatewayDestination, IpFamilies, Service},
    snapshot::Snapshot,
    workload::Workload,
};

/// What a reference means.
pub(super) enum Found<'a> {
    Service(&'a Arc<Service>),
    Workload(&'a Arc<Workload>),
}

/// Finds it: by hostname a service and then a workload, by address a service and then a workload.
pub(super) fn find<'a>(snapshot: &'a Snapshot, source: &Workload, reference: &GatewayAddress) -> Option<Found<'a>> {
    match &reference.destination {
        GatewayDestination::Hostname(key) => snapshot
            .service(key)
            .map(Found::Service)
            .or_else(|| snapshot.workload_by_hostname(key.namespace(), key.hostname()).map(Found::Workload)),
        GatewayDestination::Address(address) => snapshot
            .service_by_vip(address, source.namespace())
            .map(Found::Service)
            .or_else(|| snapshot.workload_by_address(address).map(Found::Workload)),
    }
}

/// Whether it can be found.
pub(super) fn is_known(snapshot: &Snapshot, source: &Workload, reference: &GatewayAddress) -> bool {
    find(snapshot, source, reference).is_some()
}

impl Found<'_> {
    /// The service, where it is one.
    pub(super) fn service(&self) -> Option<&Service> {
        match self {
            Self::Service(service) => Some(service),
            Self::Workload(_) => None,
        }
    }

    /// The identities that the service lists for its endpoints.
    pub(super) fn subject_alt_names(&self) -> &[Identity] {
        self.service().map_or(&[], |service| &service.subject_alt_names)
    }

    /// As whom its endpoints, whatever their health, prove themselves; some more than once.
    pub(super) fn identities<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = Identity> + 'a {
        let (endpoints, workload) = match self {
            Self::Service(service) => (snapshot.endpoints(&service.key), None),
            Self::Workload(workload) => (&[][..], Some(workload.identity())),
        };
        let endpoints = endpoints.iter().map(|endpoint| endpoint.workload.identity());
        self.subject_alt_names().iter().cloned().chain(endpoints).chain(workload)
    }

    /// One endpoint, if possible of the family that was dialled.
    pub(super) fn pick(
        &self,
        snapshot: &Snapshot,
        source: &Workload,
        reference: &GatewayAddress,
        role: Role,
        dialled: IpAddr,
        rng: &mut impl Rng,
    ) -> Option<Pick> {
        match self {
            Self::Service(service) => {
                let port = reference.hbone_mtls_port;
                let request = balance::Request { client: source, port, address: Some(dialled), role };
                balance::pick(service, snapshot.endpoints(&service.key), &request, rng)
            }
            Self::Workload(workload) => pick_workload(source, workload, reference, role, dialled),
        }
    }
}

/// A workload that is referred to directly, as if it were its service's only endpoint.
fn pick_workload(
    source: &Workload,
    workload: &Arc<Workload>,
    reference: &GatewayAddress,
    role: Role,
    dialled: IpAddr,
) -> Option<Pick> {
    let target = if workload.network != source.network && role != Role::NetworkGateway {
        Target::Remote
    } else if let GatewayDestination::Address(NetworkAddress { ip, .. }) = &reference.destination {
        Target::Address(*ip)
    } else if let Some(ip) = balance::address(workload, IpFamilies::Automatic, Some(dialled)) {
        Target::Address(ip)
    } else {
        Target::Hostname(workload.hostname.clone()?)
    };
    Some(Pick { workload: workload.clone(), target, port: reference.hbone_mtls_port })
}
