//! Failures on purpose: what goes wrong with a request, given a draw.

use std::time::Duration;

use crate::config::{Abort, Fault};

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happening {
    /// It waits first.
    pub delay: Option<Duration>,
    /// It fails then.
    pub abort: Option<Abort>,
}

/// What goes wrong. Each kind is drawn for by itself, with a number below [`MILLION`](crate::config::MILLION).
#[must_use]
pub fn decide(fault: &Fault, mut draw: impl FnMut() -> u32) -> Happening {
    Happening {
        delay: fault.delay.filter(|(_, share)| draw() < *share).map(|(time, _)| time),
        abort: fault.abort.filter(|(_, share)| draw() < *share).map(|(kind, _)| kind),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::config::MILLION;

    #[test]
    fn each_kind_goes_wrong_by_its_own_share() {
        let second = Duration::from_secs(1);
        let abort = Abort::Http(StatusCode::SERVICE_UNAVAILABLE);
        let fault = |delay: u32, share: u32| Fault { delay: Some((second, delay)), abort: Some((abort, share)) };
        let rows = [
            (Fault::default(), [0, 0], (None, None)),
            (fault(0, 0), [0, 0], (None, None)),
            (fault(MILLION, MILLION), [MILLION - 1, MILLION - 1], (Some(second), Some(abort))),
            (fault(250_000, 500_000), [249_999, 500_000], (Some(second), None)),
            (fault(250_000, 500_000), [250_000, 499_999], (None, Some(abort))),
        ];
        for (fault, draws, (delay, abort)) in rows {
            let mut draws = draws.into_iter();
            let happening = decide(&fault, || draws.next().unwrap());
            assert_eq!(happening, Happening { delay, abort }, "{fault:?}");
        }
    }
}
