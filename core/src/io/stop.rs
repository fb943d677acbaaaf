//! When a proxy is asked to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Waits for SIGTERM, for SIGINT, or for `shutdown` to be cancelled, as an operator's request does.
///
/// # Errors
/// When the signals cannot be waited for.
pub async fn requested(shutdown: &CancellationToken) -> io::Result<()> {
    let listen = |kind, name| {
        signal(kind).map_err(|error| io::Error::new(error.kind(), format!("cannot wait for {name}: {error}")))
    };
    let mut terminate = listen(SignalKind::terminate(), "SIGTERM")?;
    let mut interrupt = listen(SignalKind::interrupt(), "SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}
