//! Writes the seeds of every target to `corpus/`, from messages as components send them: `cargo run --example seeds`.

use std::path::Path;

use fairway_fuzz::input::piece;
use fairway_fuzz::tunnel::RAW;
use fairway_fuzz::world;
use fairway_proto::discovery::{DeltaDiscoveryResponse, Resource};
use fairway_proto::security::{
    Action, Address as Block, Authorization, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch,
    string_match::MatchType,
};
use fairway_proto::type_url;
use fairway_proto::workload::{Address, address};
use fairway_proto::zds::{
    AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo, WorkloadRequest, workload_request::Payload,
};
use prost::Message;

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        ("access_log", access_log()),
        ("admission", admission()),
        ("client_hello", client_hello()),
        ("connect", connect()),
        ("dns", dns()),
        ("tunnel", tunnel()),
        ("node_socket", node_socket()),
        ("xds", xds()),
        ("policy", policy()),
        ("proxy_protocol", proxy_protocol()),
        ("path", path()),
        ("session", session()),
        ("token", token()),
        ("trace", trace()),
        ("processor", processor()),
        ("request", request()),
        ("resources", resources()),
        ("routing", routing()),
    ] {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (name, bytes) in seeds {
            std::fs::write(folder.join(name), bytes).expect("a seed is written");
        }
    }
}

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// Connections of HTTP/1, sound and smuggling, and heads of HTTP/2.
fn request() -> Seeds {
    let first = |text: &str| [&[0][..], text.as_bytes()].concat();
    let second = |extended: u8, pieces: &[&str]| {
        let pieces: Vec<u8> = pieces.iter().flat_map(|text| piece(text.as_bytes())).collect();
        [vec![1, extended], pieces].concat()
    };
    vec![
        ("get", first("GET /a?b HTTP/1.1\r\nHost: web.shop:80\r\nConnection: close, x-a\r\nX-A: b\r\n\r\n")),
        ("absolute", first("GET http://u@web.shop/a HTTP/1.1\r\nHost: other\r\nTE: trailers, gzip\r\n\r\n")),
        ("two", first("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxGET / HTTP/1.1\r\nHost: b\r\n\r\n")),
        ("chunked", first("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")),
        (
            "both",
            first("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "upgrade",
            first(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
            ),
        ),
        ("connect", first("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")),
        ("http2", second(0, &["GET", "http://web.shop/a", "host", "web.shop", "te", "trailers"])),
        ("websocket", second(1, &["CONNECT", "http://web.shop/", "sec-websocket-version", "13"])),
    ]
}

/// A request and the routes for it.
fn routing() -> Seeds {
    use fairway_proto::envoy::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
    use fairway_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
    use fairway_proto::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
    use fairway_proto::envoy::route::route::Action;
    use fairway_proto::envoy::route::route_match::PathSpecifier;
    use fairway_proto::envoy::route::{
        DirectResponseAction, HeaderMatcher, QueryParameterMatcher, Route, RouteConfiguration, RouteMatch, VirtualHost,
    };
    let text = |pattern| StringMatcher { match_pattern: Some(pattern), ignore_case: false };
    let exact = |value: &str| text(MatchPattern::Exact(value.into()));
    let route = |name: &str, path, change: &dyn Fn(&mut RouteMatch)| {
        let mut matching = RouteMatch { path_specifier: Some(path), ..RouteMatch::default() };
        change(&mut matching);
        let action = Some(Action::DirectResponse(DirectResponseAction { status: 200, body: None }));
        Route { name: name.into(), r#match: Some(matching), action, ..Route::default() }
    };
    let header = |value: StringMatcher, inverts: bool| HeaderMatcher {
        name: "x-a".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(value)),
        invert_match: inverts,
        treat_missing_header_as_empty: inverts,
    };
    let routes = vec![
        route("exact", PathSpecifier::Path("/exact".into()), &|_| {}),
        route("case", PathSpecifier::Prefix("/Case".into()), &|it| it.case_sensitive = Some(false)),
        route("pattern", PathSpecifier::SafeRegex(RegexMatcher { regex: "/i/[0-9]+".into() }), &|_| {}),
        route("header", PathSpecifier::Prefix("/".into()), &|it| it.headers = vec![header(exact("b"), false)]),
        route("without", PathSpecifier::Prefix("/w".into()), &|it| it.headers = vec![header(exact("c"), true)]),
        route("query", PathSpecifier::Prefix("/".into()), &|it| {
            let specifier = Some(QueryParameterMatchSpecifier::StringMatch(exact("1")));
            it.query_parameters =
                vec![QueryParameterMatcher { name: "q".into(), query_parameter_match_specifier: specifier }];
        }),
    ];
    let host = |domain: &str, routes| VirtualHost {
        name: domain.into(),
        domains: vec![domain.into()],
        routes,
        ..VirtualHost::default()
    };
    let virtual_hosts = vec![host("web.shop", routes.clone()), host("*", routes)];
    let table = RouteConfiguration { name: "r".into(), virtual_hosts }.encode_to_vec();
    let seed = |target: &str, value: &str| {
        let head: Vec<u8> = ["GET", "web.shop:80", target].iter().flat_map(|text| piece(text.as_bytes())).collect();
        [vec![0], head, vec![1], piece(b"x-a"), piece(value.as_bytes()), table.clone()].concat()
    };
    vec![
        ("exact", seed("/exact", "")),
        ("case", seed("/cAsE/x", "")),
        ("pattern", seed("/i/12", "")),
        ("header", seed("/", "b")),
        ("without", seed("/w", "d")),
        ("query", seed("/?a&q=1", "")),
    ]
}

/// A listener of filters with rules, and resources of nothing.
fn resources() -> Seeds {
    use fairway_proto::envoy::http_rbac;
    use fairway_proto::envoy::rbac::permission::Rule as Permitted;
    use fairway_proto::envoy::rbac::principal::Identifier;
    use fairway_proto::envoy::rbac::{Permission, Policy, Principal, Rbac};
    let policy = Policy {
        permissions: vec![Permission { rule: Some(Permitted::DestinationPort(80)) }],
        principals: vec![Principal { identifier: Some(Identifier::Any(true)) }],
    };
    let rules = |action| Some(Rbac { action, policies: [("shop/p/0".to_owned(), policy.clone())].into() });
    let filter = |rules, shadow_rules| {
        let message = http_rbac::Rbac { rules, shadow_rules, shadow_rules_stat_prefix: "p_".into() };
        [vec![2], piece(&message.encode_to_vec())].concat()
    };
    let all = [filter(rules(2), None), filter(None, rules(1)), filter(rules(0), None)].concat();
    vec![
        ("filters", [vec![4], piece(&[]), all].concat()),
        ("table", vec![0]),
        ("cluster", vec![1]),
        ("assignment", vec![2]),
        ("connections", [vec![5], piece(&[])].concat()),
    ]
}

/// Conditions and formats as users write them.
fn access_log() -> Seeds {
    let seed = |condition: &str, format: &str| [&[0][..], &piece(condition.as_bytes()), format.as_bytes()].concat();
    vec![
        ("failed", seed("response.code >= 400 && request.method != 'GET'", "%REQ(:METHOD)% %RESPONSE_CODE%\n")),
        ("header", seed("'x-a' in request.headers || has(request.headers.b)", "%REQ(X-A?:PATH):10% 100%%")),
        (
            "choice",
            seed("response.code in [200, 201] ? size('a') + 1 == 2 : !connection.mtls", "[%START_TIME%] %DURATION%ms"),
        ),
    ]
}

/// The first bytes of a TLS client that asks for `a.example`, in one record and in two, and of other clients.
fn client_hello() -> Seeds {
    let extension = [&[0, 0, 0, 14, 0, 12, 0, 0, 9][..], b"a.example"].concat();
    let before = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
    let body = [before, piece(&extension)].concat();
    let message = [&[1, 0][..], &piece(&body)].concat();
    let record = |part: &[u8]| [&[22, 3, 1][..], &piece(part)].concat();
    let (first, second) = message.split_at(20);
    vec![
        ("name", record(&message)),
        ("two-records", [record(first), record(second)].concat()),
        ("cut-off", record(&message)[..60].to_vec()),
        ("http", b"GET / HTTP/1.1\r\n".to_vec()),
    ]
}

fn connect() -> Seeds {
    let baggage = "bk8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,\
                   service.version=v1,cloud.region=r1,cloud.availability_zone=z1";
    let all = format!(
        "10.0.0.1:8080\n{baggage}\nffor=\"10.0.0.9:1234\";host=cart.shop.svc.cluster.local\n\
         t00-00000000000000000000000000000001-0000000000000001-00\npfairway; error=http_request_denied; \
         details=\"policy_denied\""
    );
    let original = "10.0.0.1:8080\nffor=\"10.0.0.9:1234\";host=cart.shop.svc.cluster.local\n\
                    xBy=spiffe://cluster.local/ns/shop/sa/waypoint;URI=spiffe://cluster.local/ns/shop/sa/client";
    [
        ("ipv4", "10.0.0.1:8080"),
        ("ipv6", "[fd00::1]:8080"),
        ("mapped", "[::ffff:10.0.0.1]:8080"),
        ("hostname", "cart.shop.svc.cluster.local:80"),
        ("sandwich", "10.9.0.1:80"),
        ("own-port", "10.0.0.1:15008"),
        ("no-port", "10.0.0.1"),
        ("odd-baggage", "x:1\nbk8s.namespace.name=a=b,,=,x,service.name=,k8s.evil.name=y, k8s.job.name=z"),
    ]
    .map(|(name, text)| (name, text.as_bytes().to_vec()))
    .into_iter()
    .chain([("all-headers", all.into_bytes()), ("original", original.as_bytes().to_vec())])
    .collect()
}

/// Whether slashes are merged, and a path.
fn path() -> Seeds {
    [
        ("plain", "1/a/b?"),
        ("dots", "1/a/./b/../c"),
        ("encoded", "1/%61/%2e%2E/%2f"),
        ("slashes", "0//a\\b//"),
        ("star", "0*"),
    ]
    .map(|(name, text)| (name, text.as_bytes().to_vec()))
    .to_vec()
}

/// With and without a time, an address alone, and what is none.
fn session() -> Seeds {
    [
        ("timed", "CgsxMC4wLjAuMTo4MBCgAQ=="),
        ("untimed", "CgsxMC4wLjAuMTo4MA=="),
        ("bare", "MTAuMC4wLjE6ODA="),
        ("six", "W2ZkMDA6OjFdOjgw"),
        ("cut", "CgsxMC4w"),
    ]
    .map(|(name, text)| (name, text.as_bytes().to_vec()))
    .to_vec()
}

/// Questions of an API server about a policy and a route, one that can be read and one that cannot, and about what goes.
fn admission() -> Seeds {
    let review = |request: &str| {
        format!("{{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\",\"request\":{request}}}")
            .into_bytes()
    };
    let of = |object: &str| {
        review(&format!(
            "{{\"uid\":\"u\",\"operation\":\"CREATE\",\"name\":\"it\",\"namespace\":\"shop\",\"object\":{object}}}"
        ))
    };
    let policy = "{\"apiVersion\":\"security.istio.io/v1\",\"kind\":\"AuthorizationPolicy\",\"metadata\":{\"name\":\"it\"},\"spec\":{\"action\":\"DENY\"}}";
    let route = "{\"apiVersion\":\"gateway.networking.k8s.io/v1\",\"kind\":\"HTTPRoute\",\"metadata\":{\"generateName\":\"a-\"},\"spec\":{\"parentRefs\":\"web\"}}";
    vec![
        ("policy", of(policy)),
        ("route", of(route)),
        ("gone", review("{\"uid\":\"u\",\"operation\":\"DELETE\",\"object\":null}")),
    ]
}

/// A header with a token, cookies, and a query; the tokens are signed with zeros.
fn token() -> Seeds {
    // {"alg":"ES256","kid":"1"}, {"iss":"a","aud":["web"],"exp":2000000000} and 64 zero bytes.
    let head = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ";
    let claims = "eyJpc3MiOiJhIiwiYXVkIjpbIndlYiJdLCJleHAiOjIwMDAwMDAwMDB9";
    let token = format!("{head}.{claims}.{}", "A".repeat(86));
    let seed = |header: &str, cookies: &str, query: &str| {
        [&piece(header.as_bytes())[..], &piece(cookies.as_bytes()), query.as_bytes()].concat()
    };
    vec![
        ("bearer", seed(&format!("Bearer {token}"), "", "")),
        ("cookie", seed("", &format!("a=b; token=\"{token}\""), "")),
        ("parameter", seed("", "", &format!("a=b&access_token={token}"))),
        ("several", seed(&format!("Bearer {token}"), &format!("token={token}"), "access_token=x.y.z")),
    ]
}

/// A value for each header, what is drawn, and an answer.
fn trace() -> Seeds {
    let seed = |values: [&str; 7]| {
        let values = values.iter().flat_map(|value| piece(value.as_bytes())).collect::<Vec<_>>();
        [&values[..], &[0, 1], &[0, 0, 0, 0, 2, 10, 0]].concat()
    };
    let (id, span) = ("0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7");
    vec![
        ("w3c", seed([&format!("00-{id}-{span}-01"), "a=b", "", "", "", "", ""])),
        ("b3", seed(["", "", &format!("{id}-{span}-d-{span}"), "", "", "", ""])),
        ("several", seed(["", "", "", id, span, "1", "1"])),
    ]
}

/// A length of pieces, and messages behind their lengths: headers that are set, a body, an answer of its own, more time.
fn processor() -> Seeds {
    let seed = |message: &[u8]| {
        let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
        [&[3, 0][..], &length, message].concat()
    };
    let field = |number: u8, held: &[u8]| [&[number << 3 | 2, held.len() as u8][..], held].concat();
    let line = field(1, &[field(1, b"x-a"), field(3, b"b")].concat());
    let mutation = field(2, &field(1, &line));
    vec![
        ("headers", seed(&field(1, &field(1, &mutation)))),
        ("body", seed(&field(3, &field(1, &field(3, &field(1, b"new")))))),
        ("immediate", seed(&field(7, &[field(1, &[8, 0xad, 3]), field(3, b"later")].concat()))),
        ("waits", seed(&field(10, &[8, 1]))),
    ]
}

/// A transport, a name, a query, and a resolver's reply.
fn dns() -> Seeds {
    let question = |name: &str, kind: u8| {
        let labels = name.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
        labels.chain([0, 0, kind, 0, 1]).collect::<Vec<u8>>()
    };
    let message = |flags: [u8; 2], answers: u8, body: &[u8]| {
        [&[0, 7][..], &flags, &[0, 1, 0, answers, 0, 0, 0, 0], body].concat()
    };
    let seed = |transport: u8, name: &str, kind: u8| {
        let asked = question(name, kind);
        let record = [&asked[..], &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]].concat();
        let (query, reply) = (message([1, 0], 0, &asked), message([0x81, 0x80], 1, &record));
        [&[transport][..], &piece(name.as_bytes()), &piece(&query), &reply].concat()
    };
    vec![
        ("ours", seed(0, world::HOST, 1)),
        ("ours-ipv6", seed(0, world::HOST, 28)),
        ("ours-by-stream", seed(1, world::GUARDED, 1)),
        ("outside", seed(0, "example.org", 1)),
        ("text", seed(0, world::HOST, 16)),
        ("nothing", vec![0]),
    ]
}

/// Steps of `tunnel`: SETTINGS first, as every client.
fn tunnel() -> Seeds {
    let step = |kind: u8, flags: u8, stream: u8, payload: &[u8]| [&[kind, flags, stream][..], &piece(payload)].concat();
    let hello = [step(4, 0, 0, &[]), step(4, 1, 0, &[])].concat();
    let connect = step(1, 4, 1, b"\x02\x07CONNECT\x01\x0d10.0.0.1:8080\x00\x07baggage\x08a=b,c=dd");
    let refused = step(1, 4, 3, b"\x02\x07CONNECT\x01\x0b10.0.0.7:80");
    let end = step(0, 1, 1, b"");
    let seeds = [
        ("echo", vec![connect.clone(), step(0, 0, 1, b"hello"), end]),
        ("refused", vec![refused, step(0, 1, 3, b"early")]),
        ("get", vec![step(1, 5, 1, b"\x82\x84\x87\x01\x011")]),
        ("reset", vec![connect.clone(), step(3, 0, 1, &[0, 0, 0, 8])]),
        ("window", vec![connect.clone(), step(8, 0, 1, &[0; 4]), step(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]),
        ("continued", vec![step(1, 0, 1, b"\x02\x07CONN"), step(9, 4, 1, b"ECT\x01\x0d10.0.0.1:8080")]),
        ("indexed", vec![step(1, 4, 1, b"\x02\x07CONNECT\x01\x0d10.0.0.1:8080\x40\x01a\x03bcd\xbe\xbe")]),
        ("ping", vec![step(6, 0, 0, b"12345678"), step(7, 0, 0, &[0; 8])]),
        ("half", vec![connect.clone(), [&[RAW][..], &piece(b"\0\0\x64\0\0\0\0\0\x01half")].concat()]),
    ];
    seeds.map(|(name, steps)| (name, [hello.clone(), steps.concat()].concat())).into()
}

fn node_socket() -> Seeds {
    let packet = |descriptors: u8, payload: Payload| {
        let message = WorkloadRequest { payload: Some(payload) }.encode_to_vec();
        [&[descriptors][..], &piece(&message)].concat()
    };
    let add = |uid: &str, name: &str, descriptors| {
        let info = WorkloadInfo { name: name.into(), namespace: "shop".into(), service_account: "default".into() };
        packet(descriptors, Payload::Add(AddWorkload { uid: uid.into(), workload_info: Some(info) }))
    };
    let keep = packet(0, Payload::Keep(KeepWorkload { uid: "b".into() }));
    let del = packet(0, Payload::Del(DelWorkload { uid: "a".into() }));
    let sent = packet(0, Payload::SnapshotSent(SnapshotSent {}));
    vec![
        ("session", [add("a", "cart", 1), keep.clone(), sent.clone(), add("c", "web", 1), del.clone()].concat()),
        ("fails", [add("a", "fail", 1), sent.clone(), add("a", "cart", 1)].concat()),
        ("late-keep", [sent.clone(), keep].concat()),
        ("second-snapshot", [sent.clone(), sent.clone()].concat()),
        ("no-descriptor", add("a", "cart", 0)),
        ("two-descriptors", add("a", "cart", 2)),
        ("seven-descriptors", add("a", "cart", 7)),
        ("no-namespace", add("a", "cart", 0x81)),
        ("early-del", [del, sent].concat()),
        ("too-long", [&[0][..], &piece(&[7; 2_000])].concat()),
    ]
}

fn addresses() -> DeltaDiscoveryResponse {
    let (workloads, services) = world::messages();
    let workloads = workloads.into_iter().map(|message| (message.uid.clone(), address::Type::Workload(message)));
    let services = services
        .into_iter()
        .map(|message| (format!("{}/{}", message.namespace, message.hostname), address::Type::Service(message)));
    let resources = workloads.chain(services).map(|(name, message)| {
        let any = prost_types::Any {
            type_url: type_url::ADDRESS.into(),
            value: Address { r#type: Some(message) }.encode_to_vec(),
        };
        Resource { name, version: "1".into(), resource: Some(any), ..Default::default() }
    });
    DeltaDiscoveryResponse {
        type_url: type_url::ADDRESS.into(),
        nonce: "n1".into(),
        resources: resources.collect(),
        ..Default::default()
    }
}

fn policies() -> DeltaDiscoveryResponse {
    let resources = authorizations().into_iter().map(|(_, message)| {
        let any = prost_types::Any { type_url: type_url::AUTHORIZATION.into(), value: message.encode_to_vec() };
        let name = format!("{}/{}", message.namespace, message.name);
        Resource { name, version: "1".into(), resource: Some(any), ..Default::default() }
    });
    DeltaDiscoveryResponse {
        type_url: type_url::AUTHORIZATION.into(),
        nonce: "n2".into(),
        resources: resources.collect(),
        ..Default::default()
    }
}

fn xds() -> Seeds {
    let (addresses, policies) = (addresses(), policies());
    let mut one = addresses.clone();
    one.resources.truncate(1);
    let removed = DeltaDiscoveryResponse {
        type_url: type_url::ADDRESS.into(),
        nonce: "n3".into(),
        removed_resources: addresses.resources.iter().take(3).map(|resource| resource.name.clone()).collect(),
        ..Default::default()
    };
    let unknown = DeltaDiscoveryResponse { type_url: "type.googleapis.com/x".into(), ..Default::default() };
    let play = |responses: &[&DeltaDiscoveryResponse]| {
        responses.iter().flat_map(|response| response.encode_length_delimited_to_vec()).collect()
    };
    vec![
        ("one", play(&[&one])),
        ("both", play(&[&policies, &addresses])),
        ("removed", play(&[&addresses, &removed])),
        ("again", play(&[&addresses, &policies, &addresses])),
        ("unknown", play(&[&unknown])),
    ]
}

fn text(match_type: MatchType) -> StringMatch {
    StringMatch { match_type: Some(match_type) }
}

fn authorizations() -> Vec<(&'static str, Authorization)> {
    let policy = |name: &str, scope: Scope, action: Action, entry: Match| Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: scope.into(),
        action: action.into(),
        rules: vec![Rule { clauses: vec![Clause { matches: vec![entry] }] }],
        ..Default::default()
    };
    let principal =
        Match { principals: vec![text(MatchType::Exact("cluster.local/ns/shop/sa/web".into()))], ..Default::default() };
    let strict = Match { not_principals: vec![text(MatchType::Presence(()))], ..Default::default() };
    let block = Match {
        source_ips: vec![Block { address: vec![10, 0, 0, 0], length: 8 }],
        not_source_ips: vec![Block { address: vec![10, 0, 0, 9], length: 32 }],
        ..Default::default()
    };
    let mut mapped_block = [0; 16];
    mapped_block[10..12].fill(0xff);
    mapped_block[12] = 10;
    let mapped = Match {
        destination_ips: vec![Block { address: mapped_block.to_vec(), length: 104 }],
        destination_ports: vec![8080],
        ..Default::default()
    };
    let account = ServiceAccountMatch { namespace: "shop".into(), service_account: "web".into() };
    let account = Match {
        service_accounts: vec![account],
        namespaces: vec![text(MatchType::Prefix("sh".into()))],
        not_namespaces: vec![text(MatchType::Suffix("-2".into()))],
        ..Default::default()
    };
    let mut rehearsed = policy("rehearsed", Scope::Global, Action::Deny, Match::default());
    rehearsed.dry_run = true;
    let mut unknown = policy("unknown", Scope::Namespace, Action::Allow, principal.clone());
    unknown.action = 7;
    let mut empty = policy("empty", Scope::Global, Action::Allow, Match::default());
    empty.rules = vec![Rule::default()];
    vec![
        ("allow-principal", policy("allow", Scope::Namespace, Action::Allow, principal)),
        ("strict", policy("strict", Scope::WorkloadSelector, Action::Deny, strict)),
        ("blocks", policy("blocks", Scope::Global, Action::Deny, block)),
        ("mapped", policy("mapped", Scope::Global, Action::Deny, mapped)),
        ("account", policy("account", Scope::Namespace, Action::Allow, account)),
        ("rehearsed", rehearsed),
        ("unknown-action", unknown),
        ("empty-clause", empty),
    ]
}

fn policy() -> Seeds {
    // Both IPv4, the client being shop/web: from 10.0.0.9 to 10.0.0.1, port 8080.
    let facts = [&[2 << 2, 10, 0, 0, 9, 10, 0, 0, 1][..], &8080_u16.to_be_bytes()].concat();
    let all: Vec<u8> =
        authorizations().iter().flat_map(|(_, message)| message.encode_length_delimited_to_vec()).collect();
    let single = authorizations()
        .into_iter()
        .map(|(name, message)| (name, [facts.clone(), message.encode_length_delimited_to_vec()].concat()));
    // As a waypoint, other/web, for shop/web at 10.0.0.7.
    let behind = [&[4 << 2 | 1 << 5][..], &facts[1..], &[10, 0, 0, 7], &all].concat();
    single.chain([("all", [facts.clone(), all].concat()), ("behind", behind)]).collect()
}

fn proxy_protocol() -> Seeds {
    let ipv4 = [10, 0, 0, 9, 0x12, 0x34, 10, 0, 0, 1, 0, 80];
    let identity = b"spiffe://cluster.local/ns/shop/sa/web";
    vec![
        ("ipv4", [&[0][..], &ipv4, identity].concat()),
        ("ipv6", [&[3][..], &[0xfd; 16], &[0, 80], &[0xfc; 16], &[0, 81], identity].concat()),
        ("mixed", [&[2][..], &ipv4[..6], &[0xfd; 16], &[0, 80]].concat()),
    ]
}
