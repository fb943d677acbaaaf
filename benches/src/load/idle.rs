//! Connections that do nothing: what each costs in memory, and whether that memory comes back.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Common, IdleOutcome};
use crate::procfs;

/// Connections being opened at once: some, so that it does not take minutes, but no flood.
const OPENING: usize = 32;
/// How long one message may take: ten thousand connections may share one proxy thread.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the connections are left alone before memory is looked at.
const REST: Duration = Duration::from_secs(2);

pub(super) fn run(common: &Common, connections: usize, settle: Duration) -> Result<IdleOutcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let before = resident(&common.watched)?;
        let mut held = open(common.target, connections).await?;
        sleep(REST).await;
        let with = resident(&common.watched)?;
        for (number, stream) in held.iter_mut().enumerate() {
            prove(stream)
                .await
                .with_context(|| format!("idle connection {number} of {connections} no longer works"))?;
        }
        let count = u64::try_from(held.len())?;
        drop(held);
        sleep(settle).await;
        Ok(IdleOutcome { held: count, before, with, after: resident(&common.watched)? })
    })
}

async fn open(target: SocketAddr, connections: usize) -> Result<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(connections);
    let mut opening = JoinSet::new();
    for _ in 0..connections.min(OPENING) {
        opening.spawn(open_one(target));
    }
    while let Some(opened) = opening.join_next().await {
        held.push(opened?.with_context(|| format!("opening idle connection {} of {connections}", held.len() + 1))?);
        if held.len() + opening.len() < connections {
            opening.spawn(open_one(target));
        }
    }
    ensure!(held.len() == connections, "{} of {connections} connections opened", held.len());
    Ok(held)
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
