//! What is told of a request that a waypoint looks into.

use fairway_core::why::passage::{
    Action, Asked, Backend, Fault, Forwarding, Handling, Onward, Question, RateLimit, Retry, RuleSet, Token, Whom,
};

use super::*;

fn party(name: &str) -> Party {
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{name}");
    Party { namespace: "shop".into(), name: name.into(), node: "node-1".into(), identity }
}

fn tunnel(name: &str) -> Tunnel {
    let address = ([10, 0, 0, 1], 15_008).into();
    Tunnel { address, authority: "10.0.0.2:8080".into(), identities: vec![party(name).identity] }
}

/// A request that goes through a waypoint to the pod `web`, and what the waypoint says of it.
fn answer(passage: Passage) -> Answer {
    let way = Way::Waypoint { tunnel: tunnel("waypoint"), waypoint: party("waypoint") };
    let (source, destination) = (party("client"), ([10, 96, 0, 1], 80).into());
    let departure = Departure { source, destination, service: None, workload: None, way };
    let arrival = passage.onward.as_ref().map(|_| Arrival {
        workload: party("web"),
        destination: ([10, 0, 0, 2], 8080).into(),
        policies: Vec::new(),
        allowed_by: None,
        refused: None,
        dry_run: Vec::new(),
        original: None,
    });
    let mut answer = Answer { allowed: None, departure, passage: Some(passage), arrival, notes: Vec::new() };
    answer.allowed = answer.allowed();
    answer
}

fn seen() -> Passage {
    let backend = |name: &str, weight, endpoints| Backend { cluster: name.into(), weight, endpoints };
    Passage {
        listener: Some("web.shop:80".into()),
        handling: Some(Handling::Requests),
        request: Some(Asked { method: "GET".into(), authority: "web".into(), path: "/cart".into() }),
        rules: vec![
            RuleSet { action: "DENY".into(), rules: vec!["shop/no/0".into()], matching: None },
            RuleSet { action: "ALLOW".into(), rules: vec!["shop/yes/0".into()], matching: Some("shop/yes/0".into()) },
        ],
        route: Some("shop/canary/1".into()),
        action: Some(Action::Forward(Forwarding {
            backends: vec![backend("v1", 90, Some(2)), backend("v2", 10, None)],
            timeout_ms: Some(3_000),
            retry: Some(Retry { attempts: 2, on: vec!["a reset".into(), "503".into()], attempt_timeout_ms: Some(500) }),
            ..Forwarding::default()
        })),
        onward: Some(Onward { workload: Some(party("web")), way: Way::Tunnel(tunnel("web")) }),
        ..Passage::begun(party("waypoint"), party("client").identity)
    }
}

#[test]
fn a_request_is_followed_through_the_waypoint_to_its_endpoint() {
    let answer = answer(seen());
    let text = told(&answer);
    assert_eq!(answer.allowed, Some(true), "{text}");
    let lines: Vec<&str> = text.lines().map(|line| line.get(4..).unwrap_or_default()).collect();
    for line in [
        "it goes through waypoint shop/waypoint",
        "at the waypoint, listener web.shop:80 takes requests",
        "it sees GET /cart for web",
        "none of these rules denies it: shop/no/0",
        "rule shop/yes/0 allows it",
        "route shop/canary/1 matches",
        "it goes to 90% to v1 (2 endpoints), 10% to v2 (which it does not know)",
        "the whole of it may take 3s",
        "it is tried again up to 2 times, each within 500ms after: a reset, 503",
        "no policy applies to shop/web",
    ] {
        assert!(lines.contains(&line), "{line} is not in:\n{text}");
    }
    assert!(text.ends_with("\nALLOWED\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn who_counts_at_the_endpoint_is_told() {
    let client = party("client").identity;
    for (original, words) in [
        (Some(&client), format!("they look at the waypoint, and at {client}, for whom it speaks")),
        (None, "they look at the waypoint alone".to_owned()),
    ] {
        let mut answer = answer(seen());
        let arrival = answer.arrival.as_mut().unwrap();
        (arrival.policies, arrival.original) = (vec!["shop/only".into()], original.cloned());
        let text = told(&answer);
        assert!(text.contains(&words), "{words} is not in:\n{text}");
    }
}

#[test]
fn what_only_sending_tells_leaves_it_open() {
    let authorizer =
        Question { asked: Whom::Authorizer, cluster: "judge".into(), timeout_ms: 1_000, status_on_error: Some(403) };
    let processor =
        Question { asked: Whom::Processor, cluster: "scanner".into(), timeout_ms: 200, status_on_error: None };
    let fault = Fault { delay_ms: Some((1_000, 250_000)), abort: Some(("503".into(), 5_000)) };
    for (passage, words) in [
        (Passage { questions: vec![authorizer], ..seen() }, "judge is asked, and may refuse it or change it"),
        (Passage { questions: vec![processor], ..seen() }, "scanner sees it, and may refuse or change it"),
        (
            Passage { fault: Some(fault), ..seen() },
            "on purpose, 25% of requests wait 1s and 0.5% of requests fail with 503",
        ),
    ] {
        let answer = answer(passage);
        let text = told(&answer);
        assert!(answer.allowed.is_none() && text.contains(words) && text.contains("IT DEPENDS"), "{text}");
    }
}

#[test]
fn a_refusal_and_an_answer_of_the_waypoint_are_its_own() {
    let token = Token { issuers: vec!["https://i".into()], is_believed: false, is_asked_for: true };
    let limit =
        RateLimit { counted_by: vec![("limit".into(), "a".into())], most: 5, fill: 5, interval_ms: 60_000, left: 3 };
    let refused = Refused::new(fairway_core::reason::Reason::PolicyNotAllowed, Some("shop/yes/0".into()));
    let stopped = Passage { action: None, onward: None, ..seen() };
    let answer_of = |passage| {
        let answer = answer(passage);
        (answer.allowed, told(&answer))
    };
    let (allowed, text) = answer_of(Passage {
        token: Some(token),
        rate_limits: vec![limit],
        refused: Some(refused),
        status: Some(403),
        ..stopped.clone()
    });
    assert_eq!(allowed, Some(false));
    for words in [
        "it has no token that is believed, and rules ask what tokens claim (issuers: https://i)",
        "it counts against a rate limit (limit=a): 5 at once and 5 more in 60s; 3 left in this replica",
        "REFUSED by waypoint shop/waypoint: policy_not_allowed (shop/yes/0)",
        "the client is answered with 403",
    ] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    let action = Some(Action::Redirect { status: 302, location: "http://web/new".into() });
    let (allowed, text) = answer_of(Passage { action, status: Some(302), ..stopped });
    assert_eq!(allowed, Some(true));
    assert!(
        text.contains("sent to http://web/new (302)") && text.ends_with("ANSWERED by the waypoint with 302\n"),
        "{text}"
    );
}
