//! The certificate authority as the proxies see it, and the gRPC one (interop §4.1).

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use fairway_proto::ca::IstioCertificateRequest;
use fairway_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::ident::Identity;
use crate::io::grpc::ControlPlane;

/// An answer that comes later.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, AuthorityError>> + Send + 'a>>;

/// Signs certificates. A trait, so that tests and other issuers can stand in.
pub trait Authority: Send + Sync + 'static {
    /// Signs `csr_pem` for `identity`; the answer is leaf, intermediates and last the roots, PEM each.
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String, lifetime: Duration) -> Answer<'a>;
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// It answered with a refusal.
    #[error("refused ({code:?}): {message}")]
    Refused {
        /// gRPC code.
        code: tonic::Code,
        /// The authority's words.
        message: String,
    },
}

/// Asks an `IstioCertificateService`, on behalf of workloads of this node.
pub struct GrpcAuthority {
    control_plane: ControlPlane,
    /// Node proxies ask for others; a proxy of one workload asks for itself.
    impersonate: bool,
}

impl GrpcAuthority {
    /// An authority behind `control_plane`; `impersonate` when asking for other workloads than ourselves.
    #[must_use]
    pub fn new(control_plane: ControlPlane, impersonate: bool) -> Self {
        Self { control_plane, impersonate }
    }

    async fn ask(&self, identity: &Identity, csr: String, lifetime: Duration) -> Result<Vec<String>, AuthorityError> {
        let channel =
            self.control_plane.channel().await.map_err(|error| AuthorityError::Unreachable(error.to_string()))?;
        let metadata = self.impersonate.then(|| impersonating(identity));
        let validity_duration = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let request = IstioCertificateRequest { csr, validity_duration, metadata };
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await;
        match answer {
            Ok(response) => Ok(response.into_inner().cert_chain),
            Err(status) => Err(AuthorityError::Refused { code: status.code(), message: status.message().to_owned() }),
        }
    }
}

impl Authority for GrpcAuthority {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String, lifetime: Duration) -> Answer<'a> {
        Box::pin(self.ask(identity, csr_pem, lifetime))
    }
}

fn impersonating(identity: &Identity) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(identity.to_string())) };
    Struct { fields: BTreeMap::from([("ImpersonatedIdentity".to_owned(), value)]) }
}
