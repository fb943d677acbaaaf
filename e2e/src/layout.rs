//! Where a lab keeps its files: one state directory on the host, seen inside the lab at a fixed short path.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where the state directory is mounted inside the lab. Short, because a unix socket's path has at most 108 bytes (`unix(7)`).
const INSIDE: &str = "/run/fairway";

/// Environment variable naming the directory that holds the labs' state directories.
pub const BASE_VARIABLE: &str = "FAIRWAY_LAB_DIR";

/// Longest lab name: it becomes a directory name and is shown in tables.
const MAX_NAME_CHARACTERS: usize = 40;

/// Paths of one lab, either as the host sees them or as the lab itself does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of the lab called `name`, as seen from the host.
    ///
    /// # Errors
    /// When the name could not be a directory name, or no base directory can be found.
    pub fn of(name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self { root: base_directory()?.join(name) })
    }

    /// The layout as seen from inside the lab.
    #[must_use]
    pub fn inside() -> Self {
        Self::at(INSIDE)
    }

    /// The layout of the state directory `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The state directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Name of the lab.
    #[must_use]
    pub fn name(&self) -> String {
        self.root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// How the lab was asked for: its [`Config`](crate::options::Config).
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    /// Which process the supervisor is: [`Init`](crate::process::Init).
    #[must_use]
    pub fn init(&self) -> PathBuf {
        self.root.join("init.json")
    }

    /// The control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.root.join(CONTROL_SOCKET)
    }

    /// Root of the manifests: the world.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// Directory of all logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Log of a component, or of the supervisor.
    #[must_use]
    pub fn component_log(&self, component: &str) -> PathBuf {
        self.logs().join(format!("{component}.log"))
    }

    /// Log of one container. Underscores cannot occur in Kubernetes names.
    #[must_use]
    pub fn container_log(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        self.logs().join("pods").join(format!("{namespace}_{pod}_{container}.log"))
    }

    /// State directory of the controller.
    #[must_use]
    pub fn controller(&self) -> PathBuf {
        self.root.join("controller")
    }

    /// Certificate of the mesh's root, written by the controller.
    #[must_use]
    pub fn root_certificate(&self) -> PathBuf {
        self.controller().join("ca").join("root-cert.pem")
    }

    /// Public half of the key that signs service account tokens.
    #[must_use]
    pub fn token_public_key(&self) -> PathBuf {
        self.root.join("service-account.pub.pem")
    }

    /// The mesh configuration, if there is one.
    #[must_use]
    pub fn mesh_config(&self) -> PathBuf {
        self.root.join("mesh-config.yaml")
    }

    /// Keys, certificates and data of the lab's Kubernetes.
    #[must_use]
    pub fn kubernetes(&self) -> PathBuf {
        self.root.join("kubernetes")
    }

    /// Certificate of the authority that the lab's Kubernetes trusts.
    #[must_use]
    pub fn kubernetes_authority(&self) -> PathBuf {
        self.kubernetes().join("ca.crt")
    }

    /// Kubeconfig of a service account of the mesh itself.
    #[must_use]
    pub fn account_kubeconfig(&self, account: &str) -> PathBuf {
        self.kubernetes().join(format!("{account}.kubeconfig"))
    }

    /// Token of that account, which the kubeconfig names.
    #[must_use]
    pub fn account_token(&self, account: &str) -> PathBuf {
        self.kubernetes().join(format!("{account}.token"))
    }

    /// Kubeconfig of the administrator, for clients on the host.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Directory of one node's files.
    #[must_use]
    pub fn node(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// The socket on which the node's ztunnel meets its agent.
    #[must_use]
    pub fn node_socket(&self, node: &str) -> PathBuf {
        self.node(node).join("ztunnel.sock")
    }

    /// Where the node's ztunnel keeps the configuration it last had.
    #[must_use]
    pub fn ztunnel_state(&self, node: &str) -> PathBuf {
        self.node(node).join("ztunnel")
    }

    /// What the node's container runtime and its CNI plugins keep.
    #[must_use]
    pub fn cni(&self, node: &str) -> PathBuf {
        self.node(node).join("cni")
    }

    /// The node's CNI configurations.
    #[must_use]
    pub fn cni_configurations(&self, node: &str) -> PathBuf {
        self.cni(node).join("net.d")
    }

    /// CNI plugins of the node, beside those of the machine.
    #[must_use]
    pub fn cni_programs(&self, node: &str) -> PathBuf {
        self.cni(node).join("bin")
    }

    /// What the node's runtime remembers of its sandboxes.
    #[must_use]
    pub fn cni_results(&self, node: &str) -> PathBuf {
        self.cni(node).join("cache/results")
    }

    /// The token of the node's ztunnel.
    #[must_use]
    pub fn node_token(&self, node: &str) -> PathBuf {
        self.node(node).join("token")
    }

    /// Directory of one pod's private files.
    #[must_use]
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }
}

/// File name of the control socket in the state directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Where network namespaces are pinned inside the lab.
pub const NETNS_DIRECTORY: &str = "/run/netns";

/// The pinned network namespace called `name`, as seen inside the lab.
#[must_use]
pub fn netns(name: &str) -> PathBuf {
    Path::new(NETNS_DIRECTORY).join(name)
}

/// The directory that holds every lab's state directory.
///
/// # Errors
/// When neither [`BASE_VARIABLE`], `XDG_STATE_HOME` nor `HOME` says where.
pub fn base_directory() -> Result<PathBuf> {
    choose_base(
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from),
        nix::unistd::geteuid().is_root(),
    )
    .and_then(|base| std::path::absolute(base).ok())
    .ok_or_else(|| {
        Error::new("no directory to keep the lab's state in")
            .hint(format!("set {BASE_VARIABLE} to a directory you own"))
    })
}

fn choose_base(variable: impl Fn(&str) -> Option<PathBuf>, root: bool) -> Option<PathBuf> {
    variable(BASE_VARIABLE)
        .or_else(|| variable("XDG_STATE_HOME").map(|state| state.join("fairway/lab")))
        .or_else(|| root.then(|| PathBuf::from("/var/lib/fairway/lab")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/state/fairway/lab")))
}

fn check_name(name: &str) -> Result<()> {
    let valid = !name.is_empty()
        && name.len() <= MAX_NAME_CHARACTERS
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-');
    if valid {
        return Ok(());
    }
    Err(Error::new(format!("`{name}` cannot be the name of a lab"))
        .hint(format!("use 1 to {MAX_NAME_CHARACTERS} lower-case letters, digits and dashes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_directory_prefers_the_explicit_choice() {
        let all = |name: &str| Some(PathBuf::from(format!("/{name}")));
        assert_eq!(choose_base(all, true), Some("/FAIRWAY_LAB_DIR".into()));
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/me"));
        assert_eq!(choose_base(home, false), Some("/home/me/.local/state/fairway/lab".into()));
        assert_eq!(choose_base(home, true), Some("/var/lib/fairway/lab".into()));
        assert_eq!(choose_base(|_| None, false), None);
    }

    #[test]
    fn names_stay_inside_the_base_directory() {
        for bad in ["", "..", "a/b", "A", "-x", "a b", &"x".repeat(41)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_name("test-1").is_ok());
    }
}
