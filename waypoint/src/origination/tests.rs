//! Tests of `origination`, against servers on loopback whose certificates are made for the test.

use std::net::SocketAddr;

use fairway_core::io::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::config::OwnCertificate;
use crate::testing::outside::{Outside, serve};

/// A server with a certificate for `name`, that speaks one of `spoken` and answers with what it was asked as.
async fn server(world: &Outside, name: &str, spoken: &[&[u8]]) -> SocketAddr {
    let answer = |mut stream: tokio_rustls::server::TlsStream<TcpStream>| async move {
        let asked = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
        stream.write_all(asked.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    serve(world.acceptor(name, spoken), answer).await
}

async fn asked(to: &Origination, inside: Inside, server: SocketAddr) -> Result<String, String> {
    let socket = TcpStream::connect(server).await.unwrap();
    let originations = Originations::new(tls::provider(), &Limits::default());
    let begun = originations.begin(to, inside, socket).await;
    let mut stream = begun.map_err(|failure| {
        assert_eq!(failure.reason, Reason::TlsHandshakeFailed);
        failure.detail
    })?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    Ok(text)
}

#[tokio::test]
async fn a_server_has_to_be_who_it_is_said_to_be() {
    let (world, stranger) = (Outside::new(), Outside::new());
    let server = server(&world, "api.example", &[b"http/1.1"]).await;
    let (ours, theirs) = (world.to("api.example", &["api.example"]), stranger.to("api.example", &["api.example"]));
    assert_eq!(asked(&ours, Inside::Http1, server).await.as_deref(), Ok("api.example"));
    let refused = asked(&theirs, Inside::Http1, server).await.unwrap_err();
    assert!(refused.starts_with("TLS with api.example: invalid peer certificate: "), "{refused}");
    // The name that is asked for need not be the one that is proven, as with Istio's subjectAltNames.
    assert_eq!(
        asked(&world.to("front.example", &["x.example", "api.example"]), Inside::Http1, server).await.as_deref(),
        Ok("front.example")
    );
    for names in [&["front.example"][..], &["spiffe://api/example"], &[]] {
        let refused = asked(&world.to("api.example", names), Inside::Http1, server).await.unwrap_err();
        assert!(refused.contains("name"), "{names:?}: {refused}");
    }
}

#[tokio::test]
async fn http2_is_spoken_where_the_server_agrees() {
    let world = Outside::new();
    let to = world.to("api.example", &["api.example"]);
    for (spoken, inside, good) in [
        (&[b"h2".as_slice(), b"http/1.1"][..], Inside::Http2, true),
        (&[], Inside::Http2, false),
        (&[], Inside::Http1, true),
        (&[b"http/1.1"], Inside::Http1, true),
        // A server of something else would refuse who wants HTTP, and takes who says nothing (RFC 7301 §3.2).
        (&[b"mqtt"], Inside::Http1, false),
        (&[b"mqtt"], Inside::Anything, true),
        (&[], Inside::Anything, true),
    ] {
        let server = server(&world, "api.example", spoken).await;
        let found = asked(&to, inside, server).await;
        assert_eq!(found.is_ok(), good, "{spoken:?} {inside:?}: {found:?}");
    }
}

/// What a server says that takes only clients of `world`.
async fn greeted(to: &Origination, originations: &Originations, world: &Outside) -> Result<String, Failure> {
    let acceptor = world.acceptor_of(Some(world), "api.example", &[]);
    let server = serve(acceptor, |mut stream: tokio_rustls::server::TlsStream<TcpStream>| async move {
        stream.write_all(b"welcome").await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let socket = TcpStream::connect(server).await.unwrap();
    let mut stream = originations.begin(to, Inside::Anything, socket).await?;
    let mut text = String::new();
    // With TLS 1.3 a client learns what the server makes of its certificate when it reads (RFC 8446 §2).
    let read = stream.read_to_string(&mut text).await;
    read.map(|_length| text).map_err(|error| Failure::new(Reason::ResetByPeer, error))
}

#[tokio::test]
async fn we_prove_ourselves_where_that_is_asked_for() {
    let (world, stranger) = (Outside::new(), Outside::new());
    let originations = Originations::new(tls::provider(), &Limits::default());
    let to = world.to("api.example", &["api.example"]);
    let with = |own| Origination { own: Some(own), ..to.clone() };
    let ours = with(world.own("client.example"));
    assert_eq!(greeted(&ours, &originations, &world).await.unwrap(), "welcome");
    for other in [to.clone(), with(stranger.own("client.example"))] {
        let refused = greeted(&other, &originations, &world).await.unwrap_err();
        assert_eq!(refused.reason, Reason::ResetByPeer, "by the server: {}", refused.detail);
    }
    // Without the files no server is spoken to at all.
    let missing = with(OwnCertificate { chain: world.file("none.crt"), key: world.file("none.key") });
    let failure = greeted(&missing, &originations, &world).await.unwrap_err();
    assert_eq!(failure.reason, Reason::TlsFilesUnusable);
    let begins = format!("TLS with api.example: client certificate in {}: ", world.file("none.crt").display());
    assert!(
        failure.detail.starts_with(&begins) && failure.detail.contains("fairway.dev/secrets"),
        "{}",
        failure.detail
    );
}

#[tokio::test]
async fn settings_are_made_again_when_what_they_are_made_of_changes() {
    let world = Outside::new();
    let originations = Originations::new(tls::provider(), &Limits::default());
    let start = Instant::now();
    let to = Origination { own: Some(world.own("client.example")), ..world.to("api.example", &["api.example"]) };
    let at =
        async |checks: u32| originations.config(&to, Inside::Http1, start + CHECK_INTERVAL * checks).await.unwrap();
    let first = at(0).await;
    assert!(Arc::ptr_eq(&at(0).await, &first) && Arc::ptr_eq(&at(1).await, &first), "as it was");
    world.own("client.example");
    assert!(Arc::ptr_eq(&at(1).await, &first), "it is not looked at yet");
    let second = at(2).await;
    assert!(!Arc::ptr_eq(&second, &first));
    let other = originations.config(&to, Inside::Http2, start + CHECK_INTERVAL * 2).await.unwrap();
    assert!(!Arc::ptr_eq(&second, &other), "each protocol has settings of its own");
    assert_eq!((second.alpn_protocols.len(), other.alpn_protocols[0].as_slice()), (1, HTTP2));
}
