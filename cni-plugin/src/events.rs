//! What the agent tells of a pod when it happens: its own record of that, and beyond it Events in an API server.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use fairway_core::io::metrics::Metrics;
use fairway_core::source::ObjectKey;
use fairway_core::source::cluster::events::{Announcer, Event};
use serde::Serialize;

/// Events that /debug/events shows: what a look at a node that misbehaves needs, at some 300 bytes each.
const MOST_SHOWN: usize = 256;

/// What happened to a pod, as an Event's `reason` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Reason {
    /// It opts in, can be captured, and has not been for a while.
    NotCaptured,
    /// It opts in and can never be captured.
    CannotBeCaptured,
    /// It was said not to be captured, and is now.
    Captured,
}

impl Reason {
    /// Stable name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotCaptured => "NotCaptured",
            Self::CannotBeCaptured => "CannotBeCaptured",
            Self::Captured => "Captured",
        }
    }

    /// Whether its owner has to do something.
    #[must_use]
    pub fn is_warning(self) -> bool {
        self != Self::Captured
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// The pod.
    pub pod: ObjectKey,
    /// Its uid; empty when it has none yet.
    pub uid: String,
    /// What happened.
    pub reason: Reason,
    /// Why, and what to do.
    pub message: String,
}

/// Where events go. They are said when something changes, again now and then while it lasts, and again by an agent that
/// has just started.
pub trait Events: Send + Sync {
    /// Takes an event. It must not block: the agent waits for it.
    fn say(&self, event: &PodEvent);
}

/// Who says it in an API server, among all that write Events there.
pub const CONTROLLER: &str = "fairway.dev/cni-agent";

impl Events for Announcer {
    fn say(&self, event: &PodEvent) {
        Self::say(
            self,
            Event {
                about: event.pod.clone(),
                uid: event.uid.clone(),
                reason: event.reason.label(),
                action: "Capture",
                is_warning: event.reason.is_warning(),
                message: event.message.clone(),
            },
        );
    }
}

/// The log, a metric and the last events for /debug/events; hands them on to where else they go.
pub struct Recorder {
    metrics: Metrics,
    latest: Mutex<VecDeque<PodEvent>>,
    beyond: Option<Arc<dyn Events>>,
}

impl Recorder {
    /// Nothing happened yet.
    #[must_use]
    pub fn new(metrics: Metrics, beyond: Option<Arc<dyn Events>>) -> Self {
        metrics.describe("fairway_agent_events_total", "Events about pods, by reason.");
        Self { metrics, latest: Mutex::default(), beyond }
    }

    /// The last events, the newest first.
    #[must_use]
    pub fn latest(&self) -> Vec<PodEvent> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

impl Events for Recorder {
    fn say(&self, event: &PodEvent) {
        let (pod, reason, message) = (&event.pod, event.reason.label(), &event.message);
        if event.reason.is_warning() {
            tracing::warn!(%pod, uid = event.uid, reason, message, "a pod should be captured and is not");
        } else {
            tracing::info!(%pod, uid = event.uid, reason, message, "a pod that was not captured is");
        }
        self.metrics.counter("fairway_agent_events_total", &[("reason", reason)]).increment(1);
        {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            if latest.len() >= MOST_SHOWN {
                latest.pop_front();
            }
            latest.push_back(event.clone());
        }
        if let Some(beyond) = &self.beyond {
            beyond.say(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Mutex<Vec<PodEvent>>);

    impl Events for Heard {
        fn say(&self, event: &PodEvent) {
            self.0.lock().unwrap().push(event.clone());
        }
    }

    #[test]
    fn events_are_counted_shown_and_handed_on() {
        let (metrics, heard) = (Metrics::default(), Arc::new(Heard::default()));
        let recorder = Recorder::new(metrics.clone(), Some(heard.clone()));
        let event = |number: usize| PodEvent {
            pod: ObjectKey::pod("shop", "web"),
            uid: format!("u{number}"),
            reason: Reason::CannotBeCaptured,
            message: "hostNetwork".to_owned(),
        };
        for number in 0..=MOST_SHOWN {
            recorder.say(&event(number));
        }
        let latest = recorder.latest();
        assert_eq!((latest.len(), &latest[0]), (MOST_SHOWN, &event(MOST_SHOWN)));
        assert_eq!(latest.last(), Some(&event(1)), "the oldest makes room");
        assert_eq!(heard.0.lock().unwrap().len(), MOST_SHOWN + 1);
        let line = format!(r#"fairway_agent_events_total{{reason="CannotBeCaptured"}} {}"#, MOST_SHOWN + 1);
        assert!(metrics.render().contains(&line), "{}", metrics.render());
    }
}
