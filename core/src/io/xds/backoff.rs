//! How long to wait before dialling again, given how the stream ended.

use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};

use crate::io::grpc::ConnectError;
use crate::limits::{self, Limits};

/// How a stream ended.
#[derive(Debug)]
pub enum Ending {
    /// No connection could be made.
    Connect(ConnectError),
    /// The server ended the stream cleanly.
    Complete,
    /// The server goes away or limits the age of connections: expected, dial again at once.
    Reconnect(Box<Status>),
    /// The server refused.
    Error(Box<Status>),
}

impl Ending {
    /// Sorts a gRPC status, which may be that of a connection that could not be made. Istio's control plane ends streams
    /// in the benign ways when it restarts or reaches its maximum connection age.
    #[must_use]
    pub fn of_status(status: Status) -> Self {
        if let Some(error) = ConnectError::find(&status) {
            return Self::Connect(error.clone());
        }
        let message = status.message();
        let benign = match status.code() {
            Code::Unknown | Code::Cancelled | Code::DeadlineExceeded => true,
            Code::Unavailable => {
                ["transport is closing", "goaway", "GOAWAY", "GoAway"].iter().any(|text| message.contains(text))
            }
            _ => false,
        };
        if benign { Self::Reconnect(Box::new(status)) } else { Self::Error(Box::new(status)) }
    }

    /// Value of the metric's `reason` label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Connect(_) => "ConnectionError",
            Self::Complete => "Complete",
            Self::Reconnect(_) => "Reconnect",
            Self::Error(_) => "Error",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(formatter),
            Self::Complete => formatter.write_str("ended by the control plane"),
            Self::Reconnect(status) | Self::Error(status) => {
                write!(formatter, "{:?}: {}", status.code(), status.message())
            }
        }
    }
}

/// Doubles after each stream that brought nothing, however it ended; starts over after one that did.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
    progressed: bool,
}

impl Backoff {
    /// Begins with the first pause that `limits` names, and never exceeds the longest.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let (first, longest) =
            (limits.duration(&limits::XDS_BACKOFF_MINIMUM), limits.duration(&limits::XDS_BACKOFF_MAXIMUM));
        Self { next: first, first, longest, progressed: false }
    }

    /// The stream carried something that could be used: whatever happens next is a new story.
    pub fn succeeded(&mut self) {
        (self.next, self.progressed) = (self.first, true);
    }

    /// What the stream carried could not be applied, and will come again: the next pause is the longest.
    pub fn unusable(&mut self) {
        (self.next, self.progressed) = (self.longest, false);
    }

    /// The pause after `ending`. `chance`, from 0 to 1, spreads the clients of a restarted control plane: the pause is
    /// between half and all of its nominal length.
    ///
    /// A stream that was ended as expected and had brought something is followed by the next one after the shortest
    /// pause. One that brought nothing counts as a failure even then: a server that accepts and closes would be dialled
    /// twenty times a second for ever.
    pub fn after(&mut self, ending: &Ending, chance: f64) -> Duration {
        let nominal = self.next;
        let expected = matches!(ending, Ending::Complete | Ending::Reconnect(_));
        if !(expected && self.progressed) {
            self.next = (nominal * 2).min(self.longest);
        }
        self.progressed = false;
        nominal.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Ending {
        Ending::of_status(Status::unauthenticated("no"))
    }

    #[test]
    fn failures_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(&Limits::default());
        let pauses: Vec<_> = (0..12).map(|_| backoff.after(&refused(), 1.0)).collect();
        assert_eq!(pauses[0], limits::XDS_BACKOFF_MINIMUM.duration());
        assert_eq!(pauses[1], pauses[0] * 2);
        assert_eq!(*pauses.last().unwrap(), limits::XDS_BACKOFF_MAXIMUM.duration());
        backoff.succeeded();
        backoff.unusable();
        assert_eq!(backoff.after(&refused(), 1.0), limits::XDS_BACKOFF_MAXIMUM.duration());
        backoff.succeeded();
        assert_eq!(backoff.after(&refused(), 0.0), limits::XDS_BACKOFF_MINIMUM.duration() / 2);
    }

    #[test]
    fn expected_endings_do_not_double_if_the_stream_brought_something() {
        let minimum = limits::XDS_BACKOFF_MINIMUM.duration();
        let mut backoff = Backoff::new(&Limits::default());
        for _ in 0..3 {
            backoff.after(&refused(), 1.0);
            backoff.succeeded();
            assert_eq!(backoff.after(&Ending::Complete, 1.0), minimum);
        }
        // The server accepts and closes, again and again.
        let pauses: Vec<_> = (0..3).map(|_| backoff.after(&Ending::Complete, 1.0)).collect();
        assert_eq!(pauses, [minimum, minimum * 2, minimum * 4]);
    }

    #[test]
    fn endings_are_sorted() {
        let rows = [
            (Status::cancelled(""), "Reconnect"),
            (Status::unknown("h2 protocol error"), "Reconnect"),
            (Status::deadline_exceeded(""), "Reconnect"),
            (Status::unavailable("transport is closing"), "Reconnect"),
            (Status::unavailable("no endpoints"), "Error"),
            (Status::unauthenticated(""), "Error"),
            (Status::internal(""), "Error"),
        ];
        for (status, label) in rows {
            let text = status.to_string();
            assert_eq!(Ending::of_status(status).label(), label, "{text}");
        }
    }
}
