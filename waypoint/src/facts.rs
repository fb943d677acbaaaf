//! What is known of a connection and of one request on it, in the form that routes and policies compare with.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use fairway_core::ident::Identity;
use http::HeaderMap;
use http::header::{self, HeaderName};

use crate::config::{Header, HeaderMatch, Without};
use crate::tokens::Claims;

/// What a request is for: its host, and its normalised path, if it has one.
pub type Asked<'a> = (&'a str, Option<&'a str>);

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Whom the client has proved to be.
    pub identity: &'a Identity,
    /// Where the tunnel comes from.
    pub source: IpAddr,
    /// Where the client is, as far as those say it who are believed; none where nobody does.
    pub remote: Option<IpAddr>,
    /// What was dialled.
    pub destination: SocketAddr,
    /// The name that a TLS client asks for.
    pub server_name: RequestedServerName<'a>,
    /// The request; none where nobody looks into the connection.
    pub request: Option<Head<'a>>,
}

/// The name that a TLS client asks for (RFC 6066 §3), which shows before anything is decrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestedServerName<'a> {
    /// Nobody has looked, or what was seen could not be read.
    #[default]
    Unread,
    /// It asks for none, or speaks no TLS.
    Absent,
    /// This one, in lower case.
    Is(&'a str),
}

impl<'a> Facts<'a> {
    /// What is known of a connection that nobody has looked into.
    #[must_use]
    pub fn of(identity: &'a Identity, source: IpAddr, destination: SocketAddr) -> Self {
        let server_name = RequestedServerName::Unread;
        Self { identity, source, remote: None, destination, server_name, request: None }
    }

    /// What is known of a request on the connection, which comes from `remote`. Who sends it speaks no TLS.
    #[must_use]
    pub fn of_request(self, head: Head<'a>, remote: Option<IpAddr>) -> Self {
        Self { remote, server_name: RequestedServerName::Absent, request: Some(head), ..self }
    }

    /// Where requests are taken to come from where nobody may be refused for it.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        self.remote.unwrap_or(self.source).to_canonical()
    }
}

impl<'a> RequestedServerName<'a> {
    /// What has become of looking for a name.
    #[must_use]
    pub fn read(is_read: bool, name: Option<&'a str>) -> Self {
        match name {
            Some(name) => Self::Is(name),
            None if is_read => Self::Absent,
            None => Self::Unread,
        }
    }

    /// The name, where it is known.
    #[must_use]
    pub fn known(self) -> Option<&'a str> {
        if let Self::Is(name) = self { Some(name) } else { None }
    }
}

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Method.
    pub method: &'a str,
    /// Host, and port if there is one.
    pub authority: &'a str,
    /// Normalised path, without the query; none of CONNECT, which has a host and a port alone (RFC 9110 §9.3.6).
    pub path: Option<&'a str>,
    /// Query, without the question mark.
    pub query: Option<&'a str>,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// What its token claims, if it has one that is believed.
    pub claims: Option<&'a Claims>,
}

impl<'a> Head<'a> {
    /// The value of a header; several are joined with commas (RFC 9110 §5.3).
    #[must_use]
    pub fn header(&self, name: &Header) -> Option<Cow<'a, str>> {
        match name {
            Header::Method => Some(self.method.into()),
            Header::Authority => Some(self.authority.into()),
            Header::Scheme => Some("http".into()),
            Header::Path => Some(match self.query {
                Some(query) => format!("{}?{query}", self.path?).into(),
                None => self.path?.into(),
            }),
            Header::Named(name) => joined(self.headers, name),
        }
    }

    /// Whether a header is as wanted. Of several lines each counts by itself, as with Envoy: joined, one more line would hide the
    /// one that a rule is about.
    #[must_use]
    pub fn has(&self, wanted: &HeaderMatch) -> bool {
        match &wanted.name {
            Header::Named(name) => {
                let mut lines = self.headers.get_all(name).iter();
                lines.any(|line| wanted.value.matches(&String::from_utf8_lossy(line.as_bytes())))
            }
            name => self.header(name).is_some_and(|value| wanted.value.matches(&value)),
        }
    }

    /// Whether no line of a header is like this. One that is not there is empty.
    #[must_use]
    pub fn is_without(&self, unwanted: &Without) -> bool {
        let is_like = |value: &str| unwanted.value.as_ref().is_none_or(|text| text.matches(value));
        let without_any = || unwanted.value.as_ref().is_none_or(|text| !text.matches(""));
        match &unwanted.name {
            Header::Named(name) => {
                let mut lines = self.headers.get_all(name).iter().peekable();
                if lines.peek().is_none() {
                    return without_any();
                }
                !lines.any(|line| is_like(&String::from_utf8_lossy(line.as_bytes())))
            }
            name => self.header(name).map_or_else(without_any, |value| !is_like(&value)),
        }
    }

    /// Whether a header is as wanted, for policies: nothing, if one line of it is and another is not. Nobody knows which of them an
    /// endpoint reads, so one that is asked for does not make up for one that is not. Nor does anybody know of a path where there is
    /// none.
    #[must_use]
    pub fn holds(&self, wanted: &HeaderMatch) -> Option<bool> {
        let Header::Named(name) = &wanted.name else { return Some(wanted.value.matches(&self.header(&wanted.name)?)) };
        let lines = self.headers.get_all(name).iter();
        let mut lines = lines.map(|line| wanted.value.matches(&String::from_utf8_lossy(line.as_bytes())));
        let Some(first) = lines.next() else { return Some(false) };
        lines.all(|next| next == first).then_some(first)
    }

    /// The first query parameter of this name, as it is written.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        parameters(self.query, name).next()
    }
}

/// All query parameters of this name, as they are written.
pub fn parameters<'a>(query: Option<&'a str>, name: &str) -> impl Iterator<Item = &'a str> {
    query.into_iter().flat_map(|query| query.split('&')).filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// All cookies of this name (RFC 6265 §4.2.1), without the quotes that some have around them.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(move |pair| {
        let (key, value) = pair.split_once('=')?;
        let value = value.trim();
        let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        (key.trim() == name).then(|| bare.unwrap_or(value))
    })
}

/// All values of a header, joined with commas.
#[must_use]
pub fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let mut first = values.next()?;
    for value in values {
        let text = first.to_mut();
        text.push(',');
        text.push_str(&value);
    }
    Some(first)
}
