//! A server that sends everything back, or answers in other ways that show how an end of stream travels.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    /// What to answer
    #[arg(long, value_enum, default_value_t)]
    answer: Answer,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Answer {
    /// Every byte, as it comes
    #[default]
    Each,
    /// The number of bytes, once the client has closed its side
    Count,
    /// Nothing: our side is closed at once, and the number of bytes is printed at the end
    Silence,
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
            if let Err(error) = answer(&mut stream, arguments.answer).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn answer(stream: &mut TcpStream, answer: Answer) -> std::io::Result<()> {
    if answer == Answer::Silence {
        stream.shutdown().await?;
    }
    let (mut received, mut buffer) = (0, vec![0; BUFFER]);
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        received += length;
        if answer == Answer::Each {
            stream.write_all(buffer.get(..length).unwrap_or_default()).await?;
        }
    }
    match answer {
        Answer::Each => {}
        Answer::Count => stream.write_all(received.to_string().as_bytes()).await?,
        Answer::Silence => crate::say!("received {received} bytes"),
    }
    Ok(())
}
