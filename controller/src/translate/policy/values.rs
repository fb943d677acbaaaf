//! Single values of a policy: strings with wildcards, address blocks, ports, service accounts.

use std::net::IpAddr;

pub(crate) use fairway_proto::security::string_match::MatchType;
use fairway_proto::security::{Address, ServiceAccountMatch, StringMatch};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::translate::service::octets;

/// Bits before an IPv4 address in an IPv6 address that holds one.
const MAPPED: u8 = 96;

/// `x` exact, `x*` prefix, `*x` suffix, `*` anything that is not empty (api-surface A2.1).
pub(crate) fn string(text: &str) -> Result<StringMatch, String> {
    let inner = text.strip_prefix('*').unwrap_or(text);
    let inner = if inner.len() == text.len() { inner.strip_suffix('*').unwrap_or(inner) } else { inner };
    if inner.contains('*') {
        return Err(format!("{text:?} has a '*' that is neither its first nor its last character, or two of them"));
    }
    let owned = inner.to_owned();
    let match_type = match (text.starts_with('*'), text.ends_with('*')) {
        _ if text.is_empty() => return Err("is empty".to_owned()),
        _ if text == "*" => MatchType::Presence(()),
        (true, _) => MatchType::Suffix(owned),
        (false, true) => MatchType::Prefix(owned),
        (false, false) => MatchType::Exact(owned),
    };
    Ok(of(match_type))
}

/// A SPIFFE identity without its scheme.
pub(crate) fn principal(text: &str) -> Result<StringMatch, String> {
    if text.contains("://") {
        return Err(format!(
            "{text:?} must be written without spiffe://, as <trust domain>/ns/<namespace>/sa/<account>"
        ));
    }
    string(text)
}

/// A trust domain is what a principal starts with, so only the forms that fix its start can be checked.
pub(crate) fn trust_domain(text: &str) -> Result<StringMatch, String> {
    if text.contains('/') {
        return Err(format!("{text:?} is not a trust domain"));
    }
    match string(text)?.match_type {
        Some(MatchType::Exact(name)) => Ok(of(MatchType::Prefix(format!("{name}/")))),
        Some(MatchType::Suffix(_)) => {
            Err(format!("{text:?} starts with '*', which is not supported for trust domains"))
        }
        other => Ok(StringMatch { match_type: other }),
    }
}

fn of(match_type: MatchType) -> StringMatch {
    StringMatch { match_type: Some(match_type) }
}

/// An address, or a block in CIDR notation.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let parsed = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither an IP address nor a block such as 10.0.0.0/8"))?;
    Ok(unmapped(parsed).trunc())
}

/// IPv4 in IPv6's clothes (RFC 4291 §2.5.5.2) is IPv4, as in addresses of connections.
fn unmapped(block: IpNet) -> IpNet {
    let plain = |block: Ipv6Net| {
        Ipv4Net::new(block.addr().to_ipv4_mapped()?, block.prefix_len().checked_sub(MAPPED)?).ok().map(IpNet::from)
    };
    match block {
        IpNet::V6(mapped) => plain(mapped).unwrap_or(block),
        IpNet::V4(_) => block,
    }
}

/// The same, as proxies have it.
pub(crate) fn block(text: &str) -> Result<Address, String> {
    let parsed = network(text)?;
    Ok(Address { address: octets(parsed.network()), length: parsed.prefix_len().into() })
}

/// A port number.
pub(crate) fn port(text: &str) -> Result<u32, String> {
    match text.parse::<u16>() {
        Ok(number) if number != 0 && !text.starts_with('+') => Ok(number.into()),
        _ => Err(format!("{text:?} is not a port number from 1 to 65535")),
    }
}

/// `<namespace>/<account>` or, in the policy's namespace, `<account>`.
pub(crate) fn service_account(text: &str, namespace: &str) -> Result<ServiceAccountMatch, String> {
    let (namespace, account) = text.split_once('/').unwrap_or((namespace, text));
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
    };
    if !is_name(namespace) || !is_name(account) {
        return Err(format!("{text:?} is neither <account> nor <namespace>/<account>; wildcards are not allowed"));
    }
    Ok(ServiceAccountMatch { namespace: namespace.to_owned(), service_account: account.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings() {
        let rows = [
            ("a", Some(MatchType::Exact("a".to_owned()))),
            ("a*", Some(MatchType::Prefix("a".to_owned()))),
            ("*a", Some(MatchType::Suffix("a".to_owned()))),
            ("*", Some(MatchType::Presence(()))),
            ("", None),
            ("**", None),
            ("*a*", None),
            ("a*b", None),
        ];
        for (text, expected) in rows {
            assert_eq!(string(text).ok().and_then(|it| it.match_type), expected, "{text:?}");
        }
    }

    #[test]
    fn trust_domains() {
        let rows = [
            ("td", Some(MatchType::Prefix("td/".to_owned()))),
            ("td*", Some(MatchType::Prefix("td".to_owned()))),
            ("*", Some(MatchType::Presence(()))),
            ("*td", None),
            ("td/ns", None),
        ];
        for (text, expected) in rows {
            assert_eq!(trust_domain(text).ok().and_then(|it| it.match_type), expected, "{text:?}");
        }
    }

    #[test]
    fn blocks() {
        let rows = [
            ("10.1.2.3", Some((vec![10, 1, 2, 3], 32))),
            ("10.1.2.3/8", Some((vec![10, 0, 0, 0], 8))),
            ("0.0.0.0/0", Some((vec![0, 0, 0, 0], 0))),
            ("fd00::/8", Some(([&[0xfd_u8][..], &[0; 15]].concat(), 8))),
            ("::ffff:10.1.2.3", Some((vec![10, 1, 2, 3], 32))),
            ("::ffff:10.1.2.3/104", Some((vec![10, 0, 0, 0], 8))),
            ("::/0", Some((vec![0; 16], 0))),
            ("10.0.0.0/33", None),
            ("10.0.0", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(block(text).ok().map(|it| (it.address, it.length)), expected, "{text:?}");
        }
    }

    #[test]
    fn ports() {
        for (text, expected) in [
            ("1", Some(1)),
            ("65535", Some(65535)),
            ("0", None),
            ("65536", None),
            ("+1", None),
            ("http", None),
            ("", None),
        ] {
            assert_eq!(port(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn service_accounts() {
        let pair = |text| service_account(text, "own").ok().map(|it| (it.namespace, it.service_account));
        assert_eq!(pair("a"), Some(("own".to_owned(), "a".to_owned())));
        assert_eq!(pair("ns/a"), Some(("ns".to_owned(), "a".to_owned())));
        for text in ["", "/a", "ns/", "ns/*", "a/b/c"] {
            assert_eq!(pair(text), None, "{text:?}");
        }
    }
}
