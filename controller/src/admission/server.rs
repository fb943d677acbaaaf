//! The webhook's port: one question a request, over TLS, with a bound on how long it is and on how many are under way.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fairway_core::io::drain::Drain;
use fairway_core::source::admission::{MAXIMUM_REVIEW_BYTES, Review};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::judge;
use crate::metrics::Metrics;
use crate::state::Published;
use crate::status::findings::Findings;
use crate::tls::{Bounds, Connection};
use crate::translate::Settings;

/// Where questions are asked.
pub const PATH: &str = "/validate";
/// What is spoken, as TLS calls it (RFC 7301 §6).
pub const PROTOCOL: &[u8] = b"http/1.1";
/// For a request to arrive. The API server waits half a minute at most for all of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections: API servers are few, and keep one for each question that they ask at a time.
pub const BOUNDS: Bounds =
    Bounds { connections: 128, connections_of_one_peer: 32, handshakes: 32, handshakes_of_one_peer: 8 };
/// Bytes of a connection that are read ahead of who takes them.
const MAXIMUM_READ_AHEAD: usize = 64 * 1024;
/// Questions that are read or looked at: each may take as much memory as a question is long, so that no byte of others is read.
const MAXIMUM_BODIES: usize = 8;
/// Questions that are looked at: each has a state of the mesh made for it, which takes a processor. Others wait.
const MAXIMUM_REVIEWS: usize = 2;
/// For a place among those. The API server waits for five seconds (`timeoutSeconds` in the chart's `webhook.yaml`), and goes on without.
const PATIENCE_FOR_PLACE: Duration = Duration::from_secs(4);

/// What answers need.
#[derive(Clone)]
pub struct Webhook {
    published: watch::Receiver<Arc<Published>>,
    settings: Arc<Settings>,
    metrics: Metrics,
    bodies: Arc<Semaphore>,
    reviews: Arc<Semaphore>,
}

impl Webhook {
    /// One that answers by the newest state.
    #[must_use]
    pub fn new(published: watch::Receiver<Arc<Published>>, settings: Settings, metrics: Metrics) -> Self {
        Self {
            published,
            settings: Arc::new(settings),
            metrics,
            bodies: Arc::new(Semaphore::new(MAXIMUM_BODIES)),
            reviews: Arc::new(Semaphore::new(MAXIMUM_REVIEWS)),
        }
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
            .max_buf_size(MAXIMUM_READ_AHEAD)
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

    async fn answer<B>(self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if request.uri().path() != PATH {
            return text(StatusCode::NOT_FOUND, format!("questions are asked at {PATH}"));
        }
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "questions are sent with POST".to_owned());
        }
        let Some(reading) = place(&self.bodies).await else { return self.busy() };
        let body = Limited::new(request.into_body(), MAXIMUM_REVIEW_BYTES).collect();
        let body = match tokio::time::timeout(PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return self.unreadable(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
            Err(_) => return self.unreadable(StatusCode::REQUEST_TIMEOUT, format!("not all came within {PATIENCE:?}")),
        };
        // Before a place is taken nothing is made of the bytes.
        let Some(looking) = place(&self.reviews).await else { return self.busy() };
        let (published, settings) = (Arc::clone(&self.published.borrow()), Arc::clone(&self.settings));
        let judged = tokio::task::spawn_blocking(move || {
            // Held to the end, also if who asked does not wait for it.
            let _places = (reading, looking);
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

    fn busy(&self) -> Response<Full<Bytes>> {
        let why = format!("too many questions are under way for {PATIENCE_FOR_PLACE:?}; ask again");
        self.unreadable(StatusCode::SERVICE_UNAVAILABLE, why)
    }

    fn unreadable(&self, status: StatusCode, why: String) -> Response<Full<Bytes>> {
        self.metrics.reviews.unreadable.increment(1);
        tracing::debug!(%status, "a question to the webhook is not answered: {why}");
        text(status, why)
    }
}

/// One of these, if one is free in time.
async fn place(places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    let place = Arc::clone(places).acquire_owned();
    tokio::time::timeout(PATIENCE_FOR_PLACE, place).await.ok()?.ok()
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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body that never comes, and counts who waits for it.
    struct Slow(Arc<AtomicUsize>);

    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_without_a_place_and_no_place_is_kept_by_who_sends_nothing() {
        let (_state, published) = watch::channel(Arc::default());
        let webhook = Webhook::new(published, Settings::default(), Metrics::new());
        let reads = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let request = Request::post(PATH).body(Slow(Arc::clone(&reads))).unwrap();
            webhook.clone().answer(request)
        };
        let all = u32::try_from(MAXIMUM_BODIES).unwrap();
        let held = Arc::clone(&webhook.bodies).acquire_many_owned(all).await.unwrap();
        assert_eq!(ask().await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reads.load(Ordering::SeqCst), 0);
        drop(held);
        assert_eq!(ask().await.status(), StatusCode::REQUEST_TIMEOUT);
        assert!(reads.load(Ordering::SeqCst) > 0);
        assert_eq!(webhook.bodies.available_permits(), MAXIMUM_BODIES);
    }
}
