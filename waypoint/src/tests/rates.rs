//! Requests beyond a rate limit: what clients are told, and whose requests count.

use fairway_core::reason::Reason;
use http::header::HeaderName;

use super::{reason_of, told, web};
use crate::config::{Bucket, Counting, Listener, Rate, Rates, Value};
use crate::testing::{Served, forwarding, get, route_to};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn what_is_too_much_is_refused_with_the_time_to_wait() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let user = || ("user".to_owned(), Value::Header(HeaderName::from_static("x-user")));
    let limit = || ("limit".to_owned(), Value::Fixed("shop/each/0".to_owned()));
    let counted = vec![Counting { keys: vec![limit(), user()], is_shared: false }];
    let route = forwarding(route_to(&web(80)), |forward| forward.counted = counted);
    served.http(80, vec![], vec![route], &[endpoint]);
    let bucket = Bucket { most: 2, fill: 2, interval: Duration::from_secs(3600) };
    let entries = vec![("limit".to_owned(), Some("shop/each/0".to_owned())), ("user".to_owned(), None)];
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.rates = Some(Rates { limits: vec![Rate { entries, bucket }] });
    }
    served.publish();
    let header = |response: &http::Response<()>, name: &str| {
        response.headers().get(name).map(|value| value.to_str().unwrap().parse::<u32>().unwrap())
    };
    let rows = [("a", 200, 1), ("a", 200, 0), ("a", 429, 0), ("b", 200, 1)];
    for (user, status, left) in rows {
        let (response, body) = served.send(80, false, get("/", &[("x-user", user)])).await;
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(header(&response, "x-ratelimit-limit"), Some(2));
        assert_eq!(header(&response, "x-ratelimit-remaining"), Some(left), "{user}");
        assert!(header(&response, "x-ratelimit-reset").is_some_and(|seconds| (1..=3600).contains(&seconds)));
        let wait = header(&response, "retry-after");
        assert_eq!(wait.is_some_and(|seconds| (1..=1800).contains(&seconds)), status == 429, "{wait:?}");
        assert_eq!(reason_of(&response), (status == 429).then_some(Reason::RateLimited));
    }
    let grpc = get("/", &[("x-user", "a"), ("content-type", "application/grpc")]);
    let (response, _) = served.send(80, true, grpc).await;
    assert_eq!((response.status().as_u16(), header(&response, "grpc-status")), (200, Some(8)));
    let (response, _) = served.send(80, false, get("/", &[])).await;
    assert!(response.status().is_success() && header(&response, "x-ratelimit-limit").is_none(), "no limit is about it");
    let page = served.metrics.render();
    assert!(page.lines().any(|line| line.contains("response_code=\"429\"") && line.contains("\"RL\"")), "{page}");
}
