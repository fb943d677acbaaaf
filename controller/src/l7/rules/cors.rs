//! What pages from other origins may do (Fetch §3.2), as HTTPRoutes and VirtualServices say it.

use std::time::Duration;

use fairway_core::source::istio_traffic::{TextMatch, TrafficCors};
use fairway_core::source::route::CorsFilter;

use super::super::model::{Cors, Text};
use super::super::verdict::Class;
use super::http::METHODS;
use super::{REFUSED, Reader, text};

/// How long browsers remember what they were told where an HTTPRoute says nothing of it, as Gateway API has it.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Every value.
const ALL: &str = "*";

impl Reader<'_> {
    /// The filter of an HTTPRoute.
    pub(super) fn cors_filter(&mut self, at: &str, written: Option<&CorsFilter>) -> Option<Cors> {
        let written = self.missing(at, written)?;
        if !self.reads_all(at, &written.unread, REFUSED) {
            return None;
        }
        let origins = written.allow_origins.iter().enumerate().map(|(index, origin)| {
            let is_origin = origin == ALL || origin.contains("://");
            if !is_origin || !text::is_clean(origin) {
                let message = format!("{origin:?} is no origin; write for example https://*.example.com");
                self.unsupported(format!("{at}.allowOrigins[{index}]"), &message);
                return None;
            }
            // A star stands for any part of a host, or for everything.
            let pattern =
                if origin == ALL { ".*".to_owned() } else { regex_syntax::escape(origin).replace("\\*", "[^/:]*") };
            Some(if origin.contains('*') { Text::Regex(pattern) } else { Text::Exact(origin.clone()) })
        });
        let origins = origins.collect::<Option<Vec<_>>>()?;
        let has_credentials = written.allow_credentials.unwrap_or(false);
        let max_age =
            written.max_age.map_or(Some(MAX_AGE), |seconds| u64::try_from(seconds).ok().map(Duration::from_secs));
        let Some(max_age) = max_age else {
            self.unsupported(format!("{at}.maxAge"), "is below 0");
            return None;
        };
        Some(Cors {
            origins,
            methods: self.methods(&format!("{at}.allowMethods"), &written.allow_methods, has_credentials)?,
            headers: self.cors_headers(&format!("{at}.allowHeaders"), &written.allow_headers)?,
            exposed: self.cors_headers(&format!("{at}.exposeHeaders"), &written.expose_headers)?,
            max_age: Some(max_age),
            has_credentials,
            passes_others: false,
        })
    }

    /// The policy of a VirtualService.
    pub(super) fn cors_policy(&mut self, at: &str, written: &TrafficCors) -> Option<Cors> {
        if !self.reads_all(at, &written.unread, REFUSED) {
            return None;
        }
        let named =
            written.allow_origin.iter().map(|origin| TextMatch { exact: Some(origin.clone()), ..TextMatch::default() });
        let mut origins = Vec::new();
        for (index, origin) in written.allow_origins.iter().cloned().chain(named).enumerate() {
            if !self.reads_all(&format!("{at}.allowOrigins[{index}]"), &origin.unread, REFUSED) {
                return None;
            }
            origins.push(match (origin.exact, origin.prefix, origin.regex) {
                (Some(exact), None, None) if exact == ALL => Text::Regex(".*".to_owned()),
                (Some(exact), None, None) if text::is_clean(&exact) => Text::Exact(exact),
                (None, Some(prefix), None) if text::is_clean(&prefix) => {
                    Text::Regex(format!("{}.*", regex_syntax::escape(&prefix)))
                }
                (None, None, Some(pattern)) if text::check_pattern(&pattern).is_ok() => Text::Regex(pattern),
                _ => {
                    self.unsupported(format!("{at}.allowOrigins[{index}]"), "needs one of exact, prefix and regex");
                    return None;
                }
            });
        }
        let max_age = self.time(&format!("{at}.maxAge"), written.max_age.as_deref())?;
        let passes_others = match written.unmatched_preflights.as_deref() {
            None | Some("UNSPECIFIED" | "FORWARD") => true,
            Some("IGNORE") => false,
            Some(other) => {
                self.unsupported(format!("{at}.unmatchedPreflights"), &format!("{other:?} is not supported"));
                return None;
            }
        };
        Some(Cors {
            origins,
            methods: self.methods(&format!("{at}.allowMethods"), &written.allow_methods, written.allow_credentials)?,
            headers: self.cors_headers(&format!("{at}.allowHeaders"), &written.allow_headers)?,
            exposed: self.cors_headers(&format!("{at}.exposeHeaders"), &written.expose_headers)?,
            max_age,
            has_credentials: written.allow_credentials,
            passes_others,
        })
    }

    /// Methods; with credentials a star is no wildcard (Fetch §3.2.5), so that they are named.
    fn methods(&mut self, at: &str, written: &[String], has_credentials: bool) -> Option<Vec<String>> {
        if written.iter().any(|method| method == ALL) {
            return Some(if has_credentials { METHODS.map(str::to_owned).to_vec() } else { vec![ALL.to_owned()] });
        }
        self.cors_headers(at, written)
    }

    /// Names of headers, or a star.
    fn cors_headers(&mut self, at: &str, written: &[String]) -> Option<Vec<String>> {
        for (index, name) in written.iter().enumerate() {
            if !text::is_header_name(name) {
                self.find(Class::Unsupported, format!("{at}[{index}]"), format!("{name:?} is no name; {REFUSED}"));
                return None;
            }
        }
        Some(written.to_vec())
    }
}
