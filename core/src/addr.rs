//! Addresses: network-qualified ones, address blocks from the wire, and CONNECT authorities.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    str::FromStr,
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Serialize, Serializer};

use crate::invalid::Problem;

/// An IP address and the network it means something in; the empty network is the default one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkAddress {
    /// Name of the network.
    pub network: Arc<str>,
    /// The address, never an IPv4 address in IPv6 clothes.
    pub ip: IpAddr,
}

impl NetworkAddress {
    /// Joins network and address.
    #[must_use]
    pub fn new(network: impl Into<Arc<str>>, ip: IpAddr) -> Self {
        Self { network: network.into(), ip: ip.to_canonical() }
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.ip)
    }
}

impl Serialize for NetworkAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A block of addresses and the network it means something in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkCidr {
    /// Name of the network.
    pub network: Arc<str>,
    /// The block, with its host bits cleared.
    pub block: IpNet,
}

impl fmt::Display for NetworkCidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.block)
    }
}

impl Serialize for NetworkCidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The address without IPv4-in-IPv6 clothes, which sockets bound to `[::]` put on. A link-local address keeps its
/// scope, without which it cannot be dialled (RFC 4007 §6); the flow label says nothing about where it is.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match (address.ip().to_canonical(), address) {
        (IpAddr::V6(ip), SocketAddr::V6(given)) => SocketAddrV6::new(ip, given.port(), 0, given.scope_id()).into(),
        (ip, _) => SocketAddr::new(ip, address.port()),
    }
}

/// Reads 4 or 16 bytes in network order.
///
/// # Errors
/// Any other length.
pub fn ip_from_bytes(bytes: &[u8]) -> Result<IpAddr, Problem> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        Ok(Ipv4Addr::from(octets).into())
    } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        Ok(Ipv6Addr::from(octets).to_canonical())
    } else {
        Err(Problem::AddressLength(bytes.len()))
    }
}

/// Reads a block: 4 or 16 bytes and a prefix length. Host bits are cleared.
///
/// # Errors
/// A wrong number of bytes, or a prefix longer than the address.
pub fn cidr_from_bytes(bytes: &[u8], length: u32) -> Result<IpNet, Problem> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        let error = Problem::PrefixLength { length, maximum: 32 };
        let prefix = u8::try_from(length).map_err(|_| error.clone())?;
        Ok(Ipv4Net::new(octets.into(), prefix).map_err(|_| error)?.trunc().into())
    } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        let error = Problem::PrefixLength { length, maximum: 128 };
        let prefix = u8::try_from(length).map_err(|_| error.clone())?;
        let address = Ipv6Addr::from(octets);
        // A block of mapped addresses must meet the canonical addresses that decisions are made on.
        match (address.to_ipv4_mapped(), prefix.checked_sub(96)) {
            (Some(mapped), Some(prefix)) => Ok(Ipv4Net::new(mapped, prefix).map_err(|_| error)?.trunc().into()),
            _ => Ok(Ipv6Net::new(address, prefix).map_err(|_| error)?.trunc().into()),
        }
    } else {
        Err(Problem::AddressLength(bytes.len()))
    }
}

/// The `:authority` of a CONNECT request (RFC 9113 §8.5): where the tunnel should lead.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authority {
    /// A workload's or service's address.
    Address(SocketAddr),
    /// A service's hostname and service port.
    Hostname {
        /// Fully qualified, lower case.
        host: Arc<str>,
        /// The service port, not the workload's.
        port: u16,
    },
}

impl Authority {
    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Hostname { port, .. } => *port,
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::Hostname { host, port } => write!(formatter, "{host}:{port}"),
        }
    }
}

impl Serialize for Authority {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that names no tunnel target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The port is missing, 0 or too large.
    #[error("the authority must end in a port from 1 to 65535")]
    Port,
    /// The part before the port is neither an IP address nor a DNS name.
    #[error("the authority's host must be an IPv4 address, an IPv6 address in brackets, or a DNS name")]
    Host,
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::Port)?;
        // `parse` would take "+80".
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AuthorityError::Port);
        }
        let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(AuthorityError::Port)?;
        if let Some(host) = host.strip_prefix('[') {
            let address: Ipv6Addr =
                host.strip_suffix(']').and_then(|host| host.parse().ok()).ok_or(AuthorityError::Host)?;
            return Ok(Self::Address(SocketAddr::new(address.to_canonical(), port)));
        }
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Self::Address(SocketAddr::new(address.into(), port)));
        }
        if !is_dns_name(host) {
            return Err(AuthorityError::Host);
        }
        Ok(Self::Hostname { host: host.to_ascii_lowercase().into(), port })
    }
}

/// RFC 1035 §2.3.4 lengths; underscores are let through because service names use them.
pub(crate) fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
        // Of digits alone it would be a broken IPv4 address.
        && !name.rsplit('.').next().unwrap_or_default().bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_addresses() {
        assert_eq!(ip_from_bytes(&[10, 0, 0, 1]), Ok("10.0.0.1".parse().unwrap()));
        let six: Ipv6Addr = "fd00::1".parse().unwrap();
        assert_eq!(ip_from_bytes(&six.octets()), Ok(six.into()));
        let mapped: Ipv6Addr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(ip_from_bytes(&mapped.octets()), Ok("10.0.0.1".parse().unwrap()));
        for length in [0, 1, 3, 5, 15, 17] {
            assert_eq!(ip_from_bytes(&vec![0; length]), Err(Problem::AddressLength(length)));
        }
    }

    #[test]
    fn bytes_become_blocks() {
        let block = |text: &str| Ok(text.parse::<IpNet>().unwrap());
        assert_eq!(cidr_from_bytes(&[10, 1, 2, 3], 8), block("10.0.0.0/8"));
        assert_eq!(cidr_from_bytes(&[10, 1, 2, 3], 0), block("0.0.0.0/0"));
        assert_eq!(cidr_from_bytes(&[10, 1, 2, 3], 32), block("10.1.2.3/32"));
        let six: Ipv6Addr = "fd00::1".parse().unwrap();
        assert_eq!(cidr_from_bytes(&six.octets(), 64), block("fd00::/64"));
        let mapped: Ipv6Addr = "::ffff:10.1.2.3".parse().unwrap();
        assert_eq!(cidr_from_bytes(&mapped.octets(), 104), block("10.0.0.0/8"));
        assert_eq!(cidr_from_bytes(&[10, 1, 2, 3], 33), Err(Problem::PrefixLength { length: 33, maximum: 32 }));
        assert_eq!(cidr_from_bytes(&[10, 1, 2, 3], 264), Err(Problem::PrefixLength { length: 264, maximum: 32 }));
        assert_eq!(cidr_from_bytes(&[0; 16], 129), Err(Problem::PrefixLength { length: 129, maximum: 128 }));
        assert_eq!(cidr_from_bytes(&[], 0), Err(Problem::AddressLength(0)));
    }

    #[test]
    fn canonical_addresses_can_still_be_dialled() {
        let with = |ip: &str, flow, scope| SocketAddr::from(SocketAddrV6::new(ip.parse().unwrap(), 80, flow, scope));
        assert_eq!(canonical(with("fe80::1", 7, 3)), with("fe80::1", 0, 3));
        assert_eq!(canonical(with("::ffff:10.0.0.1", 7, 3)), "10.0.0.1:80".parse().unwrap());
        assert_eq!(canonical("10.0.0.1:80".parse().unwrap()), "10.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn authorities() {
        let address = |text: &str| Ok(Authority::Address(text.parse().unwrap()));
        let hostname = |host: &str, port| Ok(Authority::Hostname { host: host.into(), port });
        for (text, expected) in [
            ("10.0.0.1:80", address("10.0.0.1:80")),
            ("[fd00::1]:65535", address("[fd00::1]:65535")),
            ("[::ffff:10.0.0.1]:80", address("10.0.0.1:80")),
            ("web.shop.svc.cluster.local:80", hostname("web.shop.svc.cluster.local", 80)),
            ("WEB.shop:80", hostname("web.shop", 80)),
            ("10.0.0.1", Err(AuthorityError::Port)),
            ("10.0.0.1:", Err(AuthorityError::Port)),
            ("10.0.0.1:0", Err(AuthorityError::Port)),
            ("10.0.0.1:65536", Err(AuthorityError::Port)),
            ("10.0.0.1:+80", Err(AuthorityError::Port)),
            ("web", Err(AuthorityError::Port)),
            ("", Err(AuthorityError::Port)),
            (":80", Err(AuthorityError::Host)),
            ("fd00::1:80", Err(AuthorityError::Host)),
            ("[fd00::1:80", Err(AuthorityError::Host)),
            ("[10.0.0.1]:80", Err(AuthorityError::Host)),
            ("10.0.0.256:80", Err(AuthorityError::Host)),
            ("user@web:80", Err(AuthorityError::Host)),
            ("web..shop:80", Err(AuthorityError::Host)),
            ("http://web:80", Err(AuthorityError::Host)),
            ("web/x:80", Err(AuthorityError::Host)),
        ] {
            assert_eq!(text.parse::<Authority>(), expected, "{text:?}");
        }
    }
}
