//! One long body, up or down: what whoever is in between holds of it, and what it costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Either, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{BodyOutcome, Common};
use crate::body::{self, Long};
use crate::procfs;

/// How long all of it may take: at 5 MB/s a gigabyte does.
const PATIENCE: Duration = Duration::from_secs(200);

/// The body, and how it is sent.
#[derive(Args, Clone, Debug)]
pub(crate) struct Shape {
    /// Its length.
    #[arg(long)]
    bytes: u64,
    /// How many of them whoever receives it reads slowly.
    #[arg(long, default_value_t = 0)]
    slow_bytes: u64,
    /// Have it sent, rather than sending it.
    #[arg(long)]
    down: bool,
    /// Do not say at the start how long it is.
    #[arg(long)]
    chunked: bool,
    /// Speak HTTP/2 without TLS.
    #[arg(long)]
    http2: bool,
}

type Sent = Either<Long, Empty<Bytes>>;

pub(super) fn run(common: &Common, shape: &Shape) -> Result<BodyOutcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let watched = &common.watched;
        let cpu = || watched.iter().map(|pid| procfs::cpu_time(*pid)).collect::<Result<Vec<_>>>();
        watched.iter().try_for_each(|pid| procfs::forget_peak(*pid))?;
        let before = watched.iter().map(|pid| procfs::resident(*pid)).collect::<Result<_>>()?;
        let (used, started) = (cpu()?, Instant::now());
        timeout(PATIENCE, exchange(common, shape)).await.context("it takes too long")??;
        let seconds = started.elapsed().as_secs_f64();
        let cpu_seconds = cpu()?.iter().zip(&used).map(|(end, start)| (*end - *start).as_secs_f64()).collect();
        let peak = watched.iter().map(|pid| procfs::peak_resident(*pid)).collect::<Result<_>>()?;
        Ok(BodyOutcome { seconds, before, peak, cpu_seconds })
    })
}

async fn exchange(common: &Common, shape: &Shape) -> Result<()> {
    let response = send(common, shape).await?;
    let (status, body) = (response.status(), response.into_body());
    if status != StatusCode::OK {
        let text = body.collect().await.context("reading why")?.to_bytes();
        anyhow::bail!("status {status}: {}", String::from_utf8_lossy(&text));
    }
    let arrived = if shape.down {
        body::read(body, shape.slow_bytes).await.context("reading the answer")?
    } else {
        let text = body.collect().await.context("reading the answer")?.to_bytes();
        std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).context("the server told no number")?
    };
    ensure!(arrived == shape.bytes, "{arrived} of {} bytes arrived", shape.bytes);
    Ok(())
}

async fn send(common: &Common, shape: &Shape) -> Result<Response<Incoming>> {
    let stream = TcpStream::connect(common.target).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (request, io) = (request(shape)?, TokioIo::new(stream));
    let sent = if shape.http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    sent.context("sending the request")
}

/// The path tells the server how much to send, or how much to read slowly.
fn request(shape: &Shape) -> Result<Request<Sent>> {
    let (method, number, body) = match shape.down {
        true => (Method::GET, shape.bytes, Either::Right(Empty::new())),
        false => (Method::POST, shape.slow_bytes, Either::Left(Long::new(shape.bytes, !shape.chunked))),
    };
    let request = Request::builder().method(method).header(header::USER_AGENT, "fairway-bench");
    let request = match shape.http2 {
        true => request.uri(format!("http://server/{number}")),
        false => request.uri(format!("/{number}")).header(header::HOST, "server"),
    };
    request.body(body).context("making the request")
}
