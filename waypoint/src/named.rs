//! What endpoints are told of who the client is, written once for each connection rather than for each request.

use std::net::IpAddr;

use fairway_core::ident::Identity;
use fairway_core::io::hbone::headers;
use http::HeaderValue;

/// Values of headers.
#[derive(Clone, Debug)]
pub struct Named {
    /// Of `x-forwarded-client-cert`: whom the client has proved to be, in the form Envoy writes it.
    pub certificate: Option<HeaderValue>,
    /// Of `x-forwarded-for`, where the client was the first.
    pub address: Option<HeaderValue>,
}

impl Named {
    /// As `local` says it of `client`, which is at `address`.
    #[must_use]
    pub fn by(local: &Identity, client: &Identity, address: IpAddr) -> Self {
        let address = address.to_canonical().to_string();
        Self { certificate: headers::client_certificate(local, client), address: HeaderValue::try_from(address).ok() }
    }
}
