//! Tests of `telemetry`.

use std::io::Write;
use std::sync::Mutex;

use fairway_core::authz::DryRunHit;
use fairway_core::facts::ConnectionFacts;
use fairway_core::io::logging::{Shape, subscriber};
use fairway_core::policy::Action;
use fairway_proto::workload as proto;

use super::*;

fn workload(name: &str) -> Arc<Workload> {
    let message = proto::Workload {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        workload_name: format!("{name}-deployment"),
        canonical_name: name.to_owned(),
        canonical_revision: "v1".to_owned(),
        service_account: name.to_owned(),
        ..Default::default()
    };
    Arc::new(Workload::try_from(message).unwrap())
}

fn info(reporter: Reporter) -> ConnectionInfo {
    let (client, server) = (workload("client"), workload("server"));
    let mut info = ConnectionInfo::new(reporter, "10.0.0.1:4000".parse().unwrap(), "10.0.0.2:15008".parse().unwrap());
    info.source_identity = Some(client.identity());
    info.destination_identity = Some(server.identity());
    info.hbone_destination = Some("10.0.0.2:80".to_owned());
    info.source_workload = Some(client);
    info.destination_workload = Some(server);
    info
}

fn sum(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with('{'));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logged(work: impl FnOnce()) -> Vec<String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let (subscriber, _filter) = subscriber(Shape::Plain, "info", move || writer.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_connection_is_counted_while_it_lives_and_logged_at_its_end() {
    let metrics = Metrics::default();
    let telemetry = Telemetry::new(&metrics);
    let lines = logged(|| {
        let connection = telemetry.open(info(Reporter::Source), Some(PolicyKey::new("shop", "allow")));
        connection.out_of_application(100);
        connection.towards_application(7);
        let text = metrics.render();
        assert_eq!(sum(&text, "istio_tcp_connections_opened_total"), 1);
        assert_eq!(sum(&text, "istio_tcp_received_bytes_total"), 100, "what the client sent");
        assert_eq!(sum(&text, "istio_tcp_sent_bytes_total"), 7);
        assert_eq!(sum(&text, "istio_tcp_connections_closed_total"), 0);
        assert!(text.contains("istio_tcp_sockets_open{reporter=\"source\"} 1"), "{text}");
        let [row] = telemetry.table().list().try_into().unwrap();
        assert_eq!((row.bytes_to_destination, row.bytes_to_source, row.mutual_tls), (100, 7, true));
        assert_eq!(row.policy.as_deref(), Some("shop/allow"));
        connection.finish(&Outcome::ok());
    });
    let text = metrics.render();
    assert_eq!(sum(&text, "istio_tcp_connections_closed_total"), 1);
    assert_eq!(sum(&text, "istio_tcp_connections_failed_total"), 0);
    assert!(text.contains("istio_tcp_sockets_open{reporter=\"source\"} 0"), "{text}");
    assert!(telemetry.table().is_empty());

    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let (head, fields) = line.rsplit_once('\t').unwrap();
    assert!(head.ends_with("\tinfo\taccess\tconnection complete"), "{head}");
    let names: Vec<_> = fields.split(' ').map(|field| field.split('=').next().unwrap()).collect();
    let expected = "src.addr src.workload src.namespace src.identity src.cluster dst.addr dst.hbone_addr dst.workload \
                    dst.namespace dst.identity dst.cluster direction bytes_sent bytes_recv duration reason policy";
    assert_eq!(names.join(" "), expected, "{fields}");
    assert!(fields.contains("bytes_sent=100 bytes_recv=7"), "{fields}");
    assert!(fields.contains("src.identity=\"spiffe://cluster.local/ns/shop/sa/client\""), "{fields}");
}

#[test]
fn the_destination_counts_the_same_way_and_logs_from_its_own_side() {
    let metrics = Metrics::default();
    let telemetry = Telemetry::new(&metrics);
    let lines = logged(|| {
        let connection = telemetry.open(info(Reporter::Destination), None);
        connection.towards_application(100);
        connection.out_of_application(7);
        connection.finish(&Outcome::ok());
    });
    let text = metrics.render();
    assert_eq!(sum(&text, "istio_tcp_received_bytes_total"), 100);
    assert_eq!(sum(&text, "istio_tcp_sent_bytes_total"), 7);
    assert!(lines[0].contains("direction=\"inbound\" bytes_sent=7 bytes_recv=100"), "{lines:?}");
}

#[test]
fn a_line_names_the_client_for_whom_a_waypoint_speaks() {
    let telemetry = Telemetry::new(&Metrics::default());
    let identity = Identity::new("cluster.local", "shop", "guest").unwrap();
    let guest = Original { identity, address: "10.0.0.9:4000".parse().unwrap() };
    let lines = logged(|| {
        let behind = ConnectionInfo { original: Some(Arc::new(guest)), ..info(Reporter::Destination) };
        telemetry.refused(&behind, Instant::now(), &Outcome::of(Reason::PolicyNotAllowed));
    });
    assert!(
        lines[0].contains("src.identity=\"spiffe://cluster.local/ns/shop/sa/client\""),
        "who came is told as ever: {lines:?}"
    );
    let original = "original.addr=10.0.0.9:4000 original.identity=\"spiffe://cluster.local/ns/shop/sa/guest\"";
    assert!(lines[0].contains(original), "{lines:?}");
}

#[test]
fn a_rehearsal_names_the_client_for_whom_a_waypoint_speaks() {
    let guest = Original {
        identity: Identity::new("cluster.local", "shop", "guest").unwrap(),
        address: "10.0.0.9:4000".parse().unwrap(),
    };
    let facts = ConnectionFacts {
        source: "10.0.0.1:4000".parse().unwrap(),
        source_identity: None,
        original: None,
        destination: "10.0.0.2:80".parse().unwrap(),
        http: None,
    };
    let hits = [DryRunHit { policy: PolicyKey::new("shop", "tried"), action: Action::Deny }];
    for (original, expected) in [(None, false), (Some(&guest), true)] {
        let lines = logged(|| Telemetry::new(&Metrics::default()).dry_run().note(&hits, &facts, original));
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(line.contains("policy=shop/tried") && line.contains("source=10.0.0.1:4000"), "{line}");
        let named = "original.addr=10.0.0.9:4000 original.identity=\"spiffe://cluster.local/ns/shop/sa/guest\"";
        assert_eq!(line.contains(named), expected, "{line}");
    }
}

#[test]
fn a_cut_names_policy_reason_and_hint() {
    let metrics = Metrics::default();
    let telemetry = Telemetry::new(&metrics);
    let denial = fairway_core::authz::Denial {
        policy: Some(PolicyKey::new("shop", "deny")),
        reason: Reason::PolicyDenied,
        dry_run: vec![],
    };
    let lines = logged(|| {
        let connection = telemetry.open(info(Reporter::Destination), Some(PolicyKey::new("shop", "allow")));
        connection.finish(&denial.clone().into());
        telemetry.refused(&info(Reporter::Destination), Instant::now(), &denial.into());
    });
    assert_eq!(lines.len(), 2);
    for line in &lines {
        assert!(line.contains("\terror\taccess\t") && line.contains("policy=\"shop/deny\""), "{line}");
        assert!(line.contains("reason=\"policy_denied\"") && line.contains("hint=\""), "{line}");
    }
    let text = metrics.render();
    assert_eq!(sum(&text, "istio_tcp_connections_failed_total"), 2);
    assert_eq!(sum(&text, "istio_tcp_connections_opened_total"), 1);
    let failed = text.lines().find(|line| line.starts_with("istio_tcp_connections_failed_total{")).unwrap();
    assert!(failed.contains("response_flags=\"DENY\""), "{failed}");
    let reason = "fairway_connections_ended_total{reporter=\"destination\",reason=\"policy_denied\"} 2";
    assert!(text.contains(reason), "{text}");
}

#[test]
fn a_policy_that_let_a_connection_in_is_not_blamed_for_its_end() {
    let telemetry = Telemetry::new(&Metrics::default());
    let allow = PolicyKey::new("shop", "allow");
    let ended = |reason| {
        logged(|| telemetry.open(info(Reporter::Destination), Some(allow.clone())).finish(&Outcome::of(reason)))
    };
    assert!(ended(Reason::Ok)[0].contains("policy=\"shop/allow\""));
    assert!(ended(Reason::ResetByPeer)[0].contains("policy=\"shop/allow\""));
    assert!(!ended(Reason::PolicyNotAllowed)[0].contains("policy=\""));
}

#[test]
fn a_dropped_connection_is_closed_and_logged_as_cut_short() {
    let metrics = Metrics::default();
    let telemetry = Telemetry::new(&metrics);
    let lines = logged(|| drop(telemetry.open(info(Reporter::Source), None)));
    assert!(lines[0].contains("reason=\"draining\""), "{lines:?}");
    let text = metrics.render();
    assert_eq!(sum(&text, "istio_tcp_connections_closed_total"), 1);
    assert!(text.contains("istio_tcp_sockets_open{reporter=\"source\"} 0"));
}

#[test]
fn labels_that_are_left_out_are_not_there_and_their_series_are_one() {
    let metrics = Metrics::default();
    let left_out = "source_workload, source_principal,source_canonical_service,source_app".parse().unwrap();
    let telemetry = Telemetry::leaving_out(left_out, &metrics);
    for client in ["client", "other"] {
        let mut info = info(Reporter::Source);
        info.source_workload = Some(workload(client));
        telemetry.open(info, None).finish(&Outcome::ok());
    }
    let text = metrics.render();
    let opened: Vec<_> = text.lines().filter(|line| line.starts_with("istio_tcp_connections_opened_total{")).collect();
    assert!(matches!(opened[..], [line] if line.ends_with(" 2") && !line.contains("source_workload=")), "{opened:?}");
    assert!(opened[0].contains("destination_workload=\"server-deployment\""), "{opened:?}");
    for wrong in ["reporter", "source_workload destination_app", "color"] {
        let error = wrong.parse::<LeftOut>().unwrap_err().to_string();
        assert!(error.contains(&format!("{wrong:?}")) && error.contains("destination_zone"), "{error}");
    }
    // Whatever a connection may have can be left out, one by one.
    let info = info(Reporter::Source);
    labels::with(&info, Reason::Ok.response_flag(), &LeftOut::default(), |labels| {
        for (name, _) in &labels[1..] {
            let left_out = name.parse().unwrap();
            let rest = labels::with(&info, Reason::Ok.response_flag(), &left_out, |labels| labels.len());
            assert_eq!(rest, labels.len() - 1, "{name}");
        }
    });
}

#[test]
fn label_names_values_and_order() {
    let mut plain =
        ConnectionInfo::new(Reporter::Source, "10.0.0.1:4000".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    let names = |info: &ConnectionInfo| {
        labels::with(info, Reason::Ok.response_flag(), &LeftOut::default(), |labels| {
            labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
        })
    };
    let unknown = names(&plain);
    assert_eq!(unknown.len(), 23, "without region and zone");
    assert_eq!(unknown[0], "reporter=source");
    assert_eq!(unknown[5], "source_principal=unknown");
    assert_eq!(unknown[20..], ["request_protocol=tcp", "response_flags=-", "connection_security_policy=unknown"]);

    plain.source_workload = Some(workload("client"));
    assert_eq!(
        names(&plain)[23..],
        ["source_region", "source_zone", "destination_region", "destination_zone"]
            .map(|name| format!("{name}=unknown"))
    );
    let full = names(&info(Reporter::Destination));
    assert_eq!(
        full[1..5],
        [
            "source_workload=client-deployment",
            "source_canonical_service=client",
            "source_canonical_revision=v1",
            "source_workload_namespace=shop",
        ]
    );
    assert_eq!(full[16], "destination_principal=spiffe://cluster.local/ns/shop/sa/server");
    assert_eq!(full[22], "connection_security_policy=mutual_tls");
}

#[test]
fn connections_of_one_label_set_share_their_series() {
    let telemetry = Telemetry::new(&Metrics::default());
    let (first, second) = (telemetry.open(info(Reporter::Source), None), telemetry.open(info(Reporter::Source), None));
    assert!(Arc::ptr_eq(&first.series, &second.series));
    let other = telemetry.open(info(Reporter::Destination), None);
    assert!(!Arc::ptr_eq(&first.series, &other.series));
}

#[test]
fn a_connection_rejected_early_is_counted_and_logged() {
    let metrics = Metrics::default();
    let telemetry = Telemetry::new(&metrics);
    let lines = logged(|| {
        let outcome = Outcome::because(Reason::ClientCertificateMissing, "peer sent no certificates");
        let (source, destination) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:15008".parse().unwrap());
        telemetry.refused(&ConnectionInfo::new(Reporter::Destination, source, destination), Instant::now(), &outcome);
    });
    assert!(lines[0].contains("\twarn\taccess\tconnection failed\tsrc.addr=10.0.0.1:4000"), "{lines:?}");
    assert_eq!(sum(&metrics.render(), "istio_tcp_connections_failed_total"), 1);
}

#[test]
fn revoked_peers_are_counted_by_who_reports_them() {
    let metrics = Metrics::new(&[]);
    let telemetry = Telemetry::new(&metrics);
    let revoked = Outcome::of(Reason::CertificateRevoked);
    telemetry.refused(&info(Reporter::Destination), Instant::now(), &revoked);
    telemetry.open(info(Reporter::Destination), None).finish(&revoked);
    telemetry.refused(&info(Reporter::Source), Instant::now(), &Outcome::of(Reason::PolicyDenied));
    let page = metrics.render();
    for (line, count) in [
        ("istio_crl_policy_rejections_total{reporter=\"destination\"}", 2),
        ("istio_crl_policy_rejections_total{reporter=\"source\"}", 0),
        ("istio_crl_untracked_connections_total{reporter=\"source\"}", 0),
    ] {
        assert!(page.lines().any(|found| found == format!("{line} {count}")), "{line} {count} in {page}");
    }
}
