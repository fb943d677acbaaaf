//! Rules of VirtualServices (api-surface A8), for one port of one service.

use std::collections::BTreeMap;

use fairway_core::source::istio_traffic::{
    HeaderChanges, TextMatch, TrafficDestination, TrafficHeaders, TrafficMatch, TrafficResponse, TrafficRetries,
    TrafficRule,
};
use fairway_core::source::route::{Header, HeaderModifier, Unread};

use super::super::catalog::Unit;
use super::super::grants::Reach;
use super::super::model::{
    Action, Backend, Compare, Conditions, Edits, Fault, Forward, Match, Mirror, NewPath, Path, Redirect, Retry, Rule,
    Target, Text,
};
use super::super::verdict::Class;
use super::http::{ATTEMPTS, MAXIMUM_ATTEMPTS};
use super::{LEFT_OUT, REFUSED, Read, Reader, per_million, text};

/// Longest answer of a route itself, in bytes: what Envoy takes.
const MAXIMUM_BODY: usize = 4096;
/// After what requests are tried again where nothing is said: 499 is gRPC's `CANCELLED`, 503 its `UNAVAILABLE`.
const DEFAULT_CODES: [u32; 2] = [499, 503];
/// Names of Istio's for what is always tried again.
const UNTOUCHED: [&str; 4] = ["connect-failure", "refused-stream", "reset-before-request", "retriable-status-codes"];
/// Names for statuses.
const NAMED_CODES: [(&str, &[u32]); 8] = [
    ("5xx", &[500, 501, 502, 503, 504]),
    ("gateway-error", &[502, 503, 504]),
    ("cancelled", &[499]),
    ("deadline-exceeded", &[504]),
    ("internal", &[500]),
    ("resource-exhausted", &[429]),
    ("retriable-4xx", &[409]),
    ("unavailable", &[503]),
];

impl Reader<'_> {
    /// Reads one rule, as it is for requests to `target`.
    pub(in super::super) fn traffic(&mut self, at: &str, written: &TrafficRule, target: &Target) -> Read {
        let mut can_do = self.reads_all(at, &written.unread, REFUSED);
        let mut matches = Vec::new();
        for (index, matching) in written.matches.iter().enumerate() {
            if matching.port.is_none_or(|port| port == target.port) {
                let read = self.traffic_match(&format!("{at}.match[{index}]"), matching);
                matches.extend(read.map(|matching| (index, matching)));
            }
        }
        if written.matches.is_empty() {
            matches.push((0, everything()));
        }
        let (request, mut host) = self.changes(&format!("{at}.headers"), written.headers.as_ref(), true);
        let (response, _) = self.changes(&format!("{at}.headers"), written.headers.as_ref(), false);
        can_do &= request.is_some() && response.is_some();
        let cors = written.cors_policy.as_ref().map(|cors| self.cors_policy(&format!("{at}.corsPolicy"), cors));
        let fault = written.fault.as_ref().map(|fault| self.fault(&format!("{at}.fault"), fault));
        can_do &= cors != Some(None) && fault != Some(None);
        let action = match (&written.redirect, &written.direct_response) {
            (None, Some(response)) => match self.reply(&format!("{at}.directResponse"), response, written) {
                Some(reply) => reply,
                None => {
                    can_do = false;
                    Action::Refuse
                }
            },
            (Some(redirect), _) => {
                let at = format!("{at}.redirect");
                can_do &= self.reads_all(&at, &redirect.unread, REFUSED) && written.route.is_empty();
                can_do &= written.direct_response.is_none();
                let status = redirect.redirect_code.unwrap_or(301);
                let is_path = redirect.uri.as_deref().is_none_or(text::is_path);
                let is_host = redirect.authority.as_deref().is_none_or(text::is_host);
                let is_scheme = redirect.scheme.as_deref().is_none_or(|scheme| matches!(scheme, "http" | "https"));
                if !matches!(status, 301 | 302 | 303 | 307 | 308) || !is_path || !is_host || !is_scheme {
                    self.unsupported(at, "is no redirection that can be made");
                    can_do = false;
                }
                Action::Redirect(Redirect {
                    scheme: redirect.scheme.clone(),
                    host: redirect.authority.clone(),
                    path: redirect.uri.clone().map(NewPath::Full),
                    port: redirect.port,
                    status,
                })
            }
            (None, None) => {
                let path = match &written.rewrite {
                    None => None,
                    Some(rewrite) => {
                        let at = format!("{at}.rewrite");
                        can_do &= self.reads_all(&at, &rewrite.unread, REFUSED);
                        let has_pattern = matches.iter().any(|(_, matching)| matches!(matching.path, Path::Regex(_)));
                        if rewrite.uri.as_deref().is_some_and(|uri| !text::is_path(uri) || has_pattern) {
                            self.unsupported(
                                format!("{at}.uri"),
                                "must be a path, and needs matches that are no patterns",
                            );
                            can_do = false;
                        }
                        if rewrite.authority.as_deref().is_some_and(|host| !text::is_host(host)) {
                            self.unsupported(format!("{at}.authority"), "is no name of a host");
                            can_do = false;
                        }
                        host = rewrite.authority.clone().or(host);
                        rewrite.uri.clone().map(NewPath::Start)
                    }
                };
                let backends = self.shares(at, written, target);
                let mirrors = self.copies(at, written, target);
                let times = self.tries(at, written);
                can_do &= times.is_some();
                let (timeout, attempt_timeout, retry) = times.unwrap_or_default();
                let hedges = self.hedges(&retry, attempt_timeout);
                if backends.iter().all(|backend| backend.target.is_none()) {
                    Action::Refuse
                } else {
                    Action::Forward(Forward {
                        backends,
                        host,
                        path,
                        mirrors,
                        timeout,
                        attempt_timeout,
                        retry,
                        hedges,
                        session: None,
                    })
                }
            }
        };
        let (request, response) = (request.unwrap_or_default(), response.unwrap_or_default());
        let fault = fault.flatten().filter(|fault| *fault != Fault::default());
        let rule = Rule { request, response, cors: cors.flatten(), fault, action };
        let rule = if can_do { rule } else { Rule::only(Action::Refuse) };
        Read { matches, rule, is_supported: can_do }
    }

    fn reply(&mut self, at: &str, written: &TrafficResponse, rule: &TrafficRule) -> Option<Action> {
        let body = written.body.clone().unwrap_or_default();
        if !self.reads_all(at, &written.unread, REFUSED)
            || !self.reads_all(&format!("{at}.body"), &body.unread, REFUSED)
        {
            return None;
        }
        let text = body.string.unwrap_or_default();
        if !(200..600).contains(&written.status) || text.len() > MAXIMUM_BODY || !rule.route.is_empty() {
            let message = format!("needs a status from 200 to 599, up to {MAXIMUM_BODY} bytes, and no route beside it");
            self.unsupported(at.to_owned(), &message);
            return None;
        }
        Some(Action::Reply { status: written.status, body: text })
    }

    fn traffic_match(&mut self, at: &str, written: &TrafficMatch) -> Option<Match> {
        // Clients of the mesh are all that come here.
        let is_mesh = |value: &serde_json::Value| value.as_array().is_some_and(|all| all.iter().any(|it| it == "mesh"));
        let mut unread = written.unread.clone();
        let labels = unread.remove("sourceLabels").filter(|labels| labels.as_object().is_none_or(|it| !it.is_empty()));
        if labels.is_some() {
            let message =
                format!("labels of clients are not known where requests are routed, sourceNamespace is; {LEFT_OUT}");
            self.find(Class::Unsupported, format!("{at}.sourceLabels"), message);
            return None;
        }
        unread.retain(|name, value| name != "statPrefix" && !(name == "gateways" && is_mesh(value)));
        let is_read = self.reads_all(at, &unread, LEFT_OUT);
        for (name, text) in [("uri", &written.uri), ("method", &written.method)] {
            if text.as_ref().is_some_and(|text| !self.reads_all(&format!("{at}.{name}"), &text.unread, LEFT_OUT)) {
                return None;
            }
        }
        let path = match &written.uri {
            None => Path::Start("/".to_owned()),
            Some(uri) => match (&uri.exact, &uri.prefix, &uri.regex) {
                (Some(path), None, None) if text::is_path(path) => Path::Exact(path.clone()),
                (None, Some(prefix), None) if text::is_path(prefix) => Path::Start(prefix.clone()),
                (None, None, Some(pattern)) if text::check_pattern(pattern).is_ok() => Path::Regex(pattern.clone()),
                _ => {
                    let message = format!("needs one of exact, prefix and regex, which must be a path; {LEFT_OUT}");
                    self.find(Class::Unsupported, format!("{at}.uri"), message);
                    return None;
                }
            },
        };
        let method = match &written.method {
            None => None,
            Some(TextMatch { exact: Some(method), prefix: None, regex: None, .. }) if text::is_header_name(method) => {
                Some(method.clone())
            }
            Some(_) => {
                self.find(Class::Unsupported, format!("{at}.method"), format!("needs exact; {LEFT_OUT}"));
                return None;
            }
        };
        let mut headers = self.values(&format!("{at}.headers"), &written.headers, true)?;
        for (name, field, text) in
            [(":authority", "authority", &written.authority), (":scheme", "scheme", &written.scheme)]
        {
            let Some(text) = text else { continue };
            if !self.reads_all(&format!("{at}.{field}"), &text.unread, LEFT_OUT) {
                return None;
            }
            let Some(value) = text_of(text) else {
                self.find(Class::Unsupported, format!("{at}.{field}"), format!("cannot be compared; {LEFT_OUT}"));
                return None;
            };
            headers.push(Compare { name: name.to_owned(), value });
        }
        let without = self.unwanted(&format!("{at}.withoutHeaders"), &written.without_headers)?;
        let namespace = Some(written.source_namespace.clone()).filter(|name| !name.is_empty());
        let more = Conditions { any_case: written.ignore_uri_case, without, namespace };
        let query = self.values(&format!("{at}.queryParams"), &written.query_params, false)?;
        is_read.then_some(Match { path, method, headers, query, more, rank: [0; 5] })
    }

    /// Headers that must not be there, or not with a value.
    fn unwanted(&mut self, at: &str, unwanted: &BTreeMap<String, TextMatch>) -> Option<Vec<(String, Option<Text>)>> {
        let mut read = Vec::new();
        for (name, value) in unwanted {
            // One that is misspelt would be as good as any value.
            if !self.reads_all(&format!("{at}[{name}]"), &value.unread, LEFT_OUT) {
                return None;
            }
            let name = name.to_ascii_lowercase();
            let value = if is_any(value) { Some(None) } else { text_of(value).map(Some) };
            let Some(value) = value.filter(|_| text::is_header_name(&name)) else {
                self.find(Class::Unsupported, format!("{at}[{name}]"), format!("cannot be compared; {LEFT_OUT}"));
                return None;
            };
            read.push((name, value));
        }
        Some(read)
    }

    /// Headers or query parameters to compare with.
    fn values(&mut self, at: &str, wanted: &BTreeMap<String, TextMatch>, is_header: bool) -> Option<Vec<Compare>> {
        let mut compared = Vec::new();
        for (name, value) in wanted {
            // A comparison that is misspelt says nothing, which would be as good as any value.
            if !self.reads_all(&format!("{at}[{name}]"), &value.unread, LEFT_OUT) {
                return None;
            }
            let name = if is_header { name.to_ascii_lowercase() } else { name.clone() };
            let is_name =
                if is_header { text::is_header_name(&name) } else { text::is_clean(&name) && !name.is_empty() };
            let is_bare = !is_header && value.exact.as_deref() == Some("");
            let value = if is_any(value) || is_bare { Some(Text::Regex(".*".to_owned())) } else { text_of(value) };
            let Some(value) = value.filter(|_| is_name) else {
                self.find(Class::Unsupported, format!("{at}[{name}]"), format!("cannot be compared; {LEFT_OUT}"));
                return None;
            };
            compared.push(Compare { name, value });
        }
        Some(compared)
    }

    /// What is changed in requests, or in answers; setting the host is another thing.
    fn changes(
        &mut self,
        at: &str,
        written: Option<&TrafficHeaders>,
        is_request: bool,
    ) -> (Option<Edits>, Option<String>) {
        let Some(written) = written else { return (Some(Edits::default()), None) };
        let (changes, side) = if is_request { (&written.request, "request") } else { (&written.response, "response") };
        let is_read = !is_request || self.reads_all(at, &written.unread, REFUSED);
        if !self.reads_all(&format!("{at}.{side}"), &changes.unread, REFUSED) || !is_read {
            return (None, None);
        }
        let is_host = |name: &str| is_request && matches!(name.to_ascii_lowercase().as_str(), "host" | ":authority");
        let host = changes.set.iter().find(|(name, _)| is_host(name)).map(|(_, host)| host.clone());
        if let Some(host) = host.as_deref().filter(|host| !text::is_host(host)) {
            self.unsupported(format!("{at}.{side}.set"), &format!("{host:?} is no name of a host"));
            return (None, None);
        }
        // Other parts of the first line are left alone, as Istio does.
        let list = |map: &BTreeMap<String, String>| {
            let kept = map.iter().filter(|(name, _)| !name.starts_with(':') && !is_host(name));
            kept.map(|(name, value)| Header { name: name.clone(), value: value.clone(), ..Header::default() }).collect()
        };
        let HeaderChanges { set, add, remove, .. } = changes;
        let modifier =
            HeaderModifier { set: list(set), add: list(add), remove: remove.clone(), ..HeaderModifier::default() };
        (self.edits(&format!("{at}.{side}"), Some(&modifier)), host)
    }

    fn shares(&mut self, at: &str, written: &TrafficRule, target: &Target) -> Vec<Backend> {
        let is_single = written.route.len() == 1;
        let mut backends = Vec::new();
        for (index, share) in written.route.iter().enumerate() {
            let at = format!("{at}.route[{index}]");
            let share_refused = "its share of requests is answered with 500";
            let is_read = self.reads_all(&at, &share.unread, share_refused);
            let mut to = self.destination(
                &format!("{at}.destination"),
                &share.destination,
                target,
                Unit::Request,
                share_refused,
            );
            let (request, host) = self.changes(&format!("{at}.headers"), share.headers.as_ref(), true);
            let (response, _) = self.changes(&format!("{at}.headers"), share.headers.as_ref(), false);
            if host.is_some() {
                self.unsupported(format!("{at}.headers"), "cannot change the host for a share of requests");
            }
            if !is_read || request.is_none() || response.is_none() || host.is_some() {
                to = None;
            }
            let weight = if is_single && share.weight == 0 { 1 } else { share.weight };
            if weight > 0 {
                let (request, response) = (request.unwrap_or_default(), response.unwrap_or_default());
                backends.push(Backend { weight, target: to, request, response });
            }
        }
        backends
    }

    /// Where requests or connections go that were meant for `dialled`.
    pub(in super::super) fn destination(
        &mut self,
        at: &str,
        written: &TrafficDestination,
        dialled: &Target,
        unit: Unit,
        consequence: &str,
    ) -> Option<Target> {
        let port_unread = written.port.as_ref().map(|port| &port.unread);
        let is_port_read = port_unread.is_none_or(|unread| self.reads_all(&format!("{at}.port"), unread, consequence));
        let is_read = self.reads_all(at, &written.unread, consequence) && is_port_read;
        let found = self.catalog.named(self.namespace, &written.host).and_then(|object| {
            let host = Some(written.host.as_str());
            let port = written.port.as_ref().map(|port| port.number);
            let port = port.or_else(|| self.catalog.only_port(&object, &written.host)).unwrap_or(dialled.port);
            let reach = self.referrer.check(&object, self.catalog.objects)?;
            let whole = self.catalog.reached(&object, host, i32::from(port), unit)?;
            if reach == Reach::Dialled && whole.port != dialled.port {
                let needed = self.referrer.needed(&object);
                return Err((
                    "RefNotPermitted",
                    format!("port {port} of {object} is not the one that is dialled; {needed}"),
                ));
            }
            match &written.subset {
                None => Ok(whole),
                Some(subset) => self.catalog.part(self.namespace, &object.namespace, whole, subset),
            }
        });
        match found {
            Ok(target) => Some(target).filter(|_| is_read),
            Err((reason, message)) => {
                self.find(Class::Reference(reason), at.to_owned(), format!("{message}; {consequence}"));
                None
            }
        }
    }

    fn copies(&mut self, at: &str, written: &TrafficRule, target: &Target) -> Vec<Mirror> {
        let single = written.mirror.iter().map(|to| (format!("{at}.mirror"), to, written.mirror_percentage.as_ref()));
        let several = written.mirrors.iter().enumerate();
        let several =
            several.map(|(index, it)| (format!("{at}.mirrors[{index}]"), &it.destination, it.percentage.as_ref()));
        let mut mirrors = Vec::new();
        if let Some(percentage) = &written.mirror_percentage {
            self.notes_unread(&format!("{at}.mirrorPercentage"), &percentage.unread);
        }
        for (index, mirror) in written.mirrors.iter().enumerate() {
            let at = format!("{at}.mirrors[{index}]");
            self.notes_unread(&at, &mirror.unread);
            if let Some(percentage) = &mirror.percentage {
                self.notes_unread(&format!("{at}.percentage"), &percentage.unread);
            }
        }
        for (at, to, percent) in single.chain(several).collect::<Vec<_>>() {
            let percent = percent.map_or(100.0, |percent| percent.value);
            if let Some(target) = self.destination(&at, to, target, Unit::Request, "nothing is mirrored there") {
                mirrors.push(Mirror { target, per_million: per_million(percent) });
            }
        }
        mirrors
    }

    /// How long requests may take, each attempt of them, and when they are tried again.
    fn tries(
        &mut self,
        at: &str,
        written: &TrafficRule,
    ) -> Option<(Option<std::time::Duration>, Option<std::time::Duration>, Retry)> {
        let timeout = self.time(&format!("{at}.timeout"), written.timeout.as_deref())?;
        let default = TrafficRetries::default();
        let retries = written.retries.as_ref().unwrap_or(&default);
        let at = format!("{at}.retries");
        self.notes_unread(&at, &retries.unread);
        let attempt = self.time(&format!("{at}.perTryTimeout"), retries.per_try_timeout.as_deref())?;
        let backoff = self.time(&format!("{at}.backoff"), retries.backoff.as_deref())?;
        let attempts = retries.attempts.unwrap_or(ATTEMPTS).min(MAXIMUM_ATTEMPTS);
        if attempts == 0 {
            return Some((timeout, attempt, Retry::Never));
        }
        let mut codes: Vec<u32> = Vec::new();
        let (mut errors, mut resets) = (false, false);
        for part in retries.retry_on.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|it| !it.is_empty())
        {
            errors |= part == "5xx";
            // A connection that breaks counts as an answer of 503, as with Envoy, where `5xx` brings it by itself.
            resets |= matches!(part, "reset" | "gateway-error");
            let named = NAMED_CODES.iter().find(|(name, _)| *name == part).map(|(_, codes)| *codes);
            match (named, part.parse::<u32>()) {
                (Some(named), _) => codes.extend(named),
                (None, Ok(code)) if (400..=599).contains(&code) => codes.push(code),
                _ if part == "reset" || UNTOUCHED.contains(&part) => {}
                _ => {
                    let message = format!("{part:?} is not supported and has no effect");
                    self.find(Class::Different, format!("{at}.retryOn"), message);
                }
            }
        }
        if retries.retry_on.is_none() {
            codes.extend(DEFAULT_CODES);
        }
        codes.sort_unstable();
        codes.dedup();
        let elsewhere = retries.retry_ignore_previous_hosts.unwrap_or(true);
        Some((timeout, attempt, Retry::Answers { codes, errors, resets, elsewhere, attempts, backoff }))
    }

    /// What is not read and changes little.
    fn notes_unread(&mut self, at: &str, unread: &Unread) {
        for name in unread.keys() {
            self.find(Class::Different, format!("{at}.{name}"), "is not supported and has no effect");
        }
    }

    /// A duration as Istio writes it, such as `1.5s`; zero stands for no limit.
    pub(super) fn time(&mut self, at: &str, written: Option<&str>) -> Option<Option<std::time::Duration>> {
        let Some(written) = written else { return Some(None) };
        let Some(duration) = text::seconds(written) else {
            self.unsupported(at.to_owned(), &format!("{written:?} is no duration; write for example 1m30s or 250ms"));
            return None;
        };
        Some((!duration.is_zero()).then_some(duration))
    }
}

/// Whether it is enough that there is something.
fn is_any(wanted: &TextMatch) -> bool {
    matches!((&wanted.exact, &wanted.prefix, wanted.regex.as_deref()), (None, None, None | Some("*")))
}

fn text_of(wanted: &TextMatch) -> Option<Text> {
    match (&wanted.exact, &wanted.prefix, &wanted.regex) {
        (Some(exact), None, None) if text::is_clean(exact) => Some(Text::Exact(exact.clone())),
        (None, Some(prefix), None) if text::is_clean(prefix) => {
            Some(Text::Regex(format!("{}.*", regex_syntax::escape(prefix))))
        }
        (None, None, Some(pattern)) if text::check_pattern(pattern).is_ok() => Some(Text::Regex(pattern.clone())),
        _ => None,
    }
}

fn everything() -> Match {
    let (path, more) = (Path::Start("/".to_owned()), Conditions::default());
    Match { path, method: None, headers: Vec::new(), query: Vec::new(), more, rank: [0; 5] }
}
