//! Takes everything of ours from a node, whatever an agent has left there, and looks whether it is gone.
//!
//! No new pods first, then the peers, then the rules, and what the plugin needs last: killed anywhere in between, it
//! is simply run again. Pods go on running without the mesh and can be deleted as ever.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};

use crate::install::{self, InstallError};
use crate::kernel::{Inspection, Kernel, KernelError, Namespace, NamespaceId};
use crate::notices::{NoticeError, Notices};
use crate::reconcile::LEAVE_GRACE;
use crate::rules::Capture;

/// What is not gone, and why.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// The plugin or its configuration.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// The pods' status.
    #[error(transparent)]
    Status(#[from] NoticeError),
    /// Rules in pods.
    #[error("{} still hold capture rules: {}; run this again, or restart those pods", count(.0), .0.join("; "))]
    Rules(Vec<String>),
}

fn count(left: &[String]) -> String {
    if left.len() == 1 { "one pod may".to_owned() } else { format!("{} pods may", left.len()) }
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uninstalled {
    /// Namespaces that held rules.
    pub released: usize,
    /// Whether the plugin's program is gone; it stays while a pod's end needs it, and does nothing then.
    pub program_removed: bool,
}

/// Namespaces worked on at a time, as in a pass of the agent: the work is short processes, so a few fill a machine.
const AT_A_TIME: usize = 4;

/// Uninstalls. No agent of this node may be at work any more, it would put everything back. `held` are namespaces that one
/// has open, by uid of their pods: they need neither a file nor a process to be found.
///
/// # Errors
/// When something is left; it says what.
pub async fn uninstall(
    kernel: Arc<dyn Kernel>,
    settings: &install::Settings,
    status: &Notices,
    netns_dir: &Path,
    held: Vec<(String, Namespace)>,
) -> Result<Uninstalled, UninstallError> {
    settings.remove_configuration()?;
    let told = status.owned()?;
    for key in &told {
        status.remove(key, None)?;
    }
    status.settle().await?;
    if !told.is_empty() {
        // Peers hear of it, and send no more tunnels.
        tokio::time::sleep(LEAVE_GRACE).await;
    }
    let released = release_all(kernel, netns_dir, held).await?;
    Ok(Uninstalled { released, program_removed: settings.remove_files()? })
}

/// A namespace a pod of ours may be in.
enum Home {
    /// Open, of the pod with this uid.
    Held(String, Namespace),
    /// To be found there.
    At(PathBuf),
}

impl Home {
    /// Whether it held rules that are gone now; a complaint when they are not.
    fn release(self, kernel: &dyn Kernel) -> Result<bool, String> {
        let (name, network) = match self {
            Self::Held(uid, network) => (format!("the pod with uid {uid}"), Ok(network)),
            Self::At(path) => (path.display().to_string(), kernel.open(&path)),
        };
        match network.and_then(|network| release(kernel, &network)) {
            Ok(released) => Ok(released),
            // The node's own, one that has ended, or no namespace at all.
            Err(KernelError::HostNamespace(_) | KernelError::NoNamespace(_) | KernelError::NotANamespace(_)) => {
                Ok(false)
            }
            Err(error) => Err(format!("{name}: {error}")),
        }
    }
}

/// How many namespaces held rules that are gone now. Hundreds of pods take seconds, in which proxies are still to be
/// answered.
async fn release_all(
    kernel: Arc<dyn Kernel>,
    netns_dir: &Path,
    held: Vec<(String, Namespace)>,
) -> Result<usize, UninstallError> {
    let failed = |error: tokio::task::JoinError| error.to_string();
    let (searching, directory) = (Arc::clone(&kernel), netns_dir.to_owned());
    let homes = tokio::task::spawn_blocking(move || homes(searching.as_ref(), &directory, held)).await;
    let homes = homes.map_err(|error| UninstallError::Rules(vec![failed(error)]))?;
    let releases = stream::iter(homes).map(move |home| {
        let kernel = Arc::clone(&kernel);
        let release = tokio::task::spawn_blocking(move || home.release(kernel.as_ref()));
        async move { release.await.unwrap_or_else(|error| Err(failed(error))) }
    });
    let results: Vec<Result<bool, String>> = releases.buffer_unordered(AT_A_TIME).collect().await;
    let released = results.iter().filter(|result| **result == Ok(true)).count();
    let left: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if left.is_empty() { Ok(released) } else { Err(UninstallError::Rules(left)) }
}

/// Every namespace a pod of ours may be in, once each.
fn homes(kernel: &dyn Kernel, netns_dir: &Path, held: Vec<(String, Namespace)>) -> Vec<Home> {
    let mut seen: BTreeSet<NamespaceId> = held.iter().map(|(_, network)| network.id()).collect();
    let mut homes: Vec<Home> = held.into_iter().map(|(uid, network)| Home::Held(uid, network)).collect();
    let files = fs::read_dir(netns_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let census = kernel.census();
    let all = files.chain(census.paths().map(Path::to_owned));
    homes.extend(all.filter(|path| kernel.identify(path).is_ok_and(|id| seen.insert(id))).map(Home::At));
    homes
}

/// Whether there was anything to remove; what counts is that nothing is read back afterwards.
fn release(kernel: &dyn Kernel, namespace: &Namespace) -> Result<bool, KernelError> {
    if kernel.inspect(namespace, &Capture::default())? == Inspection::Absent {
        return Ok(false);
    }
    kernel.remove(namespace)?;
    match kernel.inspect(namespace, &Capture::default())? {
        Inspection::Absent => Ok(true),
        _ => Err(KernelError::StillThere),
    }
}

#[cfg(test)]
mod tests {
    use fairway_core::source::ObjectKey;
    use fairway_core::source::status::Writer;
    use serde_json::json;

    use super::*;
    use crate::kernel::fake::FakeKernel;
    use crate::plugin::protocol::{Fail, PLUGIN};

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}"#;

    struct Node {
        directory: tempfile::TempDir,
        kernel: Arc<FakeKernel>,
        settings: install::Settings,
        status: Notices,
    }

    impl Node {
        /// A node with two captured pods: one found by its file, one by its process.
        fn installed() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let root = directory.path();
            for name in ["net.d", "bin", "netns"] {
                fs::create_dir(root.join(name)).unwrap();
            }
            fs::write(root.join("program"), "p").unwrap();
            fs::write(root.join("net.d/10-a.conflist"), LIST).unwrap();
            fs::write(root.join("netns/u1"), "").unwrap();
            fs::write(root.join("netns/other"), "").unwrap();
            let settings = install::Settings {
                net_dir: root.join("net.d"),
                node_net_dir: "/etc/cni/net.d".into(),
                bin_dir: root.join("bin"),
                cache_dir: root.join("cache"),
                program: root.join("program"),
                run_dir: root.join("run"),
                place: install::Place::First,
                fail: Fail::Closed,
                patience: 1000,
            };
            settings.install().unwrap();
            settings.remember(&["shop".to_owned()].into()).unwrap();
            let kernel = Arc::new(FakeKernel::default());
            kernel.place(&root.join("netns/u1"), 7);
            kernel.place(&root.join("netns/other"), 9);
            kernel.run_process("u2", 8, Path::new("/proc/30/ns/net"));
            for inode in [7, 8] {
                kernel.tamper(inode, Some(Capture::default()));
            }
            let status = Notices::from(Writer::new(root, "cni-agent.node-1").unwrap());
            status.write(&ObjectKey::pod("shop", "web"), "u1", &json!({})).unwrap();
            Self { kernel, settings, status, directory }
        }

        async fn uninstall(&self) -> Result<Uninstalled, UninstallError> {
            self.uninstall_with(Vec::new()).await
        }

        async fn uninstall_with(&self, held: Vec<(String, Namespace)>) -> Result<Uninstalled, UninstallError> {
            let kernel = Arc::<FakeKernel>::clone(&self.kernel);
            uninstall(kernel, &self.settings, &self.status, &self.directory.path().join("netns"), held).await
        }

        fn is_clean(&self) -> bool {
            let root = self.directory.path();
            let list = fs::read_to_string(root.join("net.d/10-a.conflist")).unwrap();
            !list.contains(PLUGIN)
                && !root.join("net.d/fairway-cni").exists()
                && !root.join("bin").join(PLUGIN).exists()
                && self.status.owned().unwrap().is_empty()
                && [7, 8, 9].iter().all(|inode| self.kernel.content(*inode).is_none())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everything_goes_and_only_what_is_ours() {
        let node = Node::installed();
        assert_eq!(node.uninstall().await.unwrap(), Uninstalled { released: 2, program_removed: true });
        assert!(node.is_clean());
        let mut calls = node.kernel.calls();
        calls.sort();
        assert_eq!(calls, ["remove 7", "remove 8"], "a namespace without our rules is not touched");
        assert_eq!(node.uninstall().await.unwrap(), Uninstalled { released: 0, program_removed: true });
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_without_file_and_process_is_released_by_what_its_agent_holds() {
        let node = Node::installed();
        let path = node.directory.path().join("elsewhere");
        node.kernel.place(&path, 5);
        node.kernel.tamper(5, Some(Capture::default()));
        let held = ["elsewhere", "netns/u1"].map(|name| node.kernel.open(&node.directory.path().join(name)).unwrap());
        let held = held.into_iter().map(|network| ("u".to_owned(), network)).collect();
        assert_eq!(node.uninstall_with(held).await.unwrap(), Uninstalled { released: 3, program_removed: true });
        assert!(node.is_clean() && node.kernel.content(5).is_none());
        let mut calls = node.kernel.calls();
        calls.sort();
        assert_eq!(calls, ["remove 5", "remove 7", "remove 8"], "each once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crash_halfway_is_finished_by_the_next_run() {
        let steps: [fn(&Node); 4] = [
            |node| node.settings.remove_configuration().unwrap(),
            |node| node.status.remove(&ObjectKey::pod("shop", "web"), None).unwrap(),
            |node| node.kernel.tamper(7, None),
            |node| assert!(node.settings.remove_files().unwrap()),
        ];
        for killed_after in 0..=steps.len() {
            let node = Node::installed();
            for step in &steps[..killed_after] {
                step(&node);
            }
            assert!(!node.is_clean(), "one pod is left at every step");
            node.uninstall().await.unwrap();
            assert!(node.is_clean(), "killed after step {killed_after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rules_that_stay_are_said_and_the_plugin_stays_with_them() {
        let node = Node::installed();
        node.kernel.refuse_remove(true);
        let error = node.uninstall().await.unwrap_err().to_string();
        assert!(error.contains("2 pods may still hold"), "{error}");
        assert!(node.directory.path().join("bin").join(PLUGIN).exists());
        node.kernel.refuse_remove(false);
        node.uninstall().await.unwrap();
        assert!(node.is_clean());
    }
}
