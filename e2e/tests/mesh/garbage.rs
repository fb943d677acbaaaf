//! Garbage on every listener: refused with a reason, counted, and nothing leaks, crashes or keeps others from being served.

mod control;
pub(super) mod dial;
mod half_open;
pub(super) mod tunnel;

use std::collections::BTreeMap;

use fairway_lab::Lab;

use super::observe::{self, Cursor, field};
use super::shop;

const COMPONENTS: [&str; 5] = ["controller", "agent-node-1", "agent-node-2", "ztunnel-node-1", "ztunnel-node-2"];
const ENDED: &str = "fairway_connections_ended_total";
const FAILED: &str = "istio_tcp_connections_failed_total";
/// Descriptors that may come and go with normal traffic: pooled tunnels and requests under way.
const TRAFFIC: usize = 16;

/// What must be the same after the garbage as before it.
struct Base {
    descriptors: BTreeMap<&'static str, usize>,
    restarts: BTreeMap<String, u32>,
}

impl Base {
    /// Taken once traffic has flowed, so that pools and caches are as they will be.
    fn of(lab: &Lab) -> Self {
        shop::carries_on(lab);
        let descriptors = COMPONENTS.map(|component| (component, observe::descriptors(lab, component)));
        Self { descriptors: descriptors.into(), restarts: observe::restarts(lab) }
    }

    /// Normal traffic works, nothing was restarted, and descriptors go back to what they were.
    fn holds(&self, lab: &Lab) {
        shop::mutual_tls(lab);
        shop::carries_on(lab);
        assert_eq!(observe::restarts(lab), self.restarts);
        for (component, before) in &self.descriptors {
            lab.wait_until(&format!("the descriptors of {component} to go back to {before}"), || {
                let now = observe::descriptors(lab, component);
                if now <= before + TRAFFIC { Ok(()) } else { Err(now.to_string()) }
            })
            .unwrap();
        }
    }
}

/// Runs `attack` and checks that node-2's ztunnel logs and counts one refusal for `reason`.
fn refused(lab: &Lab, what: &str, reason: &str, attack: impl FnOnce()) {
    let counted =
        |metric: &str, labels: &[(&str, &str)]| observe::sum(&observe::metrics(lab, "node-2"), metric, labels);
    let by_reason = || counted(ENDED, &[("reporter", "destination"), ("reason", reason)]);
    let failed = || counted(FAILED, &[("reporter", "destination")]);
    let (by_reason_before, failed_before) = (by_reason(), failed());
    let log = Cursor::at_end(lab, "ztunnel-node-2");
    attack();
    let line = log.wait(lab, &["direction=\"inbound\"", &format!("reason=\"{reason}\"")]);
    assert!(field(&line, "error").is_some() && field(&line, "hint").is_some(), "{what}: {line}");
    lab.wait_for(&format!("{what} to be counted as {reason}"), || {
        by_reason() >= by_reason_before + 1.0 && failed() >= failed_before + 1.0
    })
    .unwrap();
}
