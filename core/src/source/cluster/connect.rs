//! Connects to an API server: with a kubeconfig, or as a pod of the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};

/// For a connection to be made. Requests have patience of their own.
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig.
    #[error("the kubeconfig {path} cannot be used: {error}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: Box<kube::config::KubeconfigError>,
    },
    /// Not a pod of a cluster.
    #[error("this does not run as a pod of a cluster ({0}); name a kubeconfig")]
    Pod(#[from] kube::config::InClusterError),
    /// TLS or credentials.
    #[error("no client can be made from the configuration: {0}")]
    Client(Box<kube::Error>),
}

/// A client for the cluster of `kubeconfig`, or of the pod this runs in. Nothing is sent yet: a server that is down is
/// waited for.
///
/// Tokens and certificates in files are read again when they change.
///
/// # Errors
/// When the configuration cannot be read or used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<kube::Client, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let wrong = |error| ConnectError::Kubeconfig { path: path.to_owned(), error: Box::new(error) };
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?
        }
        None => kube::Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT);
    kube::Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}
