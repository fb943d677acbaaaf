//! Many idle connections, and an account of how each of them ends.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::net::{self, End};
use crate::error::{Doing, Error, Result};

/// Connections opened at the same time.
const OPENING: usize = 128;
/// How long the first byte may take to come back.
const PROOF_PATIENCE: Duration = Duration::from_secs(30);
/// A write that takes this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// What a stuck connection writes at a time.
const CHUNK: usize = 64 << 10;
/// Reports not yet printed.
const WAITING_REPORTS: usize = 1024;

/// Arguments of `hold`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// HOST:PORT of an `echo`
    address: String,
    /// How many connections
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// How many of them write without reading, until nothing moves any more
    #[arg(long, default_value_t = 0)]
    stuck: usize,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let (reports, mut reported) = mpsc::channel(WAITING_REPORTS);
    let opening = Arc::new(Semaphore::new(OPENING));
    let (ask, asked) = watch::channel(());
    for id in 0..arguments.count {
        let (reports, opening, address) = (reports.clone(), opening.clone(), arguments.address.clone());
        let asked = asked.clone();
        tokio::spawn(async move {
            // The semaphore is never closed.
            let permit = opening.acquire_owned().await;
            let opened = open(&address).await;
            drop(permit);
            let stream = match opened {
                Ok(stream) => stream,
                Err(error) => {
                    return report(&reports, json!({"event": "failed", "id": id, "error": error.to_string()})).await;
                }
            };
            report(&reports, Value::Null).await;
            let end = if id < arguments.stuck {
                stick(stream, id, &reports).await
            } else {
                hold(stream, asked, id, &reports).await
            };
            report(&reports, json!({"event": "closed", "id": id, "how": end.as_str()})).await;
        });
    }
    drop(reports);
    let mut outstanding = arguments.count;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut open = 0;
    loop {
        let event = tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(_line)) => {
                    ask.send_replace(());
                    continue;
                }
                _closed => return Ok(ExitCode::SUCCESS),
            },
            Some(event) = reported.recv() => event,
        };
        let kind = event.get("event").and_then(Value::as_str).map(str::to_owned);
        open += usize::from(kind.is_none());
        if kind.is_some() {
            crate::say!("{event}");
        }
        if matches!(kind.as_deref(), None | Some("failed")) {
            outstanding -= 1;
            if outstanding == 0 {
                crate::say!("{}", json!({"event": "open", "connections": open}));
            }
        }
    }
}

async fn report(reports: &mpsc::Sender<Value>, event: Value) {
    // The printer only ends together with the program.
    let _ = reports.send(event).await;
}

/// Opens a connection and proves it: only a byte that came back shows that it leads anywhere.
async fn open(address: &str) -> Result<TcpStream> {
    let mut stream = net::dial(address).await?;
    let proof = async {
        stream.write_all(b"x").await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await
    };
    timeout(PROOF_PATIENCE, proof)
        .await
        .map_err(|_| Error::new("the first byte did not come back"))?
        .doing(|| "sending the first byte")?;
    Ok(stream)
}

/// Idles, except that it sends one more byte whenever it is asked to, and reports when that has come back.
async fn hold(mut stream: TcpStream, mut asked: watch::Receiver<()>, id: usize, reports: &mpsc::Sender<Value>) -> End {
    let mut byte = [0];
    loop {
        tokio::select! {
            read = stream.read(&mut byte) => match read {
                Ok(0) => return End::Eof,
                Ok(_) => report(reports, json!({"event": "answered", "id": id})).await,
                Err(_) => return End::Reset,
            },
            Ok(()) = asked.changed() => {
                if stream.write_all(b"x").await.is_err() {
                    return End::Reset;
                }
            }
        }
    }
}

/// Writes and never reads.
async fn stick(mut stream: TcpStream, id: usize, reports: &mpsc::Sender<Value>) -> End {
    let chunk = vec![b'x'; CHUNK];
    let mut told = false;
    loop {
        let write = stream.write_all(&chunk);
        tokio::pin!(write);
        let result = match timeout(STUCK_AFTER, &mut write).await {
            Ok(result) => result,
            Err(_) => {
                if !std::mem::replace(&mut told, true) {
                    report(reports, json!({"event": "stuck", "id": id})).await;
                }
                write.await
            }
        };
        if result.is_err() {
            return End::Reset;
        }
    }
}
