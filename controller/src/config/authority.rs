//! Settings of the certificate authority.

use std::path::PathBuf;

/// Name of the secret in which replicas share the mesh's own root.
const SHARED: &str = "fairway-ca";

/// Flags about the certificate authority.
#[derive(Clone, Debug, clap::Args)]
pub struct AuthorityArgs {
    /// Directory with the certificate authority, as cacerts (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem) or as of
    /// cert-manager (tls.crt, tls.key, ca.crt) [default: the mesh's own root].
    #[arg(long, value_name = "DIR", env = "FAIRWAY_CA_DIR")]
    pub ca_dir: Option<PathBuf>,
    /// Secret in the root namespace with the same files, made by somebody else; takes an API server. An empty name leaves every
    /// replica its own root in its state directory [default: fairway-ca, which the first replica makes with the mesh's own root].
    #[arg(long, value_name = "NAME", env = "FAIRWAY_CA_SECRET")]
    pub ca_secret: Option<String>,
}

/// Where the certificate authority is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityConfig {
    /// The mesh's own root, in the state directory; on a cluster in the secret of this name, which all replicas share.
    Own(Option<String>),
    /// In a directory that others fill.
    Directory(PathBuf),
    /// In a secret that others make.
    Secret(String),
}

impl AuthorityArgs {
    /// Where the authority is; `None` when two places are named, or one that there is not beside a directory of manifests.
    #[must_use]
    pub fn place(self, is_cluster: bool) -> Option<AuthorityConfig> {
        match (self.ca_dir.filter(|directory| !directory.as_os_str().is_empty()), self.ca_secret) {
            (Some(directory), None) => Some(AuthorityConfig::Directory(directory)),
            (Some(directory), Some(name)) if name.is_empty() => Some(AuthorityConfig::Directory(directory)),
            (Some(_), Some(_)) => None,
            (None, Some(name)) if name.is_empty() => Some(AuthorityConfig::Own(None)),
            (None, Some(name)) => is_cluster.then_some(AuthorityConfig::Secret(name)),
            (None, None) => Some(AuthorityConfig::Own(is_cluster.then(|| SHARED.to_owned()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_at_most() {
        let own = |name: Option<&str>| Some(AuthorityConfig::Own(name.map(str::to_owned)));
        let directory = Some(AuthorityConfig::Directory("d".into()));
        for (ca_dir, ca_secret, is_cluster, expected) in [
            (None, None, false, own(None)),
            (None, None, true, own(Some(SHARED))),
            (None, Some(""), true, own(None)),
            (None, Some("s"), true, Some(AuthorityConfig::Secret("s".to_owned()))),
            (None, Some("s"), false, None),
            (Some("d"), None, true, directory.clone()),
            (Some("d"), Some(""), true, directory),
            (Some("d"), Some("s"), true, None),
        ] {
            let args = AuthorityArgs { ca_dir: ca_dir.map(PathBuf::from), ca_secret: ca_secret.map(str::to_owned) };
            assert_eq!(args.place(is_cluster), expected, "{ca_dir:?} {ca_secret:?} {is_cluster}");
        }
    }
}
