//! The agent and the node proxy killed at each step of a pod's start and end, and a plugin whose agent is no agent.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::sync::Mutex;

use super::node::Node;
use super::proxy::{ADDITION, DELETION, Proxy, SNAPSHOT_SENT, Temper};

/// Whether a plugin is connected to the agent: the kernel lists its connection by the name the socket was bound to.
fn is_asked(node: &Node) -> bool {
    const CONNECTED: &str = "03";
    node.exec(&["cat", "/proc/net/unix"])
        .lines()
        .any(|line| line.contains("pluginevent.sock") && line.split_whitespace().nth(5) == Some(CONNECTED))
}

#[test]
fn an_agent_killed_at_any_step_of_an_add_leaves_a_pod_that_waits_and_starts_captured() {
    let Some(node) = Node::start("addkill", "1.0.0") else { return };
    node.enrol("shop");
    node.wait_installed();
    let status = node.path("manifests/.status/cni-agent.node-1");
    for step in ["asked", "handed over", "captured"] {
        let uid = format!("u-{}", step.replace(' ', "-"));
        let proxy = match step {
            "handed over" => Proxy::with(&node, Temper::HangsAt(ADDITION)),
            _ => Proxy::start(&node),
        };
        if step == "captured" {
            // What the agent has done is there, and it cannot say so: the last step before its answer.
            let _ = fs::remove_dir_all(&status);
            fs::create_dir_all(status.parent().unwrap()).unwrap();
            fs::write(&status, "").unwrap();
        }
        if step != "asked" {
            node.declare("shop", &uid, &uid);
        }
        let error = std::thread::scope(|scope| {
            let add = scope.spawn(|| node.add("shop", &uid, &uid));
            node.wait(step, || match step {
                "asked" => is_asked(&node),
                "handed over" => proxy.has_heard(&uid),
                _ => node.is_captured(&uid),
            });
            node.kill_agent();
            add.join().unwrap().unwrap_err()
        });
        assert!(error.contains("\"code\":11"), "{step}: {error}");
        drop(proxy);
        if step == "captured" {
            fs::remove_file(&status).unwrap();
        }
        node.declare("shop", &uid, &uid);
        node.start_agent();
        let _proxy = Proxy::start(&node);
        // The kubelet takes the sandbox down and tries again.
        node.del("shop", &uid, &uid).unwrap();
        node.add_until_it_starts("shop", &uid, &uid);
        assert!(node.is_captured(&uid), "{step}");
        assert!(node.status("shop", &uid).contains("enabled"), "{step}");
        // The next step's proxy is to hear of its own pod first.
        node.del("shop", &uid, &uid).unwrap();
    }
    node.stop_agent();
}

#[test]
fn an_agent_killed_around_a_del_holds_no_pod_up_and_its_successor_forgets_the_pod() {
    let Some(node) = Node::start("delkilled", "1.0.0") else { return };
    node.enrol("shop");
    node.wait_installed();
    for is_told in [false, true] {
        let uids = [format!("stays-{is_told}"), format!("ends-{is_told}")];
        let [stays, ends] = &uids;
        let proxy = Proxy::with(&node, Temper::HangsAt(DELETION));
        for uid in &uids {
            node.declare("shop", uid, uid);
            node.add_until_it_starts("shop", uid, uid);
            node.run_on("shop", uid, uid);
        }
        if !is_told {
            node.kill_agent();
        }
        node.del("shop", ends, ends).unwrap();
        if is_told {
            node.wait("the proxy is told", || proxy.has_heard_the_end_of(ends));
            node.kill_agent();
        }
        drop(proxy);
        node.start_agent();
        let successor = Proxy::start(&node);
        node.wait("the pod that stays is handed over", || successor.was_handed(stays));
        node.wait("that was all", || successor.has_heard_the_snapshot());
        // Of an end that no agent was told of, nobody can know before the pod's object is gone.
        assert!(!successor.was_handed(ends) && is_told != successor.has_been_told_to_keep(ends));
        fs::remove_file(node.path(&format!("manifests/pod-{ends}.yaml"))).unwrap();
        if !is_told {
            node.wait("it is gone", || successor.has_heard_the_end_of(ends));
        }
        assert!(node.is_captured(stays));
        drop(successor);
    }
    node.stop_agent();
}

#[test]
fn a_proxy_killed_at_any_step_of_an_add_is_followed_by_one_that_serves_the_pod() {
    let Some(node) = Node::start("proxykill", "1.0.0") else { return };
    node.enrol("shop");
    node.wait_installed();
    let steps = [
        ("before", None),
        ("told", Some(Temper::DiesAt(ADDITION))),
        ("hanging", Some(Temper::HangsAt(ADDITION))),
        ("accepted", Some(Temper::DiesAfter(ADDITION))),
        ("snapshot", Some(Temper::DiesAt(SNAPSHOT_SENT))),
    ];
    for (step, temper) in steps {
        node.declare("shop", step, step);
        let connect = || temper.map(|temper| Proxy::with(&node, temper));
        // That one hears of the pod with what there is when it comes.
        let first = if step == "snapshot" { None } else { connect() };
        let successor = std::thread::scope(|scope| {
            let add = scope.spawn(|| node.add("shop", step, step));
            node.wait("the plugin asks", || is_asked(&node) || add.is_finished());
            let first = first.or_else(|| if step == "snapshot" { connect() } else { None });
            if let Some(proxy) = &first {
                node.wait(step, || proxy.has_ended() || step == "hanging" && proxy.has_heard(step));
            }
            drop(first);
            let successor = Proxy::start(&node);
            // The pod may have been captured between the acceptance and the death.
            if let Err(error) = add.join().unwrap() {
                assert!(error.contains("\"code\":11"), "{step}: {error}");
                node.del("shop", step, step).unwrap();
                node.add_until_it_starts("shop", step, step);
            }
            successor
        });
        node.wait("the successor serves it", || successor.has_heard(step));
        assert!(node.is_captured(step), "{step}");
        node.del("shop", step, step).unwrap();
    }
    node.stop_agent();
}

#[test]
fn a_del_while_the_proxy_reconnects_is_not_undone_by_its_snapshot() {
    let Some((node, proxy)) = Node::enrolled("reconnect") else { return };
    for uid in ["u1", "u2"] {
        node.declare("shop", uid, uid);
        node.add("shop", uid, uid).unwrap();
    }
    drop(proxy);
    // It is back, was told of both pods, and has not answered: the snapshot is on its way.
    let proxy = Proxy::with(&node, Temper::HangsAt(ADDITION));
    node.wait("it is told of a pod", || proxy.has_heard("u1") || proxy.has_heard("u2"));
    node.del("shop", "u1", "u1").unwrap();
    drop(proxy);
    let successor = Proxy::start(&node);
    node.wait("the other pod is handed over", || successor.has_heard("u2"));
    assert!(!successor.has_heard("u1") || successor.has_heard_the_end_of("u1"));
    assert!(node.is_captured("u2"));
    node.stop_agent();
}

#[test]
fn an_add_that_is_repeated_changes_nothing() {
    let Some((node, _proxy)) = Node::enrolled("repeated") else { return };
    node.declare("shop", "web", "u1");
    let result = node.add("shop", "web", "u1").unwrap();
    let rules = node.in_pod("u1", &["nft", "--stateless", "list", "ruleset"]);
    for _ in 0..2 {
        assert_eq!(node.repeat_our_add("shop", "web", "u1", &result).unwrap(), result);
        assert_eq!(node.in_pod("u1", &["nft", "--stateless", "list", "ruleset"]), rules);
        assert!(node.status("shop", "web").contains("enabled"));
    }
    node.stop_agent();
}

#[test]
fn with_an_agent_that_is_slow_or_talks_nonsense_enrolled_pods_wait_and_others_start() {
    let Some(node) = Node::start_with("nonsense", "1.0.0", &["--plugin-patience", "500"]) else { return };
    node.enrol("shop");
    node.wait_installed();
    node.kill_agent();
    let socket = node.path("run/pluginevent.sock");
    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let answer: Mutex<&[u8]> = Mutex::default();
    std::thread::scope(|scope| {
        let serve = || {
            // Kept open, so that silence is not an end.
            let mut connections = Vec::new();
            while let Ok((mut connection, _)) = listener.accept() {
                let answer = *answer.lock().unwrap();
                if answer == b"stop" {
                    return;
                }
                if answer == b"close" {
                    continue;
                }
                // The plugin may be gone already.
                let _ = connection.write_all(answer);
                connections.push(connection);
            }
        };
        scope.spawn(serve);
        let answers: [&[u8]; 5] = [
            b"",
            b"close",
            b"\0\xff\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"captur",
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}",
        ];
        for (number, text) in answers.into_iter().enumerate() {
            *answer.lock().unwrap() = text;
            let name = String::from_utf8_lossy(text);
            let uids = [format!("e{number}"), format!("o{number}")];
            let error = node.add("shop", "web", &uids[0]).unwrap_err();
            assert!(error.contains("\"code\":11"), "{name}: {error}");
            node.add("bank", "till", &uids[1]).unwrap_or_else(|error| panic!("{name}: {error}"));
            node.del("shop", "web", &uids[0]).unwrap();
            node.del("bank", "till", &uids[1]).unwrap();
        }
        *answer.lock().unwrap() = b"stop";
        drop(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    });
}
