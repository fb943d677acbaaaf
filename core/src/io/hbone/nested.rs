//! A tunnel inside a tunnel: through another network's gateway to whoever is behind it (interop §1.11).
//!
//! The outer connection to the gateway is pooled like any other. The inner one belongs to one application connection:
//! the gateway chooses who answers it, and sharing it would bind everything after to that one choice (interop §1.9).

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::client::{Attempt, Connection, Opened, Ours};
use super::stream::{TunnelReceiver, TunnelSender};
use super::{ConnectRequest, Pool, TunnelError, TunnelKey, TunnelStream};
use crate::ident::Identity;
use crate::limits::{self, Limits};

impl Pool {
    /// Opens a stream to one of `accepted`, reached by a stream for `outer` that a gateway, the peer of `key`, carries.
    ///
    /// # Errors
    /// See [`TunnelError`]; what went wrong behind the gateway is [`TunnelError::Inner`].
    pub async fn open_through(
        &self,
        key: &TunnelKey,
        outer: &ConnectRequest,
        accepted: &[Identity],
        inner: &ConnectRequest,
    ) -> Result<Opened, TunnelError> {
        let gateway = key.peer;
        let behind = |error| TunnelError::Inner { gateway, source: Box::new(error) };
        let certificate = self.certificates().claim(&key.source).get().await?;
        let carrier = self.open(key, outer).await?.stream;
        let ours = Ours::new(self.certificates(), certificate, accepted, gateway)?;
        let bounds = (self.limits(), self.budget());
        let connection =
            Connection::over(carry(carrier, self.limits()), gateway, &ours, bounds).await.map_err(behind)?;
        let place = connection.take_place(false).ok_or(TunnelError::PoolTimeout {
            peer: gateway,
            after: self.limits().duration(&limits::CONNECT_RESPONSE_TIMEOUT),
        })?;
        // Nobody else is to use it: it ends with its one stream.
        drop(connection);
        match place.connect(inner).await.map_err(behind)? {
            Attempt::Opened(opened) => Ok(opened),
            Attempt::NotSent(error) => Err(behind(error)),
        }
    }
}

/// The stream as something that TLS can be spoken over. A task carries the bytes and ends with either side.
fn carry(stream: TunnelStream, limits: &Limits) -> DuplexStream {
    let (ours, theirs) = duplex(limits.size(&limits::NESTED_BUFFER));
    let piece = limits.size(&limits::COPY_BUFFER_MEDIUM);
    tokio::spawn(async move {
        let TunnelStream { mut sender, mut receiver } = stream;
        let (mut read, mut write) = tokio::io::split(theirs);
        let outward = async {
            let carried = outward(&mut read, &mut sender, piece).await;
            carried.then_some(()).ok_or(())
        };
        let inward = async {
            let carried = inward(&mut receiver, &mut write).await;
            carried.then_some(()).ok_or(())
        };
        // A side that breaks takes the other along: what is inside is one connection.
        if tokio::try_join!(outward, inward).is_err() {
            TunnelStream { sender, receiver }.abort();
        }
    });
    ours
}

async fn outward(from: &mut (impl tokio::io::AsyncRead + Unpin), to: &mut TunnelSender, piece: usize) -> bool {
    loop {
        let mut chunk = bytes::BytesMut::with_capacity(piece);
        match from.read_buf(&mut chunk).await {
            Ok(0) => return to.finish().is_ok(),
            Ok(_) if to.send_all(chunk.freeze()).await.is_ok() => {}
            Ok(_) | Err(_) => return false,
        }
    }
}

async fn inward(from: &mut TunnelReceiver, to: &mut (impl tokio::io::AsyncWrite + Unpin)) -> bool {
    loop {
        match from.receive().await {
            Ok(Some(chunk)) => {
                if to.write_all(&chunk).await.is_err() || from.consumed(chunk.len()).is_err() {
                    return false;
                }
            }
            Ok(None) => return to.shutdown().await.is_ok(),
            Err(_broken) => return false,
        }
    }
}
