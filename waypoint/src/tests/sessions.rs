//! Sessions: clients come back to the endpoint that has answered them, and to no other address.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;

use super::{told, web};
use crate::config::{Backend, Edits, Protocol, Route, Session, Weighted};
use crate::testing::{Served, answer, forwarding, get, origin, out_after_two_errors, route_to};

fn kept(mut route: Route) -> Route {
    route.before.session = Some(Session::Cookie { name: "s".into(), ttl: None });
    route
}

fn name(body: &str) -> String {
    body.lines().next().unwrap_or_default().to_owned()
}

/// The cookie that an answer sets, as the client sends it.
fn cookie_of(response: &http::Response<()>) -> Option<String> {
    let line = response.headers().get("set-cookie")?.to_str().unwrap();
    Some(line.split(';').next().unwrap().to_owned())
}

async fn three(served: &Served) -> Vec<SocketAddr> {
    let mut endpoints = Vec::new();
    for name in ["a", "b", "c"] {
        let endpoint = told(name).await;
        served.announce(name, endpoint.ip(), false, |_| {});
        endpoints.push(endpoint);
    }
    endpoints
}

#[tokio::test]
async fn clients_come_back_to_the_endpoint_that_has_answered_them() {
    let mut served = Served::start().await;
    let endpoints = three(&served).await;
    served.http(80, vec![], vec![kept(route_to(&web(80)))], &endpoints);
    let mut used = BTreeSet::new();
    for _ in 0..6 {
        let (response, body) = served.send(80, false, get("/", &[])).await;
        let (first, cookie) = (name(&body), cookie_of(&response).unwrap());
        for http2 in [false, true, false] {
            let (response, body) = served.send(80, http2, get("/", &[("cookie", &cookie)])).await;
            assert_eq!((name(&body), cookie_of(&response)), (first.clone(), None));
        }
        used.insert(first);
    }
    assert_eq!(used.len(), 3, "new clients are spread");
}

#[tokio::test]
async fn who_has_lost_an_endpoint_gets_another_one_of_the_cluster() {
    let mut served = Served::start().await;
    let endpoints = three(&served).await;
    let secret = origin(|_| answer(200, "secret")).await;
    served.announce("secret", secret.ip(), false, |_| {});
    served.http(80, vec![], vec![kept(route_to(&web(80)))], &endpoints);
    // Of this waypoint, and of other clusters, but not of this one.
    for asked in [secret.to_string(), "127.0.0.1:15000".into(), "169.254.169.254:80".into()] {
        let pair = format!("s={}", STANDARD.encode(&asked));
        let (response, body) = served.send(80, false, get("/", &[("cookie", &pair)])).await;
        assert!(response.status().is_success() && name(&body) != "secret", "{asked}: {body}");
        assert!(cookie_of(&response).is_some(), "{asked} is replaced");
    }
    // Of one that is gone.
    let (response, body) = served.send(80, false, get("/", &[])).await;
    let pair = cookie_of(&response).unwrap();
    let left: Vec<_> =
        endpoints.iter().copied().zip(["a", "b", "c"]).filter(|(_, it)| *it != name(&body)).map(|it| it.0).collect();
    served.http(80, vec![], vec![kept(route_to(&web(80)))], &left);
    let (response, other) = served.send(80, false, get("/", &[("cookie", &pair)])).await;
    assert!(response.status().is_success() && name(&other) != name(&body));
    let pair = cookie_of(&response).unwrap();
    let (_, again) = served.send(80, false, get("/", &[("cookie", &pair)])).await;
    assert_eq!(name(&again), name(&other));
}

#[tokio::test]
async fn who_is_left_out_is_not_come_back_to() {
    let mut served = Served::start().await;
    let broken = origin(|_| answer(500, "broken")).await;
    let good = told("good").await;
    for (name, endpoint) in [("broken", broken), ("good", good)] {
        served.announce(name, endpoint.ip(), false, |_| {});
    }
    served.http(80, vec![], vec![kept(route_to(&web(80)))], &[broken, good]);
    served.change_cluster(&web(80), |cluster| {
        cluster.outliers = Some(out_after_two_errors());
    });
    let pair = format!("s={}", STANDARD.encode(broken.to_string()));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let (response, _) = served.send(80, false, get("/", &[("cookie", &pair)])).await;
        statuses.push(response.status());
    }
    let failed = StatusCode::INTERNAL_SERVER_ERROR;
    assert_eq!(statuses, [failed, failed, StatusCode::OK]);
}

#[tokio::test]
async fn a_session_lasts_whatever_the_weights_are_since() {
    let mut served = Served::start().await;
    let endpoints = three(&served).await;
    served.cluster("old", Protocol::Http1, &endpoints[..1]);
    served.cluster("new", Protocol::Http1, &endpoints[1..2]);
    served.cluster("none", Protocol::Http1, &endpoints[2..]);
    let backend =
        |cluster: &str| Backend { cluster: cluster.into(), request: Edits::default(), response: Edits::default() };
    let shares = |old, new| {
        forwarding(kept(route_to("")), |forward| {
            forward.backends =
                Weighted::new(vec![(old, backend("old")), (new, backend("new")), (0, backend("none"))]).unwrap();
        })
    };
    let naming = |endpoint: &SocketAddr| format!("s={}", STANDARD.encode(endpoint.to_string()));
    served.http(80, vec![], vec![shares(1, 1_000_000)], &[]);
    for _ in 0..4 {
        let (_, body) = served.send(80, false, get("/", &[("cookie", &naming(&endpoints[0]))])).await;
        assert_eq!(name(&body), "a", "the old one for who was there");
    }
    // Who has no share any more, or never had, is nobody's.
    served.http(80, vec![], vec![shares(0, 1)], &[]);
    for endpoint in [&endpoints[0], &endpoints[2]] {
        let (_, body) = served.send(80, false, get("/", &[("cookie", &naming(endpoint))])).await;
        assert_eq!(name(&body), "b");
    }
}
