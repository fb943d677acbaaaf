//! Answers a pod's DNS question from what is known of the mesh, or leaves it to the resolvers the pod would have asked.

#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use rand::{Rng, seq::SliceRandom};

use crate::{
    balance, limits,
    service::{IpFamilies, Service},
    snapshot::Snapshot,
    workload::Workload,
};

/// Where captured DNS queries of a pod arrive.
pub const DNS_PORT: u16 = 15_053;

/// Cluster-wide facts that give short names their meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Domain of the cluster, lower case, without dots at either end; services live below `svc.` of it.
    pub domain: Box<str>,
    /// Of several services with one hostname, none of them the client's own or canonical, the one of this namespace wins.
    pub preferred_namespace: Option<Box<str>>,
}

impl Default for Zone {
    fn default() -> Self {
        Self { domain: "cluster.local".into(), preferred_namespace: None }
    }
}

/// The kind of addresses that are asked for: A or AAAA records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A (RFC 1035 §3.4.1).
    V4,
    /// AAAA (RFC 3596).
    V6,
}

impl Family {
    /// Whether an address is of this family.
    #[must_use]
    pub const fn is_of(self, ip: &IpAddr) -> bool {
        match self {
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }
}

/// What to do with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Not ours: pass it on as it is.
    Forward,
    /// Ours, with this answer.
    Answer(Answer),
}

/// The answer to a question about a name of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The name that has the addresses, where it is another than the one asked for: to be told as a CNAME.
    pub alias_of: Option<String>,
    /// Addresses of the family asked for, in no order. None means that the name exists and has no such record (NODATA,
    /// RFC 2308 §2.2), so that the client does not go on to ask for the name elsewhere.
    pub addresses: Vec<IpAddr>,
}

/// Decides on the question for `name`, without its final dot, as `client` asks it.
#[must_use]
pub fn decide(
    snapshot: &Snapshot,
    zone: &Zone,
    client: &Workload,
    name: &str,
    family: Family,
    rng: &mut impl Rng,
) -> Decision {
    let name = name.to_ascii_lowercase();
    let found = candidates(zone, client.namespace(), &name).into_iter().find_map(|candidate| {
        let (service, by_wildcard) = service_for(snapshot, zone, client, &candidate.name)?;
        // The asked name is what matched the wildcard; there is no other name the addresses could be of.
        let alias_of = candidate.stripped.filter(|_| !by_wildcard);
        Some((addresses_of(snapshot, zone, client, service), alias_of))
    });
    let (addresses, alias_of) = match found {
        Some((addresses, alias_of)) => (addresses, alias_of),
        None => (addresses_of_workload(snapshot, client, &name), None),
    };
    let Some(mut addresses) = addresses else { return Decision::Forward };
    addresses.retain(|ip| family.is_of(ip));
    // The same address behind several endpoints, as on a host's network.
    addresses.sort_unstable();
    addresses.dedup();
    addresses.shuffle(rng);
    addresses.truncate(limits::DNS_ANSWER_ADDRESSES.size());
    Decision::Answer(Answer { alias_of, addresses })
}

/// A name that the asked one may stand for.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    name: String,
    /// What was left of the asked name when the client's search suffix was taken off, if it was.
    stripped: Option<String>,
}

/// What a name may stand for, most literal first: itself, what the search list of a pod would make of it, and both again
/// for what is left when the client's resolver has already appended an entry of that list. As a resolver walks its search
/// list before it tries a name as it is (`ndots:5`), answering the last kind spares it the rest of the walk.
fn candidates(zone: &Zone, namespace: &str, name: &str) -> Vec<Candidate> {
    let domain = &*zone.domain;
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut add = |name: String, stripped: Option<&str>| {
        if !candidates.iter().any(|present| present.name == name) {
            candidates.push(Candidate { name, stripped: stripped.map(str::to_owned) });
        }
    };
    let mut add_with_expansions = |name: &str, stripped: Option<&str>| {
        add(name.to_owned(), stripped);
        for expanded in expansions(domain, namespace, name) {
            add(expanded, stripped);
        }
    };
    add_with_expansions(name, None);
    for suffix in [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()] {
        let rest = name.strip_suffix(&*suffix).and_then(|rest| rest.strip_suffix('.'));
        if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
            add_with_expansions(rest, Some(rest));
        }
    }
    candidates
}

/// Full names of services that a short name may mean to a client of the namespace.
fn expansions(domain: &str, namespace: &str, name: &str) -> Vec<String> {
    let labels: Vec<&str> = name.splitn(5, '.').collect();
    match *labels.as_slice() {
        [_] => vec![format!("{name}.{namespace}.svc.{domain}")],
        [_, _] => vec![format!("{name}.svc.{domain}"), format!("{name}.{namespace}.svc.{domain}")],
        [_, _, "svc"] => vec![format!("{name}.{domain}"), format!("{name}.svc.{domain}")],
        [_, _, _] => vec![format!("{name}.svc.{domain}")],
        [_, _, _, "svc"] => vec![format!("{name}.{domain}")],
        _ => Vec::new(),
    }
}

/// The service with exactly this hostname, else the one with the longest wildcard that covers it.
fn service_for<'a>(
    snapshot: &'a Snapshot,
    zone: &Zone,
    client: &Workload,
    name: &str,
) -> Option<(&'a Arc<Service>, bool)> {
    let find = |name: &str| snapshot.service_by_name(name, client.namespace(), zone.preferred_namespace.as_deref());
    if let Some(service) = find(name) {
        return Some((service, false));
    }
    let covering = name.match_indices('.').filter_map(|(dot, _)| name.get(dot..));
    covering.map(|rest| format!("*{rest}")).find_map(|wildcard| find(&wildcard)).map(|service| (service, true))
}

/// The addresses a client reaches the service by; none if others must say, because the mesh gives the service no address.
fn addresses_of(snapshot: &Snapshot, zone: &Zone, client: &Workload, service: &Service) -> Option<Vec<IpAddr>> {
    let mut addresses: Vec<IpAddr> = if !service.vips.is_empty() {
        // An address of another network would mean something else here.
        let here = service.vips.iter().filter(|vip| vip.network == client.network);
        let here: Vec<IpAddr> = here.map(|vip| vip.ip).collect();
        if here.is_empty() {
            return None;
        }
        here
    } else if is_headless(zone, service) {
        let endpoints = snapshot.endpoints(&service.key).iter().map(|endpoint| &endpoint.workload);
        endpoints
            .filter(|workload| workload.network == client.network && balance::is_healthy(service, workload))
            .flat_map(|workload| workload.addresses.iter().copied())
            .collect()
    } else {
        return None;
    };
    addresses.retain(|ip| match service.ip_families {
        IpFamilies::Automatic | IpFamilies::Dual => true,
        IpFamilies::Ipv4Only => ip.is_ipv4(),
        IpFamilies::Ipv6Only => ip.is_ipv6(),
    });
    Some(addresses)
}

/// A service of Kubernetes without an address of its own. Other hosts without one, as of a ServiceEntry, have theirs
/// in the world's DNS.
fn is_headless(zone: &Zone, service: &Service) -> bool {
    service.cidr_vips.is_empty()
        && service.hostname().strip_suffix(&*zone.domain).is_some_and(|rest| rest.ends_with(".svc."))
}

/// The addresses of a workload of the client's namespace that is announced under this very name.
fn addresses_of_workload(snapshot: &Snapshot, client: &Workload, name: &str) -> Option<Vec<IpAddr>> {
    let workload = snapshot.workload_by_hostname(client.namespace(), name)?;
    let is_here = workload.network == client.network && !workload.addresses.is_empty();
    is_here.then(|| workload.addresses.to_vec())
}
