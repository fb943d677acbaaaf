//! Accepts connections for ever: a permit first, a pause after an error, an end when draining.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use crate::addr::canonical;
use crate::io::drain::Drain;

/// First pause after a failed accept; file descriptors running out is the usual cause, and they need time to come back.
const PAUSE_FIRST: Duration = Duration::from_millis(5);

/// Longest pause between accepts that keep failing.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A listener with no permits left is told of once in so long.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(60);

/// One accepted connection with the permit that counts it.
pub struct Arrival {
    /// The application's or the peer's connection.
    pub stream: TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// Held for as long as the connection lives.
    pub permit: OwnedSemaphorePermit,
}

/// Accepts from `listener` until the drain starts, then closes it. `handle` must not wait.
pub async fn accept(
    name: &'static str,
    listener: TcpListener,
    permits: Arc<Semaphore>,
    mut drain: Drain,
    handle: impl Fn(Arrival),
) {
    let mut pause = PAUSE_FIRST;
    let mut complained: Option<Instant> = None;
    loop {
        if permits.available_permits() == 0 && complained.is_none_or(|at| at.elapsed() >= BETWEEN_COMPLAINTS) {
            complained = Some(Instant::now());
            tracing::warn!(
                listener = name,
                "as many connections are open as a pod may have through one listener; more wait in the kernel's queue"
            );
        }
        let accepted = tokio::select! {
            _mode = drain.started() => break,
            accepted = accept_one(&listener, &permits) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                pause = PAUSE_FIRST;
                handle(accepted);
            }
            Err(error) => {
                tracing::warn!(listener = name, %error, pause = ?pause, "cannot accept; connections wait in the kernel's queue");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    // Closing a listener resets what waits in its queue; these clients have connected already. The runtime may not have
    // heard of them yet, so the kernel is asked.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok(permit) = Arc::clone(&permits).try_acquire_owned()
        && let Ok((stream, peer)) = listener.accept()
    {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            handle(Arrival { stream, peer: canonical(peer), permit });
        }
    }
}

/// The next connection, once there is a permit for it.
async fn accept_one(listener: &TcpListener, permits: &Arc<Semaphore>) -> std::io::Result<Arrival> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok(Arrival { stream, peer: canonical(peer), permit })
}
