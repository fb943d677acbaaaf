//! Requests of a real HTTP client: connections of HTTP/1.1 with one request at a time each, or streams of one connection of
//! HTTP/2, gRPC calls among them.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::requests::{PATIENCE, join, measure};
use super::window::{Tally, Window};
use super::{Common, Outcome};
use crate::sink::MESSAGE;

/// What is asked, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct Shape {
    /// Connections of HTTP/1.1, or streams of the one connection of HTTP/2.
    #[arg(long, default_value_t = 32)]
    parallel: usize,
    /// Speak HTTP/2 without TLS.
    #[arg(long)]
    http2: bool,
    /// Make unary gRPC calls.
    #[arg(long, requires = "http2")]
    grpc: bool,
    /// What to ask for.
    #[arg(long, default_value = "/item")]
    path: String,
    /// Token to show.
    #[arg(long)]
    token: Option<String>,
}

/// Sends requests on one connection.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => sender.send_request(request).await,
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

pub(super) fn run(common: &Common, shape: &Shape) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let window = Arc::new(Window::default());
        let shape = Arc::new(shape.clone());
        let mut workers = JoinSet::new();
        for sender in senders(common, &shape).await? {
            workers.spawn(keep_asking(sender, Arc::clone(&shape), Arc::clone(&window)));
        }
        let mut outcome = measure(common, &window).await?;
        join(workers).await?;
        window.report(&mut outcome);
        Ok(outcome)
    })
}

async fn senders(common: &Common, shape: &Shape) -> Result<Vec<Sender>> {
    let connect = || async {
        let stream = timeout(PATIENCE, TcpStream::connect(common.target)).await?.context("connecting")?;
        stream.set_nodelay(true)?;
        Ok::<_, anyhow::Error>(TokioIo::new(stream))
    };
    if shape.http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), connect().await?).await?;
        tokio::spawn(connection);
        return Ok((0..shape.parallel).map(|_| Sender::Http2(sender.clone())).collect());
    }
    let mut senders = Vec::with_capacity(shape.parallel);
    for _ in 0..shape.parallel {
        let (sender, connection) = http1::handshake(connect().await?).await?;
        tokio::spawn(connection);
        senders.push(Sender::Http1(sender));
    }
    Ok(senders)
}

async fn keep_asking(mut sender: Sender, shape: Arc<Shape>, window: Arc<Window>) {
    let mut tally = Tally::default();
    while !window.is_over() {
        let started = Instant::now();
        match timeout(PATIENCE, ask(&mut sender, &shape)).await.context("no answer").flatten() {
            Ok(()) => tally.done(&window, started),
            Err(error) => {
                tally.failed(format!("{error:#}"));
                break;
            }
        }
    }
    window.add(&tally);
}

/// One request, and its answer to the end.
async fn ask(sender: &mut Sender, shape: &Shape) -> Result<()> {
    let response = sender.send(request(shape)?).await.context("sending the request")?;
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.into_body().collect().await.context("reading the answer")?;
    let in_trailers = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
    let bytes = body.to_bytes();
    ensure!(status == StatusCode::OK, "status {status}: {}", String::from_utf8_lossy(&bytes));
    if shape.grpc {
        let status = in_trailers.as_ref().or_else(|| headers.get("grpc-status"));
        ensure!(status.is_some_and(|status| status == "0"), "gRPC status {status:?}");
        ensure!(bytes == framed(), "another message than the server's, of {} bytes", bytes.len());
    } else {
        ensure!(bytes == MESSAGE, "another body than the server's, of {} bytes", bytes.len());
    }
    Ok(())
}

fn request(shape: &Shape) -> Result<Request<Full<Bytes>>> {
    let (method, body) = if shape.grpc { (Method::POST, framed()) } else { (Method::GET, Bytes::new()) };
    let mut request = Request::builder().method(method).header(header::USER_AGENT, "fairway-bench");
    request = match shape.http2 {
        true => request.uri(format!("http://server{}", shape.path)),
        false => request.uri(&shape.path).header(header::HOST, "server"),
    };
    if shape.grpc {
        request = request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
    }
    if let Some(token) = &shape.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    request.body(Full::new(body)).context("making the request")
}

/// One message as gRPC sends it: not compressed, its length, its bytes.
pub(crate) fn framed() -> Bytes {
    let length = u32::try_from(MESSAGE.len()).unwrap_or_default();
    [&[0][..], &length.to_be_bytes(), MESSAGE].concat().into()
}
