//! Lets a connection into a pod: policy first, then the application.

use std::net::SocketAddr;
use std::sync::Arc;

use fairway_core::facts::ConnectionFacts;
use fairway_core::proxy_protocol;
use fairway_core::route::Arrival;
use fairway_core::view::PodView;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::conn::{Authorized, Identified};
use crate::outcome;
use crate::pod::Pod;
use crate::telemetry::Outcome;

/// A connection that policy let in, and the application's end of it.
pub struct Delivered {
    /// The permission, to be held for as long as bytes flow.
    pub authorized: Authorized,
    /// The application.
    pub application: TcpStream,
}

/// Asks policy and then connects to the application at `dial`, in the pod's namespace.
///
/// `view` must have been followed since before `facts` were worked out.
///
/// # Errors
/// The outcome to report: a denial, or why the application cannot be reached.
pub async fn deliver(
    pod: &Pod,
    view: watch::Receiver<Arc<PodView>>,
    facts: ConnectionFacts,
    dial: SocketAddr,
) -> Result<Delivered, Outcome> {
    let client = facts.source;
    let authorized = Identified::new(facts, view, pod.mesh.telemetry.dry_run()).authorize()?;
    // The application sees its client's address, unless that is the pod itself (interop §1.5 point 6).
    let preserve = pod.preserve_source && client.ip() != dial.ip() && !dial.ip().is_loopback();
    let application = pod.sockets.connect_from(dial, preserve.then_some(client)).await;
    let application = application.map_err(|error| outcome::application_unreachable(&error))?;
    Ok(Delivered { authorized, application })
}

/// As [`deliver`], for a connection that asked for `target`: says first who is there, where the application wants to
/// be told.
///
/// # Errors
/// As [`deliver`].
pub async fn deliver_to(
    pod: &Pod,
    view: watch::Receiver<Arc<PodView>>,
    facts: ConnectionFacts,
    target: &Arrival,
) -> Result<Delivered, Outcome> {
    let preface = target
        .proxy_protocol
        .then(|| proxy_protocol::header(facts.source, target.announced(), facts.source_identity.as_ref()));
    let mut delivered = deliver(pod, view, facts, target.dial).await?;
    if let Some(preface) = preface {
        let written = delivered.application.write_all(&preface).await;
        written.map_err(|error| Outcome::because(fairway_core::reason::Reason::ResetByPeer, error))?;
    }
    Ok(delivered)
}
