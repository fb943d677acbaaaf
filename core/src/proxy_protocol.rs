//! PROXY protocol, version 2: tells an application behind an application tunnel who its client is (interop §1.6).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::ident::Identity;

/// Twelve bytes that no other protocol begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;

/// TCP over IPv4.
const TCP4: u8 = 0x11;

/// TCP over IPv6.
const TCP6: u8 = 0x21;

/// Type of the value that carries the client's proven identity.
const TYPE_IDENTITY: u8 = 0xD0;

/// The header of a connection from `source` to `destination`, with the client's identity if it proved one.
///
/// Addresses of two families are both written as IPv6, the IPv4 one in its mapped form.
#[must_use]
pub fn header(source: SocketAddr, destination: SocketAddr, identity: Option<&Identity>) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    let family = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            addresses.extend(from.octets());
            addresses.extend(to.octets());
            TCP4
        }
        (from, to) => {
            addresses.extend(as_ipv6(from).octets());
            addresses.extend(as_ipv6(to).octets());
            TCP6
        }
    };
    addresses.extend(source.port().to_be_bytes());
    addresses.extend(destination.port().to_be_bytes());
    let mut values = Vec::new();
    // An identity is at most 2048 bytes (SPIFFE-ID §2.3), so its length always fits.
    if let Some(identity) = identity.map(Identity::as_str)
        && let Ok(length) = u16::try_from(identity.len())
    {
        values.push(TYPE_IDENTITY);
        values.extend(length.to_be_bytes());
        values.extend(identity.as_bytes());
    }
    let length = u16::try_from(addresses.len() + values.len()).unwrap_or(u16::MAX);
    let mut header = SIGNATURE.to_vec();
    header.extend([VERSION_AND_COMMAND, family]);
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header.extend(values);
    header
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_with_identity() {
        let identity = Identity::new("td", "n", "s").unwrap();
        let header = header("10.0.0.1:4660".parse().unwrap(), "10.0.0.2:80".parse().unwrap(), Some(&identity));
        let mut wanted = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x23".to_vec();
        wanted.extend([10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 80]);
        wanted.extend(b"\xD0\x00\x14spiffe://td/ns/n/sa/s");
        assert_eq!(header.len(), 16 + 12 + 3 + identity.as_str().len());
        wanted[15] = u8::try_from(12 + 3 + identity.as_str().len()).unwrap();
        wanted[30] = u8::try_from(identity.as_str().len()).unwrap();
        assert_eq!(header, wanted);
    }

    #[test]
    fn families_meet_in_ipv6() {
        let mixed = header("10.0.0.1:1".parse().unwrap(), "[fd00::1]:2".parse().unwrap(), None);
        assert_eq!(mixed[13], TCP6);
        assert_eq!(mixed[14..16], [0, 36]);
        assert_eq!(mixed[16..32], "10.0.0.1".parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped().octets());
        assert_eq!(mixed[48..], [0, 1, 0, 2]);
    }
}
