//! Pods of a waypoint stop, one after the other, and come back: no request fails, and what goes on may finish.

use fairway_lab::Lab;

use super::{GATEWAY, Steady, say};
use crate::mesh::labs;
use crate::mesh::waypoint::ask;

/// Streams that are opened at most until a pod has one that lasts: each of them has even chances.
const MOST_STREAMS: usize = 64;
const PODS: [&str; 2] = ["waypoint-0", "waypoint-1"];

/// Whether something that lasts goes through this pod: the clients that ask all the time do neither of these.
fn has_lasting(lab: &Lab, pod: &str) -> bool {
    let page = ask(lab, pod, "http://127.0.0.1:15000/requests?format=text", &[]);
    page.contains(" carrying ") || page.contains(" upgraded ")
}

#[test]
fn no_request_fails_while_pods_of_a_waypoint_stop() {
    let Some(steady) = Steady::up("rollout") else { return };
    let lab = &steady.lab;
    for pod in PODS {
        let (name, log) = (format!("shop/{pod}"), lab.layout().container_log("shop", pod, "waypoint"));
        let mut lasting = Vec::new();
        while !has_lasting(lab, &name) {
            assert!(lasting.len() < MOST_STREAMS, "none of {} streams goes through {name}", lasting.len());
            lasting.extend(steady.lasting());
        }
        let began = std::fs::read_to_string(&log).unwrap().len();
        let said = |what: &str| std::fs::read_to_string(&log).is_ok_and(|log| log[began..].contains(what));
        let before = labs::pod(lab, &name).pids[0];
        assert!(lab.exec_node("underlay", &["kill", "-TERM", &before.to_string()]).unwrap().status.success());
        lab.wait_for("the waypoint to be told", || said("shutting down")).unwrap();
        steady.carries_on();
        lab.wait_for("the waypoint to take nothing new", || said("no new connections")).unwrap();
        steady.carries_on();
        say(&mut lasting, "meanwhile");
        assert_eq!(labs::pod(lab, &name).pids.first(), Some(&before), "{name} has not waited for what goes on");
        say(&mut lasting, "end");
        drop(lasting);
        lab.wait_for("the waypoint to be another one", || {
            labs::pod(lab, &name).pids.first().is_some_and(|pid| *pid != before)
        })
        .unwrap();
        assert!(said("ended=Drained"), "{name} has cut what went on");
        lab.wait_ready().unwrap();
        steady.carries_on();
    }
    // One pod goes altogether, and comes back.
    for replicas in ["1", "2"] {
        lab.apply(&GATEWAY.replace("REPLICAS", replicas)).unwrap();
        let expected = replicas.parse::<usize>().unwrap();
        lab.wait_for("so many pods of the waypoint", || {
            let pods = lab.status().unwrap().pods;
            pods.iter().filter(|pod| pod.name.starts_with("waypoint-")).count() == expected
        })
        .unwrap();
        lab.wait_ready().unwrap();
        steady.carries_on();
    }
}
