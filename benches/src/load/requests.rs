//! HTTP/1.1 requests over connections that are kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::window::{Tally, Window};
use super::{Common, Outcome};
use crate::sink::{REQUEST, RESPONSE};

/// How long one request, or the end of all, may take before it counts as failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(common: &Common, connections: usize) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let window = Arc::new(Window::default());
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            let stream = timeout(PATIENCE, TcpStream::connect(common.target)).await?.context("connecting")?;
            stream.set_nodelay(true)?;
            workers.spawn(keep_asking(stream, window.clone()));
        }
        let mut outcome = measure(common, &window).await?;
        join(workers).await?;
        window.report(&mut outcome);
        Ok(outcome)
    })
}

/// Opens and closes the window while the workers work.
pub(super) async fn measure(common: &Common, window: &Window) -> Result<Outcome> {
    sleep(common.warm_up()?).await;
    let span = window.open(&common.watched)?;
    sleep(common.measured()?).await;
    window.close(span, &common.watched)
}

/// Waits for the workers, which end by themselves once the window is closed.
pub(super) async fn join(mut workers: JoinSet<()>) -> Result<()> {
    let all = async {
        while workers.join_next().await.transpose()?.is_some() {}
        Ok::<_, anyhow::Error>(())
    };
    timeout(PATIENCE + PATIENCE, all).await.context("the workers do not end")?
}

async fn keep_asking(mut stream: TcpStream, window: Arc<Window>) {
    let mut tally = Tally::default();
    while !window.is_over() {
        let started = Instant::now();
        match timeout(PATIENCE, ask(&mut stream)).await.context("no answer").flatten() {
            Ok(()) => tally.done(&window, started),
            Err(error) => {
                tally.failed(format!("{error:#}"));
                break;
            }
        }
    }
    window.add(&tally);
}

async fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(REQUEST).await.context("sending the request")?;
    let mut response = [0; RESPONSE.len()];
    stream.read_exact(&mut response).await.context("reading the response")?;
    ensure!(response == RESPONSE, "another response than the server's");
    Ok(())
}
