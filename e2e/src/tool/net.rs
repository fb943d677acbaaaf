//! What the programs share: dual-stack listening, dialling by name, and how connections end.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use crate::error::{Doing, Error, Result};

/// Connections the kernel keeps for a program that is busy; enough for a burst of ten thousand.
const BACKLOG: i32 = 16_384;
/// How long a dial may take.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);
/// Longest value of a duration argument.
const MAX_DURATION: Duration = Duration::from_secs(86_400);

/// Listens on `port` for both families.
pub(super) fn listen(port: u16) -> Result<TcpListener> {
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().doing(|| format!("listening on port {port}"))
}

/// Connects to `HOST:PORT`, trying each address of the host.
pub(super) async fn dial(address: &str) -> Result<TcpStream> {
    let stream = tokio::time::timeout(DIAL_PATIENCE, TcpStream::connect(address))
        .await
        .map_err(|_| Error::new(format!("connecting to {address}: no answer within {DIAL_PATIENCE:?}")))?
        .doing(|| format!("connecting to {address}"))?;
    // Every program here waits for an answer to what it sent.
    stream.set_nodelay(true).doing(|| format!("connecting to {address}"))?;
    Ok(stream)
}

/// An address without the IPv6 wrapping of IPv4 peers.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In order.
    Eof,
    /// By a reset, or another error of the network.
    Reset,
}

impl End {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Eof => "eof",
            Self::Reset => "reset",
        }
    }
}

/// Reads until the connection ends.
pub(super) async fn await_end(stream: &mut (impl AsyncReadExt + Unpin)) -> End {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return End::Eof,
            Ok(_) => {}
            Err(_) => return End::Reset,
        }
    }
}

/// A duration such as `200ms`, `5s` or `2m`.
pub(super) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a duration; write 200ms, 5s or 2m"))?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" | "" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(format!("{unit:?} is not a unit of time; write ms, s or m")),
    };
    if duration > MAX_DURATION { Err(format!("{text} is longer than a day")) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "ms", "5h", "-1s", "99999m"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
