//! Where clients keep which endpoint has answered them.

use std::time::Duration;

use fairway_proto::envoy::core::TypedExtensionConfig;
use fairway_proto::envoy::session_cookie::CookieBasedSessionState;
use fairway_proto::envoy::session_header::HeaderBasedSessionState;
use fairway_proto::envoy::stateful_session::stateful_session_per_route::Override;
use fairway_proto::envoy::stateful_session::{StatefulSession, StatefulSessionPerRoute};
use http::header::HeaderName;

use super::duration;
use super::listener::decode;
use super::route::header_name;
use super::wrong::{Within, Wrong};

const COOKIE: &str = "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState";
const HEADER: &str = "type.googleapis.com/envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState";

/// Where clients keep which endpoint has answered them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// In a cookie.
    Cookie {
        /// Its name.
        name: String,
        /// How long it is good; none is for as long as a browser is open.
        ttl: Option<Duration>,
    },
    /// In a header that they send again.
    Header(HeaderName),
}

/// Reads what a route says of sessions; none where it has none.
pub(super) fn session(message: &StatefulSessionPerRoute) -> Result<Option<Session>, Wrong> {
    match message.r#override.as_ref().ok_or_else(|| Wrong::missing("stateful_session"))? {
        Override::Disabled(true) => Ok(None),
        Override::Disabled(false) => Err(Wrong::new("disabled", "must be true")),
        Override::StatefulSession(session) => of(session).within("stateful_session"),
    }
}

fn of(message: &StatefulSession) -> Result<Option<Session>, Wrong> {
    if message.strict {
        return Err(Wrong::new("strict", "must be false: who has lost an endpoint gets another one"));
    }
    message.session_state.as_ref().map(state).transpose().within("session_state")
}

fn state(message: &TypedExtensionConfig) -> Result<Session, Wrong> {
    let config = message.typed_config.as_ref().ok_or_else(|| Wrong::missing("typed_config"))?;
    match config.type_url.as_str() {
        COOKIE => {
            let message: CookieBasedSessionState = decode(&config.value)?;
            let cookie = message.cookie.ok_or_else(|| Wrong::missing("cookie"))?;
            // It is written into a line of cookies (RFC 6265 §4.1.1).
            header_name(&cookie.name).map_err(|_| Wrong::new("cookie.name", "is no name of a cookie"))?;
            if !matches!(cookie.path.as_str(), "" | "/") {
                return Err(Wrong::new("cookie.path", "must be /: the route says which paths it is for"));
            }
            let ttl = cookie.ttl.as_ref().map(duration).transpose().within("cookie.ttl")?;
            Ok(Session::Cookie { name: cookie.name, ttl: ttl.filter(|ttl| !ttl.is_zero()) })
        }
        HEADER => {
            let message: HeaderBasedSessionState = decode(&config.value)?;
            Ok(Session::Header(header_name(&message.name).within("name")?))
        }
        other => Err(Wrong::new("typed_config", format!("{other} is not supported"))),
    }
}
