//! Tests of `admin`.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use fairway_core::ident::Identity;
use fairway_core::io::admin::{readiness_router, serve, stats_router};
use fairway_core::io::certs::Authority;
use fairway_core::io::certs::authority::{Answer, AuthorityError};
use fairway_core::io::drain;
use fairway_core::io::logging::{Shape, subscriber};
use fairway_core::io::metrics::Metrics;
use fairway_core::io::ready::Readiness;
use fairway_core::io::tls::provider;
use fairway_core::limits::Limits;
use fairway_core::snapshot::Update;
use fairway_core::workload::Workload;
use fairway_proto::workload as proto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::telemetry::{ConnectionInfo, Outcome, Reporter, Telemetry};

struct NoAuthority;

impl Authority for NoAuthority {
    fn sign<'a>(&'a self, _: &'a Identity, _: String, _: Duration) -> Answer<'a> {
        Box::pin(async { Err(AuthorityError::Unreachable("nobody there".to_owned())) })
    }
}

async fn served(router: Router) -> (SocketAddr, drain::Trigger) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, handle) = drain::new();
    tokio::spawn(serve(listener, router, Limits::default(), handle));
    (address, trigger)
}

/// Status and body.
async fn ask(address: SocketAddr, line: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

fn admin(telemetry: &Telemetry) -> (Admin, impl Sized + use<>) {
    let (log_subscriber, log_filter) = subscriber(Shape::Plain, "info", std::io::sink).unwrap();
    let certificates = Certificates::new(Arc::new(NoAuthority), provider(), Duration::from_secs(3600), SystemTime::now);
    let info = PodInfo { name: "client".into(), namespace: "shop".into(), service_account: "client".into() };
    let admin = Admin {
        live: Live::new(),
        stream: ClientStatus::default(),
        certificates,
        connections: telemetry.table().clone(),
        limits: Limits::default(),
        pods: Arc::new(move || {
            let state = |uid, pending| PodState { uid: PodUid::new(uid), info: info.clone(), pending };
            vec![state("u1", None), state("u2", Some("port 15001 is taken".to_owned()))]
        }),
        is_neighbour: Arc::new(|_, _| false),
        clients_behind_waypoints: true,
        zone: Zone::default(),
        config: serde_json::json!({ "localNode": "node-1" }),
        log_filter,
        shutdown: CancellationToken::new(),
    };
    (admin, log_subscriber)
}

fn workload(name: &str) -> Workload {
    let message = proto::Workload {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        service_account: name.to_owned(),
        ..Default::default()
    };
    Workload::try_from(message).unwrap()
}

#[tokio::test]
async fn the_dump_has_every_section() {
    let telemetry = Telemetry::new(&Metrics::default());
    let (admin, _logs) = admin(&telemetry);
    admin.live.apply(vec![workload("client").into()]);
    let mut info =
        ConnectionInfo::new(Reporter::Source, "10.0.0.1:4000".parse().unwrap(), "10.0.0.2:15008".parse().unwrap());
    info.source_workload = Some(Arc::new(workload("client")));
    info.hbone_destination = Some("10.0.0.2:80".to_owned());
    let connection = telemetry.open(info, None);
    let _claim = admin.certificates.claim(&workload("client").identity());

    let (address, _trigger) = served(admin.router()).await;
    let (status, body) = ask(address, "GET /config_dump").await;
    assert_eq!(status, "200");
    let dump: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(dump["workloads"][0]["name"], "client");
    for list in ["services", "policies"] {
        assert!(dump[list].is_array(), "{list}: {body}");
    }
    assert!(dump["stagedServices"].is_object() && dump["staticConfig"]["workloads"].is_array());
    assert_eq!(dump["config"]["localNode"], "node-1");
    assert_eq!(dump["certificates"][0]["identity"], "spiffe://cluster.local/ns/shop/sa/client");
    let state = &dump["workloadState"]["u1"];
    assert_eq!(state["info"]["serviceAccount"], "client");
    assert_eq!(state["connections"]["outbound"][0]["originalDst"], "10.0.0.2:80");
    assert_eq!(state["connections"]["inbound"], serde_json::json!([]));
    assert_eq!(state["state"], "Up");
    let waiting = &dump["workloadState"]["u2"];
    assert_eq!((&waiting["state"], &waiting["error"]), (&"Pending".into(), &"port 15001 is taken".into()));

    let (_, body) = ask(address, "GET /connections").await;
    let rows: Vec<serde_json::Value> = lines_of(&body);
    assert_eq!(rows[0]["direction"], "outbound");
    assert_eq!(rows[0]["sourceWorkload"], "Kubernetes//Pod/shop/client");
    assert!(rows[0]["ageSeconds"].is_u64(), "{body}");
    drop(connection);
    assert_eq!(lines_of(&ask(address, "GET /connections").await.1), Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn a_connection_that_ended_between_two_looks_is_told_of_once() {
    let telemetry = Telemetry::new(&Metrics::default());
    let (admin, _logs) = admin(&telemetry);
    let (address, _trigger) = served(admin.router()).await;
    let brief = || {
        let ends = [SocketAddr::from(([10, 0, 0, 1], 40_000)), SocketAddr::from(([10, 0, 0, 2], 80))];
        let connection = telemetry.open(ConnectionInfo::new(Reporter::Source, ends[0], ends[1]), None);
        connection.sent_to_destination(7);
        connection.finish(&Outcome::ok());
    };
    brief();
    assert_eq!(lines_of(&ask(address, "GET /connections?ended=0").await.1).len(), 0, "it ended before anybody looked");
    brief();
    let rows = lines_of(&ask(address, "GET /connections?ended=0").await.1);
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((&row["ended"], &row["bytesToDestination"]), (&1.into(), &7.into()));
    assert_eq!(lines_of(&ask(address, "GET /connections?ended=1").await.1).len(), 0);
    assert_eq!(lines_of(&ask(address, "GET /connections").await.1).len(), 0, "those that are open alone");
    let (status, body) = ask(address, "GET /connections?ended=x").await;
    assert!(status.starts_with("400") && body.contains("ended"), "{status} {body}");
}

/// The JSON objects of a reply in chunks; what is left out are the chunks' lengths (RFC 9112 §7.1).
fn lines_of(body: &str) -> Vec<serde_json::Value> {
    body.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_long_table_is_complete() {
    let telemetry = Telemetry::new(&Metrics::default());
    let (admin, _logs) = admin(&telemetry);
    let address = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
    let open: Vec<_> = (1..=1_000)
        .map(|port| telemetry.open(ConnectionInfo::new(Reporter::Source, address(port), address(1)), None))
        .collect();
    let (address, _trigger) = served(admin.router()).await;
    let rows = lines_of(&ask(address, "GET /connections").await.1);
    let sources: std::collections::BTreeSet<_> = rows.iter().map(|row| row["source"].to_string()).collect();
    assert_eq!((rows.len(), sources.len()), (open.len(), open.len()));
}

#[tokio::test]
async fn logging_is_shown_changed_and_reset() {
    let (admin, _logs) = admin(&Telemetry::new(&Metrics::default()));
    let (address, _trigger) = served(admin.router()).await;
    let rows = [
        ("POST /logging", "200", "current log level is info\n"),
        ("POST /logging?level=access%3Ddebug", "200", "current log level is info,access=debug\n"),
        ("POST /logging?level=access=loud", "400", "\"access=loud\" is no level"),
        ("POST /logging?level=debgu", "400", "\"debgu\" is no level"),
        ("POST /logging?level=warn", "200", "current log level is warn,access=debug\n"),
        ("POST /logging?level=", "200", "current log level is warn,access=debug\n"),
        ("POST /logging?reset&level=h2=off", "200", "current log level is info,h2=off\n"),
        ("POST /logging?reset", "200", "current log level is info\n"),
        ("GET /logging", "405", "use POST"),
        ("GET /quitquitquit", "405", "use POST"),
        ("GET /debug/pprof/profile", "404", "no profiler is built in"),
    ];
    for (line, status, body) in rows {
        let reply = ask(address, line).await;
        assert!(reply.0 == status && reply.1.starts_with(body), "{line}: {reply:?}");
    }
    assert!(!admin.shutdown.is_cancelled());
    assert_eq!(ask(address, "POST /quitquitquit").await.0, "200");
    assert!(admin.shutdown.is_cancelled());
}

#[tokio::test]
async fn readiness_names_what_is_pending() {
    let readiness = Readiness::new();
    let (first, second) = (readiness.block("xds workloads"), readiness.block("node agent"));
    let (address, _trigger) = served(readiness_router(&readiness)).await;
    let expected = ("500".to_owned(), "not ready, pending: xds workloads, node agent\n".to_owned());
    assert_eq!(ask(address, "GET /healthz/ready").await, expected);
    drop((first, second));
    assert_eq!(ask(address, "GET /healthz/ready").await, ("200".to_owned(), "ready\n".to_owned()));
}

#[tokio::test]
async fn metrics_are_served_on_both_paths() {
    let metrics = Metrics::default();
    metrics.counter("seen_total", &[]).increment(1);
    let (address, _trigger) = served(stats_router(&metrics)).await;
    for path in ["/metrics", "/stats/prometheus"] {
        assert!(ask(address, &format!("GET {path}")).await.1.contains("seen_total 1"));
    }
}

#[tokio::test]
async fn it_is_told_what_would_become_of_a_connection() {
    let telemetry = Telemetry::new(&Metrics::default());
    let (admin, _logs) = admin(&telemetry);
    let mut server = proto::Workload {
        uid: "Kubernetes//Pod/shop/server".to_owned(),
        name: "server".to_owned(),
        namespace: "shop".to_owned(),
        ..Default::default()
    };
    server.addresses = vec![vec![10, 0, 0, 2]];
    let updates = vec![workload("client").into(), Workload::try_from(server).unwrap().into(), Update::Complete];
    admin.live.apply(updates);
    let (address, _trigger) = served(admin.router()).await;

    let (status, body) = ask(address, "GET /why/departure?pod=shop/client&destination=10.0.0.2:80").await;
    assert_eq!(status, "200", "{body}");
    let told: fairway_core::why::Departure = serde_json::from_str(&body).unwrap();
    assert_eq!(told.way, fairway_core::why::Way::Direct { address: "10.0.0.2:80".parse().unwrap() });
    let arrival = "GET /why/arrival?pod=shop/client&address=10.0.0.1:80&source=10.0.0.2:4000";
    let (status, body) = ask(address, arrival).await;
    let told: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&*status, &told["refused"]), ("200", &serde_json::Value::Null), "{body}");

    for (question, expected, words) in [
        ("departure?pod=shop/client", "400", "destination is missing"),
        ("departure?pod=shop/client&destination=server", "400", "no name \"server\""),
        ("departure?pod=shop/client&destination=10.0.0.2", "400", "a port is needed"),
        ("departure?pod=shop/other&destination=10.0.0.2:80", "404", "it has shop/client"),
        ("arrival?pod=shop/client&address=10.0.0.1:80&source=x", "400", "source is \"x\""),
        ("arrival?pod=shop/client&address=10.0.0.1:80&source=10.0.0.2:1&identity=me", "400", "identity is \"me\""),
    ] {
        let (status, body) = ask(address, &format!("GET /why/{question}")).await;
        assert_eq!(status, expected, "{question}: {body}");
        assert!(body.contains(words), "{question}: {body}");
    }
}
