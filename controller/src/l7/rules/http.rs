//! Rules of HTTPRoutes.

use std::time::Duration;

use fairway_core::source::route::{HttpMatch, HttpRule, PathMatch};

use super::super::model::{Conditions, Forward, Match, Path, Retry};
use super::super::verdict::Class;
use super::filters::{Effects, Place};
use super::{LEFT_OUT, REFUSED, Read, Reader, text};

pub(super) const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// Repetitions of a rule that says when and not how often.
pub(super) const ATTEMPTS: u32 = 2;
/// Most repetitions: more would only multiply the load of a service that is down.
pub(super) const MAXIMUM_ATTEMPTS: u32 = 10;
/// Shortest time before a repetition: gRPC's clients (1.85) wait for ever where what chance makes of it rounds to 0 ms.
const MINIMUM_BACKOFF: Duration = Duration::from_millis(5);

impl Reader<'_> {
    /// Reads one rule.
    pub(in super::super) fn http(&mut self, at: &str, written: &HttpRule) -> Read {
        let mut can_do = self.reads_all(at, &written.unread, REFUSED);
        let mut matches = Vec::new();
        for (index, matching) in written.matches.iter().enumerate() {
            let read = self.http_match(&format!("{at}.matches[{index}]"), matching);
            matches.extend(read.map(|matching| (index, matching)));
        }
        let has_all = matches.len() == written.matches.len();
        if written.matches.is_empty() {
            matches.extend(self.http_match(at, &HttpMatch::default()).map(|matching| (0, matching)));
        }
        let only: Vec<Match> = matches.iter().map(|(_, matching)| matching.clone()).collect();
        let effects = self.filters(at, &written.filters, Place::Http, &only);
        if effects.as_ref().is_some_and(Effects::redirects) && !written.backend_refs.is_empty() {
            self.unsupported(format!("{at}.backendRefs"), "a rule with a RequestRedirect has none");
            can_do = false;
        }
        let backends = self.backends(at, &written.backend_refs);
        let times = self.times(at, written);
        let session = self.session(at, written.session_persistence.as_ref());
        can_do &= effects.is_some() && times.is_some() && session.is_some();
        let (timeout, attempt_timeout, retry) = times.unwrap_or_default();
        let session = session.flatten();
        let hedges = self.hedges(&retry, attempt_timeout);
        let forward = Forward { backends, timeout, attempt_timeout, retry, hedges, session, ..Forward::default() };
        let rule = Self::rule(effects.filter(|_| can_do), forward);
        Read { matches, rule, is_supported: can_do && has_all }
    }

    fn http_match(&mut self, at: &str, written: &HttpMatch) -> Option<Match> {
        let is_read = self.reads_all(at, &written.unread, LEFT_OUT);
        let default = PathMatch::default();
        let (path, kind) = self.path(&format!("{at}.path"), written.path.as_ref().unwrap_or(&default))?;
        let headers = self.compared(&format!("{at}.headers"), &written.headers, true)?;
        let query = self.compared(&format!("{at}.queryParams"), &written.query_params, false)?;
        if let Some(method) = written.method.as_deref().filter(|method| !METHODS.contains(method)) {
            self.find(Class::Unsupported, format!("{at}.method"), format!("{method:?} is no method; {LEFT_OUT}"));
            return None;
        }
        let length = match &path {
            Path::Exact(text) | Path::Prefix(text) | Path::Start(text) | Path::Regex(text) => text.len(),
        };
        let method = written.method.clone();
        let rank = [kind, length, usize::from(method.is_some()), headers.len(), query.len()];
        is_read.then_some(Match { path, method, headers, query, more: Conditions::default(), rank })
    }

    /// A path, and how specific its kind is.
    fn path(&mut self, at: &str, written: &PathMatch) -> Option<(Path, usize)> {
        if !self.reads_all(at, &written.unread, LEFT_OUT) {
            return None;
        }
        let value = written.value.as_deref().unwrap_or("/");
        let wrong = match written.kind.as_deref().unwrap_or("PathPrefix") {
            "Exact" if text::is_path(value) => return Some((Path::Exact(value.to_owned()), 2)),
            "PathPrefix" if text::is_path(value) => {
                return Some((Path::Prefix(value.trim_end_matches('/').to_owned()), 0));
            }
            "Exact" | "PathPrefix" => "must begin with / and have no query".to_owned(),
            "RegularExpression" => match text::check_pattern(value) {
                Ok(()) => return Some((Path::Regex(value.to_owned()), 1)),
                Err(wrong) => wrong,
            },
            other => format!("type {other:?} is not supported"),
        };
        self.find(Class::Unsupported, at.to_owned(), format!("{wrong}; {LEFT_OUT}"));
        None
    }

    /// How long requests may take, each attempt of them, and when they are tried again.
    fn times(&mut self, at: &str, written: &HttpRule) -> Option<(Option<Duration>, Option<Duration>, Retry)> {
        let timeouts = written.timeouts.clone().unwrap_or_default();
        if !self.reads_all(&format!("{at}.timeouts"), &timeouts.unread, REFUSED) {
            return None;
        }
        let request = self.duration(format!("{at}.timeouts.request"), timeouts.request.as_deref())?;
        let attempt = self.duration(format!("{at}.timeouts.backendRequest"), timeouts.backend_request.as_deref())?;
        if let (Some(request), Some(attempt)) = (request, attempt)
            && attempt > request
        {
            self.unsupported(format!("{at}.timeouts.backendRequest"), "is longer than request");
            return None;
        }
        let Some(retry) = &written.retry else {
            // An attempt is all there is once the endpoint has begun.
            return Some((attempt.or(request), None, Retry::Untouched));
        };
        if !self.reads_all(&format!("{at}.retry"), &retry.unread, REFUSED) {
            return None;
        }
        if let Some(code) = retry.codes.iter().find(|code| !(400..=599).contains(*code)) {
            self.unsupported(format!("{at}.retry.codes"), &format!("{code} is not from 400 to 599"));
            return None;
        }
        let mut backoff = self.duration(format!("{at}.retry.backoff"), retry.backoff.as_deref())?;
        if backoff.is_some_and(|backoff| backoff < MINIMUM_BACKOFF) {
            let message = format!("is too short; it is {} ms", MINIMUM_BACKOFF.as_millis());
            self.find(Class::Different, format!("{at}.retry.backoff"), message);
            backoff = Some(MINIMUM_BACKOFF);
        }
        let wanted = retry.attempts.unwrap_or(ATTEMPTS);
        if wanted > MAXIMUM_ATTEMPTS {
            let message = format!("{wanted} are too many; {MAXIMUM_ATTEMPTS} are made");
            self.find(Class::Different, format!("{at}.retry.attempts"), message);
        }
        let retry = match wanted.min(MAXIMUM_ATTEMPTS) {
            0 => Retry::Never,
            attempts => {
                let codes = retry.codes.clone();
                Retry::Answers { codes, errors: false, resets: false, elsewhere: true, attempts, backoff }
            }
        };
        Some((request, attempt, retry))
    }

    /// A duration that is written and not zero, which stands for no limit.
    pub(super) fn duration(&mut self, at: String, written: Option<&str>) -> Option<Option<Duration>> {
        let Some(written) = written else { return Some(None) };
        let Some(duration) = text::duration(written) else {
            self.unsupported(at, &format!("{written:?} is no duration; write for example 1m30s or 250ms"));
            return None;
        };
        Some((!duration.is_zero()).then_some(duration))
    }
}
