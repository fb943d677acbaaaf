//! The webhook's port: one question a request, over TLS, with a bound on how long it is and on how many are under way.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fairway_core::io::drain::Drain;
use fairway_core::source::admission::{MAXIMUM_REVIEW_BYTES, Review};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, watch};

use super::judge;
use crate::metrics::Metrics;
use crate::state::Published;
use crate::status::findings::Findings;
use crate::tls::Connection;
use crate::translate::Settings;

/// Where questions are asked.
pub const PATH: &str = "/validate";
/// What is spoken, as TLS calls it (RFC 7301 §6).
pub const PROTOCOL: &[u8] = b"http/1.1";
/// For a request to arrive. The API server waits half a minute at most for all of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions under way: each has a state of the mesh made for it, which takes a processor. Others wait.
const MAXIMUM_REVIEWS: usize = 2;

/// What answers need.
#[derive(Clone)]
pub struct Webhook {
    published: watch::Receiver<Arc<Published>>,
    settings: Arc<Settings>,
    metrics: Metrics,
    reviews: Arc<Semaphore>,
}

impl Webhook {
    /// One that answers by the newest state.
    #[must_use]
    pub fn new(published: watch::Receiver<Arc<Published>>, settings: Settings, metrics: Metrics) -> Self {
        Self { published, settings: Arc::new(settings), metrics, reviews: Arc::new(Semaphore::new(MAXIMUM_REVIEWS)) }
    }

    /// Answers on these connections until the drain starts.
    pub async fn serve(self, mut connections: mpsc::Receiver<Connection>, mut drain: Drain) {
        loop {
            let connection = tokio::select! {
                connection = connections.recv() => connection,
                _ = drain.started() => return,
            };
            let Some(connection) = connection else { return };
            tokio::spawn(self.clone().converse(connection, drain.clone()));
        }
    }

    async fn converse(self, connection: Connection, mut drain: Drain) {
        let service = service_fn(move |request| {
            let webhook = self.clone();
            async move { Ok::<_, Infallible>(webhook.answer(request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(connection), service);
        tokio::pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            _ = drain.started() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection to the webhook ended early");
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return text(StatusCode::NOT_FOUND, format!("questions are asked at {PATH}"));
        }
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "questions are sent with POST".to_owned());
        }
        let body = Limited::new(request.into_body(), MAXIMUM_REVIEW_BYTES).collect();
        let body = match tokio::time::timeout(PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return self.unreadable(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
            Err(_) => return self.unreadable(StatusCode::REQUEST_TIMEOUT, format!("not all came within {PATIENCE:?}")),
        };
        // Before a place is taken nothing is made of the bytes.
        let Ok(_place) = self.reviews.acquire().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "the controller is shutting down".to_owned());
        };
        let (published, settings) = (Arc::clone(&self.published.borrow()), Arc::clone(&self.settings));
        let judged = tokio::task::spawn_blocking(move || {
            let review = Review::read(&body)?;
            let findings = judge(&published, &settings, &review);
            Ok((review, findings))
        });
        match judged.await {
            Ok(Ok((review, findings))) => self.say(&review, findings),
            Ok(Err(error)) => {
                let error: fairway_core::source::admission::ReviewError = error;
                self.unreadable(StatusCode::BAD_REQUEST, error.to_string())
            }
            Err(error) => {
                tracing::error!(%error, "what was to be applied could not be looked at; conditions will tell");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the object could not be looked at".to_owned())
            }
        }
    }

    fn say(&self, review: &Review, Findings { refusal, notes }: Findings) -> Response<Full<Bytes>> {
        let answer = match refusal {
            Some(why) => {
                self.metrics.reviews.refused.increment(1);
                if let Some((key, _)) = &review.object {
                    tracing::info!(object = %key, "refused as it was applied: {why}");
                }
                review.refuse(&why)
            }
            None => {
                self.metrics.reviews.allowed.increment(1);
                review.allow(&notes)
            }
        };
        json(&answer)
    }

    fn unreadable(&self, status: StatusCode, why: String) -> Response<Full<Bytes>> {
        self.metrics.reviews.unreadable.increment(1);
        tracing::debug!(%status, "a question to the webhook is not answered: {why}");
        text(status, why)
    }
}

fn json(answer: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.to_string()));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
