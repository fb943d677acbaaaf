//! From where keys may be fetched. Whoever may write a RequestAuthentication makes this process ask somebody, from where it
//! stands: without bounds, that is a way to what only the control plane can reach.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// Which hosts may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach(Vec<Hosts>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    /// Every one, but none at an address that means this machine or its link.
    All,
    /// Those below a name, with the same exception.
    Below(String),
    /// This one, wherever it is.
    One(String),
}

/// What is said where nobody may be asked.
const NONE: &str = "none";

impl FromStr for Reach {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hosts = |part: &str| match part.strip_prefix('*') {
            Some("") => Ok(Hosts::All),
            Some(rest) if rest.len() > 1 && rest.starts_with('.') && !rest.contains('*') => {
                Ok(Hosts::Below(rest.to_ascii_lowercase()))
            }
            None if !part.is_empty() && !part.contains(['*', '/', ' ']) => Ok(Hosts::One(part.to_ascii_lowercase())),
            _ => Err(format!("{part:?} is neither a host nor * nor *. and a name")),
        };
        if text == NONE {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(|part| hosts(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

impl Reach {
    /// Whether a host may be asked, and if so whether wherever it is.
    fn of(&self, host: &str) -> Option<bool> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let mut matching = self.0.iter().filter(|hosts| match hosts {
            Hosts::All => true,
            Hosts::Below(suffix) => host.ends_with(suffix.as_str()),
            Hosts::One(name) => host == *name,
        });
        let first = matching.next()?;
        Some(std::iter::once(first).chain(matching).any(|hosts| matches!(hosts, Hosts::One(_))))
    }

    /// Those of a host's addresses that may be asked.
    ///
    /// # Errors
    /// Why there are none.
    pub fn allowed(&self, host: &str, addresses: impl Iterator<Item = IpAddr>) -> Result<Vec<IpAddr>, String> {
        let Some(anywhere) = self.of(host) else {
            return Err(format!("{host} is not among the hosts that --jwks-hosts names"));
        };
        let allowed: Vec<IpAddr> = addresses.filter(|address| anywhere || !is_near(*address)).collect();
        if allowed.is_empty() {
            return Err(format!("{host} has no address, or only such that --jwks-hosts would have to name"));
        }
        Ok(allowed)
    }

    /// Whether anybody at that host may be asked.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, host: &str) -> Result<(), String> {
        self.of(host).map(drop).ok_or_else(|| format!("{host} is not among the hosts that --jwks-hosts names"))
    }
}

/// Whether an address means this machine, its link (where clouds tell machines their secrets), or nobody.
fn is_near(address: IpAddr) -> bool {
    let is_near_v4 = |address: Ipv4Addr| {
        address.is_loopback()
            || address.is_link_local()
            || address.is_unspecified()
            || address.is_broadcast()
            || address.is_multicast()
    };
    match address {
        IpAddr::V4(address) => is_near_v4(address),
        IpAddr::V6(address) => {
            let inside = address.to_ipv4_mapped().or_else(|| {
                // NAT64 (RFC 6052 §2.1) leads to the address in its last four octets.
                let is_translated = address.segments().starts_with(&[0x64, 0xff9b, 0, 0, 0, 0]);
                let [.., a, b, c, d] = address.octets();
                is_translated.then(|| Ipv4Addr::new(a, b, c, d))
            });
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || inside.is_some_and(is_near_v4)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_that_are_named_are_asked_and_only_by_name_on_this_machine() {
        let reach = |text: &str| text.parse::<Reach>().unwrap();
        let rows = [
            ("*", "a.example", "192.0.2.1", true),
            ("*", "a.example", "10.0.0.1", true),
            ("*", "a.example", "127.0.0.1", false),
            ("*", "a.example", "169.254.169.254", false),
            ("*", "a.example", "::ffff:169.254.169.254", false),
            ("*", "a.example", "64:ff9b::a9fe:a9fe", false),
            ("*", "a.example", "fe80::1", false),
            ("*", "a.example", "0.0.0.0", false),
            ("*,localhost", "localhost", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1", true),
            ("*.example", "A.Example", "192.0.2.1", true),
            ("*.example", "a.example.", "127.0.0.1", false),
            ("*.example", "example", "192.0.2.1", false),
            ("*.example, b", "b", "192.0.2.1", true),
            ("*.example", "a.example.net", "192.0.2.1", false),
            ("none", "a.example", "192.0.2.1", false),
        ];
        for (hosts, host, address, expected) in rows {
            let found = reach(hosts).allowed(host, [address.parse().unwrap()].into_iter());
            assert_eq!(found.is_ok(), expected, "{hosts}: {host} at {address}: {found:?}");
        }
        for wrong in ["", "*a", "*.", "a b", "https://a", "a,,b", "*.*"] {
            assert!(wrong.parse::<Reach>().is_err(), "{wrong:?}");
        }
    }
}
