//! Where a client is whose requests come by way of proxies: what those say of it who are believed, and nobody else.

use std::net::{IpAddr, SocketAddr};

use fairway_core::ident::Identity;
use http::HeaderMap;
use http::header::HeaderName;

use crate::config::Proxies;

/// `x-forwarded-for`: addresses of clients, each written by the proxy that it has dialled.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Where a request comes from whose tunnel `identity` has opened at `source`; none where nobody who is believed says so.
///
/// Without proxies it is the end of the tunnel, whatever the request says. With some, a client that is none of them and says nothing of
/// others is the end of the tunnel, too; where it does speak of others, it makes them up or is a proxy that nobody has named.
#[must_use]
pub fn address(proxies: &Proxies, identity: &Identity, source: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
    if proxies.hops == 0 {
        return Some(source.to_canonical());
    }
    if proxies.trusted.contains(identity.as_str()) {
        return from_the_end(headers, proxies.hops);
    }
    (!headers.contains_key(FORWARDED_FOR)).then(|| source.to_canonical())
}

/// What is said of where a request comes from, and nothing else of it.
#[must_use]
pub fn said(headers: &HeaderMap) -> HeaderMap {
    headers.get_all(FORWARDED_FOR).iter().map(|line| (FORWARDED_FOR, line.clone())).collect()
}

/// The `place`th address from the end, counted from one; none where there are fewer, or where it is none. Several lines are one list
/// (RFC 9110 §5.3), in which an empty element counts as with Envoy: nobody knows who has left it out.
fn from_the_end(headers: &HeaderMap, place: usize) -> Option<IpAddr> {
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let elements = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let mut elements = elements.skip(place.checked_sub(1)?);
    parse(elements.next()?)
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn parse(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?.trim_matches([' ', '\t']);
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let address = text.parse().ok().or_else(bare);
    // A zone (RFC 4007 §11) means something to its own host alone.
    let socket = || text.parse().ok().filter(|_| !text.contains('%'));
    let address = address.or_else(|| socket().map(|socket: SocketAddr| socket.ip()));
    address.as_ref().map(IpAddr::to_canonical)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        lines.iter().map(|line| (FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap())).collect()
    }

    fn account(name: &str) -> Identity {
        Identity::new("cluster.local", "shop", name).unwrap()
    }

    fn proxies(hops: usize) -> Proxies {
        Proxies { hops, trusted: [account("gateway").as_str().to_owned()].into() }
    }

    const SOURCE: &str = "10.0.0.1";

    /// Where requests come from that a gateway that is believed, and another client, sends with these lines.
    #[test]
    fn who_is_believed_tells_where_a_request_comes_from() {
        let own = Some(SOURCE);
        type Row<'a> = (&'a str, usize, &'a [&'a [u8]], Option<&'a str>, Option<&'a str>);
        let rows: [Row<'_>; 25] = [
            ("no proxies, nothing said", 0, &[], own, own),
            ("no proxies, something said", 0, &[b"192.0.2.1"], own, own),
            ("one, nothing said", 1, &[], None, own),
            ("one", 1, &[b"192.0.2.1"], Some("192.0.2.1"), None),
            ("one of two", 1, &[b"192.0.2.1, 192.0.2.2"], Some("192.0.2.2"), None),
            ("one of two lines", 1, &[b"192.0.2.1", b"192.0.2.2"], Some("192.0.2.2"), None),
            ("two of two lines", 2, &[b"192.0.2.1", b"192.0.2.2"], Some("192.0.2.1"), None),
            ("two of lines of several", 2, &[b"192.0.2.1,192.0.2.2", b"192.0.2.3"], Some("192.0.2.2"), None),
            ("two of one", 2, &[b"192.0.2.1"], None, None),
            ("three of two", 3, &[b"192.0.2.1,192.0.2.2"], None, None),
            ("more than anybody counts", usize::MAX, &[b"192.0.2.1"], None, None),
            ("white space", 1, &[b"\t 192.0.2.1 \t"], Some("192.0.2.1"), None),
            ("nothing", 1, &[b""], None, None),
            ("an empty one at the end", 1, &[b"192.0.2.1,"], None, None),
            ("an empty one counts", 2, &[b"192.0.2.1,,192.0.2.2"], None, None),
            ("a port", 1, &[b"192.0.2.1:4000"], Some("192.0.2.1"), None),
            ("IPv6", 1, &[b"2001:DB8::1"], Some("2001:db8::1"), None),
            ("IPv6 in brackets", 1, &[b"[2001:db8::1]"], Some("2001:db8::1"), None),
            ("IPv6 and a port", 1, &[b"[2001:db8::1]:4000"], Some("2001:db8::1"), None),
            ("IPv4 in IPv6", 1, &[b"::ffff:192.0.2.1"], Some("192.0.2.1"), None),
            ("a zone", 1, &[b"fe80::1%eth0"], None, None),
            ("a zone and a port", 1, &[b"[fe80::1%1]:4000"], None, None),
            ("a name", 1, &[b"unknown"], None, None),
            ("another notation", 1, &[b"192.0.2.010"], None, None),
            ("no text", 1, &[b"192.0.2.1\xff"], None, None),
        ];
        for (name, hops, lines, gateway, client) in rows {
            let found = |who| address(&proxies(hops), &account(who), SOURCE.parse().unwrap(), &headers(lines));
            let expected = |text: Option<&str>| text.map(|text| text.parse::<IpAddr>().unwrap());
            assert_eq!((found("gateway"), found("client")), (expected(gateway), expected(client)), "{name}");
        }
    }

    #[test]
    fn a_tunnel_from_a_mapped_address_is_one_from_the_address() {
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        for hops in [0, 1] {
            let found = address(&proxies(hops), &account("client"), mapped, &HeaderMap::new());
            assert_eq!(found, Some(SOURCE.parse().unwrap()));
        }
    }

    proptest! {
        /// What a client writes before it changes nothing of what believed proxies have appended.
        #[test]
        fn nobody_before_the_proxies_has_a_say(
            before in prop::collection::vec("[ -~]{0,20}", 0..4),
            appended in prop::collection::vec(any::<IpAddr>(), 1..5),
            cuts in any::<u8>(),
        ) {
            let before: Vec<Vec<u8>> = before.into_iter().map(String::into_bytes).collect();
            let mut lines: Vec<Vec<u8>> = before;
            for (index, address) in appended.iter().enumerate() {
                match lines.last_mut() {
                    Some(last) if cuts & (1 << index) == 0 => last.extend(format!(",{address}").into_bytes()),
                    _ => lines.push(address.to_string().into_bytes()),
                }
            }
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            let (headers, source) = (headers(&lines), SOURCE.parse().unwrap());
            for (index, expected) in appended.iter().rev().enumerate() {
                let found = address(&proxies(index + 1), &account("gateway"), source, &headers);
                prop_assert_eq!(found, Some(expected.to_canonical()));
                prop_assert_eq!(address(&proxies(index + 1), &account("client"), source, &headers), None);
            }
        }

        /// Whatever is said, it is taken for an address only where it is one.
        #[test]
        fn any_bytes_are_an_address_or_nothing(line in prop::collection::vec(any::<u8>(), 0..40), hops in 1_usize..5) {
            let Ok(value) = HeaderValue::from_bytes(&line) else { return Ok(()) };
            let said: HeaderMap = [(FORWARDED_FOR, value)].into_iter().collect();
            if let Some(found) = address(&proxies(hops), &account("gateway"), SOURCE.parse().unwrap(), &said) {
                let text = String::from_utf8_lossy(&line);
                let element = text.rsplit(',').nth(hops - 1).unwrap().trim().to_owned();
                let bare = element.trim_start_matches('[').split(']').next().unwrap();
                let is_it = |text: &str| text.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == found);
                let host = element.rsplit_once(':').map_or("", |(host, _port)| host);
                prop_assert!(is_it(&element) || is_it(bare) || is_it(host), "{element:?} is {found}");
            }
        }
    }
}
