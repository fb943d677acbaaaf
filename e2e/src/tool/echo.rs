//! A server that sends everything back.

use std::process::ExitCode;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::net;
use crate::error::Result;

/// Bytes in hand per connection; small, because there may be ten thousand.
const BUFFER: usize = 4096;

/// Arguments of `echo`.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// Port to listen on, in both families
    #[arg(long)]
    port: u16,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let listener = net::listen(arguments.port)?;
    crate::say!("listening on {}", arguments.port);
    loop {
        let (mut stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("accept: {error}");
                continue;
            }
        };
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut buffer = vec![0; BUFFER];
            loop {
                let length = match stream.read(&mut buffer).await {
                    Ok(0) => return,
                    Ok(length) => length,
                    Err(error) => return eprintln!("{peer}: {error}"),
                };
                if let Err(error) = stream.write_all(buffer.get(..length).unwrap_or_default()).await {
                    return eprintln!("{peer}: {error}");
                }
            }
        });
    }
}
