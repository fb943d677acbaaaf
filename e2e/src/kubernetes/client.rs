//! The lab's client of the API server.

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::certificates::Authority;
use super::control_plane;
use super::kubeconfig::{self, Credentials};
use crate::error::{Doing, Result};

/// User and group of the lab itself, which is administrator and every kubelet at once.
const USER: &str = "fairway-lab";
/// Group that may do everything.
pub(crate) const ADMINISTRATORS: &str = "system:masters";

/// A client for the thread that works in the underlay's network.
pub(crate) async fn connect(authority: &Authority) -> Result<Client> {
    let pair = authority.client(USER, Some(ADMINISTRATORS))?;
    let own = &authority.pair().certificate;
    let text = kubeconfig::render(&control_plane::inside(), own, &Credentials::Certificate(&pair));
    let kubeconfig = Kubeconfig::from_yaml(&text).doing(|| "reading the lab's own kubeconfig")?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .doing(|| "reading the lab's own kubeconfig")?;
    Client::try_from(config).doing(|| "preparing the client of the API server")
}
