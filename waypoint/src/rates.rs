//! How many requests pass: buckets of tokens, one for each combination of what requests are counted by. The time is an
//! argument.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fairway_core::limits::{self, Limits};
use fairway_core::reason::Reason;
use http::header::{HeaderName, HeaderValue};

use crate::config::{Bucket, Counting, Edits, Manner, Put, Rate, Rates, Value};
use crate::facts::Facts;
use crate::failure::Failure;

/// What gRPC calls it (its document statuscodes).
pub(crate) const RESOURCE_EXHAUSTED: u32 = 8;
/// How often at most it is looked for buckets that are full again, which are as good as none.
const SWEEP: Duration = Duration::from_secs(1);
/// The longest time to wait that anybody is told; a century and more.
const LONGEST_RESET: Duration = Duration::from_secs(1 << 32);

/// The buckets of all listeners.
#[derive(Debug)]
pub struct Buckets {
    /// Nobody outside knows which values would share a bucket.
    hasher: RandomState,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    levels: HashMap<u64, Level>,
    /// How many buckets each limit has, by the one that stands for the rest of it.
    of_limits: HashMap<u64, usize>,
    swept: Option<Instant>,
}

/// What is in one bucket.
#[derive(Clone, Copy, Debug)]
struct Level {
    tokens: f64,
    at: Instant,
    shape: Bucket,
    /// The bucket that stands for the rest of its limit.
    limit: u64,
}

/// What one request was told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told<'r> {
    /// Whether it may pass.
    pub passes: bool,
    /// The limit with the fewest left.
    pub rate: &'r Rate,
    /// How many are left.
    pub left: u32,
    /// Until there is one more, if none is left, and until all are there, otherwise.
    pub reset: Duration,
    /// Whether there was no room for a bucket of its own.
    pub shares: bool,
}

impl Level {
    fn full(shape: Bucket, at: Instant, limit: u64) -> Self {
        Self { tokens: f64::from(shape.most), at, shape, limit }
    }

    /// As it is at `now`, under a limit that may have changed.
    fn filled(self, shape: Bucket, now: Instant) -> Self {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let tokens = (self.tokens + passed * per_second(shape)).min(f64::from(shape.most));
        Self { tokens, at: now.max(self.at), shape, ..self }
    }

    fn is_full(&self, now: Instant) -> bool {
        self.filled(self.shape, now).tokens >= f64::from(self.shape.most)
    }

    fn told(self, rate: &Rate, passes: bool, shares: bool) -> Told<'_> {
        let most = f64::from(self.shape.most);
        let wanted = if passes { most } else { 1.0 };
        let reset = Duration::try_from_secs_f64(((wanted - self.tokens) / per_second(self.shape)).max(0.0));
        let reset = reset.map_or(LONGEST_RESET, |reset| reset.min(LONGEST_RESET));
        Told { passes, rate, left: self.left(), reset, shares }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a u32")]
    fn left(self) -> u32 {
        self.tokens.max(0.0).floor() as u32
    }
}

/// Tokens that come in a second.
fn per_second(shape: Bucket) -> f64 {
    f64::from(shape.fill) / shape.interval.as_secs_f64()
}

impl Buckets {
    /// None yet, and as many as `limits` let there be.
    #[must_use]
    pub fn within(limits: &Limits) -> Self {
        Self { hasher: RandomState::new(), most: limits.size(&limits::RATE_LIMIT_BUCKETS), state: Mutex::default() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).levels.len()
    }

    /// Takes a token from each bucket that the request is counted in, or from none if one is empty. Nothing where no limit is
    /// about it.
    #[must_use]
    pub fn take<'c, 'r>(
        &self,
        listener: &str,
        rates: &'r Rates,
        counted: impl Iterator<Item = &'c Counting>,
        facts: &Facts<'c>,
        now: Instant,
    ) -> Option<Told<'r>> {
        let mut wanted = Vec::new();
        each(rates, counted, facts, |rate, values| {
            let (own, shared) = self.keys(listener, rate, values);
            wanted.push((own, shared, rate));
        });
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut levels = Vec::with_capacity(wanted.len());
        for (own, shared, rate) in wanted {
            // Beyond the bound strangers share a bucket: nobody gets more by being many.
            let shares = !state.has_room(own, shared, self.most, now);
            let key = if shares { shared } else { own };
            let full = || Level::full(rate.bucket, now, shared);
            let level = state.levels.get(&key).map_or_else(full, |it| it.filled(rate.bucket, now));
            levels.push((key, level, rate, shares));
        }
        let passes = levels.iter().all(|(_, level, ..)| level.tokens >= 1.0);
        if passes {
            for (key, level, ..) in &mut levels {
                level.tokens -= 1.0;
                state.put(*key, *level);
            }
        }
        let shares = levels.iter().any(|(.., shares)| *shares);
        let fewest = levels.iter().min_by(|(_, one, ..), (_, other, ..)| one.tokens.total_cmp(&other.tokens));
        fewest.map(|(_, level, rate, _)| level.told(rate, passes, shares))
    }

    /// How many requests with these values `rate` would let pass now. Nothing is taken.
    #[must_use]
    pub fn left(&self, listener: &str, rate: &Rate, values: &[(&str, Cow<'_, str>)], now: Instant) -> u32 {
        let (own, shared) = self.keys(listener, rate, values);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let has_own = state.levels.contains_key(&own) || state.has_share(shared, self.most);
        let level = state.levels.get(if has_own { &own } else { &shared });
        level.map_or(rate.bucket.most, |level| level.filled(rate.bucket, now).left())
    }

    /// The bucket for these values, and the one for the rest of the limit.
    fn keys(&self, listener: &str, rate: &Rate, values: &[(&str, Cow<'_, str>)]) -> (u64, u64) {
        (self.hasher.hash_one((listener, &rate.entries, values)), self.hasher.hash_one((listener, &rate.entries)))
    }
}

/// Each limit that is about a request, with the values that it is counted by there.
pub fn each<'a, 'r>(
    rates: &'r Rates,
    counted: impl Iterator<Item = &'a Counting>,
    facts: &Facts<'a>,
    mut found: impl FnMut(&'r Rate, &[(&'a str, Cow<'a, str>)]),
) {
    let own = counted.filter(|counting| !counting.is_shared);
    for values in own.filter_map(|counting| values(counting, facts)) {
        rates.limits.iter().filter(|rate| is_about(rate, &values)).for_each(|rate| found(rate, &values));
    }
}

impl State {
    /// Whether this bucket of a limit is there, or may be.
    fn has_room(&mut self, key: u64, limit: u64, most: usize, now: Instant) -> bool {
        if self.levels.contains_key(&key) || self.has_share(limit, most) {
            return true;
        }
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            self.swept = Some(now);
            let Self { levels, of_limits, .. } = self;
            levels.retain(|_, level| {
                let is_full = level.is_full(now);
                if is_full && let Some(count) = of_limits.get_mut(&level.limit) {
                    *count = count.saturating_sub(1);
                }
                !is_full
            });
            of_limits.retain(|_, count| *count > 0);
        }
        self.has_share(limit, most)
    }

    /// Whether a limit may have one more: it has less than twice what is free for all, so that however many values it sees, a
    /// third is left for others (dynamic thresholds, Choudhury and Hahne 1998).
    fn has_share(&self, limit: u64, most: usize) -> bool {
        let free = most.saturating_sub(self.levels.len());
        self.of_limits.get(&limit).copied().unwrap_or_default() < free.saturating_mul(2)
    }

    fn put(&mut self, key: u64, level: Level) {
        if self.levels.insert(key, level).is_none() {
            *self.of_limits.entry(level.limit).or_default() += 1;
        }
    }
}

/// What a request is counted by; nothing where a part of it is missing.
pub(crate) fn values<'a>(counting: &'a Counting, facts: &Facts<'a>) -> Option<Vec<(&'a str, Cow<'a, str>)>> {
    let value = |value: &'a Value| {
        Some(match value {
            Value::Fixed(text) => text.into(),
            // Of several lines the first counts, as with Envoy.
            Value::Header(name) => String::from_utf8_lossy(facts.request?.headers.get(name)?.as_bytes()),
            Value::Client => facts.identity.as_str().into(),
            Value::Address => facts.client().to_string().into(),
        })
    };
    counting.keys.iter().map(|(key, from)| Some((key.as_str(), value(from)?))).collect()
}

/// Whether a limit is about requests with these values.
fn is_about(rate: &Rate, values: &[(&str, Cow<'_, str>)]) -> bool {
    let mut pairs = rate.entries.iter().zip(values);
    rate.entries.len() == values.len()
        && pairs.all(|((wanted, fixed), (key, value))| wanted == key && fixed.as_ref().is_none_or(|it| it == value))
}

impl Told<'_> {
    /// Why the request does not pass, if so.
    #[must_use]
    pub fn refusal(&self) -> Option<Failure> {
        let name = self.rate.entries.iter().find_map(|(_, fixed)| fixed.as_deref()).unwrap_or_default();
        let detail = format!("{name}: {} in {:?}", self.rate.bucket.fill, self.rate.bucket.interval);
        let failure = Failure::new(Reason::RateLimited, detail);
        (!self.passes).then_some(Failure { grpc_status: Some(RESOURCE_EXHAUSTED), ..failure })
    }

    /// What the client learns of it (draft-ietf-httpapi-ratelimit-headers-03 by Envoy's names, RFC 9110 §10.2.3).
    #[must_use]
    pub fn headers(&self) -> Edits {
        let seconds = self.reset.as_secs() + u64::from(self.reset.subsec_nanos() > 0);
        let lines = [
            ("x-ratelimit-limit", Some(u64::from(self.rate.bucket.most))),
            ("x-ratelimit-remaining", Some(u64::from(self.left))),
            ("x-ratelimit-reset", Some(seconds)),
            ("retry-after", (!self.passes).then_some(seconds)),
        ];
        let put = lines.into_iter().filter_map(|(name, value)| {
            let (name, value) = (HeaderName::from_static(name), HeaderValue::from(value?));
            Some(Put { name, value, manner: Manner::Overwrite })
        });
        Edits { remove: Vec::new(), put: put.collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use fairway_core::ident::Identity;
    use http::HeaderMap;

    use super::*;
    use crate::facts::Head;

    const MINUTE: Duration = Duration::from_secs(60);

    fn rate(entries: &[(&str, Option<&str>)], most: u32) -> Rate {
        let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned)));
        Rate { entries: entries.collect(), bucket: Bucket { most, fill: most, interval: MINUTE } }
    }

    fn counting(keys: &[(&str, Value)]) -> Counting {
        let keys = keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Counting { keys, is_shared: false }
    }

    fn of(name: &str) -> (&'static str, Value) {
        ("limit", Value::Fixed(name.to_owned()))
    }

    fn user() -> (&'static str, Value) {
        ("user", Value::Header(HeaderName::from_static("x-user")))
    }

    struct Client {
        identity: Identity,
        source: IpAddr,
        headers: HeaderMap,
    }

    impl Client {
        fn new(name: &str, user: Option<&str>) -> Self {
            Self::at("10.0.0.1", name, user)
        }

        fn at(source: &str, name: &str, user: Option<&str>) -> Self {
            let headers = user.map(|user| (HeaderName::from_static("x-user"), HeaderValue::try_from(user).unwrap()));
            let identity = Identity::new("cluster.local", "shop", name).unwrap();
            Self { identity, source: source.parse().unwrap(), headers: headers.into_iter().collect() }
        }

        fn facts(&self) -> Facts<'_> {
            let (headers, claims, query) = (&self.headers, None, None);
            let head = Head { method: "GET", authority: "a", path: Some("/"), query, headers, claims };
            let facts = Facts::of(&self.identity, self.source, "10.96.0.1:80".parse().unwrap());
            Facts { request: Some(head), ..facts }
        }
    }

    fn buckets(most: u64) -> Buckets {
        Buckets::within(&Limits::with(&BTreeMap::from([(limits::RATE_LIMIT_BUCKETS.name, most)])).unwrap())
    }

    #[test]
    fn tokens_are_used_up_and_come_evenly() {
        let (buckets, client, start) = (buckets(10), Client::new("a", None), Instant::now());
        let rates = Rates { limits: vec![rate(&[("limit", Some("x"))], 3)] };
        let counted = [counting(&[of("x")])];
        // Seconds after the start, whether it passes, what is left, and seconds until that changes.
        let rows = [
            (0, true, 2, 20),
            (0, true, 1, 40),
            (0, true, 0, 60),
            (0, false, 0, 20),
            (19, false, 0, 1),
            (20, true, 0, 60),
            (20, false, 0, 20),
            (60, true, 1, 40),
            (600, true, 2, 20),
        ];
        for (after, passes, left, reset) in rows {
            let now = start + Duration::from_secs(after);
            let told = buckets.take("web:80", &rates, counted.iter(), &client.facts(), now).unwrap();
            let seconds = told.reset.as_secs_f64().round();
            assert_eq!((told.passes, told.left, seconds), (passes, left, f64::from(reset)), "after {after} s");
            let names: Vec<_> = told.headers().put.iter().map(|put| put.name.to_string()).collect();
            assert_eq!(names.contains(&"retry-after".to_owned()), !passes);
        }
    }

    #[test]
    fn however_long_it_takes_the_time_can_be_told() {
        let bucket = Bucket { most: u32::MAX, fill: 1, interval: Duration::MAX };
        let rates = Rates { limits: vec![Rate { bucket, ..rate(&[("limit", Some("x"))], 1) }] };
        let (counted, client) = ([counting(&[of("x")])], Client::new("a", None));
        let told = buckets(10).take("l", &rates, counted.iter(), &client.facts(), Instant::now());
        assert_eq!(told.unwrap().reset, LONGEST_RESET);
    }

    #[test]
    fn requests_are_counted_by_what_the_route_says() {
        let (a, b) = (Client::new("a", Some("one")), Client::at("10.0.0.2", "b", Some("two")));
        let silent = Client::new("a", None);
        let client = || ("client", Value::Client);
        let address = || ("address", Value::Address);
        // What is counted by; whether a second request passes where there is one token: of the same, of another client at
        // another address, and of one without the header.
        let rows = [
            ("all", counting(&[of("x")]), rate(&[("limit", Some("x"))], 1), [false, false, false]),
            (
                "client",
                counting(&[of("x"), client()]),
                rate(&[("limit", Some("x")), ("client", None)], 1),
                [false, true, false],
            ),
            (
                "header",
                counting(&[of("x"), user()]),
                rate(&[("limit", Some("x")), ("user", None)], 1),
                [false, true, true],
            ),
            (
                "address",
                counting(&[of("x"), address()]),
                rate(&[("limit", Some("x")), ("address", None)], 1),
                [false, true, false],
            ),
            ("one value", counting(&[user()]), rate(&[("user", Some("two"))], 1), [true, true, true]),
            ("another limit", counting(&[of("y")]), rate(&[("limit", Some("x"))], 1), [true, true, true]),
            ("other keys", counting(&[of("x"), user()]), rate(&[("limit", Some("x"))], 1), [true, true, true]),
        ];
        for (name, counted, rate, expected) in rows {
            let rates = Rates { limits: vec![rate] };
            let passes = [&a, &b, &silent].map(|second| {
                let (buckets, now) = (buckets(10), Instant::now());
                let take = |client: &Client| buckets.take("l", &rates, [&counted].into_iter(), &client.facts(), now);
                assert!(take(&a).is_none_or(|told| told.passes), "{name}");
                take(second).is_none_or(|told| told.passes)
            });
            assert_eq!(passes, expected, "{name}");
        }
    }

    #[test]
    fn an_address_is_the_one_before_proxies_where_that_is_known() {
        let (client, counted) = (Client::new("a", None), counting(&[("address", Value::Address)]));
        for (remote, expected) in
            [(None, "10.0.0.1"), (Some("192.0.2.1"), "192.0.2.1"), (Some("::ffff:192.0.2.1"), "192.0.2.1")]
        {
            let remote = remote.map(|remote| remote.parse().unwrap());
            let found = values(&counted, &Facts { remote, ..client.facts() }).unwrap();
            assert_eq!(found[0].1, expected, "{remote:?}");
        }
    }

    #[test]
    fn a_request_that_one_limit_refuses_costs_none_of_the_others() {
        let (buckets, client, now) = (buckets(10), Client::new("a", None), Instant::now());
        let rates = Rates { limits: vec![rate(&[("limit", Some("x"))], 1), rate(&[("limit", Some("y"))], 5)] };
        let both = [counting(&[of("x")]), counting(&[of("y")])];
        let take = |counted: &[Counting]| buckets.take("l", &rates, counted.iter(), &client.facts(), now).unwrap();
        assert!(take(&both).passes);
        assert!(!take(&both).passes && !take(&both).passes);
        assert_eq!(take(&both[1..]).left, 3, "as if the refused ones had never been");
        let other = buckets.take("other", &rates, both.iter(), &client.facts(), now).unwrap();
        assert!(other.passes, "each listener counts by itself");
    }

    #[test]
    fn a_limit_that_sees_many_values_leaves_room_for_others() {
        let (buckets, now) = (buckets(30), Instant::now());
        let rates = Rates { limits: vec![rate(&[("user", None)], 1)] };
        let counted = [counting(&[user()])];
        let shares = |listener: &str, user: &str| {
            let client = Client::new("a", Some(user));
            buckets.take(listener, &rates, counted.iter(), &client.facts(), now).unwrap().shares
        };
        let own = |listener: &str| (0..100).filter(|user| !shares(listener, &user.to_string())).count();
        let of_one = own("busy");
        assert!((18..=20).contains(&of_one), "two thirds: {of_one}");
        let of_other = own("other");
        assert!((4..=7).contains(&of_other), "two thirds of what is left: {of_other}");
        assert!(!shares("third", "a"), "there is room still");
        assert!(buckets.count() <= 30 + 2, "and one more for the rest of each");
    }

    #[test]
    fn who_is_many_shares_a_bucket_and_what_is_full_again_makes_room() {
        let (buckets, start) = (buckets(2), Instant::now());
        let rates = Rates { limits: vec![rate(&[("user", None)], 1)] };
        let counted = [counting(&[user()])];
        let take = |user: &str, after: u64| {
            let client = Client::new("a", Some(user));
            let now = start + Duration::from_secs(after);
            let told = buckets.take("l", &rates, counted.iter(), &client.facts(), now).unwrap();
            (told.passes, told.shares)
        };
        let rows = [
            ("one", 0, (true, false)),
            ("two", 0, (true, false)),
            ("three", 0, (true, true)),
            ("four", 0, (false, true)),
            ("one", 0, (false, false)),
            ("five", 61, (true, false)),
        ];
        for (user, after, expected) in rows {
            assert_eq!(take(user, after), expected, "{user}");
        }
        assert!(buckets.count() <= 3);
    }
}
