//! Endpoints that keep failing, or fail more often than the others, and are left out for a while. The time is an argument.

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
pub(super) struct Record {
    /// By which they were judged.
    policy: Option<Outliers>,
    endpoints: HashMap<SocketAddr, Endpoint>,
    /// Since when answers are counted that are compared.
    since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Endpoint {
    /// Failures one after the other, by kind.
    errors: u32,
    gateway_errors: u32,
    local_errors: u32,
    /// Since the last comparison: requests, and how many of them went well.
    asked: u32,
    answered: u32,
    /// How often it was left out; less again as time goes by without.
    times: u32,
    until: Option<Instant>,
}

impl Record {
    /// This, if it was made by `policy`: what somebody was left out for by another one is not held against him any more. With
    /// Envoy, too, a cluster begins anew when it changes.
    #[must_use]
    pub(super) fn by(&self, policy: Option<&Outliers>) -> Option<&Self> {
        policy.filter(|policy| self.is_by(policy)).map(|_| self)
    }

    /// How few of the others are too few is nothing that anybody is judged by.
    fn is_by(&self, policy: &Outliers) -> bool {
        let own = self.policy.as_ref();
        own.is_some_and(|own| *own == Outliers { panic_percent: own.panic_percent, ..policy.clone() })
    }

    /// Forgets everything if nobody is judged any more.
    pub(super) fn follow(&mut self, policy: Option<&Outliers>) {
        if policy.is_none() && self.policy.is_some() {
            *self = Self::default();
        }
    }

    /// Whether `endpoint` is left out now.
    #[must_use]
    pub(super) fn is_out(&self, endpoint: &SocketAddr, now: Instant) -> bool {
        self.endpoints.get(endpoint).is_some_and(|endpoint| endpoint.is_out(now))
    }

    /// Forgets endpoints that are not `wanted` any more.
    pub(super) fn keep(&mut self, wanted: impl Fn(&SocketAddr) -> bool) {
        self.endpoints.retain(|endpoint, _| wanted(endpoint));
    }

    /// Notes what came of asking `endpoint`, one of `count`; who is left out from now on.
    pub(super) fn note(
        &mut self,
        policy: &Outliers,
        count: usize,
        endpoint: SocketAddr,
        outcome: Outcome,
        now: Instant,
    ) -> Vec<SocketAddr> {
        if !self.is_by(policy) {
            *self = Self { policy: Some(policy.clone()), ..Self::default() };
        }
        let mut left_out = self.compare(policy, count, now);
        let place = self.endpoints.entry(endpoint).or_default();
        place.tally(policy, outcome);
        if place.has_failed_enough(policy, outcome) && self.leave_out(policy, count, endpoint, now) {
            left_out.push(endpoint);
        }
        left_out
    }

    /// At the end of an interval, who has failed so much more often than the others that chance does not explain it.
    fn compare(&mut self, policy: &Outliers, count: usize, now: Instant) -> Vec<SocketAddr> {
        let Some(rate) = &policy.success_rate else { return Vec::new() };
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < policy.interval {
            return Vec::new();
        }
        self.since = Some(now);
        let compared = self.endpoints.iter().filter(|(_, it)| it.asked >= rate.requests.max(1) && !it.is_out(now));
        let compared: Vec<_> =
            compared.map(|(endpoint, it)| (*endpoint, f64::from(it.answered) / f64::from(it.asked))).collect();
        for endpoint in self.endpoints.values_mut() {
            (endpoint.asked, endpoint.answered) = (0, 0);
        }
        let number = u32::try_from(compared.len()).unwrap_or(u32::MAX);
        if number < rate.endpoints.max(1) {
            return Vec::new();
        }
        let mean = compared.iter().map(|(_, rate)| rate).sum::<f64>() / f64::from(number);
        let variance = compared.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / f64::from(number);
        let least = mean - variance.sqrt() * f64::from(rate.deviations) / 1000.0;
        let mut worse: Vec<_> = compared.into_iter().filter(|(_, rate)| *rate < least).collect();
        // Where not all may be left out, the worst are.
        worse.sort_by(|(_, left), (_, right)| left.total_cmp(right));
        worse.retain(|(endpoint, _)| self.leave_out(policy, count, *endpoint, now));
        worse.into_iter().map(|(endpoint, _)| endpoint).collect()
    }

    /// Leaves one of `count` out, unless too many are or it is itself.
    fn leave_out(&mut self, policy: &Outliers, count: usize, endpoint: SocketAddr, now: Instant) -> bool {
        let out = self.endpoints.values().filter(|endpoint| endpoint.is_out(now)).count();
        // At most so many of all; the rest has to do what there is.
        let share = u64::try_from(out + 1).unwrap_or(u64::MAX).saturating_mul(100);
        let most = u64::from(policy.most_percent).saturating_mul(u64::try_from(count).unwrap_or(u64::MAX));
        let place = self.endpoints.entry(endpoint).or_default();
        if share > most || place.is_out(now) {
            return false;
        }
        place.leave_out(policy, now);
        true
    }
}

impl Endpoint {
    fn is_out(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Counts for the next comparison; connections that failed only where they are not counted by themselves.
    fn tally(&mut self, policy: &Outliers, outcome: Outcome) {
        let is_good = match outcome {
            Outcome::Answered(status) => !status.is_server_error(),
            Outcome::Failed if policy.is_split => return,
            Outcome::Failed => false,
        };
        self.asked = self.asked.saturating_add(1);
        self.answered = self.answered.saturating_add(u32::from(is_good));
    }

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
        let (asked, answered) = (self.asked, self.answered);
        *self = Self { times, until: now.checked_add(time), asked, answered, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SuccessRate;

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
            success_rate: None,
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
            assert_eq!(last, Some(if expected { vec![endpoint(1)] } else { vec![] }), "{name}");
            assert_eq!(record.is_out(&endpoint(1), now), expected, "{name}");
            assert!(!record.is_out(&endpoint(2), now), "{name}");
        }
    }

    #[test]
    fn it_takes_longer_each_time_and_is_forgiven() {
        let policy = Outliers { errors: Some(1), ..policy() };
        let (mut record, mut now) = (Record::default(), Instant::now());
        let mut fail = |now: Instant| {
            assert_eq!(record.note(&policy, 1, endpoint(1), answered(500), now), [endpoint(1)]);
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
            let out = (0..all).flat_map(|it| record.note(&policy, count, endpoint(it), answered(500), now)).count();
            assert_eq!(out, expected, "{most_percent} % of {count}");
        }
    }

    /// How many of a hundred requests to each endpoint go well in an interval, and who is left out at its end.
    #[test]
    fn who_fails_more_often_than_the_others_is_left_out_at_the_end_of_an_interval() {
        let rate = SuccessRate { endpoints: 5, requests: 10, deviations: 1900 };
        let with = |success_rate, most_percent| Outliers {
            errors: None,
            success_rate: Some(success_rate),
            most_percent,
            ..policy()
        };
        let many = SuccessRate { requests: 101, ..rate };
        let rows: [(&str, Outliers, &[u16], &[u16]); 9] = [
            ("one of five", with(rate, 100), &[100, 100, 100, 100, 50], &[4]),
            ("a little less often", with(rate, 100), &[100, 100, 100, 100, 99], &[4]),
            ("all alike", with(rate, 100), &[50, 50, 50, 50, 50], &[]),
            ("all different", with(rate, 100), &[90, 80, 70, 60, 50], &[]),
            ("too few to compare with", with(rate, 100), &[100, 100, 100, 50], &[]),
            ("too few requests", with(many, 100), &[100, 100, 100, 100, 50], &[]),
            ("no more than may be", with(rate, 10), &[100, 100, 100, 100, 50], &[]),
            (
                "two, further off",
                with(SuccessRate { deviations: 1000, ..rate }, 100),
                &[100, 100, 100, 0, 10, 100],
                &[3, 4],
            ),
            (
                "of two the worse",
                with(SuccessRate { deviations: 1000, ..rate }, 20),
                &[100, 100, 100, 10, 0, 100],
                &[4],
            ),
        ];
        for (name, policy, good, expected) in rows {
            let (mut record, now) = (Record::default(), Instant::now());
            for (number, good) in (0..).zip(good) {
                for request in 0..100 {
                    let status = if request < *good { 200 } else { 503 };
                    let found = record.note(&policy, 100, endpoint(number), answered(status), now);
                    assert_eq!(found, [], "{name}");
                }
            }
            let count = good.len();
            let early = record.note(&policy, count, endpoint(0), answered(200), now + 9 * SECOND);
            let found = record.note(&policy, count, endpoint(0), answered(200), now + 10 * SECOND);
            let expected: Vec<_> = expected.iter().map(|number| endpoint(*number)).collect();
            assert_eq!((early, found), (vec![], expected.clone()), "{name}");
            let next = record.note(&policy, count, endpoint(0), answered(200), now + 20 * SECOND);
            assert_eq!(next, [], "{name}: what was compared is forgotten");
            assert!(
                expected.iter().all(|it| record.is_out(it, now + 39 * SECOND) && !record.is_out(it, now + 40 * SECOND))
            );
        }
    }

    #[test]
    fn connections_that_fail_are_compared_unless_they_are_counted_by_themselves() {
        for (is_split, expected) in [(false, vec![endpoint(4)]), (true, vec![])] {
            let rate = SuccessRate { endpoints: 5, requests: 10, deviations: 1900 };
            let policy = Outliers { errors: None, success_rate: Some(rate), is_split, ..policy() };
            let (mut record, now) = (Record::default(), Instant::now());
            for number in 0..5 {
                for _ in 0..10 {
                    record.note(&policy, 5, endpoint(number), answered(200), now);
                    let outcome = if number == 4 { Outcome::Failed } else { answered(200) };
                    record.note(&policy, 5, endpoint(number), outcome, now);
                }
            }
            assert_eq!(record.note(&policy, 5, endpoint(0), answered(200), now + 10 * SECOND), expected, "{is_split}");
        }
    }
}
