//! Whether a request is tried again, and after what pause.

use std::time::Duration;

use http::StatusCode;

use crate::config::Retry;

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Result {
    /// The endpoint could not be reached.
    NotReached,
    /// Policy of the endpoint has refused this client.
    Denied,
    /// The endpoint said that it has not begun.
    Refused,
    /// The endpoint broke off.
    Reset,
    /// The endpoint took too long.
    Late,
    /// The endpoint answered.
    Answered(StatusCode, Option<u32>),
    /// The endpoint has begun to go on as something else.
    HasBegun,
}

/// Whether `policy` wants another attempt after this `result`.
#[must_use]
pub fn wanted(policy: &Retry, result: Result) -> bool {
    match result {
        Result::NotReached => policy.connect_failure,
        // A stream that was refused has not been begun with; neither has one that was never sent.
        Result::Refused => policy.refused_stream || policy.connect_failure,
        Result::Reset => policy.reset,
        Result::Late => policy.server_errors || policy.statuses.contains(&StatusCode::GATEWAY_TIMEOUT),
        Result::Answered(status, grpc) => {
            (policy.server_errors && status.is_server_error())
                || policy.statuses.contains(&status)
                || grpc.is_some_and(|grpc| policy.grpc_statuses.contains(&grpc))
        }
        // Others would say the same of this client; and what has begun may have heard it already.
        Result::Denied | Result::HasBegun => false,
    }
}

/// The pause before repetition number `repetition`, from 1: doubled each time up to the most, of which `chance`, from 0 to
/// 1, is waited, so that clients that failed together do not come back together.
#[must_use]
pub fn pause(policy: &Retry, repetition: u32, chance: f64) -> Duration {
    let (base, most) = policy.back_off;
    let doubled = base.saturating_mul(2_u32.saturating_pow(repetition.saturating_sub(1)));
    doubled.min(most).mul_f64(chance.clamp(0.0, 1.0))
}

impl Retry {
    /// After what time without an answer another attempt is sent beside one that goes on, if that is wanted.
    #[must_use]
    pub fn hedges_after(&self) -> Option<Duration> {
        self.attempt_timeout.filter(|_| self.hedges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_route_names_is_tried_again() {
        let none = Retry::default();
        let untouched = Retry { connect_failure: true, refused_stream: true, ..Retry::default() };
        let codes = Retry { statuses: vec![StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT], ..untouched.clone() };
        let errors = Retry { server_errors: true, reset: true, ..untouched.clone() };
        let grpc = Retry { grpc_statuses: vec![14], ..untouched.clone() };
        let answered = |status, grpc| Result::Answered(StatusCode::from_u16(status).unwrap(), grpc);
        let rows = [
            (Result::NotReached, [false, true, true, true, true]),
            (Result::Denied, [false; 5]),
            (Result::HasBegun, [false; 5]),
            (Result::Refused, [false, true, true, true, true]),
            (Result::Reset, [false, false, false, true, false]),
            (Result::Late, [false, false, true, true, false]),
            (answered(200, None), [false; 5]),
            (answered(502, None), [false, false, true, true, false]),
            (answered(503, None), [false, false, false, true, false]),
            (answered(404, None), [false; 5]),
            (answered(200, Some(14)), [false, false, false, false, true]),
            (answered(200, Some(0)), [false; 5]),
        ];
        for (result, expected) in rows {
            let found = [&none, &untouched, &codes, &errors, &grpc].map(|policy| wanted(policy, result));
            assert_eq!(found, expected, "{result:?}");
        }
    }

    #[test]
    fn who_hedges_needs_a_time_after_which() {
        let second = Some(Duration::from_secs(1));
        let rows = [(false, None, None), (false, second, None), (true, None, None), (true, second, second)];
        for (hedges, attempt_timeout, expected) in rows {
            let policy = Retry { hedges, attempt_timeout, ..Retry::default() };
            assert_eq!(policy.hedges_after(), expected, "{hedges} {attempt_timeout:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_the_most() {
        let back_off = (Duration::from_millis(25), Duration::from_millis(250));
        let policy = Retry { back_off, ..Retry::default() };
        let pauses: Vec<_> = (1..7).map(|repetition| pause(&policy, repetition, 1.0).as_millis()).collect();
        assert_eq!(pauses, [25, 50, 100, 200, 250, 250]);
        assert_eq!(pause(&policy, 3, 0.5).as_millis(), 50);
        assert_eq!(pause(&policy, 100, 0.0), Duration::ZERO);
    }
}
