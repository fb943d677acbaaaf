//! Who is asked: endpoints that keep failing, requests that belong together, and bounds on connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{node, reason_of, told, web};
use crate::config::{Balancer, HashBy};
use crate::testing::{PATIENCE, Served, answer, forwarding, get, origin, out_after_two_errors, own_address, route_to};
use fairway_core::reason::Reason;

#[tokio::test]
async fn who_keeps_failing_is_left_out() {
    let mut served = Served::start().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let broken = origin(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        answer(500, "broken")
    })
    .await;
    let good = told("good").await;
    for (name, endpoint) in [("broken", broken), ("good", good)] {
        served.announce(name, endpoint.ip(), false, |_| {});
    }
    served.http(80, vec![], vec![route_to(&web(80))], &[broken, good]);
    served.change_cluster(&web(80), |cluster| {
        cluster.outliers = Some(out_after_two_errors());
    });
    let mut failed = 0;
    for _ in 0..10 {
        let (response, _) = served.send(80, false, get("/", &[])).await;
        failed += usize::from(response.status() == StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!((failed, asked.load(Ordering::SeqCst)), (2, 2));
    assert!(served.metrics.render().contains("fairway_waypoint_endpoints_left_out_total 1"));
}

/// Policy of the endpoint's node is about this client: others must not lose the endpoint for it.
#[tokio::test]
async fn who_refuses_a_client_by_policy_is_not_left_out() {
    let mut served = Served::start().await;
    let address = own_address();
    node(&served, "guarded", address, |_, incoming| incoming.refuse(Reason::PolicyNotAllowed)).await;
    served.http(80, vec![], vec![route_to(&web(80))], &[SocketAddr::new(address.into(), 8080)]);
    served.change_cluster(&web(80), |cluster| cluster.outliers = Some(out_after_two_errors()));
    for _ in 0..4 {
        let (response, _) = served.send(80, false, get("/", &[])).await;
        assert_eq!((response.status(), reason_of(&response)), (StatusCode::FORBIDDEN, Some(Reason::PolicyNotAllowed)));
    }
    assert!(!served.metrics.render().contains("fairway_waypoint_endpoints_left_out_total 1"));
}

#[tokio::test]
async fn requests_that_belong_together_go_to_one_endpoint() {
    let mut served = Served::start().await;
    let mut endpoints = Vec::new();
    for name in ["a", "b", "c"] {
        let endpoint = told(name).await;
        served.announce(name, endpoint.ip(), false, |_| {});
        endpoints.push(endpoint);
    }
    let cookie = HashBy::Cookie { name: "s".into(), path: "/".into(), ttl: Some(Duration::from_secs(60)) };
    let route = forwarding(route_to(&web(80)), |forward| forward.hash = Some(cookie));
    served.http(80, vec![], vec![route], &endpoints);
    served.change_cluster(&web(80), |cluster| cluster.balancer = Balancer::Ring(1024));
    let name = |body: &str| body.lines().next().unwrap_or_default().to_owned();
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (response, body) = served.send(80, false, get("/", &[])).await;
        let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
        assert!(cookie.ends_with("; Max-Age=60; Path=/; HttpOnly"), "{cookie}");
        let first = name(&body);
        let pair = cookie.split(';').next().unwrap();
        for http2 in [false, true] {
            let (response, body) = served.send(80, http2, get("/", &[("cookie", pair)])).await;
            assert_eq!(name(&body), first);
            assert!(!response.headers().contains_key("set-cookie"));
        }
        used.insert(first);
    }
    assert!(used.len() > 1, "{used:?}");
}

/// An origin that says of each connection when it comes, and answers its requests when told to.
async fn slow() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<()>, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, begins) = tokio::sync::mpsc::unbounded_channel();
    let (go, gone) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (begun, mut gone) = (begun.clone(), gone.clone());
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = begun.send(());
                while socket.read(&mut head).await.is_ok_and(|length| length > 0) {
                    let _ = gone.wait_for(|gone| *gone).await;
                    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    (address, begins, go)
}

#[tokio::test]
async fn requests_wait_for_a_connection_within_bounds() {
    let mut served = Served::start().await;
    let (endpoint, mut begins, go) = slow().await;
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    served.change_cluster(&web(80), |cluster| (cluster.bounds.connections, cluster.bounds.waiting) = (1, 1));
    let served = &served;
    let ask = || Box::pin(served.send(80, false, get("/", &[])));
    let work = async {
        let (first, begun) = (ask(), Box::pin(begins.recv()));
        let Either::Right((_, first)) = select(first, begun).await else { panic!("answered too early") };
        // Of two more one waits, and the other one is one too many.
        let (waiting, refused) = match select(select(ask(), ask()), first).await {
            Either::Left((Either::Left((refused, second)), first)) => ((first, second), refused),
            Either::Left((Either::Right((refused, second)), first)) => ((first, second), refused),
            Either::Right(_) => panic!("answered too early"),
        };
        assert_eq!(refused.0.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reason_of(&refused.0), Some(Reason::ConnectionLimit));
        go.send(true).unwrap();
        let (first, second) = tokio::join!(waiting.0, waiting.1);
        assert_eq!((first.0.status(), second.0.status()), (StatusCode::OK, StatusCode::OK));
    };
    crate::telemetry::clusters::register(&served.waypoint, &served.metrics);
    tokio::time::timeout(PATIENCE, work).await.unwrap();
    assert!(begins.try_recv().is_err(), "one connection did for both");
    let page = served.metrics.render();
    let cluster = web(80);
    for (series, value) in [
        (format!("in_use{{cluster=\"{cluster}\",of=\"waiting\"}}"), 0),
        (format!("bound{{cluster=\"{cluster}\",of=\"waiting\"}}"), 1),
        (format!("refused_total{{cluster=\"{cluster}\",of=\"waiting\"}}"), 1),
        (format!("refused_total{{cluster=\"{cluster}\",of=\"connections\"}}"), 2),
        (format!("endpoints{{cluster=\"{cluster}\",state=\"asked\"}}"), 1),
        (format!("endpoints{{cluster=\"{cluster}\",state=\"left_out\"}}"), 0),
    ] {
        let line = format!("fairway_waypoint_cluster_{series} {value}");
        assert!(page.lines().any(|found| found == line), "{line} in {page}");
    }
}

#[tokio::test]
async fn connections_carry_as_many_requests_as_the_cluster_says() {
    let mut served = Served::start().await;
    let (endpoint, mut begins, go) = slow().await;
    go.send(true).unwrap();
    served.announce("web", endpoint.ip(), false, |_| {});
    served.http(80, vec![], vec![route_to(&web(80))], &[endpoint]);
    for (most, requests, connections) in [(None, 4, 1), (Some(1), 4, 4), (Some(2), 4, 2)] {
        served.change_cluster(&web(80), |cluster| {
            cluster.reuse.requests = most;
            cluster.bounds.connections = 1;
        });
        // Another name, so that no connection from before is there.
        let name = format!("{}/{most:?}", web(80));
        let cluster = served.config.clusters[&web(80)].clone();
        served.config.clusters.insert(name.clone(), cluster);
        served.http(80, vec![], vec![route_to(&name)], &[endpoint]);
        for _ in 0..requests {
            let (response, _) = served.send(80, false, get("/", &[])).await;
            assert_eq!(response.status(), StatusCode::OK);
        }
        let begun = std::iter::from_fn(|| begins.try_recv().ok()).count();
        assert_eq!(begun, connections, "{most:?}");
    }
}
