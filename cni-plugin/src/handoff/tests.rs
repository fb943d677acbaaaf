//! Tests of `handoff`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use fairway_proto::zds::workload_request::Payload;

use super::client::{Client, pod, until};
use super::socket::MAX_PACKET;
use super::*;

struct Node {
    handoff: Handoff,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

/// A listening agent.
fn node() -> Node {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/ztunnel.sock");
    let handoff = Handoff::new();
    let listener = Listener::bind(&path).unwrap();
    let server = handoff.clone();
    tokio::spawn(async move { server.accept(&listener).await });
    Node { handoff, path, _directory: directory }
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_snapshot_then_changes() {
    let node = node();
    let (first, first_inode) = pod("a");
    let (second, second_inode) = pod("b");
    node.handoff.add(first);
    node.handoff.add(second);
    assert_eq!(node.handoff.answer("a"), Answer::NoProxy);
    let mode = std::fs::metadata(&node.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let client = Client::connect(&node.path);
    client.hello();
    for (uid, inode) in [("a", first_inode), ("b", second_inode)] {
        let (request, descriptors) = client.next();
        let Payload::Add(add) = request else { panic!("{request:?}") };
        let info = add.workload_info.unwrap();
        assert_eq!(add.uid, uid);
        assert_eq!(
            (info.name, info.namespace, info.service_account),
            (format!("name-{uid}"), "shop".into(), "web".into())
        );
        assert_eq!(descriptors, [inode], "exactly one descriptor, the pod's namespace");
        assert_ne!(node.handoff.answer(uid), Answer::Accepted);
        client.accept();
    }
    let (request, descriptors) = client.next();
    assert!(matches!(request, Payload::SnapshotSent(_)), "{request:?}");
    assert!(descriptors.is_empty());
    client.accept();
    until(&node.handoff, |handoff| handoff.answer("b") == Answer::Accepted).await;

    node.handoff.add(pod("c").0);
    client.take("c");
    until(&node.handoff, |handoff| handoff.answer("c") == Answer::Accepted).await;
    node.handoff.remove("a");
    node.handoff.remove("unknown");
    client.let_go("a");
    node.handoff.flush().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pod_is_retried() {
    let node = node();
    node.handoff.add(pod("a").0);
    let client = Client::connect(&node.path);
    client.hello();
    let _ = client.next();
    client.acknowledge("port in use");
    assert!(matches!(client.next().0, Payload::SnapshotSent(_)), "a refusal does not end the snapshot");
    client.accept();
    until(&node.handoff, |handoff| handoff.answer("a") == Answer::Refused("port in use".to_owned())).await;
    node.handoff.retry("a");
    assert_eq!(node.handoff.answer("a"), Answer::Waiting);
    client.take("a");
    until(&node.handoff, |handoff| handoff.answer("a") == Answer::Accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_on_a_sandbox_that_was_replaced_is_none_on_the_next() {
    let node = node();
    let (client, _) = Client::ready(&node.path);
    node.handoff.add(pod("a").0);
    assert!(matches!(client.next().0, Payload::Add(_)));
    node.handoff.remove("a");
    node.handoff.add(pod("a").0);
    client.accept();
    // The next request shows that the answer was taken.
    assert!(matches!(client.next().0, Payload::Del(_)));
    assert_eq!(node.handoff.answer("a"), Answer::Waiting);
    client.accept();
    client.take("a");
    until(&node.handoff, |handoff| handoff.answer("a") == Answer::Accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_the_newest_again_is_told_of_sandboxes_that_were_replaced_meanwhile() {
    let node = node();
    node.handoff.add(pod("a").0);
    let (older, _) = Client::ready(&node.path);
    let (newer, _) = Client::ready(&node.path);
    node.handoff.add(pod("a").0);
    newer.take("a");
    drop(newer);
    older.take("a");
    until(&node.handoff, |handoff| handoff.answer("a") == Answer::Accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_comes_back_gets_everything() {
    let node = node();
    node.handoff.add(pod("a").0);
    let (client, uids) = Client::ready(&node.path);
    assert_eq!(uids, ["a"]);
    drop(client);
    until(&node.handoff, |handoff| handoff.connected() == 0).await;
    assert_eq!(node.handoff.answer("a"), Answer::NoProxy);
    node.handoff.add(pod("b").0);
    node.handoff.remove("a");
    let (_client, uids) = Client::ready(&node.path);
    assert_eq!(uids, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_namespace_is_not_known_is_kept_by_each_snapshot_until_it_is_handed_over_or_taken_back() {
    let node = node();
    for uid in ["found", "ended", "lost"] {
        node.handoff.keep(uid);
    }
    node.handoff.add(pod("a").0);
    node.handoff.keep("a");
    let kept = |client: &Client, wanted: &[&str]| {
        client.hello();
        client.take("a");
        for uid in wanted {
            let (request, descriptors) = client.next();
            assert!(
                matches!(&request, Payload::Keep(keep) if keep.uid == *uid),
                "{request:?} instead of keeping {uid}"
            );
            assert!(descriptors.is_empty());
            client.accept();
        }
        assert!(matches!(client.next().0, Payload::SnapshotSent(_)));
        client.accept();
    };
    let client = Client::connect(&node.path);
    kept(&client, &["ended", "found", "lost"]);
    // After the snapshot it is against the protocol (§5.4): what comes next must be something else.
    node.handoff.keep("late");
    node.handoff.remove("ended");
    client.let_go("ended");
    node.handoff.add(pod("found").0);
    client.take("found");
    until(&node.handoff, |handoff| handoff.answer("found") == Answer::Accepted).await;
    node.handoff.remove("found");
    client.let_go("found");
    drop(client);
    until(&node.handoff, |handoff| handoff.connected() == 0).await;
    kept(&Client::connect(&node.path), &["late", "lost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_request_is_too_long_is_refused_alone() {
    let node = node();
    let (endless, _) = pod("a");
    node.handoff.add(HandedPod { service_account: "x".repeat(MAX_PACKET), ..endless });
    node.handoff.add(pod("b").0);
    let nameless = "k".repeat(MAX_PACKET);
    node.handoff.keep(&nameless);
    let (client, uids) = Client::ready(&node.path);
    assert_eq!(uids, ["b"]);
    node.handoff.remove(&nameless);
    node.handoff.add(pod("c").0);
    client.take("c");
    until(&node.handoff, |handoff| handoff.answer("b") == Answer::Accepted).await;
    assert!(matches!(node.handoff.answer("a"), Answer::Refused(why) if why.contains("is the most a node proxy reads")));
}

#[tokio::test(flavor = "multi_thread")]
async fn additions_go_to_the_newest_and_removals_to_all() {
    let node = node();
    node.handoff.add(pod("a").0);
    let (old, _) = Client::ready(&node.path);
    let (new, uids) = Client::ready(&node.path);
    assert_eq!(uids, ["a"]);
    until(&node.handoff, |handoff| handoff.connected() == 2).await;
    node.handoff.add(pod("b").0);
    new.take("b");
    node.handoff.remove("a");
    new.let_go("a");
    // Had the addition reached the old one, it would come first.
    old.let_go("a");
    // The new one fails its upgrade: what only it knew goes to the old one.
    drop(new);
    old.take("b");
    until(&node.handoff, |handoff| handoff.answer("b") == Answer::Accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_proxy_holds_nobody_up_and_is_cut_when_it_falls_behind() {
    let node = node();
    let pods = MAX_QUEUED + 10;
    // One namespace for all, as each costs a descriptor.
    let shared = pod("shared").0;
    for number in 0..pods {
        node.handoff.add(HandedPod { uid: format!("{number:04}"), ..shared.clone() });
    }
    let stuck = Client::connect(&node.path);
    stuck.hello();
    let _ = stuck.next();
    let (client, uids) = Client::ready(&node.path);
    assert_eq!(uids.len(), pods);
    for uid in &uids {
        node.handoff.remove(uid);
        client.let_go(uid);
    }
    assert!(stuck.try_next().is_none(), "the stuck one was cut");
    until(&node.handoff, |handoff| handoff.connected() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_breaks_the_protocol_is_cut() {
    let node = node();
    for hello in [&b""[..], b"\xff\xff\xff", b"\x08\x02", &[0; 2000]] {
        let client = Client::connect(&node.path);
        if hello.is_empty() {
            client.socket.shutdown(std::net::Shutdown::Write).unwrap();
        } else {
            client.socket.send(hello).unwrap();
        }
        assert!(client.try_next().is_none(), "{hello:?}");
    }
    assert_eq!(node.handoff.connected(), 0);
    let (client, _) = Client::ready(&node.path);
    client.accept();
    assert!(client.try_next().is_none(), "it spoke unasked");
    let (client, _) = Client::ready(&node.path);
    node.handoff.add(pod("a").0);
    let _ = client.next();
    client.socket.send(b"\xff").unwrap();
    assert!(client.try_next().is_none(), "its answer was garbage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_takes_the_socket_over() {
    let node = node();
    let listener = Listener::bind(&node.path).unwrap();
    let handoff = Handoff::new();
    handoff.add(pod("a").0);
    let server = handoff.clone();
    tokio::spawn(async move { server.accept(&listener).await });
    let (_client, uids) = Client::ready(&node.path);
    assert_eq!(uids, ["a"]);
    assert_eq!(node.handoff.connected(), 0);
}
