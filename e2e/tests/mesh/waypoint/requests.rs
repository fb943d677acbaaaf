//! What happens to requests before they are sent on, as users say it: tokens, failures on purpose, pages of other origins.

use fairway_lab::Lab;

use super::{CLIENT, GUEST, ask, deny, hears};

/// The public half of a key that was made for this, and what its private half has signed: for `web`, for another audience, and
/// for `web` until the year 2001.
pub(super) const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"myjsfxwx1yqtVykSDMecXDg7yNqK__eVFTSGSxW1yg0","y":"YOHYsf3NOJm2IdEakX-o2oPYJkkB7DdOh0zZ4d9Hm_U"}]}"#;
pub(super) const TOKEN: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSIsInN1YiI6Im1lIiwiYXVkIjoid\
    2ViIn0.xjdV4FVdAU6az7OwCABRou9srvIoEf2RrJ8XVL1uoJ7sUypiame4t8tT79F0imidJ253rNpHDRCEK5Z2ZyqkUg";
pub(super) const TOKEN_FOR_OTHERS: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSIsInN1YiI6Im1lIiwiYXVkIjoic\
    2hvcCJ9.zkvabK6Ebbrz2pWK24wSUmskaq81IuNOjbB2YUHweKiY_CYrPXIZX2Ai8j6d7S0w6svqJLccROE-i-yImC1tLQ";
pub(super) const OLD_TOKEN: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJodHRwczovL2EuZXhhbXBsZSIsInN1YiI6Im1lIiwiYXVkIjoid\
    2ViIiwiZXhwIjoxMDAwMDAwMDAwfQ.GRkrUvsrU7hMjDuE5OPsyxUVFtHZfexq4oo6MucO2zxfXDGJSkjfq_bSRF7kFmAR89\
    veY7OTY1jGPrzAYPQ6bw";

/// Whose tokens the service's waypoint believes, and that there must be one.
fn tokens() -> String {
    // Of the port with requests alone: a connection that nobody looks into has no token.
    let required =
        deny("token", "{to: [{operation: {ports: [\"80\"]}}], from: [{source: {notRequestPrincipals: [\"*\"]}}]}");
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: web}}]\n  \
         jwtRules: [{{issuer: https://a.example, audiences: [web], jwks: '{KEYS}'}}]\n---\n{required}"
    )
}

pub(super) fn tokens_decide(lab: &Lab) {
    lab.apply(&tokens()).unwrap();
    hears(lab, CLIENT, &[], &["403 ", "policy_denied"]);
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    hears(lab, CLIENT, &["-H", &bearer(TOKEN)], &["200 "]);
    let forged = format!("{}A{}", &TOKEN[..60], &TOKEN[61..]);
    for (token, parts) in [
        (TOKEN_FOR_OTHERS, ["403 ", "token_audience"]),
        (OLD_TOKEN, ["401 ", "token_invalid"]),
        (&forged, ["401 ", "token_invalid"]),
    ] {
        let answer = ask(lab, CLIENT, "http://web/", &["-H", &bearer(token)]);
        assert!(parts.iter().all(|part| answer.contains(part)), "{parts:?}: {answer}");
    }
    lab.delete(&tokens()).unwrap();
    hears(lab, CLIENT, &[], &["200 "]);
}

/// Requests for one path fail; of the others, pages of one origin may do something.
const TROUBLE: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
    metadata: {name: trouble, namespace: shop}\nspec:\n  hosts: [web]\n  http:\n  \
    - match: [{uri: {exact: /broken}}]\n    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}\n    \
    route: [{destination: {host: web}}]\n  \
    - corsPolicy: {allowOrigins: [{exact: https://a.example}], allowMethods: [PUT]}\n    \
    route: [{destination: {host: web}}]\n";

pub(super) fn failures_and_origins_are_told(lab: &Lab) {
    lab.apply(TROUBLE).unwrap();
    lab.wait_until("requests to fail on purpose", || {
        let answer = ask(lab, CLIENT, "http://web/broken", &[]);
        if answer.starts_with("418 ") && answer.contains("fault_injected") { Ok(()) } else { Err(answer) }
    })
    .unwrap();
    let preflight = |origin: &str| {
        let (origin, asks) = (format!("origin: {origin}"), "access-control-request-method: PUT");
        ask(lab, CLIENT, "http://web/", &["-X", "OPTIONS", "-i", "-H", &origin, "-H", asks])
    };
    let (told, passed_on) = (preflight("https://a.example"), preflight("https://b.example"));
    assert!(told.contains("access-control-allow-methods: PUT") && !told.contains(" to "), "{told}");
    assert!(passed_on.contains(" to ") && !passed_on.contains("access-control"), "{passed_on}");
    lab.delete(TROUBLE).unwrap();
    lab.wait_until("requests to fail no more", || {
        let answer = ask(lab, CLIENT, "http://web/broken", &[]);
        if answer.starts_with("200 ") { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}

/// Two requests of each user in a day.
const RATES: &str = "apiVersion: fairway.dev/v1alpha1\nkind: RateLimit\n\
    metadata: {name: each, namespace: shop}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: web}]\n  \
    limits: [{requests: 2, period: 24h, by: [{type: Client}, {type: Header, name: x-user}]}]\n";

pub(super) fn rates_are_limited(lab: &Lab) {
    lab.apply(RATES).unwrap();
    let mut users = 0..;
    let ask_as = |pod: &str, user: &str| ask(lab, pod, "http://web/", &["-H", user]);
    let used_up = lab.wait_until("a third request of one user to be refused", || {
        // Nobody has asked as this one before, under whatever configuration.
        let user = format!("x-user: {}", users.next().unwrap_or(0));
        let answers = [(); 3].map(|()| ask_as(CLIENT, &user));
        let is_told = answers[2].starts_with("429 ") && answers[2].contains("rate_limited");
        if is_told && answers[..2].iter().all(|it| it.starts_with("200 ")) { Ok(user) } else { Err(answers.join("; ")) }
    });
    let used_up = used_up.unwrap();
    assert!(ask_as(GUEST, &used_up).starts_with("200 "), "another client is counted by itself");
    assert!(ask(lab, CLIENT, "http://web/", &[]).starts_with("200 "), "a request without the header is not counted");
    lab.delete(RATES).unwrap();
    lab.wait_until("requests to be limited no more", || {
        let answer = ask_as(CLIENT, &used_up);
        if answer.starts_with("200 ") { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}

/// Two requests of each address in a day, of those that one route is about.
const RATES_OF_A_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
    metadata: {name: scarce, namespace: shop}\nspec:\n  parentRefs: [{group: \"\", kind: Service, name: web}]\n  \
    rules: [{matches: [{path: {value: /scarce}}], backendRefs: [{name: web-v1, port: 80}]}]\n---\n\
    apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: plenty, namespace: shop}\nspec:\n  \
    parentRefs: [{group: \"\", kind: Service, name: web}]\n  rules: [{backendRefs: [{name: web-v2, port: 80}]}]\n---\n\
    apiVersion: fairway.dev/v1alpha1\nkind: RateLimit\nmetadata: {name: scarce, namespace: shop}\nspec:\n  \
    targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: scarce}]\n  \
    limits: [{requests: 2, period: 24h, by: [{type: Address}]}]\n";

pub(super) fn rates_of_a_route_are_limited(lab: &Lab) {
    lab.apply(RATES_OF_A_ROUTE).unwrap();
    let scarce = |pod: &str| ask(lab, pod, "http://web/scarce", &[]);
    lab.wait_until("requests from one address to be refused", || {
        let answer = scarce(CLIENT);
        if answer.starts_with("429 ") && answer.contains("rate_limited") { Ok(()) } else { Err(answer) }
    })
    .unwrap();
    let answers = [(); 3].map(|()| scarce(GUEST));
    let passed = |answer: &&String| answer.starts_with("200 ") && answer.contains(" v1 to ");
    let count = answers.iter().take_while(passed).count();
    assert!(count == 2 && answers[2].starts_with("429 "), "another address has its own: {answers:?}");
    for _ in 0..4 {
        let answer = ask(lab, CLIENT, "http://web/plenty", &[]);
        assert!(answer.starts_with("200 ") && answer.contains(" v2 to "), "another route has none: {answer}");
    }
    lab.delete(RATES_OF_A_ROUTE).unwrap();
    lab.wait_until("requests to be limited no more", || {
        let answer = scarce(CLIENT);
        if answer.starts_with("200 ") { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}

/// Either version answers, and clients are told in a header which endpoint it was.
const SESSION: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
    metadata: {name: session, namespace: shop}\nspec:\n  parentRefs: [{group: \"\", kind: Service, name: web}]\n  rules:\n  \
    - sessionPersistence: {sessionName: x-kept, type: Header}\n    \
    backendRefs: [{name: web-v1, port: 80}, {name: web-v2, port: 80}]\n";

pub(super) fn clients_come_back(lab: &Lab) {
    lab.apply(SESSION).unwrap();
    let version = |answer: &str| [" v1 to ", " v2 to "].into_iter().find(|version| answer.contains(version));
    let told = lab.wait_until("a client to be told who has answered", || {
        let answer = ask(lab, CLIENT, "http://web/", &["-i"]);
        let kept = answer.split_once("x-kept: ").and_then(|(_, rest)| rest.split_whitespace().next());
        kept.zip(version(&answer)).map(|(kept, version)| (format!("x-kept: {kept}"), version)).ok_or(answer)
    });
    let (kept, first) = told.unwrap();
    for _ in 0..8 {
        let answer = ask(lab, CLIENT, "http://web/", &["-H", &kept]);
        assert_eq!(version(&answer), Some(first), "{answer}");
    }
    lab.delete(SESSION).unwrap();
    lab.wait_until("clients to be told nothing any more", || {
        let answer = ask(lab, CLIENT, "http://web/", &["-i"]);
        if answer.starts_with("200 ") && !answer.contains("x-kept") { Ok(()) } else { Err(answer) }
    })
    .unwrap();
}
