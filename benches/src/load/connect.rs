//! A new connection for every request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::requests::{PATIENCE, join, measure};
use super::window::{Tally, Window};
use super::{Common, Outcome};
use crate::sink::{LAST_REQUEST, LAST_RESPONSE};

/// Pause after a failure: a server that refuses must not be asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn run(common: &Common, workers: usize) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let window = Arc::new(Window::default());
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            tasks.spawn(keep_connecting(common.target, window.clone()));
        }
        let mut outcome = measure(common, &window).await?;
        join(tasks).await?;
        window.report(&mut outcome);
        Ok(outcome)
    })
}

async fn keep_connecting(target: SocketAddr, window: Arc<Window>) {
    let mut tally = Tally::default();
    while !window.is_over() {
        let started = Instant::now();
        match timeout(PATIENCE, ask_once(target)).await.context("no answer").flatten() {
            Ok(()) => tally.done(&window, started),
            Err(error) => {
                tally.failed(format!("{error:#}"));
                sleep(PAUSE).await;
            }
        }
    }
    window.add(&tally);
}

async fn ask_once(target: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(target).await.context("connecting")?;
    stream.set_nodelay(true)?;
    stream.write_all(LAST_REQUEST).await.context("sending the request")?;
    let mut response = Vec::with_capacity(2 * LAST_RESPONSE.len());
    // Until the server closes: that, too, has to come through.
    stream.read_to_end(&mut response).await.context("reading the response")?;
    ensure!(response == LAST_RESPONSE, "another response than the server's, of {} bytes", response.len());
    Ok(())
}
