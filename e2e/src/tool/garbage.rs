//! Bytes that mean nothing, to see that a listener minds neither them nor their sender.

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::net;
use crate::error::{Doing, Result};

/// How long the other side may take to end the connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes sent.
const MAX_BYTES: usize = 64 << 20;

/// Arguments of `garbage`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// HOST:PORT
    address: String,
    /// How many random bytes
    #[arg(long, default_value_t = 4096)]
    bytes: usize,
    /// A text to send in front of them
    #[arg(long, default_value = "")]
    prefix: String,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut random = vec![0; arguments.bytes.min(MAX_BYTES)];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .doing(|| "reading random bytes")?;
    let mut stream = net::dial(&arguments.address).await?;
    let mut sent = arguments.prefix.into_bytes();
    sent.extend(random);
    // The other side may close before it has read everything; that is what is being looked for.
    let written = stream.write_all(&sent).await.is_ok();
    let how = match timeout(PATIENCE, net::await_end(&mut stream)).await {
        Ok(end) => end.as_str(),
        Err(_) => "open",
    };
    crate::say!("{}", json!({"event": "closed", "how": how, "written": written}));
    Ok(if how == "open" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
