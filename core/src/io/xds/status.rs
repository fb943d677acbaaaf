//! How far the configuration can be trusted to be new: for metrics and dumps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::io::metrics::Metrics;

const SINCE_CONTACT: &str = "fairway_xds_seconds_since_contact";
const FROM_DISK: &str = "fairway_xds_state_from_disk";

/// Where the configuration in force comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// There is none yet.
    #[default]
    None,
    /// The disk; the control plane has not answered since the start.
    Disk,
    /// The control plane.
    ControlPlane,
}

impl Source {
    /// The name in dumps.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Disk => "disk",
            Self::ControlPlane => "control plane",
        }
    }
}

/// The state of one client, followed from outside. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Status {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    source: Source,
    is_connected: bool,
    contact: Option<Contact>,
}

/// When the control plane was last known to be there.
#[derive(Clone, Copy, Debug)]
enum Contact {
    /// In this process's life.
    Here(Instant),
    /// Before it, when what is in force was written to disk.
    Before(SystemTime),
}

/// One look at [`Status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where the configuration in force comes from.
    pub source: Source,
    /// Whether the stream is up and has been answered on.
    pub is_connected: bool,
    /// Time since the control plane was last there: none if it never was, zero while the stream is up.
    pub since_contact: Option<Duration>,
}

impl Status {
    /// How it is now.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.state();
        let since_contact = match state.contact {
            Some(Contact::Here(_)) if state.is_connected => Some(Duration::ZERO),
            Some(Contact::Here(at)) => Some(at.elapsed()),
            // Negative where the clock was set back since.
            Some(Contact::Before(at)) => Some(SystemTime::now().duration_since(at).unwrap_or_default()),
            None => None,
        };
        Report { source: state.source, is_connected: state.is_connected, since_contact }
    }

    /// Shows it among the metrics.
    pub(super) fn register(&self, metrics: &Metrics) {
        metrics.describe(
            SINCE_CONTACT,
            "Seconds since the control plane was last there: 0 while the stream is up, -1 if it never was. After a start \
             from disk, and until there is an answer, seconds since what is in force was written.",
        );
        metrics.describe(FROM_DISK, "1 while the configuration in force was read from disk at the start.");
        let (since, disk) = (metrics.gauge(SINCE_CONTACT, &[]), metrics.gauge(FROM_DISK, &[]));
        let status = self.clone();
        metrics.before_render(move || {
            let report = status.report();
            since.set(report.since_contact.map_or(-1.0, |since| since.as_secs_f64()));
            disk.set(if report.source == Source::Disk { 1.0 } else { 0.0 });
        });
    }

    /// The control plane has answered, once to everything or not yet.
    pub(super) fn answered(&self, everything: bool) {
        let mut state = self.state();
        state.is_connected = true;
        state.contact = Some(Contact::Here(Instant::now()));
        if everything {
            state.source = Source::ControlPlane;
        }
    }

    /// The stream has ended, if there was one.
    pub(super) fn ended(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.is_connected) {
            state.contact = Some(Contact::Here(Instant::now()));
        }
    }

    /// The configuration was read from disk, where it was written then.
    pub(super) fn loaded(&self, written: SystemTime) {
        let mut state = self.state();
        state.source = Source::Disk;
        state.contact = Some(Contact::Before(written));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_and_age_follow_what_happens() {
        let (status, metrics) = (Status::default(), Metrics::default());
        status.register(&metrics);
        assert!(metrics.render().contains("fairway_xds_seconds_since_contact -1"));
        status.loaded(SystemTime::now() - Duration::from_secs(60));
        let report = status.report();
        assert!(report.source == Source::Disk && !report.is_connected, "{report:?}");
        assert!(report.since_contact.unwrap() >= Duration::from_secs(60), "{report:?}");
        assert!(metrics.render().contains("fairway_xds_state_from_disk 1"));
        // A stream that ended without a word is no contact.
        status.ended();
        assert!(status.report().since_contact.unwrap() >= Duration::from_secs(60));
        status.answered(false);
        assert_eq!(status.report().source, Source::Disk);
        status.answered(true);
        let expected = Report { source: Source::ControlPlane, is_connected: true, since_contact: Some(Duration::ZERO) };
        assert_eq!(status.report(), expected);
        assert!(metrics.render().contains("fairway_xds_state_from_disk 0"));
        status.ended();
        assert!(!status.report().is_connected && status.report().since_contact.is_some());
    }
}
