//! Connections that nobody looks into, to servers that TLS is spoken to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fairway_core::io::hbone::{ReceiveBudget, TunnelIo, server};
use fairway_core::limits::Limits;
use fairway_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::metrics::lines;
use super::streams::chain;
use super::web;
use crate::config::{Chain, Listener, Opaque, Origination};
use crate::testing::outside::{Outside, repeat, serve};
use crate::testing::{PATIENCE, Served, own_address, route_to};

const SERVER: &str = "db.example";
/// What is logged of a connection.
const LINE: &str = "%RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n";

/// A waypoint whose port 82 leads to `endpoint` in this TLS.
async fn served(endpoint: SocketAddr, tls: Origination) -> Served {
    let mut served = Served::start().await;
    let others = Some(Arc::new(Chain { logs: lines(LINE), ..(*chain("db", vec![], None)).clone() }));
    served.opaque(Opaque { others, ..Opaque::default() }, &[("db", endpoint)]);
    served.change_cluster("db", |cluster| cluster.tls = Some(Arc::new(tls)));
    served
}

/// All that is heard until the end after `said` was said and nothing more was to be.
async fn exchange(served: &Served, authority: &str, said: &[u8]) -> std::io::Result<String> {
    let mut stream = served.dial(authority).await;
    let work = async {
        let mut greeting = vec![0; b"220 db.example\n".len()];
        stream.read_exact(&mut greeting).await?;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let saying = async {
            writer.write_all(said).await?;
            writer.shutdown().await
        };
        let mut heard = Vec::new();
        let (read, _said) = tokio::join!(reader.read_to_end(&mut heard), saying);
        read?;
        Ok(String::from_utf8([greeting, heard].concat()).unwrap())
    };
    timeout(PATIENCE, work).await.expect("an end")
}

#[tokio::test]
async fn bytes_go_in_tls_where_the_cluster_asks_for_it() {
    let world = Outside::new();
    let endpoint = serve(world.acceptor(SERVER, &[b"mqtt"]), repeat).await;
    let served = served(endpoint, world.to(SERVER, &[SERVER])).await;
    let long = "x".repeat(1 << 20);
    for said in ["", "hello", &long] {
        let heard = exchange(&served, "10.96.0.1:82", said.as_bytes()).await.unwrap();
        assert!(heard == format!("220 {SERVER}\n{said}bye"), "{} of {}", heard.len(), said.len());
    }
    let page = served.metrics.render();
    assert!(page.lines().any(|line| line.starts_with("istio_tcp_connections_opened_total")), "{page}");
}

#[tokio::test]
async fn what_turns_out_to_be_no_http_goes_in_tls_too_and_never_without() {
    let world = Outside::new();
    let endpoint = serve(world.acceptor(SERVER, &[]), repeat).await;
    let mut served = Served::start().await;
    served.announce("db", endpoint.ip(), false, |pod| {
        let port = fairway_proto::workload::Port {
            service_port: 81,
            target_port: u32::from(endpoint.port()),
            ..Default::default()
        };
        pod.services
            .insert(format!("shop/{}", crate::testing::WEB), fairway_proto::workload::PortList { ports: vec![port] });
    });
    served.http(81, vec![], vec![route_to("elsewhere")], &[endpoint]);
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(81)).unwrap()) {
        http.logs = lines(LINE);
    }
    served.change_cluster(&web(81), |cluster| cluster.tls = Some(Arc::new(world.to(SERVER, &[SERVER]))));
    // The server speaks first, so this is what is heard once it is clear that the client does not.
    let heard = exchange(&served, "10.96.0.1:81", b"ping").await.unwrap();
    assert_eq!(heard, format!("220 {SERVER}\npingbye"));
    // Whether TLS is asked for is not known then.
    served.config.clusters.remove(&web(81));
    served.publish();
    let mut stream = served.dial("10.96.0.1:81").await;
    stream.write_all(b"EHLO\r\n").await.unwrap();
    assert!(timeout(PATIENCE, stream.read_u8()).await.unwrap().is_err());
    let lines = served.logged.lines(2).await;
    assert!(lines[1].contains(Reason::NoHealthyUpstream.label()), "{lines:?}");
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_told_nothing() {
    let (world, stranger) = (Outside::new(), Outside::new());
    let reached = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reached);
    let endpoint = serve(world.acceptor(SERVER, &[]), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(())
    })
    .await;
    let rows = [stranger.to(SERVER, &[SERVER]), world.to("other.example", &["other.example"]), world.to(SERVER, &[])];
    for (row, tls) in rows.into_iter().enumerate() {
        let served = served(endpoint, tls).await;
        let refused = served.open("10.96.0.1:82").await.err().map(|error| error.reason());
        assert_eq!(refused, Some(Reason::TlsHandshakeFailed), "{row}");
        let line = served.logged.lines(1).await.remove(0);
        assert!(line.starts_with("TLS_FAILURE tls_handshake_failed TLS with "), "{line}");
    }
    // With TLS 1.3 the server may take the handshake for done before it hears that it is not believed.
    let clear = TcpListener::bind((own_address(), 0)).await.unwrap();
    let served = served(clear.local_addr().unwrap(), world.to(SERVER, &[SERVER])).await;
    let (refused, first) = tokio::join!(served.open("10.96.0.1:82"), async {
        let (mut socket, _) = clear.accept().await.unwrap();
        let mut first = [0; 1];
        socket.read_exact(&mut first).await.unwrap();
        socket.write_all(b"220 I speak no TLS\n").await.unwrap();
        first
    });
    assert_eq!(first, [0x16], "a record of a handshake (RFC 8446 §5.1), and nothing in clear text");
    assert_eq!(refused.err().map(|error| error.reason()), Some(Reason::TlsHandshakeFailed));
}

#[tokio::test]
async fn a_server_that_never_answers_in_tls_is_given_up() {
    let silent = TcpListener::bind((own_address(), 0)).await.unwrap();
    let world = Outside::new();
    let mut served = served(silent.local_addr().unwrap(), world.to(SERVER, &[SERVER])).await;
    served.change_cluster("db", |cluster| cluster.connect_timeout = Duration::from_millis(50));
    let refused = timeout(PATIENCE, served.open("10.96.0.1:82")).await.unwrap();
    assert_eq!(refused.err().map(|error| error.reason()), Some(Reason::UpstreamConnectTimeout));
}

#[tokio::test]
async fn an_end_that_tls_does_not_know_of_is_no_end() {
    let world = Outside::new();
    // Says something, and leaves without `close_notify`.
    let endpoint = serve(world.acceptor(SERVER, &[]), |mut stream| async move {
        stream.write_all(b"220 db.example\nhalf of it").await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
    })
    .await;
    let served = served(endpoint, world.to(SERVER, &[SERVER])).await;
    let mut stream = served.dial("10.96.0.1:82").await;
    let mut heard = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), "220 db.example\nhalf of it", "what was said arrives");
    assert!(ended.is_err(), "and what is missing is not passed over");
    let line = served.logged.lines(1).await.remove(0);
    assert!(line.contains(" reset_by_peer"), "{line}");
}

#[tokio::test]
async fn an_endpoint_behind_a_tunnel_is_spoken_to_in_tls_inside_of_it() {
    let world = Outside::new();
    let acceptor = world.acceptor(SERVER, &[]);
    let address = own_address();
    let node = TcpListener::bind((address, 15_008)).await.unwrap();
    let served = served(SocketAddr::new(IpAddr::V4(address), 5432), world.to(SERVER, &[SERVER])).await;
    served.announce("db", IpAddr::V4(address), true, |_| {});
    let identity = fairway_core::ident::Identity::new("cluster.local", "shop", "db").unwrap();
    let certificates = served.certificates.clone();
    tokio::spawn(async move {
        let (socket, peer) = node.accept().await.unwrap();
        let certificate = certificates.claim(&identity).get().await.unwrap();
        let limits = Limits::default();
        let (tls, _client) = server::accept_tls(socket, certificate.credentials.server(), &limits).await.unwrap();
        let streams = move |incoming: server::Incoming| {
            let acceptor = acceptor.clone();
            let tunnel = incoming.accept(http::HeaderMap::new()).unwrap();
            tokio::spawn(async move {
                repeat(acceptor.accept(TunnelIo::new(tunnel, Bytes::new())).await.unwrap()).await;
            });
        };
        let budget = ReceiveBudget::default();
        let _ = server::serve(tls, peer, (&limits, &budget), std::future::pending(), streams).await;
    });
    let heard = exchange(&served, "10.96.0.1:82", b"select").await.unwrap();
    assert_eq!(heard, format!("220 {SERVER}\nselectbye"));
}
