//! What a request asks to go on as, such as WebSocket (RFC 9110 §7.8) or a tunnel (RFC 9110 §9.3.6), and whether the answer is to that.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fairway_core::upgrade::{ANNOTATION, Upgrades, is_websocket};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, request, response};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use crate::framing;

/// What a client asks for.
pub struct Asked {
    /// What it wants to go on as, of what it may.
    pub wanted: Wanted,
    /// Its end, once the endpoint has agreed.
    pub client: OnUpgrade,
}

/// What a request may go on as.
pub enum Wanted {
    /// Another protocol.
    Protocol(Switch),
    /// A tunnel to whom CONNECT names, which is the endpoint's to open.
    Tunnel,
}

/// How another protocol is asked for.
pub struct Switch {
    /// Which, one of several.
    pub protocols: HeaderValue,
    /// Whether it is asked for over HTTP/2, where the answer that agrees is another one (RFC 8441 §5).
    pub is_extended: bool,
    /// Whether the key of WebSocket is ours: then so is what answers to it.
    pub is_key_ours: bool,
}

impl Asked {
    /// Whether it is a tunnel.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        matches!(self.wanted, Wanted::Tunnel)
    }
}

/// What the client asks for and may have.
#[must_use]
pub fn asked(request: &mut Request<Incoming>, allowed: &Upgrades) -> Option<Asked> {
    let wanted = wanted(request, allowed)?;
    // HTTP/1.0 has no way to go on.
    request.extensions().get::<OnUpgrade>()?;
    Some(Asked { wanted, client: hyper::upgrade::on(request) })
}

fn wanted<B>(request: &Request<B>, allowed: &Upgrades) -> Option<Wanted> {
    let switch = |protocols, is_extended| Wanted::Protocol(Switch { protocols, is_extended, is_key_ours: false });
    if let Some(protocol) = request.extensions().get::<Protocol>() {
        let protocols = HeaderValue::from_str(protocol.as_str()).ok().filter(|_| allowed.covers(protocol.as_str()))?;
        return Some(switch(protocols, true));
    }
    if request.method() == Method::CONNECT {
        return allowed.has_connect().then_some(Wanted::Tunnel);
    }
    // Before HTTP/1.1 there is no such header, and HTTP/2 has none (RFC 9113 §8.2.2).
    if request.version() != Version::HTTP_11 {
        return None;
    }
    Some(switch(permitted(request.headers(), allowed)?, false))
}

/// Why CONNECT is refused that may not be carried, and what to do about it.
#[must_use]
pub fn refusal<B>(request: &Request<B>) -> String {
    let (what, name) = match request.extensions().get::<Protocol>() {
        Some(protocol) => (format!("CONNECT to go on as {:?}", protocol.as_str()), "its name"),
        None => ("CONNECT".to_owned(), "connect"),
    };
    format!("{what} is not carried here; the annotation {ANNOTATION} of the service allows it, with {name} in it")
}

/// Whether an answer is the last of its connection, which goes on as something else from here: 101, or success for CONNECT. There is
/// no way back from it, and it has no content, whatever it says of that (RFC 9110 §9.3.6).
#[must_use]
pub fn has_begun<B>(answer: &Response<B>) -> bool {
    answer.extensions().get::<OnUpgrade>().is_some()
}

/// Whether the connection of a request over HTTP/1.1 goes on as something else behind an answer with this status.
#[must_use]
pub fn goes_on(is_connect: bool, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || (is_connect && status.is_success())
}

/// Ends a connection over HTTP/1.1 on which a request has asked to go on as something else and did not, once its last answer is written:
/// hyper hands over such a connection at its end instead of closing it, and unless somebody is there to take it, the answer is lost with it.
pub async fn hang_up(client: OnUpgrade) {
    if let Ok(client) = client.await {
        // Who has left already need not be told.
        let _ = TokioIo::new(client).shutdown().await;
    }
}

/// Makes of the answer that opens a tunnel the client's.
pub fn opened(answer: &mut response::Parts) {
    answer.version = Version::HTTP_11;
    framing::remove_hop_by_hop(&mut answer.headers);
}

/// Removes what an answer says of its end that goes on as something else: it has no content (RFC 9110 §8.6).
pub fn has_no_end(answer: &mut response::Parts) {
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        answer.headers.remove(name);
    }
}

/// Makes of a request that asks over HTTP/2 the one that it stands for over HTTP/1.1: the method is that of what is opened, and of
/// WebSocket the key is there that endpoints answer to (RFC 8441 §5.1). `key` is any number.
/// Whether it was needed.
pub fn in_http1(head: &mut request::Parts, key: u128) -> bool {
    head.method = Method::GET;
    let protocol = head.extensions.remove::<Protocol>();
    let has_key = protocol.is_some_and(|protocol| is_websocket(protocol.as_str()));
    if !has_key || head.headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return false;
    }
    let key = HeaderValue::try_from(STANDARD.encode(key.to_be_bytes())).ok();
    key.is_some_and(|key| head.headers.insert(header::SEC_WEBSOCKET_KEY, key).is_none())
}

/// Makes of an answer that goes on as something else over HTTP/1.1 the one over HTTP/2. What answers to a key that is ours is
/// for nobody else.
pub fn in_http2(answer: &mut response::Parts, is_key_ours: bool) {
    answer.status = StatusCode::OK;
    for name in [header::CONNECTION, header::UPGRADE] {
        answer.headers.remove(name);
    }
    if is_key_ours {
        answer.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    }
}

/// Those of the protocols asked for that are allowed, as the client wrote them. Whoever is next sees none of the others: any
/// element of any line may be taken up.
fn permitted(headers: &HeaderMap, allowed: &Upgrades) -> Option<HeaderValue> {
    let is_meant = elements(headers, &header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let asked = elements(headers, &header::UPGRADE).filter(|protocol| allowed.covers(protocol));
    let asked: Vec<&str> = asked.collect();
    HeaderValue::try_from(asked.join(", ")).ok().filter(|_| is_meant && !asked.is_empty())
}

/// Whether an answer goes on as something that was asked for, and as nothing else.
#[must_use]
pub fn is_answered(asked: &HeaderValue, answer: &HeaderMap) -> bool {
    let asked: Vec<String> = list(asked).map(str::to_ascii_lowercase).collect();
    let mut taken = elements(answer, &header::UPGRADE).peekable();
    taken.peek().is_some() && taken.all(|protocol| asked.contains(&protocol.to_ascii_lowercase()))
}

fn elements<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().flat_map(list)
}

fn list(line: &HeaderValue) -> impl Iterator<Item = &str> {
    let line = line.to_str().unwrap_or_default();
    line.split(',').map(str::trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let lines =
            lines.iter().map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        lines.fold(HeaderMap::new(), |mut all, (name, value)| {
            all.append(name, value);
            all
        })
    }

    #[test]
    fn every_element_of_the_list_counts_and_what_is_not_allowed_goes_no_further() {
        const ASKS: (&str, &str) = ("connection", "keep-alive, Upgrade");
        type Row = (&'static [(&'static str, &'static str)], Option<&'static str>);
        let rows: [Row; 12] = [
            (&[ASKS, ("upgrade", "websocket")], Some("websocket")),
            (&[ASKS, ("upgrade", "WebSocket")], Some("WebSocket")),
            (&[ASKS, ("upgrade", "websocket/13")], Some("websocket/13")),
            (&[ASKS, ("upgrade", "h2c")], None),
            (&[ASKS, ("upgrade", "x, h2c")], None),
            (&[ASKS, ("upgrade", "websocket, h2c")], Some("websocket")),
            (&[ASKS, ("upgrade", "h2c,\twebsocket")], Some("websocket")),
            (&[ASKS, ("upgrade", "x"), ("upgrade", "h2c, websocket")], Some("websocket")),
            (&[ASKS, ("upgrade", "TLS/1.0, HTTP/2.0")], None),
            (&[ASKS, ("upgrade", "websocketx, xwebsocket")], None),
            (&[("connection", "keep-alive"), ("upgrade", "websocket")], None),
            (&[ASKS], None),
        ];
        for (lines, expected) in rows {
            let permitted = permitted(&headers(lines), &Upgrades::usual());
            assert_eq!(permitted.as_ref().map(|value| value.to_str().unwrap()), expected, "{lines:?}");
        }
        assert_eq!(permitted(&headers(&[ASKS, ("upgrade", "websocket")]), &Upgrades::default()), None);
    }

    #[test]
    fn a_tunnel_is_asked_for_by_the_method_alone() {
        let of = |names: &[&str]| {
            let mut upgrades = Upgrades::usual();
            names.iter().for_each(|name| upgrades.allow(name).unwrap());
            upgrades
        };
        type Row =
            (&'static str, Version, &'static [(&'static str, &'static str)], &'static [&'static str], &'static str);
        const ASKS: (&str, &str) = ("connection", "upgrade");
        let rows: [Row; 9] = [
            ("CONNECT", Version::HTTP_11, &[], &["connect"], "a tunnel"),
            ("CONNECT", Version::HTTP_10, &[], &["connect"], "a tunnel"),
            ("CONNECT", Version::HTTP_2, &[], &["connect"], "a tunnel"),
            ("CONNECT", Version::HTTP_11, &[ASKS, ("upgrade", "websocket")], &["connect"], "a tunnel"),
            ("CONNECT", Version::HTTP_11, &[ASKS, ("upgrade", "websocket")], &[], "nothing"),
            ("CONNECT", Version::HTTP_11, &[], &["tcp"], "nothing"),
            ("GET", Version::HTTP_11, &[ASKS, ("upgrade", "connect")], &["connect"], "nothing"),
            ("POST", Version::HTTP_11, &[ASKS, ("upgrade", "SPDY/3.1, SPDY/3")], &["spdy/3.1"], "SPDY/3.1"),
            ("POST", Version::HTTP_10, &[ASKS, ("upgrade", "tcp")], &["tcp"], "nothing"),
        ];
        for (method, version, lines, allowed, expected) in rows {
            let mut request = Request::builder().method(method).version(version).uri("a:80").body(()).unwrap();
            *request.headers_mut() = headers(lines);
            let found = match wanted(&request, &of(allowed)) {
                None => "nothing".to_owned(),
                Some(Wanted::Tunnel) => "a tunnel".to_owned(),
                Some(Wanted::Protocol(switch)) => switch.protocols.to_str().unwrap().to_owned(),
            };
            assert_eq!(found, expected, "{method} {version:?} {lines:?} {allowed:?}");
        }
    }

    #[test]
    fn a_key_is_made_for_websocket_where_there_is_none() {
        let rows = [("websocket", None, true), ("websocket", Some("theirs"), false), ("other", None, false)];
        for (protocol, theirs, expected) in rows {
            let mut request = Request::connect("http://web/").body(()).unwrap();
            request.extensions_mut().insert(Protocol::from_static(protocol));
            request.headers_mut().extend(theirs.map(|key| (header::SEC_WEBSOCKET_KEY, HeaderValue::from_static(key))));
            let (mut head, ()) = request.into_parts();
            let is_ours = in_http1(&mut head, 1);
            let keys = head.headers.get_all(header::SEC_WEBSOCKET_KEY).iter().count();
            assert_eq!((is_ours, keys), (expected, usize::from(protocol == "websocket")), "{protocol} {theirs:?}");
            let (mut answer, ()) = http::Response::new(()).into_parts();
            answer.headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("x"));
            in_http2(&mut answer, is_ours);
            assert_eq!(answer.headers.contains_key(header::SEC_WEBSOCKET_ACCEPT), !expected, "{protocol} {theirs:?}");
        }
    }

    #[test]
    fn an_answer_goes_on_as_what_was_asked_for() {
        let rows = [
            ("websocket", Some("websocket"), true),
            ("websocket", Some("WebSocket"), true),
            ("websocket, x", Some("x"), true),
            ("websocket", Some("h2c"), false),
            ("websocket", Some("websocket, h2c"), false),
            ("websocket", None, false),
        ];
        for (asked, answer, expected) in rows {
            let lines: Vec<_> = answer.map(|value| ("upgrade", value)).into_iter().collect();
            assert_eq!(is_answered(&HeaderValue::from_static(asked), &headers(&lines)), expected, "{asked} {answer:?}");
        }
    }
}
