//! Speaks HTTP with a client, in the stream of its tunnel.

use std::convert::Infallible;
use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;

use fairway_core::io::hbone::TunnelIo;
use fairway_core::limits;
use fairway_core::reason::Reason;
use futures_util::TryFutureExt;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::failure::{Failure, with_causes};
use crate::heads::{Bounds, Serving, Watched};
use crate::request;
use crate::stream::Connection;
use crate::taken::{Pieces, Streams};
use crate::upgrade;

/// Headers of a message that the parsers take unless they are told otherwise, which costs something with each.
pub(crate) const USUAL_HEADERS: usize = 100;

/// Serves HTTP/1 until the client is done or we stop.
pub async fn serve_http1(connection: Arc<Connection>, io: TunnelIo) {
    let limits = &connection.waypoint.limits;
    let (shared, serving) = (Arc::clone(&connection), Serving::default());
    let begins = serving.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (connection, exchange) = (Arc::clone(&shared), begins.begin(request.body().size_hint().exact()));
        async move {
            let is_connect = request.method() == Method::CONNECT;
            let mut answer = request::serve(Arc::clone(&connection), request).await?;
            if upgrade::goes_on(is_connect, answer.status()) {
                exchange.goes_on();
            } else {
                end_with(&connection, &mut answer);
                answer.body_mut().ends(exchange);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = http1::Builder::new();
    // Heads are timed where they are read: the parser would take a new timer for each.
    builder.timer(TokioTimer::new()).header_read_timeout(None);
    // Of the buffer alone it would be no bound: what comes at once may be more.
    let head = limits.size(&limits::REQUEST_HEAD);
    builder.max_buf_size(head).max_header_size(head);
    let headers = limits.size(&limits::REQUEST_HEADERS);
    if headers != USUAL_HEADERS {
        builder.max_headers(headers);
    }
    let io = Watched::new(io, serving.clone(), Bounds::within(limits));
    let http1 = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    let bound = connection.waypoint.drain_notice;
    let notice = async move { tokio::time::sleep(bound).await };
    let served = serve_until_done(&connection, http1, notice, |http1| http1.graceful_shutdown()).await;
    if let Err(error) = served {
        match serving.refusal(&error) {
            Some(failure) => request::unread(&connection, Version::HTTP_11, &failure),
            None => ended(&connection, &error),
        }
    }
}

/// When we stop, the answer says that it is the last (RFC 9112 §9.6): who loses a connection that is closed without that may
/// have sent a request.
fn end_with<B>(connection: &Connection, answer: &mut Response<B>) {
    if connection.drain.mode().is_some() {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Serves HTTP/2 until the client is done or we stop.
pub async fn serve_http2(connection: Arc<Connection>, io: TunnelIo) {
    let limits = &connection.waypoint.limits;
    let (shared, untaken) = (Arc::clone(&connection), limits.duration(&limits::STREAM_IDLE));
    let service = service_fn(move |request| {
        request::serve(Arc::clone(&shared), request).map_ok(move |answer| answer.map(|body| Pieces::of(body, untaken)))
    });
    let mut builder = http2::Builder::new(Streams);
    builder
        .timer(TokioTimer::new())
        // WebSocket over HTTP/2 (RFC 8441 §3).
        .enable_connect_protocol()
        .max_header_list_size(limits.number(&limits::REQUEST_HEAD))
        .max_concurrent_streams(limits.number(&limits::CLIENT_STREAMS))
        .initial_stream_window_size(limits.number(&limits::HTTP_STREAM_WINDOW))
        .initial_connection_window_size(limits.number(&limits::HTTP_CONNECTION_WINDOW));
    let io = Watched::new(io, Serving::always(), Bounds::within(limits));
    let http2 = pin!(builder.serve_connection(TokioIo::new(io), service));
    // GOAWAY says which requests were the last (RFC 9113 §6.8).
    let served = serve_until_done(&connection, http2, std::future::ready(()), |http2| http2.graceful_shutdown()).await;
    if let Err(error) = served {
        if is_refused(&error) {
            let failure = Failure::new(Reason::BadRequest, with_causes(&error));
            request::unread(&connection, Version::HTTP_2, &failure);
        } else {
            ended(&connection, &error);
        }
    }
}

/// Whether it is us who ended a connection over HTTP/2, for what came on it.
fn is_refused(error: &hyper::Error) -> bool {
    let h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    h2.is_some_and(|error| error.is_library() && (error.is_go_away() || error.is_reset()))
}

fn ended(connection: &Connection, error: &hyper::Error) {
    tracing::debug!(client = %connection.client.identity, service = connection.listener, %error, "HTTP connection ended");
}

/// Ends with the connection; when we stop, `shut_down` asks the client to open no more requests after `notice`, and those under way
/// may end.
async fn serve_until_done<C>(
    connection: &Connection,
    mut serving: Pin<&mut C>,
    notice: impl Future<Output = ()>,
    shut_down: impl FnOnce(Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut drain = connection.drain.clone();
    let mut cut = connection.drain.clone();
    let served = async {
        let mut stopping = pin!(async {
            let _mode = drain.started().await;
            notice.await;
        });
        tokio::select! {
            served = &mut serving => return served,
            () = &mut stopping => {}
        }
        shut_down(serving.as_mut());
        (&mut serving).await
    };
    tokio::select! {
        served = served => served,
        () = cut.immediate() => Ok(()),
    }
}
