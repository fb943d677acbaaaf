//! Garbage on the ports that ztunnel has inside a pod.

use std::net::SocketAddr;

use fairway_lab::Lab;
use http::Method;
use tokio::io::AsyncWriteExt as _;

use super::{Base, dial, refused};
use crate::mesh::credentials::{self, Asker, Shown};
use crate::mesh::observe::{self, Cursor};
use crate::mesh::shop::{self, CLIENT, CLIENT_IDENTITY, SERVER, VISITOR};
use crate::mesh::{enter, labs};

const HBONE: u16 = 15008;

/// A lab for these tests, and the tunnel's address of its server.
fn shop(test: &str) -> Option<(Lab, SocketAddr)> {
    let lab = shop::enrolled(test)?;
    if !labs::can_enter("garbage on the ports of a captured pod") {
        return None;
    }
    let tunnel = SocketAddr::new(shop::address(&lab, SERVER), HBONE);
    Some((lab, tunnel))
}

/// A certificate as the client's own proxy has it.
pub(crate) fn genuine(lab: &Lab) -> Shown {
    let asker = Asker::with_token_of(lab, "node-1");
    enter::node(lab, "node-1", async || asker.ask(CLIENT_IDENTITY).await.unwrap())
}

#[test]
fn who_proves_nothing_gets_no_tunnel() {
    let Some((lab, tunnel)) = shop("nobody") else { return };
    let base = Base::of(&lab);
    refused(&lab, "noise", "tls_handshake_failed", || {
        enter::pod(&lab, VISITOR, async || drop(dial::send(tunnel, &dial::noise(4096)).await));
    });
    refused(&lab, "a plain request", "tls_handshake_failed", || {
        enter::pod(&lab, VISITOR, async || drop(dial::send(tunnel, b"GET / HTTP/1.1\r\nhost: server\r\n\r\n").await));
    });
    let elsewhere = "spiffe://elsewhere/ns/shop/sa/client";
    let shown = [
        ("no certificate", "client_certificate_missing", None),
        ("an unknown authority", "peer_untrusted", Some(credentials::of_unknown_authority(CLIENT_IDENTITY))),
        ("another trust domain", "peer_untrusted", Some(credentials::of_the_root(&lab, elsewhere))),
    ];
    for (what, reason, shown) in shown {
        refused(&lab, what, reason, || {
            enter::pod(&lab, VISITOR, async || {
                let mut stream = dial::tls(tunnel, shown).await;
                assert_eq!(dial::read_to_end(&mut stream).await, b"", "{what}");
            });
        });
    }
    base.holds(&lab);
}

#[test]
fn a_member_that_speaks_something_else_is_refused() {
    let Some((lab, tunnel)) = shop("other") else { return };
    let base = Base::of(&lab);
    let shown = genuine(&lab);
    refused(&lab, "HTTP/1 in the tunnel", "http2_failed", || {
        enter::pod(&lab, VISITOR, async || {
            let mut stream = dial::tls(tunnel, Some(shown)).await;
            stream.write_all(b"CONNECT 10.0.0.1:80 HTTP/1.1\r\nhost: 10.0.0.1\r\n\r\n").await.unwrap();
            dial::read_to_end(&mut stream).await;
        });
    });
    let address = tunnel.ip();
    let requests = [
        (Method::CONNECT, "192.0.2.1:8080".to_owned(), 400, "authority_mismatch"),
        (Method::CONNECT, "unknown.example:80".to_owned(), 503, "unknown_authority"),
        (Method::CONNECT, format!("{address}:15006"), 503, "illegal_port"),
        (Method::CONNECT, format!("{address}:15001"), 503, "illegal_port"),
        (Method::CONNECT, format!("{address}:15008"), 503, "illegal_port"),
        (Method::CONNECT, format!("{address}:9"), 503, "application_connect_failed"),
        (Method::GET, format!("https://{address}:8080/"), 400, "bad_request"),
    ];
    for (method, authority, status, reason) in requests {
        let (shown, what) = (genuine(&lab), format!("{method} {authority}"));
        refused(&lab, &what, reason, || {
            let found = enter::pod(&lab, VISITOR, async || {
                dial::ask(&mut dial::http2(dial::tls(tunnel, Some(shown)).await).await, method, &authority).await
            });
            assert_eq!(found, status, "{what}");
        });
    }
    base.holds(&lab);
}

#[test]
fn the_capture_ports_serve_nobody_who_dials_them() {
    let Some((lab, tunnel)) = shop("ports") else { return };
    let base = Base::of(&lab);
    for port in [15001, 15006] {
        refused(&lab, &format!("port {port} from outside"), "illegal_port", || {
            let said = enter::pod(&lab, VISITOR, async || {
                dial::send(SocketAddr::new(tunnel.ip(), port), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await
            });
            assert_eq!(said, b"");
        });
    }
    // From inside the pod a redirected connection to the proxy itself would go round in circles.
    let log = Cursor::at_end(&lab, "ztunnel-node-1");
    for port in [15001, 15006] {
        let said = enter::pod(&lab, CLIENT, async || {
            dial::send(SocketAddr::from(([127, 0, 0, 1], port)), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await
        });
        assert_eq!(said, b"");
    }
    log.wait(&lab, &["reason=\"self_call\""]);
    assert_eq!(observe::sum(&observe::metrics(&lab, "node-1"), super::ENDED, &[("reason", "internal")]), 0.0);
    base.holds(&lab);
}
