//! The server pod: takes bulk data, answers HTTP requests and gRPC calls, echoes messages, takes and sends long bodies.

mod bodies;

use std::convert::Infallible;
use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::limits;
use crate::load::web::framed;

/// Where bulk data goes.
pub(crate) const BULK_PORT: u16 = 9001;
/// Where HTTP requests are answered.
pub(crate) const HTTP_PORT: u16 = 9002;
/// Where messages come back.
pub(crate) const ECHO_PORT: u16 = 9003;
/// Where HTTP/2 is spoken: requests and gRPC calls.
pub(crate) const HTTP2_PORT: u16 = 9004;
/// Where long bodies are sent and taken, over HTTP/1.1 and over HTTP/2.
pub(crate) const BODIES_PORT: u16 = 9005;
/// See [`BODIES_PORT`].
pub(crate) const BODIES2_PORT: u16 = 9006;

/// What answers and calls say.
pub(crate) const MESSAGE: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A keep-alive request.
pub(crate) const REQUEST: &[u8] =
    b"GET /item HTTP/1.1\r\nHost: server\r\nUser-Agent: fairway-bench\r\nAccept: */*\r\n\r\n";
/// A request after which the server closes.
pub(crate) const LAST_REQUEST: &[u8] =
    b"GET /item HTTP/1.1\r\nHost: server\r\nUser-Agent: fairway-bench\r\nAccept: */*\r\nConnection: close\r\n\r\n";
/// The answer to [`REQUEST`].
pub(crate) const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 32\r\n\r\n0123456789abcdef0123456789abcdef";
/// The answer to [`LAST_REQUEST`].
pub(crate) const LAST_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 32\r\n\r\n0123456789abcdef0123456789abcdef";

/// Bytes discarded by one call; nothing is copied, so only the number of calls matters.
const DISCARD_BYTES: usize = 1 << 20;
/// Longest request head: far more than the generator sends and proxies add to it, a token included.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Bytes of one echo; the messages have 64.
const ECHO_BYTES: usize = 256;
/// Bulk streams at once, each a thread; the generator opens eight.
const MAX_BULK_STREAMS: usize = 256;
/// Connections not yet accepted: the generator opens its idle ones in bursts.
const BACKLOG: u32 = 4096;

/// Serves until killed.
///
/// # Errors
/// When a port is taken.
pub(crate) fn run() -> Result<()> {
    limits::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bulk = listen(BULK_PORT)?;
        let http = listen(HTTP_PORT)?;
        let echo = listen(ECHO_PORT)?;
        let http2 = listen(HTTP2_PORT)?;
        let bodies = listen(BODIES_PORT)?;
        let bodies2 = listen(BODIES2_PORT)?;
        tokio::try_join!(
            serve_bulk(bulk),
            serve(http, answer_requests),
            serve(echo, echo_messages),
            serve(http2, answer_http2),
            serve(bodies, answer_bodies),
            serve(bodies2, answer_bodies2)
        )?;
        Ok(())
    })
}

fn listen(port: u16) -> Result<TcpListener> {
    let bind = || {
        let socket = tokio::net::TcpSocket::new_v6()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| format!("listening on port {port}"))
}

async fn serve<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    listener: TcpListener,
    handle: fn(TcpStream) -> F,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // How a connection ended is the generator's to judge.
        tokio::spawn(handle(stream));
    }
}

async fn serve_bulk(listener: TcpListener) -> Result<()> {
    let permits = Arc::new(Semaphore::new(MAX_BULK_STREAMS));
    loop {
        let permit = permits.clone().acquire_owned().await?;
        let (stream, _) = listener.accept().await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        thread::Builder::new().name("bulk".to_owned()).spawn(move || {
            let _permit = permit;
            discard(stream)
        })?;
    }
}

/// Takes everything, then says how much it was, so that the generator knows nothing was lost on the way.
fn discard(mut stream: std::net::TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; DISCARD_BYTES];
    let mut total: u64 = 0;
    loop {
        // tcp(7): with MSG_TRUNC the data is dropped in the kernel, which keeps the server from being what is measured.
        match recv(stream.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Ok(0) => break,
            Ok(count) => total += u64::try_from(count).unwrap_or(0),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    stream.write_all(&total.to_be_bytes())
}

async fn answer_requests(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(MAX_HEAD_BYTES);
    loop {
        while let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = head.split_off(end + 4);
            if head == LAST_REQUEST {
                stream.write_all(LAST_RESPONSE).await?;
                // The server closes first, so that the generator never runs out of ports.
                return stream.shutdown().await;
            }
            stream.write_all(RESPONSE).await?;
            head = rest;
        }
        if head.len() >= MAX_HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
}

async fn answer_http2(stream: TcpStream) -> std::io::Result<()> {
    let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer));
    serving.await.map_err(std::io::Error::other)
}

async fn answer_bodies(stream: TcpStream) -> std::io::Result<()> {
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(bodies::answer));
    serving.await.map_err(std::io::Error::other)
}

async fn answer_bodies2(stream: TcpStream) -> std::io::Result<()> {
    let builder = http2::Builder::new(TokioExecutor::new());
    builder.serve_connection(TokioIo::new(stream), service_fn(bodies::answer)).await.map_err(std::io::Error::other)
}

/// What hyper takes for an error of a body.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Takes what is sent, and answers a call with trailers.
async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error: Into<BoxError>>>, Infallible> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    // How a request ended is the generator's to judge.
    let _ = request.into_body().collect().await;
    let (kind, body) = match kind {
        Some(kind) if kind == "application/grpc" => {
            let trailers = HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), 0.into())]);
            let body = Full::new(framed()).with_trailers(async move { Some(Ok(trailers)) });
            (kind, Either::Left(body))
        }
        _ => (header::HeaderValue::from_static("text/plain"), Either::Right(Full::new(Bytes::from_static(MESSAGE)))),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn echo_messages(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; ECHO_BYTES];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(buffer.get(..count).unwrap_or_default()).await?;
    }
}
