//! A port of the host's loopback that leads to the API server, for `kubectl` outside the lab.
//!
//! Sockets stay in the network they were made in: the boot stage makes this one before it leaves the host's, and hands it to
//! the supervisor in the place of its standard output.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::certificates::Authority;
use super::client::ADMINISTRATORS;
use super::control_plane::API_PORT;
use super::kubeconfig::{self, Credentials};
use crate::addresses::UNDERLAY_V4;
use crate::error::{Doing, Result};
use crate::http;
use crate::layout::Layout;
use crate::process::write_atomically;
use crate::sandbox::Sandbox;

/// Pause after the host could not give us a connection, such as for want of descriptors.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// A port of the host's loopback, made by the boot stage.
pub(crate) fn listen() -> Result<OwnedFd> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map(OwnedFd::from).doing(|| "listening for kubectl on 127.0.0.1")
}

/// Takes over what [`listen`] made, writes the host's kubeconfig for it, and relays from then on.
pub(crate) fn start(layout: &Layout, authority: &Authority, underlay: &Sandbox) -> Result<()> {
    let listener = adopt().doing(|| "taking over the port that the boot stage listens on")?;
    let address = listener.local_addr().doing(|| "looking at the port for kubectl")?;
    let pair = authority.client("admin", Some(ADMINISTRATORS))?;
    let own = &authority.pair().certificate;
    let text = kubeconfig::render(&address.to_string(), own, &Credentials::Certificate(&pair));
    // The state directory is its owner's alone.
    write_atomically(&layout.kubeconfig(), text.as_bytes())?;
    tokio::spawn(run(listener, underlay.clone()));
    Ok(())
}

fn adopt() -> io::Result<tokio::net::TcpListener> {
    let listener = TcpListener::from(io::stdout().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

async fn run(listener: tokio::net::TcpListener, underlay: Sandbox) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(relay(stream, underlay.clone()))),
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection for the API server");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn relay(mut client: TcpStream, underlay: Sandbox) {
    let to = SocketAddr::from((UNDERLAY_V4, API_PORT));
    // Refused while the API server does not run: the client sees its connection closed.
    let Ok(mut server) = http::connect(&underlay, None, to).await else { return };
    // Either end may go away at any time; there is nobody to tell.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
