//! Who may look at what the mesh is told: who is on this machine, and service accounts of the mesh's own namespace.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use fairway_core::io::admin::{Reply, Request, StatusCode, text};
use tonic::Code;

use crate::token::{Verifier, bearer};

/// Who may.
#[derive(Clone, Debug)]
pub struct Access {
    verifier: Arc<Verifier>,
    root_namespace: String,
}

/// A handler of a page.
pub(super) type Handler = Box<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

impl Access {
    /// Those who call from this machine, or show a token of the mesh's own namespace.
    #[must_use]
    pub fn new(verifier: Arc<Verifier>, root_namespace: String) -> Self {
        Self { verifier, root_namespace }
    }

    /// The page, for those who may look at it.
    pub(super) fn guard<F>(&self, page: impl Fn() -> F + Send + Sync + 'static) -> Handler
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let (access, page) = (self.clone(), Arc::new(page));
        Box::new(move |request| {
            let (access, page) = (access.clone(), Arc::clone(&page));
            Box::pin(async move {
                match access.check(&request).await {
                    Ok(()) => page().await,
                    Err(refusal) => refusal,
                }
            })
        })
    }

    /// Whether this may be answered.
    async fn check(&self, request: &Request) -> Result<(), Reply> {
        let peer = request.peer.ip().to_canonical();
        if peer.is_loopback() {
            return Ok(());
        }
        let written = request.headers.get("authorization").and_then(|value| value.to_str().ok());
        let Some(token) = bearer(written) else {
            let message = "ask from the controller's own machine or by kubectl port-forward, or send a token of a service \
                           account of the controller's namespace as \"Authorization: Bearer <token>\"\n";
            return Err(text(StatusCode::UNAUTHORIZED, message));
        };
        match self.verifier.verify(token, Some(peer), SystemTime::now()).await {
            Ok(caller) if caller.namespace == self.root_namespace => Ok(()),
            Ok(caller) => {
                let root = &self.root_namespace;
                let message = format!("{caller} may not look at this; use a service account of namespace {root}\n");
                Err(text(StatusCode::FORBIDDEN, message))
            }
            Err(status) if status.code() == Code::Unauthenticated => {
                Err(text(StatusCode::UNAUTHORIZED, format!("{}\n", status.message())))
            }
            Err(status) => Err(text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", status.message()))),
        }
    }
}
