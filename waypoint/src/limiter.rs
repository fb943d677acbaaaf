//! Asks who counts requests for several proxies (Envoy's rate-limit service) whether there were too many.

use std::sync::Arc;
use std::time::Duration;

use fairway_core::reason::Reason;
use fairway_proto::envoy::core::HeaderValue as Line;
use fairway_proto::envoy::rate_limit_descriptor::RateLimitDescriptor;
use fairway_proto::envoy::rate_limit_descriptor::rate_limit_descriptor::Entry;
use fairway_proto::rls::rate_limit_response::rate_limit::Unit;
use fairway_proto::rls::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use fairway_proto::rls::{RateLimitRequest, RateLimitResponse};
use http::header::{HeaderName, HeaderValue};

use crate::authorizer::is_free;
use crate::call::Call;
use crate::config::{Config, Counting, Edits, Limiter, Manner, Put};
use crate::facts::Facts;
use crate::failure::Failure;
use crate::rates::{RESOURCE_EXHAUSTED, values};
use crate::stream::Connection;

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// What is done with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Changes of its headers.
    pub request: Edits,
    /// Changes of its answer's headers, whoever answers.
    pub response: Edits,
    /// How the limit with the fewest left stands, where that is known.
    pub standing: Option<Standing>,
    /// Why it is not sent on, if so.
    pub refusal: Option<Failure>,
}

/// How a limit stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many are left.
    pub left: u32,
    /// What the client learns of it.
    pub headers: Edits,
}

impl Answer {
    /// What the client learns of how it stands, where the tightest limit that we count ourselves has `ours` left: of that, unless
    /// it is less tight, or passes and this one does not.
    #[must_use]
    pub fn standing_beside(&self, ours: Option<u32>) -> Option<&Edits> {
        let is_tighter = |standing: &&Standing| self.refusal.is_some() || ours.is_none_or(|ours| standing.left < ours);
        self.standing.as_ref().filter(is_tighter).map(|standing| &standing.headers)
    }
}

/// What the service is asked about; nothing where the request is not counted there.
#[must_use]
pub fn descriptors<'c>(counted: impl Iterator<Item = &'c Counting>, facts: &Facts<'_>) -> Vec<RateLimitDescriptor> {
    let entry = |(key, value): (&str, std::borrow::Cow<'_, str>)| Entry { key: key.to_owned(), value: value.into() };
    let shared = counted.filter(|counting| counting.is_shared).filter_map(|counting| values(counting, facts));
    shared.map(|values| RateLimitDescriptor { entries: values.into_iter().map(entry).collect() }).collect()
}

/// Asks about one request.
///
/// # Errors
/// Why it is not sent on, as nobody has answered.
pub async fn ask(
    connection: &Arc<Connection>,
    config: &Config,
    limiter: &Limiter,
    descriptors: Vec<RateLimitDescriptor>,
) -> Result<Answer, Failure> {
    if descriptors.is_empty() {
        return Ok(Answer::default());
    }
    // To ask twice is to count twice.
    let call = Call { cluster: &limiter.cluster, method: METHOD, timeout: limiter.timeout, may_repeat: false };
    let question = RateLimitRequest { domain: limiter.domain.clone(), descriptors, hits_addend: 0 };
    let answered = call.unary::<RateLimitResponse>(connection, config, &question).await;
    let answered = answered.map_err(|error| error.to_string());
    match answered.and_then(|answer| decide(&answer, limiter).ok_or_else(|| "the answer has no code".to_owned())) {
        Ok(answer) => {
            connection.waypoint.telemetry.counted_elsewhere(&limiter.cluster);
            Ok(answer)
        }
        Err(problem) => {
            let detail = format!("{}: {problem}", limiter.cluster);
            let passes = limiter.status_on_error.is_none();
            connection.waypoint.telemetry.uncounted(&limiter.cluster, passes, &detail);
            let failure = Failure::new(Reason::RateLimiterFailed, detail);
            match limiter.status_on_error {
                Some(status) => Err(Failure { status: Some(status), ..failure }),
                None => Ok(Answer::default()),
            }
        }
    }
}

/// What an answer comes to; nothing where it says neither yes nor no.
fn decide(answer: &RateLimitResponse, limiter: &Limiter) -> Option<Answer> {
    let is_over = match answer.overall_code() {
        Code::Ok => false,
        Code::OverLimit => true,
        Code::Unknown => return None,
    };
    let response = Edits { remove: Vec::new(), put: lines(&answer.response_headers_to_add).collect() };
    let request = Edits { remove: Vec::new(), put: lines(&answer.request_headers_to_add).collect() };
    let refusal = is_over.then(|| {
        let over = answer.statuses.iter().find(|status| status.code() == Code::OverLimit);
        let name = over.and_then(|status| status.current_limit.as_ref()).map_or("", |limit| limit.name.as_str());
        let failure = Failure::new(Reason::RateLimited, format!("{}: {name}", limiter.domain));
        Failure { grpc_status: Some(RESOURCE_EXHAUSTED), ..failure }
    });
    Some(Answer { request, response, standing: standing(&answer.statuses, is_over), refusal })
}

/// What the client learns of it (draft-ietf-httpapi-ratelimit-headers-03 by Envoy's names): the limit with the fewest left, and
/// behind it all of them.
fn standing(statuses: &[DescriptorStatus], is_over: bool) -> Option<Standing> {
    let known = || statuses.iter().filter_map(|status| Some((status, status.current_limit.as_ref()?)));
    let (fewest, limit) = known().min_by_key(|(status, _)| status.limit_remaining)?;
    let policies = known().map(|(_, limit)| policy(limit));
    let limits = [limit.requests_per_unit.to_string()].into_iter().chain(policies).collect::<Vec<_>>().join(", ");
    let reset = fewest.duration_until_reset.and_then(|time| Duration::try_from(time).ok());
    let reset = reset.map(|time| (time.as_secs() + u64::from(time.subsec_nanos() > 0)).to_string());
    let lines = [
        ("x-ratelimit-limit", Some(limits)),
        ("x-ratelimit-remaining", Some(fewest.limit_remaining.to_string())),
        ("x-ratelimit-reset", reset.clone()),
        ("retry-after", reset.filter(|_| is_over)),
    ];
    let put = lines.into_iter().filter_map(|(name, value)| {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::try_from(value?).ok()?);
        Some(Put { name, value, manner: Manner::Overwrite })
    });
    let headers = Edits { remove: Vec::new(), put: put.collect() };
    Some(Standing { left: fewest.limit_remaining, headers })
}

/// A limit as the draft writes it (§2.1): so many in so many seconds.
fn policy(limit: &RateLimit) -> String {
    let seconds = match limit.unit() {
        Unit::Second => 1,
        Unit::Minute => 60,
        Unit::Hour => 3600,
        Unit::Day => 86_400,
        Unit::Week => 604_800,
        Unit::Month => 2_592_000,
        Unit::Year => 31_536_000,
        Unit::Unknown => 0,
    };
    // What is quoted is a text without quotes in it (RFC 8941 §3.3.3).
    let name = Some(limit.name.replace(['"', '\\'], "")).filter(|name| !name.is_empty());
    let name = name.map(|name| format!(";name=\"{name}\"")).unwrap_or_default();
    format!("{};w={seconds}{name}", limit.requests_per_unit)
}

/// Headers that the service asks for; what frames or addresses a message is not its to write.
fn lines(lines: &[Line]) -> impl Iterator<Item = Put> {
    lines.iter().filter_map(|line| {
        let name = HeaderName::try_from(&line.key).ok().filter(is_free)?;
        Some(Put { name, value: HeaderValue::try_from(&line.value).ok()?, manner: Manner::Append })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> Limiter {
        let cluster = "limiter".into();
        Limiter { cluster, domain: "shop".into(), timeout: Duration::from_secs(1), status_on_error: None }
    }

    fn status(code: Code, limit: Option<(u32, Unit, &str)>, left: u32, reset: i64) -> DescriptorStatus {
        let limit = limit.map(|(requests_per_unit, unit, name)| {
            let mut limit = RateLimit { requests_per_unit, name: name.to_owned(), ..RateLimit::default() };
            limit.set_unit(unit);
            limit
        });
        let duration_until_reset = Some(prost_types::Duration { seconds: reset, nanos: 1 });
        let mut status = DescriptorStatus {
            current_limit: limit,
            limit_remaining: left,
            duration_until_reset,
            ..Default::default()
        };
        status.set_code(code);
        status
    }

    fn answer(code: Code, statuses: Vec<DescriptorStatus>) -> RateLimitResponse {
        let mut answer = RateLimitResponse { statuses, ..RateLimitResponse::default() };
        answer.set_overall_code(code);
        answer
    }

    #[test]
    fn the_answer_decides_and_tells_the_limit_with_the_fewest_left() {
        let minute = || Some((10, Unit::Minute, "each \"user\""));
        let hour = || Some((100, Unit::Hour, ""));
        let both = "10, 10;w=60;name=\"each user\", 100;w=3600";
        // Code, statuses; whether it passes, and the four headers.
        type Row<'a> = (Code, Vec<DescriptorStatus>, bool, [Option<&'a str>; 4]);
        let rows: [Row<'_>; 5] = [
            (Code::Ok, vec![], true, [None; 4]),
            (Code::OverLimit, vec![], false, [None; 4]),
            (Code::Ok, vec![status(Code::Ok, None, 0, 9)], true, [None; 4]),
            (
                Code::Ok,
                vec![status(Code::Ok, minute(), 3, 20), status(Code::Ok, hour(), 50, 1000)],
                true,
                [Some(both), Some("3"), Some("21"), None],
            ),
            (
                Code::OverLimit,
                vec![status(Code::OverLimit, minute(), 0, 20), status(Code::Ok, hour(), 50, 1000)],
                false,
                [Some(both), Some("0"), Some("21"), Some("21")],
            ),
        ];
        for (code, statuses, passes, expected) in rows {
            let decided = decide(&answer(code, statuses), &limiter()).unwrap();
            assert_eq!(decided.refusal.is_none(), passes, "{expected:?}");
            let header = |name: &str| {
                let put = decided.standing.iter().flat_map(|it| &it.headers.put).find(|put| put.name == name);
                put.map(|put| put.value.to_str().unwrap())
            };
            let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"];
            assert_eq!(names.map(header), expected);
        }
        assert_eq!(decide(&answer(Code::Unknown, vec![]), &limiter()), None);
    }

    #[test]
    fn the_client_learns_of_the_tightest_limit_whoever_counts() {
        let told = |code, left, ours| {
            let statuses = vec![status(code, Some((10, Unit::Minute, "")), left, 20)];
            let decided = decide(&answer(code, statuses), &limiter()).unwrap();
            decided.standing_beside(ours).is_some()
        };
        // Code, what is left there and here; whether the client learns of the former.
        let rows = [
            (Code::Ok, 3, None, true),
            (Code::Ok, 3, Some(4), true),
            (Code::Ok, 3, Some(3), false),
            (Code::Ok, 3, Some(0), false),
            (Code::OverLimit, 0, Some(0), true),
        ];
        for (code, left, ours, expected) in rows {
            assert_eq!(told(code, left, ours), expected, "{left} beside {ours:?}");
        }
    }

    #[test]
    fn what_frames_a_message_is_not_the_services_to_write() {
        let line = |key: &str, value: &str| Line { key: key.to_owned(), value: value.to_owned() };
        let headers = vec![line("x-plan", "free"), line("Host", "evil"), line("content-length", "3"), line("a", "\n")];
        let answer = RateLimitResponse {
            request_headers_to_add: headers.clone(),
            response_headers_to_add: headers,
            ..answer(Code::Ok, vec![])
        };
        let decided = decide(&answer, &limiter()).unwrap();
        for edits in [decided.request, decided.response] {
            let names: Vec<_> = edits.put.iter().map(|put| put.name.as_str().to_owned()).collect();
            assert_eq!(names, ["x-plan"]);
        }
    }
}
