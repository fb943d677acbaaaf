//! Many connections to an `echo` at once, in pieces of a chosen size, and whether every byte arrived.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::echo::Answer;
use super::net;
use crate::error::{Doing, Error, Result};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes read at a time.
const BUFFER: usize = 64 << 10;
/// Failures shown.
const SHOWN: usize = 3;
/// Length of the pattern sent: prime, so that a shift by any power of two shows.
const PERIOD: usize = 251;

/// Arguments of `exchange`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// HOST:PORT of an `echo`
    address: String,
    /// How many connections at the same time
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Bytes sent over each
    #[arg(long, default_value_t = 1)]
    bytes: usize,
    /// Bytes of one write
    #[arg(long, default_value_t = 65536)]
    piece: usize,
    /// What that `echo` answers
    #[arg(long, value_enum, default_value_t)]
    answer: Answer,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..arguments.connections {
        running.spawn(one(arguments.clone()));
    }
    let mut failures = Vec::new();
    while let Some(ended) = running.join_next().await {
        let result = ended.doing(|| "waiting for a connection")?;
        failures.extend(result.err().map(|error| error.to_string()));
    }
    let (failed, milliseconds) = (failures.len(), u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    failures.truncate(SHOWN);
    crate::say!(
        "{}",
        json!({
            "connections": arguments.connections, "bytes": arguments.bytes, "failed": failed, "failures": failures,
            "milliseconds": milliseconds,
        })
    );
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn one(arguments: Arguments) -> Result<()> {
    let stream = net::dial(&arguments.address).await?;
    timeout(PATIENCE, exchange(stream, &arguments))
        .await
        .map_err(|_| Error::new(format!("not done after {PATIENCE:?}")))?
}

async fn exchange(mut stream: TcpStream, arguments: &Arguments) -> Result<()> {
    let (mut reader, mut writer) = stream.split();
    match arguments.answer {
        Answer::Each => {
            let (sent, received) =
                tokio::join!(send(&mut writer, arguments), compare(&mut reader, pattern(arguments.bytes)));
            sent.and(received)
        }
        Answer::Count => {
            send(&mut writer, arguments).await?;
            compare(&mut reader, arguments.bytes.to_string().into_bytes()).await
        }
        Answer::Silence => {
            compare(&mut reader, Vec::new()).await?;
            send(&mut writer, arguments).await
        }
    }
}

fn pattern(length: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..PERIOD).filter_map(|number| u8::try_from(number).ok()).collect();
    let mut pattern = period.repeat(length.div_ceil(PERIOD));
    pattern.truncate(length);
    pattern
}

/// Sends all of it and closes this side.
async fn send(writer: &mut (impl AsyncWrite + Unpin), arguments: &Arguments) -> Result<()> {
    for piece in pattern(arguments.bytes).chunks(arguments.piece.max(1)) {
        writer.write_all(piece).await.doing(|| "sending")?;
    }
    writer.shutdown().await.doing(|| "closing the sending side")
}

/// Reads to the end, which must be exactly `expected`.
async fn compare(reader: &mut (impl AsyncRead + Unpin), expected: Vec<u8>) -> Result<()> {
    let (mut read, mut buffer) = (0, vec![0; BUFFER]);
    loop {
        let length = reader.read(&mut buffer).await.doing(|| format!("after {read} of {} bytes", expected.len()))?;
        if length == 0 {
            break;
        }
        if expected.get(read..read + length) != buffer.get(..length) {
            return Err(Error::new(format!("what came back differs between bytes {read} and {}", read + length)));
        }
        read += length;
    }
    if read == expected.len() {
        Ok(())
    } else {
        Err(Error::new(format!("the end came after {read} of {} bytes", expected.len())))
    }
}
