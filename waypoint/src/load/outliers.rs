//! Endpoints that keep failing and are left out for a while. The time is an argument.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::config::Outliers;

/// Longest time an endpoint is left out, unless the base is longer; Envoy's default.
const LONGEST: Duration = Duration::from_secs(300);

/// What came of asking an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Answered(StatusCode),
    /// It could not be reached, broke off, or took too long.
    Failed,
}

/// What became of the endpoints of one cluster.
#[derive(Debug, Default)]
pub(super) struct Record(HashMap<SocketAddr, Endpoint>);

#[derive(Debug, Default)]
struct Endpoint {
    /// Failures one after the other, by kind.
    errors: u32,
    gateway_errors: u32,
    local_errors: u32,
    /// How often it was left out; less again as time goes by without.
    times: u32,
    until: Option<Instant>,
}

impl Record {
    /// Whether `endpoint` is left out now.
    #[must_use]
    pub(super) fn is_out(&self, endpoint: &SocketAddr, now: Instant) -> bool {
        self.0.get(endpoint).is_some_and(|endpoint| endpoint.until.is_some_and(|until| now < until))
    }

    /// Forgets endpoints that are not `wanted` any more.
    pub(super) fn keep(&mut self, wanted: impl Fn(&SocketAddr) -> bool) {
        self.0.retain(|endpoint, _| wanted(endpoint));
    }

    /// Notes what came of asking `endpoint`, one of `count`; whether it is left out from now on.
    pub(super) fn note(
        &mut self,
        policy: &Outliers,
        count: usize,
        endpoint: SocketAddr,
        outcome: Outcome,
        now: Instant,
    ) -> bool {
        let out = self.0.values().filter(|endpoint| endpoint.until.is_some_and(|until| now < until)).count();
        let place = self.0.entry(endpoint).or_default();
        if !place.has_failed_enough(policy, outcome) || place.until.is_some_and(|until| now < until) {
            return false;
        }
        // At most so many of all; the rest has to do what there is.
        let share = u64::try_from(out + 1).unwrap_or(u64::MAX).saturating_mul(100);
        if share > u64::from(policy.most_percent).saturating_mul(u64::try_from(count).unwrap_or(u64::MAX)) {
            return false;
        }
        place.leave_out(policy, now);
        true
    }
}

impl Endpoint {
    fn has_failed_enough(&mut self, policy: &Outliers, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Answered(status) => {
                self.local_errors = 0;
                self.count(status.is_server_error(), matches!(status.as_u16(), 502..=504));
            }
            Outcome::Failed if policy.is_split => self.local_errors += 1,
            Outcome::Failed => self.count(true, true),
        }
        let reached = |count: u32, most: Option<u32>| most.is_some_and(|most| count >= most);
        reached(self.errors, policy.errors)
            || reached(self.gateway_errors, policy.gateway_errors)
            || reached(self.local_errors, policy.local_errors)
    }

    fn count(&mut self, is_error: bool, is_gateway_error: bool) {
        self.errors = if is_error { self.errors.saturating_add(1) } else { 0 };
        self.gateway_errors = if is_gateway_error { self.gateway_errors.saturating_add(1) } else { 0 };
    }

    fn leave_out(&mut self, policy: &Outliers, now: Instant) {
        let good = self.until.map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        let forgiven = good.as_nanos().checked_div(policy.interval.as_nanos()).unwrap_or(u128::MAX);
        let times = self.times.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)).saturating_add(1);
        let time = policy.time.saturating_mul(times).min(LONGEST.max(policy.time));
        *self = Self { times, until: now.checked_add(time), ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn endpoint(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn policy() -> Outliers {
        Outliers {
            errors: Some(3),
            gateway_errors: None,
            local_errors: None,
            is_split: false,
            interval: 10 * SECOND,
            time: 30 * SECOND,
            most_percent: 100,
            panic_percent: 0.0,
        }
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered(StatusCode::from_u16(status).unwrap())
    }

    /// Whether the last of the outcomes leaves the endpoint out.
    #[test]
    fn failures_one_after_the_other_leave_out() {
        let ok = answered(200);
        let (bad, gateway, failed) = (answered(500), answered(503), Outcome::Failed);
        let split = Outliers { is_split: true, local_errors: Some(2), ..policy() };
        let gateways = Outliers { errors: None, gateway_errors: Some(2), ..policy() };
        let none = Outliers { errors: None, ..policy() };
        let rows: [(&str, &Outliers, &[Outcome], bool); 12] = [
            ("three", &policy(), &[bad, gateway, bad], true),
            ("two", &policy(), &[bad, bad], false),
            ("not in a row", &policy(), &[bad, bad, ok, bad, bad], false),
            ("404 is an answer", &policy(), &[bad, bad, answered(404), bad], false),
            ("failed connections count", &policy(), &[failed, bad, failed], true),
            ("unless they are split", &split, &[bad, failed, bad], false),
            ("and then by themselves", &split, &[failed, failed], true),
            ("an answer ends them", &split, &[failed, bad, failed], false),
            ("gateway errors", &gateways, &[gateway, failed], true),
            ("500 is none", &gateways, &[gateway, bad, gateway], false),
            ("nothing is looked at", &none, &[bad; 9], false),
            ("one", &Outliers { errors: Some(1), ..policy() }, &[bad], true),
        ];
        for (name, policy, outcomes, expected) in rows {
            let (mut record, now) = (Record::default(), Instant::now());
            let last = outcomes.iter().map(|outcome| record.note(policy, 2, endpoint(1), *outcome, now)).last();
            assert_eq!(last, Some(expected), "{name}");
            assert_eq!(record.is_out(&endpoint(1), now), expected, "{name}");
            assert!(!record.is_out(&endpoint(2), now), "{name}");
        }
    }

    #[test]
    fn it_takes_longer_each_time_and_is_forgiven() {
        let policy = Outliers { errors: Some(1), ..policy() };
        let (mut record, mut now) = (Record::default(), Instant::now());
        let mut fail = |now: Instant| {
            assert!(record.note(&policy, 1, endpoint(1), answered(500), now));
            (0..).map(|seconds| seconds * SECOND).find(|time| !record.is_out(&endpoint(1), now + *time)).unwrap()
        };
        for seconds in [30, 60, 90] {
            assert_eq!(fail(now), seconds * SECOND);
            now += seconds * SECOND;
        }
        // Two intervals that went well.
        now += 20 * SECOND;
        assert_eq!(fail(now), 60 * SECOND);
        now += 600 * SECOND;
        assert_eq!(fail(now), 30 * SECOND);
        for _ in 0..20 {
            now += LONGEST;
            fail(now);
        }
        now += 301 * SECOND;
        assert!(fail(now) <= LONGEST);
    }

    #[test]
    fn at_most_a_share_is_left_out() {
        let rows = [(10, 3, 0), (34, 3, 1), (50, 4, 2), (67, 3, 2), (66, 3, 1), (100, 3, 3), (0, 3, 0)];
        for (most_percent, count, expected) in rows {
            let policy = Outliers { errors: Some(1), most_percent, ..policy() };
            let (mut record, now) = (Record::default(), Instant::now());
            let all = u16::try_from(count).unwrap();
            let out = (0..all).filter(|it| record.note(&policy, count, endpoint(*it), answered(500), now)).count();
            assert_eq!(out, expected, "{most_percent} % of {count}");
        }
    }
}
