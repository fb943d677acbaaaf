//! Pods of a waypoint stop, one after the other, and come back: no request fails, and what goes on may finish.

use super::{GATEWAY, Steady, say};
use crate::mesh::labs;

/// Sets of streams, so that either pod has some of them.
const SETS: usize = 2;
const PODS: [&str; 2] = ["waypoint-0", "waypoint-1"];

#[test]
fn no_request_fails_while_pods_of_a_waypoint_stop() {
    let Some(steady) = Steady::up("rollout") else { return };
    let lab = &steady.lab;
    for pod in PODS {
        let mut lasting: Vec<_> = (0..SETS).flat_map(|_| steady.lasting()).collect();
        let (name, log) = (format!("shop/{pod}"), lab.layout().container_log("shop", pod, "waypoint"));
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
