//! Picks an endpoint of a service: health, port, locality rank, weight, address family. Randomness is an argument.

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand::{Rng, RngExt};

use crate::{
    service::{HealthPolicy, IpFamilies, LoadBalancing, Mode, Scope, Service},
    snapshot::Endpoint,
    workload::{HealthStatus, Workload},
};

/// What is asked of a service.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asks; its locality ranks the endpoints.
    pub client: &'a Workload,
    /// The service port.
    pub port: u16,
    /// The address the client dialled: used if the endpoint has it, else its family is preferred.
    pub address: Option<IpAddr>,
    /// What the service is to the client.
    pub role: Role,
}

/// What a service is to the client that asks for one of its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What the client wants to reach in the end.
    Destination,
    /// A waypoint on the way; endpoints with an application tunnel take any port.
    Waypoint,
    /// The entrance to another network. As a waypoint, and reached at its own address whatever network it is listed in:
    /// being reachable from elsewhere is its purpose.
    NetworkGateway,
}

/// The endpoint that was picked, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// The endpoint's workload.
    pub workload: Arc<Workload>,
    /// Where it is.
    pub target: Target,
    /// The workload's own port.
    pub port: u16,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// At an address in the client's network.
    Address(IpAddr),
    /// At whatever address this name has; asked for at connect time.
    Hostname(Arc<str>),
    /// In another network, behind the workload's network gateway.
    Remote,
}

impl Pick {
    /// The socket address, for endpoints that have one in the client's network.
    #[must_use]
    pub fn socket_address(&self) -> Option<SocketAddr> {
        match self.target {
            Target::Address(ip) => Some(SocketAddr::new(ip, self.port)),
            Target::Hostname(_) | Target::Remote => None,
        }
    }
}

/// Picks one of the eligible endpoints of the best rank, by weight; none if none is eligible.
pub fn pick(service: &Service, endpoints: &[Endpoint], request: &Request<'_>, rng: &mut impl Rng) -> Option<Pick> {
    // First the best rank and the weight there, then the endpoint the draw falls on: nothing is allocated.
    let (mut best, mut total) = (0, 0_u64);
    for endpoint in endpoints {
        let Some(rank) = eligible_rank(service, endpoint, request) else { continue };
        if total == 0 || rank > best {
            (best, total) = (rank, 0);
        }
        if rank == best {
            total += u64::from(endpoint.workload.capacity);
        }
    }
    if total == 0 {
        return None;
    }
    let mut draw = rng.random_range(0..total);
    for endpoint in endpoints {
        if eligible_rank(service, endpoint, request) != Some(best) {
            continue;
        }
        match draw.checked_sub(u64::from(endpoint.workload.capacity)) {
            Some(rest) => draw = rest,
            None => return resolve(service, endpoint, request),
        }
    }
    None
}

/// How near an endpoint is; none if it cannot be picked.
fn eligible_rank(service: &Service, endpoint: &Endpoint, request: &Request<'_>) -> Option<usize> {
    if endpoint.workload.capacity == 0 {
        return None;
    }
    let rank = rank(&service.load_balancing, request.client, &endpoint.workload)?;
    is_healthy(service, &endpoint.workload).then_some(())?;
    target_port(service, endpoint, request)?;
    target(service, &endpoint.workload, request)?;
    Some(rank)
}

fn resolve(service: &Service, endpoint: &Endpoint, request: &Request<'_>) -> Option<Pick> {
    Some(Pick {
        workload: endpoint.workload.clone(),
        target: target(service, &endpoint.workload, request)?,
        port: target_port(service, endpoint, request)?,
    })
}

/// Whether the service's own rule lets the workload take its traffic.
pub(crate) fn is_healthy(service: &Service, workload: &Workload) -> bool {
    match service.load_balancing.health {
        HealthPolicy::AllowAll => true,
        HealthPolicy::OnlyHealthy => workload.status == HealthStatus::Healthy,
    }
}

/// The endpoint's own mapping, else the service's number; a named port that the endpoint lacks has neither.
fn target_port(service: &Service, endpoint: &Endpoint, request: &Request<'_>) -> Option<u16> {
    endpoint.target_port(request.port).or_else(|| service.port(request.port)?.target_port).or_else(|| {
        let any_port = request.role != Role::Destination && endpoint.workload.application_tunnel.is_some();
        any_port.then_some(request.port)
    })
}

fn target(service: &Service, workload: &Workload, request: &Request<'_>) -> Option<Target> {
    if workload.network != request.client.network && request.role != Role::NetworkGateway {
        return workload.network_gateway.is_some().then_some(Target::Remote);
    }
    if workload.addresses.is_empty() {
        return workload.hostname.clone().map(Target::Hostname);
    }
    address(workload, service.ip_families, request.address).map(Target::Address)
}

/// The dialled address if the workload has it; else one of an allowed family, if possible of the dialled one.
pub(crate) fn address(workload: &Workload, families: IpFamilies, dialled: Option<IpAddr>) -> Option<IpAddr> {
    if let Some(dialled) = dialled
        && workload.addresses.contains(&dialled)
    {
        return Some(dialled);
    }
    let is_allowed = |ip: &&IpAddr| match families {
        IpFamilies::Automatic | IpFamilies::Dual => true,
        IpFamilies::Ipv4Only => ip.is_ipv4(),
        IpFamilies::Ipv6Only => ip.is_ipv6(),
    };
    let allowed = || workload.addresses.iter().filter(is_allowed);
    let preferred = dialled.and_then(|dialled| allowed().find(|ip| ip.is_ipv4() == dialled.is_ipv4()));
    preferred.or_else(|| allowed().next()).copied()
}

/// The larger the nearer; none if the endpoint is out of bounds.
fn rank(balancing: &LoadBalancing, client: &Workload, endpoint: &Workload) -> Option<usize> {
    let scopes = &*balancing.scopes;
    let matching = |scopes: &[Scope]| scopes.iter().take_while(|scope| in_common(**scope, client, endpoint)).count();
    match balancing.mode {
        // With passthrough nobody asks; any answer would do.
        Mode::Standard | Mode::Passthrough => Some(0),
        Mode::Strict => (matching(scopes) == scopes.len()).then_some(0),
        Mode::Failover => Some(match scopes {
            // A remote endpoint is ranked on the rest, and a local one always beats it.
            [Scope::Network, rest @ ..] if in_common(Scope::Network, client, endpoint) => matching(scopes) + rest.len(),
            [Scope::Network, rest @ ..] => matching(rest),
            scopes => matching(scopes),
        }),
    }
}

fn in_common(scope: Scope, client: &Workload, endpoint: &Workload) -> bool {
    match scope {
        Scope::Region => client.locality.region == endpoint.locality.region,
        Scope::Zone => client.locality.zone == endpoint.locality.zone,
        Scope::Subzone => client.locality.subzone == endpoint.locality.subzone,
        Scope::Node => client.node == endpoint.node,
        Scope::Cluster => client.cluster_id == endpoint.cluster_id,
        Scope::Network => client.network == endpoint.network,
    }
}
