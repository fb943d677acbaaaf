//! A small HTTP/1.1 server for probes, metrics and operators; not for application traffic.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::drain::Drain;
use crate::limits::{self, Limits};

pub mod logging;
mod pages;
mod parameter;
mod router;

pub use http::{Method, Response, StatusCode};
pub use pages::{readiness_router, stats_router};
pub use parameter::{BadParameter, parsed};
pub use router::{Reply, Request, Router, html, json, json_lines, json_written, text};

/// How long a client may take to send a request head; also closes idle kept-alive connections.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, so that running out of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds `port` on the loopback addresses, IPv4 and, where the machine has it, IPv6. Port 0 picks one for IPv4
/// and uses the same for IPv6.
///
/// # Errors
/// If the IPv4 address cannot be bound.
pub async fn bind_loopback(port: u16) -> io::Result<Vec<TcpListener>> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
        Ok(listener) => listeners.push(listener),
        Err(error) => tracing::debug!(%error, port, "not listening on the IPv6 loopback address"),
    }
    Ok(listeners)
}

/// Binds `port` on every address: a dual-stack socket when `ipv6`, else IPv4 only.
///
/// # Errors
/// If the address cannot be bound.
pub async fn bind_any(port: u16, ipv6: bool) -> io::Result<TcpListener> {
    let address: SocketAddr =
        if ipv6 { (Ipv6Addr::UNSPECIFIED, port).into() } else { (Ipv4Addr::UNSPECIFIED, port).into() };
    TcpListener::bind(address).await
}

/// Serves until the drain starts, then lets requests in progress finish until it becomes immediate.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, mut drain: Drain) {
    let permits = Arc::new(Semaphore::new(limits.size(&limits::ADMIN_CONNECTIONS)));
    let largest = limits.size(&limits::ADMIN_REQUEST);
    loop {
        // A permit before an accept: what we cannot serve stays in the kernel's queue.
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            Some((permit, listener.accept().await))
        };
        let (permit, accepted) = tokio::select! {
            _ = drain.started() => return,
            accepted = accepted => match accepted {
                Some(accepted) => accepted,
                None => return,
            },
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, router.clone(), largest, drain.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin listener cannot accept; check the file descriptor limit");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, largest: usize, mut drain: Drain) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.answer(request.into_parts().0, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(largest)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut result = tokio::select! {
        result = connection.as_mut() => Some(result),
        _ = drain.started() => None,
    };
    if result.is_none() {
        connection.as_mut().graceful_shutdown();
        result = tokio::select! {
            result = connection.as_mut() => Some(result),
            () = drain.immediate() => None,
        };
    }
    if let Some(Err(error)) = result {
        tracing::debug!(%error, %peer, "admin connection ended early");
    }
}

/// The body type of every reply: one piece, or written as fast as the reader takes it.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

#[cfg(test)]
mod tests;
