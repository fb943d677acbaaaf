//! What a CONNECT request says: its authority on the first line of the input, its headers on the others.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_core::addr::Authority;
use fairway_core::ident::Identity;
use fairway_core::io::hbone::headers::{
    BAGGAGE, Baggage, CLIENT_CERTIFICATE, PROXY_STATUS, TRACEPARENT, client_certificate, forwarded, forwarded_host,
    original, proxy_status, proxy_status_reason,
};
use fairway_core::reason::Reason;
use fairway_core::route::{self, is_illegal_port};
use fairway_core::snapshot::Snapshot;
use fairway_core::workload::Workload;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use crate::world;

/// Reads the request as every arriving tunnel stream is read.
pub fn run(data: &[u8]) {
    thread_local!(static WORLD: Arc<Snapshot> = world::snapshot());
    let mut lines = data.split(|byte| *byte == b'\n');
    if let Some(Ok(authority)) = lines.next().map(std::str::from_utf8) {
        WORLD.with(|world| target(world, authority));
    }
    headers(&lines.filter_map(header).collect());
}

/// Every authority at every pod: what is let through keeps to the address it came to and off our own ports.
pub(crate) fn target(world: &Snapshot, text: &str) {
    let parsed = text.parse::<Authority>();
    if let Ok(authority) = &parsed {
        assert_ne!(authority.port(), 0);
        assert_eq!(authority.to_string().parse().as_ref(), Ok(authority), "written and read again");
        if let Authority::Address(address) = authority {
            assert_eq!(address.ip(), address.ip().to_canonical());
        }
    }
    for local in world.workloads() {
        let own = SocketAddr::new(local.addresses[0], 15008);
        match route::inbound(world, local, own, text) {
            Ok(arrival) => {
                let authority = parsed.as_ref().expect("only an authority leads somewhere");
                assert_eq!(arrival.destination.ip(), own.ip(), "the address is the one the tunnel came to");
                assert!(!is_illegal_port(arrival.destination.port()) && arrival.destination.port() != 0);
                assert_eq!(arrival.dial.port(), arrival.destination.port());
                if let Authority::Address(asked) = authority {
                    assert!(asked.ip() == own.ip() || is_exempt(local, asked.ip()), "{text} at {own}");
                }
            }
            Err(refusal) => {
                let status = refusal.reason.http_status();
                assert!(matches!(status, 400 | 503), "{text}: {status}");
                assert!(parsed.is_ok() || refusal.reason == Reason::BadRequest);
            }
        }
    }
}

/// The two who may be asked for others' addresses: a pod with an application tunnel, and a waypoint for its service.
fn is_exempt(local: &Workload, asked: IpAddr) -> bool {
    local.application_tunnel.is_some()
        || (local.addresses[0] == IpAddr::from(world::WAYPOINT) && asked == IpAddr::from(world::VIP))
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = match line.split_first()? {
        (b'f', value) => (FORWARDED, value),
        (b'p', value) => (PROXY_STATUS, value),
        (b't', value) => (TRACEPARENT, value),
        (b'x', value) => (CLIENT_CERTIFICATE, value),
        (_, value) => (BAGGAGE, value),
    };
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

/// Reads the headers; what is understood can be said again and is then understood the same.
pub(crate) fn headers(headers: &HeaderMap) {
    let baggage = Baggage::parse(headers);
    match baggage.to_value() {
        // Of several lines none may be too long alone, but all of them can be together.
        Some(line) if line.len() <= 8192 => {
            assert_eq!(Baggage::parse(&HeaderMap::from_iter([(BAGGAGE, line)])), baggage);
        }
        Some(_) => {}
        None => assert_eq!(baggage, Baggage::default()),
    }
    if let Some(host) = forwarded_host(headers) {
        assert!(!host.is_empty());
        let client = SocketAddr::from(([10, 0, 0, 9], 1234));
        if !host.contains(['"', ';']) && host.trim() == host {
            let line = forwarded(client, Some(host)).expect("it came in a header");
            let again = HeaderMap::from_iter([(FORWARDED, line)]);
            assert_eq!(forwarded_host(&again), Some(host));
        }
    }
    let way = Identity::new("cluster.local", "shop", "waypoint").expect("a waypoint of ours has a sound name");
    if let Some(said) = original(headers, &way) {
        assert_eq!(said.address.ip(), said.address.ip().to_canonical());
        let lines = [
            (CLIENT_CERTIFICATE, client_certificate(&way, &said.identity)),
            (FORWARDED, forwarded(said.address, None)),
        ];
        let again = lines.into_iter().map(|(name, line)| (name, line.expect("it came in a header"))).collect();
        assert_eq!(original(&again, &way), Some(said), "written and read again");
    }
    if let Some(reason) = proxy_status_reason(headers) {
        let line = proxy_status(reason).expect("reasons fit into headers");
        assert_eq!(proxy_status_reason(&HeaderMap::from_iter([(PROXY_STATUS, line)])), Some(reason));
    }
}
