//! Certificate service: check the caller's token, sign for its identity or for one on its node (interop §4).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fairway_core::ident::Identity;
use fairway_proto::ca::istio_certificate_service_server::IstioCertificateService;
use fairway_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use prost_types::value::Kind;
use time::OffsetDateTime;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

pub mod authorize;
mod expiry;
pub mod keeper;
mod key;
pub mod material;
pub mod root;
pub mod secret;
pub mod sign;
pub mod signer;

use authorize::Rules;
use signer::Current;

use crate::metrics::Metrics;
use crate::state::Published;
use crate::token::{Caller, Verifier};

/// Metadata of a request: the identity a node proxy asks for.
const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";
/// Largest request.
pub const MAXIMUM_REQUEST_BYTES: usize = 64 * 1024;

/// The certificate service.
#[derive(Debug)]
pub struct Authority {
    current: Current,
    verifier: Arc<Verifier>,
    published: watch::Receiver<Arc<Published>>,
    rules: Rules,
    lifetime: Duration,
    metrics: Metrics,
}

impl Authority {
    /// A service that signs with what is `current` for at most `lifetime`.
    #[must_use]
    pub fn new(
        current: Current,
        verifier: Arc<Verifier>,
        published: watch::Receiver<Arc<Published>>,
        rules: Rules,
        lifetime: Duration,
        metrics: Metrics,
    ) -> Self {
        Self { current, verifier, published, rules, lifetime, metrics }
    }

    fn sign(&self, caller: &Caller, request: &IstioCertificateRequest, now: SystemTime) -> Result<Signed, Status> {
        let published = Arc::clone(&self.published.borrow());
        let identity = authorize::authorize(caller, impersonated(request)?, &published.loaded.objects, &self.rules)?;
        let key = sign::requested_key(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let signer = Arc::clone(&self.current.borrow());
        let now = OffsetDateTime::from(now);
        let left = Duration::try_from(signer.not_after() - now).unwrap_or_default();
        if left.is_zero() {
            let (subject, end) = (signer.subject(), signer.not_after());
            return Err(Status::failed_precondition(format!(
                "{subject} ended at {end}; the mesh's authority must be replaced"
            )));
        }
        let lifetime = lifetime(request.validity_duration, self.lifetime).min(left);
        let leaf = sign::workload(&signer, &identity, &key, lifetime, now)
            .map_err(|error| Status::internal(format!("cannot sign: {error}")))?;
        // Leaf first, roots last (interop §4.1).
        let chain = std::iter::once(leaf.pem()).chain(signer.intermediates_pem());
        let chain = chain.chain([signer.roots_pem().to_owned()]).collect();
        Ok(Signed { identity, lifetime, chain })
    }
}

struct Signed {
    identity: Identity,
    lifetime: Duration,
    chain: Vec<String>,
}

/// What was asked for, if anything, but never more than `maximum`.
fn lifetime(requested: i64, maximum: Duration) -> Duration {
    match u64::try_from(requested) {
        Ok(0) | Err(_) => maximum,
        Ok(seconds) => Duration::from_secs(seconds).min(maximum),
    }
}

fn impersonated(request: &IstioCertificateRequest) -> Result<Option<&str>, Status> {
    let value = request.metadata.as_ref().and_then(|metadata| metadata.fields.get(IMPERSONATED_IDENTITY));
    match value.and_then(|value| value.kind.as_ref()) {
        None | Some(Kind::NullValue(_)) => Ok(None),
        Some(Kind::StringValue(identity)) => Ok(Some(identity)),
        Some(_) => Err(Status::invalid_argument(format!("metadata {IMPERSONATED_IDENTITY} must be text"))),
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Authority {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let now = SystemTime::now();
        let peer = request.extensions().get::<std::net::SocketAddr>().copied();
        let caller = self.verifier.authenticate(request.metadata(), peer.map(|peer| peer.ip()), now).await;
        let request = request.into_inner();
        let result = caller.clone().and_then(|caller| self.sign(&caller, &request, now));
        let caller = caller.as_ref().map(ToString::to_string).unwrap_or_default();
        match result {
            Ok(signed) => {
                self.metrics.signed.increment(1);
                tracing::info!(
                    target: "audit", caller, ?peer, identity = %signed.identity, lifetime = signed.lifetime.as_secs(),
                    "certificate signed"
                );
                Ok(Response::new(IstioCertificateResponse { cert_chain: signed.chain }))
            }
            Err(status) => {
                self.metrics.refused.increment(1);
                let requested = impersonated(&request).ok().flatten().unwrap_or_default();
                tracing::warn!(
                    target: "audit", caller, ?peer, requested, code = ?status.code(), reason = status.message(),
                    "certificate refused"
                );
                Err(status)
            }
        }
    }
}

#[cfg(test)]
mod tests;
