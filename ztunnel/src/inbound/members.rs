//! What a proven client can do at a pod's tunnel port, and what is said of it.

use std::net::Ipv4Addr;

use fairway_core::io::hbone::TunnelError;
use fairway_core::limits::Limits;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::testing::{PATIENCE, ServedPod};

/// A port that accepts and says nothing.
async fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Whoever comes through a gateway is not known by address; its own word gives the labels, within its namespace.
#[tokio::test]
async fn a_client_that_no_address_knows_is_labelled_as_it_says() {
    let served = ServedPod::start().await;
    let (_listener, port) = silent().await;
    let member = served.member();
    for (line, label) in [
        ("k8s.namespace.name=shop,k8s.deployment.name=web,service.name=front", "source_workload=\"web\""),
        ("k8s.namespace.name=bank,k8s.deployment.name=vault", "source_workload=\"unknown\""),
    ] {
        let headers = HeaderMap::from_iter([(BAGGAGE, line.parse().unwrap())]);
        let opened = served.open_with(&member, port, headers).await.unwrap();
        let answered = opened.headers.get(BAGGAGE).and_then(|line| line.to_str().ok()).unwrap_or_default();
        assert!(answered.contains("k8s.namespace.name=shop"), "{answered:?}");
        let opened = |line: &str| line.starts_with("istio_tcp_connections_opened_total{") && line.contains(label);
        assert!(served.metrics.render().lines().any(opened), "{label}: {}", served.metrics.render());
    }
    assert!(!served.metrics.render().contains("vault"), "another namespace's name is not taken over");
}

/// Streams a client gave up cost us something until they are ended; those it opens meanwhile are shed, and counted.
#[tokio::test]
async fn a_stream_that_is_shed_is_counted() {
    let limits = Limits::with(&[(limits::MAX_CONCURRENT_STREAMS.name, 1)].into()).unwrap();
    let served = ServedPod::within(limits).await;
    let (_listener, port) = silent().await;
    let member = served.member();
    let shed = || {
        let is_counted = |line: &str| line.contains("reason=\"connection_limit\"") && line.contains("destination");
        served
            .metrics
            .render()
            .lines()
            .any(|line| line.starts_with("fairway_connections_ended_total") && is_counted(line))
    };
    let opening = async {
        while !shed() {
            // Given up at once; the next one comes before it is ended.
            drop(served.open(&member, port).await);
        }
    };
    assert!(tokio::time::timeout(PATIENCE, opening).await.is_ok(), "no stream was shed");
}

/// Without memory for more, streams are refused with the reason, and those that are open go on.
#[tokio::test]
async fn without_memory_new_streams_are_refused_and_open_ones_live() {
    let served = ServedPod::start().await;
    let (listener, port) = silent().await;
    let member = served.member();
    let mut open = served.open(&member, port).await.unwrap();
    let (mut application, _) = listener.accept().await.unwrap();
    served.pod.mesh.pressure.set(true);
    let error = served.open(&member, port).await.err().unwrap();
    assert!(
        matches!(error.cause(), TunnelError::Refused { reason: Some(Reason::ResourceLimit), .. }),
        "not for want of memory: {error}"
    );
    open.stream.sender.send_all(bytes::Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(application.read(&mut [0; 4]).await.unwrap(), 1);
    let is_counted = |line: &str| line.contains("reason=\"resource_limit\"") && line.contains("destination");
    assert!(served.metrics.render().lines().any(is_counted));
    served.pod.mesh.pressure.set(false);
    served.open(&member, port).await.unwrap();
}
