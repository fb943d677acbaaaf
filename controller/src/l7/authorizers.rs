//! Who may be asked whether requests may be sent: providers of the mesh configuration, in no proxy's language (api-surface
//! A2.4).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::authz::Pattern;
use super::model::Target;
use super::provider::{self, Wrong};
use super::rules::text;

/// For an answer, where nothing is said: Istio's is ten minutes, for which no client waits.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The status where nobody answers, as Istio has it.
const STATUS: u16 = 403;

/// All of them, by name.
pub type Authorizers = BTreeMap<String, Authorizer>;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    /// Where it is.
    pub target: Target,
    /// What it understands.
    pub speech: Speech,
    /// An answer has to be there by then.
    pub timeout: Duration,
    /// Requests pass where there is none.
    pub fails_open: bool,
    /// The status where there is none, and they do not.
    pub status: u16,
    /// How much of a body it sees.
    pub body: Option<Body>,
}

/// How much of a body is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Body {
    /// Bytes at most.
    pub max_request_bytes: u32,
    /// The beginning of a longer one is shown.
    #[serde(default)]
    pub allow_partial_message: bool,
    /// As bytes rather than as text.
    #[serde(default)]
    pub pack_as_bytes: bool,
}

/// What an authorizer understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speech {
    /// Envoy's service.
    Grpc,
    /// Heads of requests.
    Http {
        /// Before the path.
        prefix: String,
        /// Headers it sees.
        shown: Vec<Pattern>,
        /// Headers it gets besides.
        added: Vec<(String, String)>,
        /// Headers of its answer that endpoints get.
        onward: Vec<Pattern>,
        /// Headers of a refusal that clients get; none is all.
        refused: Vec<Pattern>,
        /// Headers of its answer that clients get with the endpoint's.
        passed: Vec<Pattern>,
    },
}

/// As it is written, of both kinds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Written {
    service: String,
    port: u16,
    timeout: Option<String>,
    fail_open: bool,
    // Routes are chosen afterwards in any case.
    #[serde(rename = "clearRouteCache")]
    _clear_route_cache: bool,
    status_on_error: Option<String>,
    include_request_body_in_check: Option<Body>,
    path_prefix: String,
    include_request_headers_in_check: Vec<String>,
    include_headers_in_check: Vec<String>,
    include_additional_headers_in_check: BTreeMap<String, String>,
    headers_to_upstream_on_allow: Vec<String>,
    headers_to_downstream_on_deny: Vec<String>,
    headers_to_downstream_on_allow: Vec<String>,
}

/// An authorizer.
pub(super) fn authorizer(written: &Written, is_http: bool) -> Result<Authorizer, Wrong> {
    let target = provider::target(&written.service, written.port, "authorizer")?;
    let timeout = provider::timeout(written.timeout.as_deref(), TIMEOUT)?;
    let status = provider::status(written.status_on_error.as_deref(), STATUS)?;
    let body = written.include_request_body_in_check;
    if body.is_some_and(|body| body.max_request_bytes == 0) {
        return Err(("includeRequestBodyInCheck.maxRequestBytes", "must be 1 at least".to_owned()));
    }
    let lists = [
        &written.include_request_headers_in_check,
        &written.include_headers_in_check,
        &written.headers_to_upstream_on_allow,
        &written.headers_to_downstream_on_deny,
        &written.headers_to_downstream_on_allow,
    ];
    let is_of_http = !written.path_prefix.is_empty()
        || !written.include_additional_headers_in_check.is_empty()
        || lists.iter().any(|list| !list.is_empty());
    if !is_http && is_of_http {
        return Err(("envoyExtAuthzGrpc", "has fields that are for envoyExtAuthzHttp alone".to_owned()));
    }
    let speech = if is_http { http(written)? } else { Speech::Grpc };
    Ok(Authorizer { target, speech, timeout, fails_open: written.fail_open, status, body })
}

fn http(written: &Written) -> Result<Speech, Wrong> {
    if !written.path_prefix.is_empty() && !text::is_path(&written.path_prefix) {
        return Err(("pathPrefix", "is no path".to_owned()));
    }
    let added = &written.include_additional_headers_in_check;
    if !added.iter().all(|(name, value)| text::is_header_name(name) && text::is_clean(value)) {
        return Err(("includeAdditionalHeadersInCheck", "has what is no header".to_owned()));
    }
    let patterns = |field: &'static str, names: &[String]| -> Result<Vec<Pattern>, Wrong> {
        let all = names.iter().map(|name| pattern(name)).collect::<Option<Vec<_>>>();
        all.ok_or_else(|| (field, "has what is no name of a header, and neither a* nor *a".to_owned()))
    };
    let mut shown = patterns("includeRequestHeadersInCheck", &written.include_request_headers_in_check)?;
    // What the field was called before.
    shown.extend(patterns("includeHeadersInCheck", &written.include_headers_in_check)?);
    Ok(Speech::Http {
        prefix: written.path_prefix.clone(),
        shown,
        added: added.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect(),
        onward: patterns("headersToUpstreamOnAllow", &written.headers_to_upstream_on_allow)?,
        refused: patterns("headersToDownstreamOnDeny", &written.headers_to_downstream_on_deny)?,
        passed: patterns("headersToDownstreamOnAllow", &written.headers_to_downstream_on_allow)?,
    })
}

/// Names of headers; a star alone would be all of them, which nobody may ask for.
fn pattern(name: &str) -> Option<Pattern> {
    let lower = |name: &str| text::is_header_name(name).then(|| name.to_ascii_lowercase());
    match (name.strip_suffix('*'), name.strip_prefix('*')) {
        (Some(start), None) => lower(start).map(Pattern::Prefix),
        (None, Some(end)) => lower(end).map(Pattern::Suffix),
        (None, None) => lower(name).map(Pattern::Exact),
        (Some(_), Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::mesh::{Mesh, read};
    use super::*;

    fn read_one(kind: &str, fields: &str) -> Result<Authorizer, String> {
        let text = format!(
            "accessLogFile: /dev/stdout\nextensionProviders:\n- {{name: other, zipkin: {{service: z, port: 1}}}}\n- name: a\n  {kind}: \
             {{service: shop/a.shop.svc.cluster.local, port: 9000{fields}}}\n"
        );
        read(&text).map(|read| read.authorizers["a"].clone()).map_err(|error| error.to_string())
    }

    #[test]
    fn providers_are_read_or_named_with_what_is_wrong() {
        let grpc = read_one("envoyExtAuthzGrpc", "").unwrap();
        assert_eq!(grpc.target.to_string(), "a.shop.svc.cluster.local:9000");
        assert_eq!((grpc.timeout, grpc.fails_open, grpc.status), (TIMEOUT, false, 403));
        let http = read_one(
            "envoyExtAuthzHttp",
            ", timeout: 0.5s, failOpen: true, statusOnError: \"503\", headersToUpstreamOnAllow: [X-A, x-b*, \"*-c\"]",
        )
        .unwrap();
        let Speech::Http { onward, .. } = &http.speech else { panic!("{http:?}") };
        let patterns = [Pattern::Exact("x-a".into()), Pattern::Prefix("x-b".into()), Pattern::Suffix("-c".into())];
        assert_eq!(*onward, patterns);
        assert_eq!((http.timeout.as_millis(), http.fails_open, http.status), (500, true, 503));
        for (kind, fields, problem) in [
            ("envoyExtAuthzHttp", ", headersToUpstreamOnAllow: [\"*\"]", "headersToUpstreamOnAllow"),
            ("envoyExtAuthzHttp", ", statusOnError: \"200\"", "statusOnError"),
            ("envoyExtAuthzHttp", ", timeout: soon", "timeout"),
            ("envoyExtAuthzHttp", ", includeRequestBodyInCheck: {maxRequestBytes: 0}", "maxRequestBytes"),
            ("envoyExtAuthzGrpc", ", pathPrefix: /a", "envoyExtAuthzGrpc"),
            ("envoyExtAuthzGrpc", ", odd: 1", "odd"),
        ] {
            let error = read_one(kind, fields).unwrap_err();
            assert!(error.contains(problem), "{problem} in {error}");
        }
        assert_eq!(read(""), Ok(Mesh::default()));
    }
}
