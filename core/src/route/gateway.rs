//! Into another network: two tunnels, one inside the other, through its gateway (interop §1.11).

use std::{net::SocketAddr, sync::Arc};

use rand::Rng;

use super::{Hop, Plan, Refusal, distinct, reference};
use crate::{
    addr::Authority,
    balance::{Role, Target},
    ident::Identity,
    reason::Reason,
    service::Service,
    snapshot::Snapshot,
    workload::Workload,
};

/// Plans a connection to the service that was dialled, by way of the network gateway of `far`: an endpoint that was
/// picked, or a waypoint, in another network. `accepted` are the only identities the inner tunnel may end at: what is
/// behind a gateway is not one workload whose identity were known.
pub(super) fn plan(
    snapshot: &Snapshot,
    source: &Workload,
    (service, dialled): (&Arc<Service>, SocketAddr),
    far: Arc<Workload>,
    accepted: &[Identity],
    rng: &mut impl Rng,
) -> Result<Plan, Box<Refusal>> {
    let refuse = |reason, what: std::fmt::Arguments<'_>| Refusal::new(reason, what).with_workload(&far);
    let Some(reference) = &far.network_gateway else {
        return Err(refuse(Reason::WrongNetwork, format_args!("network {:?} has no gateway", far.network)));
    };
    if accepted.is_empty() {
        // Without a name to insist on, anybody behind the gateway could answer.
        let what = format_args!("no identities are listed for {} in network {:?}", service.hostname(), far.network);
        return Err(refuse(Reason::WrongNetwork, what));
    }
    let unknown = || {
        let what = format_args!("{} of network {:?}", reference.destination, far.network);
        refuse(Reason::UnknownGateway, what)
    };
    let found = reference::find(snapshot, source, reference).ok_or_else(unknown)?;
    let pick = found.pick(snapshot, source, reference, Role::NetworkGateway, dialled.ip(), rng);
    let pick = pick.ok_or_else(|| {
        refuse(Reason::NoHealthyUpstream, format_args!("gateway {} of {:?}", reference.destination, far.network))
    })?;
    let address = match &pick.target {
        Target::Address(ip) => SocketAddr::new(*ip, pick.port),
        Target::Hostname(hostname) => {
            return Err(refuse(Reason::DnsFailed, format_args!("gateway {} at {hostname}", reference.destination)));
        }
        Target::Remote => return Err(unknown()),
    };
    let authority = Authority::Hostname { host: service.hostname().into(), port: dialled.port() };
    Ok(Plan::ViaGateway {
        hop: Hop::new(address, authority, &pick.workload, found.service()),
        inner: distinct(accepted.iter().cloned()),
        gateway: pick.workload,
        workload: far,
        service: service.clone(),
    })
}
