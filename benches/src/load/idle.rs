//! Connections that do nothing: what each costs in memory, and whether that memory comes back.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Common, IdleOutcome};
use crate::procfs;

/// Connections being opened, or asked, at once: some, so that it does not take minutes, but no flood.
const AT_ONCE: usize = 32;
/// How long one message may take: ten thousand connections may share one proxy thread.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it may take until all have answered once more.
const PATIENCE_FOR_ALL: Duration = Duration::from_secs(60);
/// How long the connections are left alone before memory is looked at.
const REST: Duration = Duration::from_secs(2);

pub(super) fn run(common: &Common, connections: usize, settle: Duration) -> Result<IdleOutcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let before = resident(&common.watched)?;
        let (mut held, mut failure) = open(common.target, connections).await?;
        sleep(REST).await;
        let with = resident(&common.watched)?;
        let late = Instant::now() + PATIENCE_FOR_ALL;
        let proved = stream::iter(&mut held)
            .map(|stream| async move { timeout_at(late, prove(stream)).await.context("no echo in time").flatten() })
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<Result<()>>>()
            .await;
        let answered = proved.iter().filter(|proof| proof.is_ok()).count();
        failure = failure.or(proved.into_iter().find_map(Result::err));
        let first_failure = failure.map(|error| format!("{error:#}"));
        let (count, answered) = (u64::try_from(held.len())?, u64::try_from(answered)?);
        drop(held);
        sleep(settle).await;
        Ok(IdleOutcome { held: count, answered, first_failure, before, with, after: resident(&common.watched)? })
    })
}

/// So many connections; when one cannot be opened, those that are open by then, and why it cannot.
async fn open(target: SocketAddr, connections: usize) -> Result<(Vec<TcpStream>, Option<Error>)> {
    let mut held = Vec::with_capacity(connections);
    let mut failure = None;
    let mut opening = JoinSet::new();
    for _ in 0..connections.min(AT_ONCE) {
        opening.spawn(open_one(target));
    }
    while let Some(opened) = opening.join_next().await {
        match opened?.with_context(|| format!("opening connection {} of {connections}", held.len() + 1)) {
            Ok(stream) => held.push(stream),
            Err(error) => failure = failure.or(Some(error)),
        }
        if failure.is_none() && held.len() + opening.len() < connections {
            opening.spawn(open_one(target));
        }
    }
    match failure {
        Some(error) if held.is_empty() => Err(error),
        failure => Ok((held, failure)),
    }
}

async fn open_one(target: SocketAddr) -> Result<TcpStream> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(target)).await.context("no answer")?.context("connecting")?;
    prove(&mut stream).await?;
    Ok(stream)
}

/// One byte to and fro: a proxy accepts before it knows whether the server can be reached.
async fn prove(stream: &mut TcpStream) -> Result<()> {
    let exchange = async {
        stream.write_all(b"i").await?;
        stream.read_u8().await
    };
    let back = timeout(PATIENCE, exchange).await.context("no echo")?.context("waiting for an echo")?;
    ensure!(back == b'i', "another byte came back");
    Ok(())
}

fn resident(watched: &[i32]) -> Result<Vec<u64>> {
    watched.iter().map(|pid| procfs::resident(*pid)).collect()
}
