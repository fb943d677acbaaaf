//! Speaks HTTP with a client, in the stream of its tunnel.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::hbone::TunnelIo;
use fairway_core::limits;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use crate::request;
use crate::stream::Connection;

/// A client gets so long to send the head of a request, the wait for it on a kept connection included; Envoy's idle timeout.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3600);
/// Header bytes of a request: what Envoy allows.
const HEADER_BYTES: usize = 60 * 1024;
/// Requests one client may have under way on one connection over HTTP/2.
const STREAMS: u32 = 100;
/// Bytes that a stream and a connection over HTTP/2 may have in flight to us.
const WINDOWS: (u32, u32) = (256 * 1024, 1024 * 1024);

/// Serves HTTP/1 until the client is done or we stop.
pub async fn serve_http1(connection: Arc<Connection>, io: TunnelIo) {
    let shared = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move {
            let mut answered = request::serve(Arc::clone(&shared), request).await;
            if let Ok(answer) = &mut answered {
                end_with(&shared, answer);
            }
            answered
        }
    });
    let mut builder = http1::Builder::new();
    // 100 headers, as Envoy allows, are hyper's default. Saying so has it fill two arrays of them for every request.
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEADER_BYTES);
    let serving = pin!(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
    let bound = connection.waypoint.limits.duration(&limits::DRAIN_NOTICE);
    let notice = async move { tokio::time::sleep(bound).await };
    serve_until_done(&connection, serving, notice, |serving| serving.graceful_shutdown()).await;
}

/// When we stop, the answer says that it is the last (RFC 9112 §9.6): who loses a connection that is closed without that may
/// have sent a request.
fn end_with<B>(connection: &Connection, answer: &mut Response<B>) {
    if connection.drain.mode().is_some() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Serves HTTP/2 until the client is done or we stop.
pub async fn serve_http2(connection: Arc<Connection>, io: TunnelIo) {
    let shared = Arc::clone(&connection);
    let service = service_fn(move |request| request::serve(Arc::clone(&shared), request));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // WebSocket over HTTP/2 (RFC 8441 §3).
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1);
    let serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    // GOAWAY says which requests were the last (RFC 9113 §6.8).
    serve_until_done(&connection, serving, std::future::ready(()), |serving| serving.graceful_shutdown()).await;
}

/// Ends with the connection; when we stop, `shut_down` asks the client to open no more requests after `notice`, and those under way
/// may end.
async fn serve_until_done<C>(
    connection: &Connection,
    mut serving: Pin<&mut C>,
    notice: impl Future<Output = ()>,
    shut_down: impl FnOnce(Pin<&mut C>),
) where
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
    let served = tokio::select! {
        served = served => served,
        () = cut.immediate() => return,
    };
    if let Err(error) = served {
        tracing::debug!(client = %connection.client.identity, service = connection.listener, %error, "HTTP connection ended");
    }
}
