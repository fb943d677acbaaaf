//! Certificates of waypoints end and others come, many times, and clients never notice.

use fairway_lab::Lab;

use super::{Steady, WORLD, say};
use crate::mesh::observe;

const PODS: [&str; 2] = ["shop/waypoint-0", "shop/waypoint-1"];
/// The shortest life that there is, so that renewals come soon.
const LIMITS: &str = "fairway.dev/replicas: \"2\", fairway.dev/limits: \"SECRET_TTL=1m\"";
/// Renewals that are waited for at each pod: all that was signed at the beginning has ended by then.
const RENEWALS: [f64; 3] = [1.0, 2.0, 3.0];

/// A metric of a waypoint's pod.
fn metric(lab: &Lab, pod: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let output = lab.exec(pod, &["curl", "-sS", "-m", "10", "http://127.0.0.1:15020/metrics"]).unwrap();
    observe::sum(&String::from_utf8_lossy(&output.stdout), name, labels)
}

#[test]
fn certificates_of_waypoints_are_renewed_under_requests() {
    let world = WORLD.replace("fairway.dev/replicas: \"2\"", LIMITS);
    assert_ne!(world, WORLD);
    let Some(steady) = Steady::up_in("renewed", &world) else { return };
    let lab = &steady.lab;
    let said = |name: &str, labels: &[(&str, &str)]| PODS.map(|pod| metric(lab, pod, name, labels));
    let granted = || said("fairway_certificate_requests_total", &[("result", "granted")]);
    let ends = || said("fairway_certificate_expiry_timestamp_seconds", &[]);
    let (before, first) = (granted(), ends());
    let mut lasting = steady.lasting();
    for renewals in RENEWALS {
        lab.wait_until(&format!("{renewals} renewals at each pod"), || {
            let now = granted();
            let is_enough = now.iter().zip(before).all(|(now, before)| *now >= before + renewals);
            if is_enough { Ok(()) } else { Err(format!("{before:?}, now {now:?}")) }
        })
        .unwrap();
        steady.carries_on();
        say(&mut lasting, "certificates are others");
    }
    for (first, now) in first.iter().zip(ends()) {
        assert!(*first > 0.0 && now >= first + 60.0, "the first certificate ended at {first}, this one does at {now}");
    }
    assert_eq!(said("fairway_certificate_requests_total", &[("result", "failed")]), [0.0; 2]);
    say(&mut lasting, "end");
    steady.nothing_failed();
}
