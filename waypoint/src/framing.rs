//! Refuses requests that two servers could read in two ways (RFC 9112 §11.2), before anything is decided about them.

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Request, Response, Version};
use hyper::ext::Protocol;

use crate::upgrade;

/// Names that only mean something between two neighbours (RFC 9110 §7.6.1), besides those that `connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    // Of an upgrade that is never taken up (RFC 9113 §3.1).
    HeaderName::from_static("http2-settings"),
];

/// What means something only before a body, besides names that mean something between two neighbours: it frames a message, says where
/// it goes or who sends it, and whoever merges trailers into headers would believe it (RFC 9110 §6.5.1).
const NO_TRAILERS: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRAILER,
    header::AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-client-cert"),
];

/// What is wrong with a request's framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFraming {
    /// Its length is said in two ways.
    #[error("the request has a content-length and a transfer-encoding")]
    TwoLengths,
    /// Lengths that differ, or that are none.
    #[error("the request has a content-length that is no single number")]
    Length,
    /// A coding that is not understood, or one for messages that have none.
    #[error("the request has a transfer-encoding other than chunked")]
    Coding,
    /// Several hosts.
    #[error("the request names several hosts")]
    Hosts,
    /// No host.
    #[error("the request names no host")]
    NoHost,
    /// A tunnel is not opened to that.
    #[error("CONNECT names something else than a host and a port (RFC 9112 §3.2.3)")]
    ConnectTarget,
    /// What would be content may be bytes for the tunnel.
    #[error("CONNECT has no content (RFC 9110 §9.3.6)")]
    ConnectContent,
}

/// An answer of which two readers would see two different ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer has a content-length and a transfer-encoding")]
pub struct TwoEnds;

/// Whether everybody would read the answer in the same way. Lengths that differ are the parser's to refuse.
///
/// # Errors
/// When it has two ends.
pub fn check_answer<B>(answer: &Response<B>) -> Result<(), TwoEnds> {
    let headers = answer.headers();
    let has_both = headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH);
    if has_both && !upgrade::has_begun(answer) { Err(TwoEnds) } else { Ok(()) }
}

/// Whether everybody would read the request in the same way.
///
/// # Errors
/// What could be read in two ways.
pub fn check<B>(request: &Request<B>) -> Result<(), BadFraming> {
    let headers = request.headers();
    let is_http2 = request.version() == Version::HTTP_2;
    let codings = headers.get_all(header::TRANSFER_ENCODING);
    let mut coded = false;
    for coding in codings {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !chunked || coded || is_http2 || request.version() == Version::HTTP_10 {
            return Err(BadFraming::Coding);
        }
        coded = true;
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next() {
        if coded {
            return Err(BadFraming::TwoLengths);
        }
        let digits = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
        if !digits || lengths.next().is_some() {
            return Err(BadFraming::Length);
        }
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(BadFraming::Hosts);
    }
    match (request.uri().authority(), host) {
        (None, None) => return Err(BadFraming::NoHost),
        (Some(authority), Some(host))
            if is_http2 && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            return Err(BadFraming::Hosts);
        }
        _ => {}
    }
    // One that names a protocol opens no tunnel to elsewhere: it is an upgrade (RFC 8441 §4).
    if request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none() {
        check_connect(request, coded)?;
    }
    Ok(())
}

/// CONNECT names a host and a port and nothing else (RFC 9112 §3.2.3, RFC 9113 §8.5), and has no content: after it a sender may go on
/// with bytes for the tunnel at once, and readers would disagree about which they are.
fn check_connect<B>(request: &Request<B>, coded: bool) -> Result<(), BadFraming> {
    let uri = request.uri();
    let is_alone = uri.scheme().is_none() && uri.path_and_query().is_none();
    let authority = uri.authority().filter(|_| is_alone).ok_or(BadFraming::ConnectTarget)?;
    let (host, port) = (authority.host(), authority.port());
    let is_named = !host.is_empty() && !host.ends_with('.') && !authority.as_str().contains('@');
    // Here they are where the tunnel leads to. Spelt in another way (`db.example.:022`) they would be that all the same, and nothing that
    // a policy names.
    let is_plain = port.is_some_and(|port| port.as_u16() != 0 && port.as_str() == port.as_u16().to_string());
    if !is_named || !is_plain {
        return Err(BadFraming::ConnectTarget);
    }
    let is_zero = |length: &http::HeaderValue| length.as_bytes().iter().all(|digit| *digit == b'0');
    if coded || request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| !is_zero(length)) {
        return Err(BadFraming::ConnectContent);
    }
    Ok(())
}

/// Removes what the client says is meant for us alone, and that it does. To be done before headers are written or looked at: a
/// client could have what we say of it taken away, and policies asked about what no endpoint gets.
pub fn remove_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // What frames and addresses the message is not the client's to take away, and the rest is looked at first.
        .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH && !HOP_BY_HOP.contains(name))
        .collect();
    headers.remove(header::CONNECTION);
    for name in &named {
        headers.remove(name);
    }
}

/// Removes what trailers of a request may not say.
pub fn remove_from_trailers(trailers: &mut HeaderMap) {
    for name in NO_TRAILERS.iter().chain(&HOP_BY_HOP) {
        trailers.remove(name);
    }
}

/// The same, where a proxy is behind us: its challenges, and credentials for it, are for the one that asks for them, which is not us
/// (RFC 9110 §11.7).
pub fn remove_hop_by_hop_before_proxy(headers: &mut HeaderMap) {
    let its_own = [header::PROXY_AUTHENTICATE, header::PROXY_AUTHORIZATION];
    let lines = its_own.iter().flat_map(|name| headers.get_all(name).iter().map(|line| (name.clone(), line.clone())));
    let kept: Vec<_> = lines.collect();
    remove_hop_by_hop(headers);
    headers.extend(kept);
}

/// Removes what was meant for us, not for who is behind us.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    remove_named(headers);
    let codings = headers.get_all(header::TE).iter().filter_map(|line| line.to_str().ok());
    let trailers =
        codings.flat_map(|line| line.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        // gRPC asks whether everybody on the way passes trailers on; we do.
        headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        type Row = (&'static str, Version, &'static [(&'static str, &'static str)], Result<(), BadFraming>);
        let rows: [Row; 13] = [
            ("/", Version::HTTP_11, &[("host", "a")], Ok(())),
            ("/", Version::HTTP_11, &[], Err(BadFraming::NoHost)),
            ("/", Version::HTTP_11, &[("host", "a"), ("host", "a")], Err(BadFraming::Hosts)),
            ("/", Version::HTTP_11, &[("host", "a"), ("content-length", "3")], Ok(())),
            ("/", Version::HTTP_11, &[("host", "a"), ("content-length", "+3")], Err(BadFraming::Length)),
            (
                "/",
                Version::HTTP_11,
                &[("host", "a"), ("content-length", "3"), ("content-length", "3")],
                Err(BadFraming::Length),
            ),
            ("/", Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "chunked")], Ok(())),
            ("/", Version::HTTP_11, &[("host", "a"), ("transfer-encoding", "gzip, chunked")], Err(BadFraming::Coding)),
            ("/", Version::HTTP_10, &[("host", "a"), ("transfer-encoding", "chunked")], Err(BadFraming::Coding)),
            (
                "/",
                Version::HTTP_11,
                &[("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "3")],
                Err(BadFraming::TwoLengths),
            ),
            ("http://a/", Version::HTTP_2, &[("host", "b")], Err(BadFraming::Hosts)),
            ("http://a/", Version::HTTP_2, &[("host", "A")], Ok(())),
            ("http://a/", Version::HTTP_2, &[("transfer-encoding", "chunked")], Err(BadFraming::Coding)),
        ];
        for (uri, version, headers, expected) in rows {
            let mut request = Request::builder().uri(uri).version(version);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            assert_eq!(check(&request.body(()).unwrap()), expected, "{uri} {version:?} {headers:?}");
        }
    }

    #[test]
    fn connect_names_a_host_and_a_port_and_has_no_content() {
        use BadFraming::{ConnectContent, ConnectTarget, NoHost, TwoLengths};
        type Row = (&'static str, &'static [(&'static str, &'static str)], Result<(), BadFraming>);
        let rows: [Row; 20] = [
            ("a:443", &[("host", "a:443")], Ok(())),
            ("a:443", &[], Ok(())),
            // The target counts (RFC 9112 §3.2.2).
            ("a:443", &[("host", "b:80")], Ok(())),
            ("[2001:db8::1]:443", &[], Ok(())),
            ("a:443", &[("content-length", "0")], Ok(())),
            ("a:443", &[("content-length", "3")], Err(ConnectContent)),
            ("a:443", &[("transfer-encoding", "chunked")], Err(ConnectContent)),
            ("a:443", &[("transfer-encoding", "chunked"), ("content-length", "0")], Err(TwoLengths)),
            ("a", &[("host", "a")], Err(ConnectTarget)),
            ("a:0", &[], Err(ConnectTarget)),
            ("a:65536", &[], Err(ConnectTarget)),
            ("a:0443", &[], Err(ConnectTarget)),
            ("a:+443", &[], Err(ConnectTarget)),
            ("a.:443", &[], Err(ConnectTarget)),
            ("user@a:443", &[], Err(ConnectTarget)),
            ("http://a:443", &[], Err(ConnectTarget)),
            ("http://a:443/", &[], Err(ConnectTarget)),
            ("/", &[("host", "a:443")], Err(ConnectTarget)),
            ("*", &[("host", "a:443")], Err(ConnectTarget)),
            ("*", &[], Err(NoHost)),
        ];
        for (uri, headers, expected) in rows {
            let mut request = Request::builder().method("CONNECT").uri(uri).version(Version::HTTP_11);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            assert_eq!(check(&request.body(()).unwrap()), expected, "{uri} {headers:?}");
        }
        let mut websocket = Request::connect("http://a/chat").version(Version::HTTP_2).body(()).unwrap();
        assert_eq!(check(&websocket), Err(ConnectTarget));
        websocket.extensions_mut().insert(Protocol::from_static("websocket"));
        assert_eq!(check(&websocket), Ok(()));
    }

    #[test]
    fn what_is_meant_for_us_goes_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine, host"),
            ("x-mine", "1"),
            ("host", "a"),
            ("te", "deflate;q=0.5, trailers"),
            ("keep-alive", "1"),
            ("x", "1"),
        ] {
            headers.append(name, http::HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "te", "x"]);
    }
}
