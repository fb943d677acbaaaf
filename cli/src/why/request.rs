//! The request that a waypoint on the way is asked about, as it is written on the command line.

use clap::Args;
use fairway_core::ident::Identity;
use fairway_lab::{Error, Result};

use super::escaped;

/// What the request is like.
#[derive(Debug, Default, Args)]
pub(super) struct AsRequest {
    /// Method of the request that a waypoint on the way is asked about; without it, GET
    #[arg(long)]
    method: Option<String>,
    /// Path of that request, with its query; without it, /
    #[arg(long)]
    path: Option<String>,
    /// Header of that request, such as a token; may be repeated
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    /// Have everybody behind the client's proxy take it for somebody else
    #[arg(long = "as", value_name = "spiffe://… or NAMESPACE/ACCOUNT")]
    identity: Option<String>,
}

impl AsRequest {
    /// Whether anything is said that only a waypoint looks at.
    pub(super) fn is_given(&self) -> bool {
        self.method.is_some() || self.path.is_some() || !self.headers.is_empty()
    }

    /// Whether others are to take the client for somebody else.
    pub(super) fn is_somebody_else(&self) -> bool {
        self.identity.is_some()
    }

    /// Whom others take the client for, which is `own` unless something else is said.
    ///
    /// # Errors
    /// When what is said is no identity.
    pub(super) fn identity(&self, own: &str) -> Result<String> {
        let Some(text) = &self.identity else { return Ok(own.to_owned()) };
        let wrong = |problem: String| {
            Error::new(format!("{text:?} is no identity")).because(problem).hint(
                "write spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or NAMESPACE/ACCOUNT for one of the client's trust domain",
            )
        };
        let identity = match text.split_once('/') {
            Some((namespace, account)) if !text.starts_with("spiffe:") => {
                let own: Identity = own.parse().map_err(|error| wrong(format!("{error}")))?;
                Identity::new(own.trust_domain(), namespace, account)
            }
            _ => text.parse::<Identity>(),
        };
        identity.map(|identity| identity.to_string()).map_err(|error| wrong(error.to_string()))
    }

    /// What the waypoint is asked, of a request to `destination` that comes through a tunnel that asks for `authority`.
    pub(super) fn question(&self, authority: &str, source: &str, identity: &str, destination: &str) -> String {
        let mut page = format!(
            "/why/request?authority={}&source={source}&identity={}&host={}",
            escaped(authority),
            escaped(identity),
            // What clients leave out (RFC 9110 §4.2.1).
            escaped(destination.strip_suffix(":80").unwrap_or(destination)),
        );
        let named = [("method", &self.method), ("path", &self.path)];
        let lines = named.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (name, value) in lines.chain(self.headers.iter().map(|line| ("header", line))) {
            page.push_str(&format!("&{name}={}", escaped(value)));
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_else_is_named_in_full_or_short() {
        let own = "spiffe://d.example/ns/shop/sa/client";
        let named = |text: &str| AsRequest { identity: Some(text.to_owned()), ..AsRequest::default() }.identity(own);
        assert_eq!(AsRequest::default().identity(own).unwrap(), own);
        assert_eq!(named("web/admin").unwrap(), "spiffe://d.example/ns/web/sa/admin");
        assert_eq!(named("spiffe://e/ns/a/sa/b").unwrap(), "spiffe://e/ns/a/sa/b");
        for text in ["admin", "spiffe://e/x", "a/b/c", "/b"] {
            assert!(named(text).unwrap_err().to_string().contains("is no identity"), "{text}");
        }
    }

    #[test]
    fn a_request_is_asked_about_as_it_is_written() {
        let request = AsRequest {
            method: Some("POST".to_owned()),
            path: Some("/a?b=1&c=2".to_owned()),
            headers: vec!["x-a: b".to_owned()],
            identity: None,
        };
        assert!(request.is_given() && !AsRequest::default().is_given());
        assert_eq!(
            request.question("web.shop:80", "10.0.0.1:1", "spiffe://d/ns/a/sa/b", "web:80"),
            "/why/request?authority=web.shop:80&source=10.0.0.1:1&identity=spiffe://d/ns/a/sa/b&host=web&method=POST\
             &path=/a%3Fb%3D1%26c%3D2&header=x-a:%20b"
        );
    }
}
