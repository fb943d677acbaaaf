//! One exchange with an `echo`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::net;
use crate::error::Result;

/// How long the exchange may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `send`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit codes: 0 came back, 2 not connected, 3 reset, 4 closed without the answer, 5 no answer in time"
)]
pub struct Arguments {
    /// HOST:PORT of an `echo`
    address: String,
    /// What to send
    #[arg(long, default_value = "hello")]
    text: String,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let mut stream = match net::dial(&arguments.address).await {
        Ok(stream) => stream,
        Err(error) => return Ok(say(2, &error.to_string())),
    };
    let mut answer = vec![0; arguments.text.len()];
    let exchange = async {
        stream.write_all(arguments.text.as_bytes()).await?;
        stream.read_exact(&mut answer).await
    };
    let code = match timeout(PATIENCE, exchange).await {
        Err(_) => say(5, "no answer in time"),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => say(4, "closed without the answer"),
        Ok(Err(error)) => say(3, &error.to_string()),
        Ok(Ok(_)) if answer == arguments.text.as_bytes() => say(0, &arguments.text),
        Ok(Ok(_)) => say(4, "another text came back"),
    };
    Ok(code)
}

fn say(code: u8, text: &str) -> ExitCode {
    crate::say!("{text}");
    ExitCode::from(code)
}
