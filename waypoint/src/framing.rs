//! Refuses requests that two servers could read in two ways (RFC 9112 §11.2), before anything is decided about them.

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Request, Response, Version};
use hyper::ext::Protocol;

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
    /// A method that is not carried.
    #[error("CONNECT is not carried")]
    Connect,
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
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        return Err(TwoEnds);
    }
    Ok(())
}

/// Whether everybody would read the request in the same way.
///
/// # Errors
/// What could be read in two ways.
pub fn check<B>(request: &Request<B>) -> Result<(), BadFraming> {
    let headers = request.headers();
    // One that names a protocol opens no tunnel to elsewhere: it is an upgrade (RFC 8441 §4).
    if request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none() {
        return Err(BadFraming::Connect);
    }
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
        (None, None) => Err(BadFraming::NoHost),
        (Some(authority), Some(host))
            if is_http2 && !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) =>
        {
            Err(BadFraming::Hosts)
        }
        _ => Ok(()),
    }
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
