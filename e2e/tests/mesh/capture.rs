//! What is captured and what is not: undeclared ports, UDP, pods that opt out, namespaces that leave.

use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::observe::{Cursor, field};
use super::shop::{self, CLIENT, CLIENT_IDENTITY, Conversation, LONER, SERVER, VISITOR};
use super::{enter, labs};

const TUNNEL: u16 = 15008;

#[test]
fn a_port_that_no_service_declares_is_reached_by_address_over_mutual_tls() {
    let Some(lab) = shop::enrolled("undeclared") else { return };
    for host in [shop::address(&lab, SERVER).to_string(), "headless".to_owned()] {
        let log = Cursor::at_end(&lab, "ztunnel-node-2");
        let sent = labs::output(&lab, CLIENT, &["fairway", "lab", "tool", "send", &format!("{host}:7000")]);
        assert_eq!(sent.trim(), "hello");
        let line = log.wait(&lab, &["connection complete", "direction=\"inbound\"", ":7000"]);
        assert_eq!(field(&line, "src.identity"), Some(CLIENT_IDENTITY), "{line}");
    }
}

#[test]
fn udp_passes_by_untouched() {
    let Some(lab) = shop::enrolled("udp") else { return };
    if !labs::can_enter("UDP between captured pods") {
        return;
    }
    let (client, server) = (shop::address(&lab, CLIENT), shop::address(&lab, SERVER));
    let bind = async |port| UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], port))).await.unwrap();
    let receiver = enter::pod(&lab, SERVER, async || bind(9000).await.into_std().unwrap());
    enter::pod(&lab, CLIENT, async || {
        let sender = bind(9001).await;
        sender.send_to(b"a datagram", (server, 9000)).await.unwrap();
    });
    enter::pod(&lab, SERVER, async || {
        let receiver = UdpSocket::from_std(receiver).unwrap();
        let mut buffer = [0; 32];
        let received = tokio::time::timeout(fairway_lab::lab::PATIENCE, receiver.recv_from(&mut buffer)).await;
        let (length, from) = received.unwrap().unwrap();
        assert_eq!((&buffer[..length], from), (&b"a datagram"[..], SocketAddr::new(client, 9001)));
    });
}

#[test]
fn a_pod_that_opts_out_is_left_alone() {
    let Some(lab) = shop::enrolled("opt-out") else { return };
    let loner = shop::address(&lab, LONER);
    assert_eq!(rules(&lab, LONER), "");
    assert_eq!(listeners(&lab, LONER), 0);
    let capture = lab.capture("node-1").unwrap();
    for (from, path) in [(CLIENT, "from-a-member"), (VISITOR, "from-a-visitor")] {
        let answer = labs::get(&lab, from, &format!("http://{loner}:8080/{path}"));
        assert!(answer.starts_with("200 the loner"), "{answer}");
        let wanted = format!("GET /{path}");
        lab.wait_for("the request in clear text", || {
            capture.has_seen(|segment| segment.payload.starts_with(wanted.as_bytes()))
        })
        .unwrap();
    }
    let tunnelled = |segment: &fairway_lab::capture::Segment| {
        segment.is_on_port(TUNNEL) && (segment.source.ip() == loner || segment.destination.ip() == loner)
    };
    assert!(!capture.finish().unwrap().iter().any(tunnelled));
}

#[test]
fn a_namespace_that_leaves_is_plain_again_and_its_clients_carry_on() {
    let Some(lab) = shop::enrolled("leave") else { return };
    assert_ne!(rules(&lab, SERVER), "");
    assert_eq!(listeners(&lab, SERVER), 3);
    for round in 1..=2 {
        let before = labs::pod(&lab, CLIENT);
        let failures = shop::heard(&lab).1.len();
        lab.label_namespace("shop", &["istio.io/dataplane-mode-"]).unwrap();
        lab.wait_captured(&[(CLIENT, false), (SERVER, false)]).unwrap();
        for pod in [CLIENT, SERVER] {
            lab.wait_until("no rules and no listeners in a pod that left", || {
                let (rules, listeners) = (rules(&lab, pod), listeners(&lab, pod));
                if rules.is_empty() && listeners == 0 { Ok(()) } else { Err(format!("{rules}, {listeners} listeners")) }
            })
            .unwrap();
            assert_eq!(labs::output(&lab, pod, &["ip", "rule"]), labs::output(&lab, VISITOR, &["ip", "rule"]));
            assert_eq!(
                labs::output(&lab, pod, &["ip", "-6", "rule"]),
                labs::output(&lab, VISITOR, &["ip", "-6", "rule"])
            );
        }
        shop::carries_on(&lab);
        let capture = lab.capture("node-1").unwrap();
        let readable = || capture.has_seen(|segment| segment.payload.starts_with(b"GET / HTTP/1.1"));
        lab.wait_for("plain requests on the link", readable).unwrap();
        let log = Cursor::at_end(&lab, "ztunnel-node-2");
        shop::carries_on(&lab);
        assert_eq!(log.lines(&lab, &["access"]), Vec::<String>::new());
        shop::enrol(&lab);
        shop::carries_on(&lab);
        let after = labs::pod(&lab, CLIENT);
        assert_eq!((after.pids, after.restarts), (before.pids, before.restarts));
        let failed = shop::heard(&lab).1.split_off(failures);
        labs::say(&format!("leaving and joining, round {round}: {} requests failed {failed:?}", failed.len()));
    }
}

fn rules(lab: &fairway_lab::Lab, pod: &str) -> String {
    labs::output(lab, pod, &["nft", "list", "ruleset"])
}

/// How many of the proxy's ports are listened on in a pod.
fn listeners(lab: &fairway_lab::Lab, pod: &str) -> usize {
    let sockets = labs::output(lab, pod, &["ss", "-H", "-tln"]);
    let ports = [":15001 ", ":15006 ", ":15008 "];
    ports.iter().filter(|port| sockets.contains(**port)).count()
}

#[test]
fn a_connection_that_is_open_when_its_namespace_joins_stays_open() {
    let Some(lab) = labs::mesh_with("join", shop::MANIFESTS) else { return };
    let mut conversation = Conversation::open(&lab, CLIENT, shop::address(&lab, SERVER), 7000);
    assert!(conversation.says("before"));
    shop::enrol(&lab);
    assert!(conversation.says("after"));
    shop::carries_on(&lab);
    assert!(conversation.says("and later"));
}
