//! Paths and queries of the Kubernetes API, and bodies within bounds.

use std::fmt::Write;
use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;

use super::super::{Kind, ObjectKey};
use super::wire::Failure;

/// Largest answer that is read at once, in bytes: 500 objects of the largest size the API takes are never on one page.
pub(super) const MAXIMUM_PAGE_BYTES: usize = 256 * 1024 * 1024;
/// Objects on a page of a list, as `kubectl` asks for.
pub(super) const PAGE: u32 = 500;
/// Partial objects: what we ask for where nothing but metadata is read.
const METADATA_OF_LISTS: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const METADATA_OF_EVENTS: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// A kind in one of its versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The kind.
    pub kind: Kind,
    /// The version, such as `v1`.
    pub version: &'static str,
}

impl Resource {
    /// The kind in the version that we write.
    #[must_use]
    pub fn newest(kind: Kind) -> Self {
        Self { kind, version: kind.versions().first().copied().unwrap_or("v1") }
    }

    /// The next older version that is read; the newest again after the oldest.
    #[must_use]
    pub fn next_version(self) -> Self {
        let versions = self.kind.versions();
        let position = versions.iter().position(|version| *version == self.version).unwrap_or_default();
        let next = versions.get(position.saturating_add(1)).or(versions.first());
        Self { version: next.copied().unwrap_or("v1"), ..self }
    }

    /// Path of the API's version.
    fn root(self) -> String {
        match self.kind.group() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// Path of all objects of the kind.
    #[must_use]
    pub fn collection(self) -> String {
        format!("{}/{}", self.root(), self.kind.plural())
    }

    /// Path of one object.
    #[must_use]
    pub fn object(self, key: &ObjectKey) -> String {
        let (root, plural, name) = (self.root(), self.kind.plural(), encoded(&key.name));
        if self.kind.is_namespaced() {
            format!("{root}/namespaces/{}/{plural}/{name}", encoded(&key.namespace))
        } else {
            format!("{root}/{plural}/{name}")
        }
    }

    /// A page of the list; the first one without a token to go on with.
    pub(super) fn list(self, fields: &str, page: u32, token: &str) -> http::Request<Body> {
        let mut uri = format!("{}?limit={page}", self.collection());
        for (key, value) in [("fieldSelector", fields), ("continue", token)].iter().filter(|(_, it)| !it.is_empty()) {
            // Writing to a string does not fail.
            let _ = write!(uri, "&{key}={}", encoded(value));
        }
        get(&uri, if self.kind.is_metadata_only() { METADATA_OF_LISTS } else { "application/json" })
    }

    /// Changes after `version`, or, without one, all that there is and then changes.
    pub(super) fn watch(self, fields: &str, version: Option<&str>, timeout: Duration) -> http::Request<Body> {
        let mut uri =
            format!("{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}", self.collection(), timeout.as_secs());
        let added = match version {
            Some(version) => write!(uri, "&resourceVersion={}", encoded(version)),
            None => write!(uri, "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
        };
        let _ = added;
        if !fields.is_empty() {
            let _ = write!(uri, "&fieldSelector={}", encoded(fields));
        }
        get(&uri, if self.kind.is_metadata_only() { METADATA_OF_EVENTS } else { "application/json" })
    }

    /// The definition of a custom kind.
    pub(super) fn definition(self) -> http::Request<Body> {
        let (plural, group) = (self.kind.plural(), self.kind.group());
        let uri = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}");
        get(&uri, METADATA_OF_EVENTS)
    }
}

fn get(uri: &str, accept: &'static str) -> http::Request<Body> {
    let mut request = http::Request::new(Body::empty());
    // Made of paths of ours and encoded text, so it is a URI.
    *request.uri_mut() = uri.parse().unwrap_or_default();
    request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(accept));
    request
}

/// Text as part of a URI (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The whole body of an answer of at most `limit` bytes, each part of which comes within `patience`.
///
/// # Errors
/// Why it cannot be read, for an operator.
pub async fn read_body(body: Body, limit: usize, patience: Duration) -> Result<Vec<u8>, String> {
    collect(body, limit, patience).await.map_err(|failure| failure.to_string())
}

pub(super) async fn collect(mut body: Body, limit: usize, patience: Duration) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(part) = part(&mut body, patience).await? {
        if bytes.len().saturating_add(part.len()) > limit {
            return Err(Failure::Garbage(format!("the answer is larger than {limit} bytes")));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// The next part of a body; none at its end.
pub(super) async fn part(body: &mut Body, patience: Duration) -> Result<Option<bytes::Bytes>, Failure> {
    loop {
        let frame = tokio::time::timeout(patience, body.frame()).await.map_err(|_| Failure::Silent(patience))?;
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => return Err(Failure::broken(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries() {
        let pods = Resource::newest(Kind::Pod);
        let policies = Resource::newest(Kind::AuthorizationPolicy);
        assert_eq!(pods.object(&ObjectKey::pod("shop", "web-0")), "/api/v1/namespaces/shop/pods/web-0");
        let node = ObjectKey::new(Kind::Node, "", "node-1");
        assert_eq!(Resource::newest(Kind::Node).object(&node), "/api/v1/nodes/node-1");
        assert_eq!(policies.next_version().collection(), "/apis/security.istio.io/v1beta1/authorizationpolicies");
        assert_eq!(policies.next_version().next_version(), policies);
        let list = pods.list("spec.nodeName=node-1", 500, "abc=");
        assert_eq!(list.uri(), "/api/v1/pods?limit=500&fieldSelector=spec.nodeName%3Dnode-1&continue=abc%3D");
        let watch = policies.watch("", Some("7"), Duration::from_secs(60));
        assert_eq!(
            watch.uri(),
            "/apis/security.istio.io/v1/authorizationpolicies?watch=true&allowWatchBookmarks=true&timeoutSeconds=60&resourceVersion=7"
        );
    }
}
