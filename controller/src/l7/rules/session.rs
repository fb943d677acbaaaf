//! Sessions: clients go back to the endpoint that has answered them (Gateway API, GEP-1619).

use std::time::Duration;

use fairway_core::source::route::SessionPersistence;

use super::super::model::{Kept, Session};
use super::super::verdict::Class;
use super::{Reader, text};

/// What is said of what proxies have no words for.
const NO_EFFECT: &str = "is not supported and has no effect";

impl Reader<'_> {
    /// What a rule says of sessions, or nothing when it cannot be done.
    pub(super) fn session(&mut self, at: &str, written: Option<&SessionPersistence>) -> Option<Option<Session>> {
        let Some(written) = written else { return Some(None) };
        let name = written.session_name.clone().unwrap_or_else(|| self.session_name(at));
        let at = format!("{at}.sessionPersistence");
        if !self.reads_all(&at, &written.unread, super::REFUSED) {
            return None;
        }
        // Names of cookies are tokens, as those of headers (RFC 6265 §4.1.1).
        if !text::is_header_name(&name) {
            self.unsupported(format!("{at}.sessionName"), &format!("{name:?} is no name of a cookie or header"));
            return None;
        }
        let longest = self.lasts(format!("{at}.absoluteTimeout"), written.absolute_timeout.as_deref())?;
        // Neither form in which clients keep an endpoint says when they last came.
        if self.lasts(format!("{at}.idleTimeout"), written.idle_timeout.as_deref())?.is_some() {
            self.find(Class::Different, format!("{at}.idleTimeout"), NO_EFFECT);
        }
        let kept = match written.kind.as_deref().unwrap_or("Cookie") {
            "Cookie" => Kept::Cookie { longest: self.lifetime(&at, written, longest)? },
            "Header" => {
                let has = [("absoluteTimeout", longest.is_some()), ("cookieConfig", written.cookie_config.is_some())];
                for (field, _) in has.into_iter().filter(|(_, is_there)| *is_there) {
                    self.find(Class::Different, format!("{at}.{field}"), format!("of a header {NO_EFFECT}"));
                }
                if name.starts_with(':') || RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
                    self.unsupported(format!("{at}.sessionName"), &format!("{name} has another meaning"));
                    return None;
                }
                Kept::Header
            }
            other => {
                self.unsupported(format!("{at}.type"), &format!("{other:?} is not supported"));
                return None;
            }
        };
        Some(Some(Session { name, kept }))
    }

    /// For how long a cookie is good; none is for as long as the browser is open.
    fn lifetime(
        &mut self,
        at: &str,
        written: &SessionPersistence,
        longest: Option<Duration>,
    ) -> Option<Option<Duration>> {
        let config = written.cookie_config.clone().unwrap_or_default();
        let at = format!("{at}.cookieConfig");
        if !self.reads_all(&at, &config.unread, super::REFUSED) {
            return None;
        }
        match (config.lifetime_type.as_deref().unwrap_or("Session"), longest) {
            ("Permanent", Some(_)) | ("Session", None) => {}
            ("Session", Some(_)) => {
                let message = "with an absoluteTimeout browsers keep the cookie until then, also after they are closed";
                self.find(Class::Different, format!("{at}.lifetimeType"), message);
            }
            ("Permanent", None) => {
                self.unsupported(format!("{at}.lifetimeType"), "Permanent needs an absoluteTimeout");
                return None;
            }
            (other, _) => {
                self.unsupported(format!("{at}.lifetimeType"), &format!("{other:?} is not supported"));
                return None;
            }
        }
        Some(longest)
    }

    /// A name that no other rule has: clients would lose the endpoint of the one in the other.
    fn session_name(&self, at: &str) -> String {
        let index: String = at.chars().filter(char::is_ascii_digit).collect();
        format!("fairway-session.{}.{}.{index}", self.key.namespace, self.key.name)
    }

    /// A duration of whole seconds, at least one, where one is written and not zero, which stands for no limit.
    fn lasts(&mut self, at: String, written: Option<&str>) -> Option<Option<Duration>> {
        let lasts = self.duration(at.clone(), written)?;
        if lasts.is_some_and(|lasts| lasts.subsec_nanos() > 0) {
            self.unsupported(at, "must be whole seconds");
            return None;
        }
        Some(lasts)
    }
}

/// Headers that decide where a message ends, for whom it is, or that the waypoint writes.
const RESERVED: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "proxy-status",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
    "x-forwarded-for",
];
