//! Heads of requests: bytes that the server of the waypoint reads as HTTP/1, and heads as HTTP/2 gives them.

use std::convert::Infallible;

use fairway_core::upgrade::Upgrades;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Version, request};
use hyper::ext::Protocol;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::Builder;

use fairway_core::ident::Identity;
use fairway_waypoint::config::Proxies;
use fairway_waypoint::{framing, path, remote, request as judged, upgrade};

use crate::input::Input;

/// What means something only between two neighbours, and must not get to an endpoint.
const OURS: [&str; 7] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// The first byte says which version, the rest is bytes of a connection or pieces of a head.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte() & 1 == 0 {
        over_http1(input.rest());
    } else if let Some(request) = over_http2(&mut input) {
        judge(request);
    }
}

/// Everything that a client says on one connection.
fn over_http1(bytes: &[u8]) {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (near, far) = duplex(1 << 16);
        let service = service_fn(|mut request: Request<hyper::body::Incoming>| async move {
            if framing::check(&request).is_ok() {
                let wanted = request.headers().get(header::UPGRADE).cloned();
                let is_connect = request.method() == Method::CONNECT;
                let mut allowed = Upgrades::usual();
                allowed.allow("connect").expect("a name that is known");
                let asked = upgrade::asked(&mut request, &allowed);
                assert!(asked.is_none() || wanted.is_some() || is_connect, "goes on as what nobody has asked for");
                assert_eq!(asked.is_some_and(|asked| asked.is_tunnel()), is_connect, "CONNECT alone opens a tunnel");
                let (parts, _body) = request.into_parts();
                judge(Request::from_parts(parts, ()));
            }
            Ok::<_, Infallible>(Response::new(String::new()))
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(near), service).with_upgrades();
        let client = async {
            let (mut read, mut write) = tokio::io::split(far);
            let send = async {
                // The server may have had enough.
                let _ = write.write_all(bytes).await;
                let _ = write.shutdown().await;
            };
            let receive = async {
                let mut buffer = vec![0; 1 << 14];
                while let Ok(1..) = read.read(&mut buffer).await {}
            };
            tokio::join!(send, receive);
        };
        // How it ends is the server's affair.
        let (_ended, ()) = tokio::join!(serving, client);
    });
}

fn over_http2(input: &mut Input<'_>) -> Option<Request<()>> {
    let shape = input.byte();
    let method = Method::from_bytes(input.piece()).ok()?;
    let mut request = Request::builder().version(Version::HTTP_2).method(method).uri(input.text()).body(()).ok()?;
    if shape & 1 > 0 {
        request.extensions_mut().insert(Protocol::from_static("websocket"));
    }
    while !input.is_empty() {
        let (name, value) = (HeaderName::from_bytes(input.piece()), HeaderValue::from_bytes(input.piece()));
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().try_append(name, value).ok()?;
        }
    }
    Some(request)
}

/// What passes is said in one way only, and what is meant for us goes no further.
fn judge(request: Request<()>) {
    let verdict = framing::check(&request);
    assert_eq!(verdict, framing::check(&request), "the same each time");
    if verdict.is_err() {
        return;
    }
    let (parts, ()) = request.into_parts();
    sound(&parts);
    if let Some(authority) = judged::authority(&parts) {
        let odd = |byte: u8| !byte.is_ascii_graphic() || b"/?#@\\".contains(&byte);
        assert!(!authority.is_empty() && !authority.bytes().any(odd), "{authority:?}");
    }
    if let Ok(normal) = path::normalise(parts.uri.path(), true) {
        assert!(normal == "*" || normal.starts_with('/'), "{normal:?}");
    }
    stripped(&parts.headers);
    told(&parts.headers);
}

/// Where a request comes from is the word of the proxies that are believed: whoever wrote lines before theirs changes nothing of it.
fn told(headers: &HeaderMap) {
    let identity = Identity::new("cluster.local", "shop", "gateway").expect("an identity");
    let source = [10, 0, 0, 1].into();
    let mut forged = HeaderMap::new();
    forged.append(remote::FORWARDED_FOR, HeaderValue::from_static("192.0.2.1,198.51.100.1"));
    forged.extend(remote::said(headers));
    for hops in 1..4 {
        let mut proxies = Proxies { hops, ..Proxies::default() };
        let is_own = remote::address(&proxies, &identity, source, headers) == Some(source);
        assert_eq!(is_own, !headers.contains_key(remote::FORWARDED_FOR), "who is nobody is believed");
        proxies.trusted.insert(identity.as_str().to_owned());
        if let Some(found) = remote::address(&proxies, &identity, source, headers) {
            assert_eq!(remote::address(&proxies, &identity, source, &forged), Some(found), "{headers:?}");
        }
    }
}

fn sound(parts: &request::Parts) {
    let all = |name: HeaderName| parts.headers.get_all(name).iter().collect::<Vec<_>>();
    let (lengths, codings, hosts) = (all(header::CONTENT_LENGTH), all(header::TRANSFER_ENCODING), all(header::HOST));
    assert!(lengths.len() + codings.len() <= 1, "one length: {lengths:?}, {codings:?}");
    assert!(lengths.iter().all(|it| !it.is_empty() && it.as_bytes().iter().all(u8::is_ascii_digit)), "{lengths:?}");
    let is_chunked = |it: &&HeaderValue| it.as_bytes().eq_ignore_ascii_case(b"chunked");
    assert!(codings.iter().all(is_chunked) && (codings.is_empty() || parts.version == Version::HTTP_11), "{codings:?}");
    assert!(hosts.len() <= 1 && (parts.uri.authority().is_some() || hosts.len() == 1), "{hosts:?}");
    if parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_none() {
        let authority = parts.uri.authority().expect("CONNECT says where to");
        assert!(
            parts.uri.path_and_query().is_none() && authority.port_u16().is_some_and(|port| port > 0),
            "{authority}"
        );
        assert!(codings.is_empty() && lengths.iter().all(|it| it.as_bytes().iter().all(|digit| *digit == b'0')));
    }
}

fn stripped(headers: &HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !matches!(name.as_str(), "host" | "content-length" | "te"))
        .collect();
    let mut onward = headers.clone();
    framing::remove_hop_by_hop(&mut onward);
    assert!(named.iter().all(|name| !onward.contains_key(name)), "{named:?} in {onward:?}");
    assert!(OURS.iter().all(|name| !onward.contains_key(*name)), "{onward:?}");
    assert!(onward.get_all(header::TE).iter().all(|te| te == "trailers"), "{onward:?}");
    for kept in [header::HOST, header::CONTENT_LENGTH] {
        assert!(headers.get_all(&kept).iter().eq(onward.get_all(&kept).iter()), "{kept} stays");
    }
    let mut again = onward.clone();
    framing::remove_hop_by_hop(&mut again);
    assert_eq!(onward, again, "what is gone stays so");
}
