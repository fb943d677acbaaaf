//! A server that says who it is and who asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::net;
use crate::error::Result;

/// Arguments of `http-server`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Port to listen on, in both families
    #[arg(long)]
    port: u16,
    /// What to answer
    #[arg(long, default_value = "hello")]
    text: String,
    /// Header of requests to answer with, too; may be given several times
    #[arg(long, value_name = "HEADER")]
    show: Vec<String>,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let listener = net::listen(arguments.port)?;
    crate::say!("listening on {}", arguments.port);
    let arguments = Arc::new(arguments);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("accept: {error}");
                continue;
            }
        };
        let arguments = Arc::clone(&arguments);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&arguments), net::plain(peer), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn answer(
    arguments: Arc<Arguments>,
    peer: SocketAddr,
    request: http::Request<Incoming>,
) -> std::result::Result<http::Response<Full<Bytes>>, Infallible> {
    crate::say!("{} {} from {peer}", request.method(), request.uri());
    let value = |name: &String| request.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let shown = arguments.show.iter().map(|name| format!(" {name}: {}", value(name).unwrap_or_default()));
    let text = format!("{} to {peer}{}\n", arguments.text, shown.collect::<String>());
    Ok(http::Response::new(Full::new(Bytes::from(text))))
}
