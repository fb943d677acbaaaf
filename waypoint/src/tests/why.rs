//! What `/why/request` says of a request is what then becomes of it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fairway_core::ident::Identity;
use fairway_core::reason::Reason;
use fairway_core::why::Way;
use fairway_core::why::passage::{Action as Told, Handling, Passage, Whom};
use http::header::{HeaderName, HeaderValue};
use http::{Request, StatusCode};
use serde_json::json;

use super::{reason_of, told, web};
use crate::config::{
    Abort, Action, Authorizer, Backend, Bucket, Chain, ClaimMatch, Counting, Custom, Edits, Fault, Header, HeaderMatch,
    Listener, MILLION, Opaque, PathMatch, PathRewrite, Permission, Policy, Principal, Protocol, Rate, Rates, Redirect,
    RedirectPath, Retry, Route, Rules, Speech, Text, Tokens, Value, Verdict, Weighted,
};
use crate::testing::{Served, forwarding, get, route_to};
use crate::tokens::signer::Signer;
use crate::why::{Wanted, passage};

const ADDRESS: &str = "10.96.0.1";

/// Who answers a request, or why nobody behind the waypoint does; no reason where its own answer is what the route wants.
type Outcome<'a> = Result<&'a str, Option<Reason>>;

fn rule(name: &str, permission: Permission, principal: Principal) -> Policy {
    Policy { name: name.into(), permissions: vec![permission], principals: vec![principal] }
}

fn path(prefix: &str) -> Permission {
    Permission::Path(Text::Prefix(prefix.into()))
}

fn at(path: &str, mut route: Route) -> Route {
    route.name = format!("shop{path}");
    route.matching.path = PathMatch::Exact(path.into());
    route
}

/// What the waypoint says of a request of the client, sent to this port of the service.
fn said(served: &Served, port: u16, request: Request<()>) -> Passage {
    let wanted = Wanted {
        authority: format!("{ADDRESS}:{port}"),
        source: ([127, 0, 0, 1], 40_000).into(),
        identity: Identity::new("cluster.local", "shop", "client").unwrap(),
        request,
    };
    passage(&served.waypoint, wanted, (Instant::now(), SystemTime::now())).unwrap()
}

/// Requests under `/admin` are denied, those under `/secret` are for who has a token of the group `admin`.
fn policies() -> Vec<Rules> {
    let group = ClaimMatch::Text(Text::Exact("admin".into()));
    let group = Principal::Claim(vec!["realm".into(), "group".into()], group);
    let public = rule("shop/allow/0", Permission::Not(Box::new(path("/secret"))), Principal::Any);
    let deny = rule("shop/deny/0", path("/admin"), Principal::Any);
    vec![
        Rules { verdict: Verdict::Deny, policies: vec![deny] },
        Rules { verdict: Verdict::Allow, policies: vec![public, rule("shop/allow/1", Permission::Any, group)] },
    ]
}

fn routes() -> Vec<Route> {
    let mut canary = route_to("canary");
    canary.name = "shop/canary".into();
    let name = Header::Named(HeaderName::from_static("x-canary"));
    canary.matching.headers = vec![HeaderMatch { name, value: Text::Exact("yes".into()) }];
    let mut moved = at("/old", route_to(""));
    let new = Some(RedirectPath::Full("/new".into()));
    moved.action = Action::Redirect(Redirect { path: new, status: StatusCode::FOUND, ..Redirect::default() });
    let mut answered = at("/answered", route_to(""));
    answered.action = Action::Reply { status: StatusCode::NO_CONTENT, body: bytes::Bytes::new() };
    let mut broken = at("/broken", route_to(&web(80)));
    broken.before.fault.abort = Some((Abort::Http(StatusCode::IM_A_TEAPOT), MILLION));
    let limited = at("/limited", route_to(&web(80)));
    let counted = Counting { keys: vec![("limit".into(), Value::Fixed("shop/few/0".into()))], is_shared: false };
    let limited = forwarding(limited, |forward| forward.counted = vec![counted]);
    let everything = at("/everything", route_to(&web(80)));
    vec![
        canary,
        moved,
        answered,
        broken,
        limited,
        at("/unknown", route_to("nobody")),
        everything,
        at("/", route_to(&web(80))),
        {
            let mut admin = route_to(&web(80));
            admin.matching.path = PathMatch::Prefix("/secret".into());
            admin
        },
    ]
}

#[tokio::test]
async fn what_is_said_of_a_request_then_becomes_of_it() {
    let mut served = Served::start().await;
    let (stable, canary) = (told("stable").await, told("canary").await);
    for (name, endpoint) in [("stable", stable), ("canary", canary)] {
        served.announce(name, endpoint.ip(), false, |_| {});
    }
    served.cluster("canary", Protocol::Http1, &[canary]);
    served.http(80, policies(), routes(), &[stable]);
    let signer = Signer::new();
    served.believe(80, Tokens { issuers: vec![signer.issuer("a")], passes_preflights: false });
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        let bucket = Bucket { most: 1, fill: 1, interval: Duration::from_secs(3600) };
        http.rates =
            Some(Rates { limits: vec![Rate { entries: vec![("limit".into(), Some("shop/few/0".into()))], bucket }] });
    }
    served.publish();
    let bearer = |group: &str, audience: &str| {
        format!("Bearer {}", signer.sign(&json!({"iss": "a", "aud": audience, "realm": {"group": group}})))
    };
    let (admin, guest, lost) = (bearer("admin", "web"), bearer("guest", "web"), bearer("admin", "other"));
    // Path, a header, the status, and what becomes of it.
    let rows = [
        ("/", None, 200, Ok("stable")),
        ("/./", Some(("x-canary", "yes")), 200, Ok("canary")),
        ("/%61dmin/x", None, 403, Err(Some(Reason::PolicyDenied))),
        ("/x/../admin", Some(("x-canary", "yes")), 403, Err(Some(Reason::PolicyDenied))),
        ("/secret", None, 403, Err(Some(Reason::PolicyNotAllowed))),
        ("/secret", Some(("authorization", guest.as_str())), 403, Err(Some(Reason::PolicyNotAllowed))),
        ("/secret", Some(("authorization", admin.as_str())), 200, Ok("stable")),
        ("/", Some(("authorization", lost.as_str())), 403, Err(Some(Reason::TokenAudience))),
        ("/", Some(("authorization", "Bearer x")), 401, Err(Some(Reason::TokenInvalid))),
        ("/missed", None, 404, Err(Some(Reason::RouteNotFound))),
        ("/unknown", None, 500, Err(Some(Reason::NoHealthyUpstream))),
        ("/old", None, 302, Err(None)),
        ("/answered", None, 204, Err(None)),
        ("/broken", None, 418, Err(Some(Reason::FaultInjected))),
        ("/%00", None, 400, Err(Some(Reason::BadRequest))),
    ];
    for (path, header, status, expected) in rows {
        let headers: Vec<_> = header.into_iter().collect();
        becomes(&served, path, &headers, status, expected).await;
    }
    // One may pass, and asking how it stands takes nothing.
    for (status, expected) in [(200, Ok("stable")), (429, Err(Some(Reason::RateLimited)))] {
        becomes(&served, "/limited", &[], status, expected).await;
    }
}

async fn becomes(served: &Served, path: &str, headers: &[(&str, &str)], status: u16, expected: Outcome<'_>) {
    let told = said(served, 80, get(path, headers).map(drop));
    let (response, body) = served.send(80, false, get(path, headers)).await;
    let reason = told.refused.as_ref().map(|refused| refused.reason.as_str());
    // A route that is the answer refuses nothing.
    let refusal = reason_of(&response).filter(|reason| *reason != Reason::RouteAnswered);
    assert_eq!(reason, refusal.map(Reason::label), "{path}: {told:?}");
    assert_eq!((reason, response.status().as_u16()), (expected.err().flatten().map(Reason::label), status), "{path}");
    match expected {
        Ok(name) => {
            assert!(body.starts_with(name), "{path}: {body}");
            let workload = told.onward.as_ref().and_then(|onward| onward.workload.as_ref());
            assert_eq!((workload.map(|it| it.name.as_str()), told.status), (Some(name), None), "{path}: {told:?}");
        }
        Err(_) => assert_eq!((told.status, told.onward.is_none()), (Some(status), true), "{path}: {told:?}"),
    }
}

#[tokio::test]
async fn all_that_a_route_does_is_said() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), true, |_| {});
    let share = |name: &str, weight| {
        (weight, Backend { cluster: name.into(), request: Edits::default(), response: Edits::default() })
    };
    let mut route = forwarding(route_to(&web(80)), |forward| {
        forward.backends = Weighted::new(vec![share(&web(80), 90), share("nobody", 10)]).unwrap();
        forward.path = Some(PathRewrite::Matched("/v2/".into()));
        forward.host = Some(HeaderValue::from_static("other.shop"));
        forward.timeout = Some(Duration::from_secs(3));
        let statuses = vec![StatusCode::BAD_GATEWAY];
        forward.retry = Some(Retry { connect_failure: true, statuses, attempts: 2, ..Retry::default() });
    });
    route.before.fault = Fault { delay: Some((Duration::from_secs(1), 100_000)), abort: None };
    served.http(80, policies(), vec![route], &[endpoint]);
    let authorizer = Authorizer {
        cluster: "judge".into(),
        speech: Speech::Grpc,
        timeout: Duration::from_secs(2),
        fails_open: false,
        status_on_error: StatusCode::FORBIDDEN,
        body: None,
        headers: None,
    };
    let about = |prefix: &str| Rules {
        verdict: Verdict::Deny,
        policies: vec![rule("shop/ask/0", path(prefix), Principal::Any)],
    };
    if let Listener::Http(http) = Arc::make_mut(served.config.listeners.get_mut(&web(80)).unwrap()) {
        http.custom = vec![
            Custom { rules: about("/a"), authorizer: authorizer.clone() },
            Custom { rules: about("/b"), authorizer },
        ];
    }
    served.publish();
    let told = said(&served, 80, get("/a", &[]).map(drop));
    let [question] = &*told.questions else { panic!("{told:?}") };
    assert_eq!((question.asked, &*question.cluster, question.status_on_error), (Whom::Authorizer, "judge", Some(403)));
    let rules: Vec<_> = told.rules.iter().map(|set| (set.action.as_str(), set.matching.as_deref())).collect();
    assert_eq!(rules, [("DENY", None), ("ALLOW", Some("shop/allow/0"))]);
    let Some(Told::Forward(forward)) = &told.action else { panic!("{told:?}") };
    let backends: Vec<_> = forward.backends.iter().map(|it| (&*it.cluster, it.weight, it.endpoints)).collect();
    assert_eq!(backends, [(&*web(80), 90, Some(1)), ("nobody", 10, None)]);
    assert_eq!((forward.path.as_deref(), forward.host.as_deref()), (Some("/v2/a"), Some("other.shop")));
    let retry = forward.retry.as_ref().unwrap();
    assert_eq!(
        (forward.timeout_ms, retry.attempts, retry.on.join(", ")),
        (Some(3_000), 2, "no connection, 502".into())
    );
    assert_eq!(told.fault.as_ref().unwrap().delay_ms, Some((1_000, 100_000)));
    let onward = told.onward.as_ref().unwrap();
    assert!(
        matches!(&onward.way, Way::Tunnel(tunnel) if tunnel.identities == ["spiffe://cluster.local/ns/shop/sa/web"])
    );
}

#[tokio::test]
async fn what_nobody_looks_into_is_decided_by_address_and_name() {
    let mut served = Served::start().await;
    let endpoint = told("web").await;
    served.announce("web", endpoint.ip(), false, |_| {});
    let client = Principal::Authenticated(Some(Text::Suffix("/sa/client".into())));
    let deny = Rules { verdict: Verdict::Deny, policies: vec![rule("shop/no-client/0", Permission::Any, client)] };
    served.cluster("raw", Protocol::Http1, &[endpoint]);
    let chain = |policies: Vec<Rules>| {
        let clusters = Weighted::new(vec![(1, "raw".to_owned())]).unwrap();
        Arc::new(Chain { policies, silent: Vec::new(), clusters, idle: None, logs: None })
    };
    for (policies, reason) in [(vec![], None), (vec![deny], Some(Reason::PolicyDenied))] {
        let opaque = Opaque { others: Some(chain(policies)), ..Opaque::default() };
        served.config.listeners.insert(web(82), Arc::new(Listener::Opaque(opaque)));
        served.publish();
        let told = said(&served, 82, get("/", &[]).map(drop));
        assert_eq!((told.handling, told.status), (Some(Handling::Bytes), None));
        assert_eq!(told.refused.as_ref().map(|refused| refused.reason.as_str()), reason.map(Reason::label));
        assert_eq!(served.open(&format!("{ADDRESS}:82")).await.is_ok(), reason.is_none(), "{reason:?}");
    }
    let unbound = said(&served, 9999, get("/", &[]).map(drop));
    assert_eq!(unbound.refused.map(|refused| refused.reason), Some(Reason::UnknownAuthority.label().to_owned()));
}
