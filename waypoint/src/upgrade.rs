//! Connections that begin as a request and go on as something else, such as WebSocket (RFC 9110 §7.8).

use http::header::{self, HeaderValue};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// What a client asks for.
pub struct Asked {
    /// What it wants to go on with.
    pub protocol: HeaderValue,
    /// Its end, once the endpoint has agreed.
    pub client: OnUpgrade,
}

/// What the client asks for, if it does.
#[must_use]
pub fn asked(request: &mut Request<Incoming>) -> Option<Asked> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let connection = request.headers().get_all(header::CONNECTION).iter();
    let mut named = connection.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    if !named.any(|name| name.trim().eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let protocol = request.headers().get(header::UPGRADE)?.clone();
    // HTTP/2 would begin anew, with requests that nobody has looked at.
    let carries_requests = protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2c");
    (!carries_requests).then(|| Asked { protocol, client: hyper::upgrade::on(request) })
}

/// Carries bytes between the two ends until both are done.
pub async fn carry(client: OnUpgrade, endpoint: OnUpgrade) {
    let (client, endpoint) = match tokio::try_join!(client, endpoint) {
        Ok(ends) => ends,
        Err(error) => return tracing::debug!(%error, "upgrade failed"),
    };
    let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut endpoint).await {
        tracing::debug!(%error, "upgraded connection ended");
    }
}
