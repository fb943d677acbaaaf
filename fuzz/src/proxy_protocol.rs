//! The PROXY protocol header we write, read by an independent reader; identities as text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fairway_core::ident::Identity;
use fairway_core::proxy_protocol::header;

use crate::input::Input;

/// Two addresses, and a text that may be an identity.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let families = input.byte();
    let (source, destination) = (address(&mut input, families & 1 > 0), address(&mut input, families & 2 > 0));
    let identity = std::str::from_utf8(input.rest()).ok().and_then(|text| text.parse::<Identity>().ok());
    if let Some(identity) = &identity {
        let parts = Identity::new(identity.trust_domain(), identity.namespace(), identity.service_account());
        assert_eq!(parts.as_ref(), Ok(identity), "taken apart and put together");
        assert_eq!(identity.as_str(), format!("spiffe://{}", identity.principal()));
    }
    let bytes = header(source, destination, identity.as_ref());
    let read = read(&bytes).expect("what we write can be read");
    let clothed = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) if source.is_ipv4() != destination.is_ipv4() => {
            SocketAddr::new(ip.to_ipv6_mapped().into(), address.port())
        }
        ip => SocketAddr::new(ip, address.port()),
    };
    assert_eq!(read, (clothed(source), clothed(destination), identity.map(|identity| identity.as_str().to_owned())));
}

fn address(input: &mut Input<'_>, ipv6: bool) -> SocketAddr {
    let ip: IpAddr = if ipv6 { input.array::<16>().into() } else { input.array::<4>().into() };
    SocketAddr::new(ip, input.number())
}

/// Version 2 as its specification has it, section 2.2.
fn read(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr, Option<String>)> {
    let mut rest = Input::new(bytes.strip_prefix(b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A\x21")?);
    let family = rest.byte();
    let length = usize::from(rest.number());
    let mut rest = Input::new(rest.rest());
    assert_eq!(length, bytes.len() - 16, "the length covers the rest");
    let (source, destination): (IpAddr, IpAddr) = match family {
        0x11 => (Ipv4Addr::from(rest.array()).into(), Ipv4Addr::from(rest.array()).into()),
        0x21 => (Ipv6Addr::from(rest.array()).into(), Ipv6Addr::from(rest.array()).into()),
        _ => return None,
    };
    let (from, to) = (rest.number(), rest.number());
    let mut identity = None;
    while !rest.is_empty() {
        let kind = rest.byte();
        let value = rest.text();
        if kind == 0xD0 {
            identity = Some(value.to_owned());
        }
    }
    Some((SocketAddr::new(source, from), SocketAddr::new(destination, to), identity))
}
