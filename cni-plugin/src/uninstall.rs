//! Takes everything of ours from a node, whatever an agent has left there, and looks whether it is gone.
//!
//! No new pods first, then the peers, then the rules, and what the plugin needs last: killed anywhere in between, it
//! is simply run again. Pods go on running without the mesh and can be deleted as ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::install::{self, InstallError};
use crate::kernel::{Inspection, Kernel, KernelError};
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

/// Uninstalls. No agent of this node may be at work any more, it would put everything back.
///
/// # Errors
/// When something is left; it says what.
pub async fn uninstall(
    kernel: Arc<dyn Kernel>,
    settings: &install::Settings,
    status: &Notices,
    netns_dir: &Path,
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
    let netns_dir = netns_dir.to_owned();
    // Hundreds of pods take seconds, in which proxies are still to be answered.
    let released = tokio::task::spawn_blocking(move || release_all(kernel.as_ref(), &netns_dir));
    let released = released.await.unwrap_or_else(|error| Err(UninstallError::Rules(vec![error.to_string()])))?;
    Ok(Uninstalled { released, program_removed: settings.remove_files()? })
}

/// How many namespaces held rules that are gone now.
fn release_all(kernel: &dyn Kernel, netns_dir: &Path) -> Result<usize, UninstallError> {
    let mut left = Vec::new();
    let mut released = 0;
    for path in namespaces(kernel, netns_dir) {
        match release(kernel, &path) {
            Ok(true) => released += 1,
            // The node's own, one that has ended, or no namespace at all.
            Ok(false)
            | Err(KernelError::HostNamespace(_) | KernelError::NoNamespace(_) | KernelError::NotANamespace(_)) => {}
            Err(error) => left.push(format!("{}: {error}", path.display())),
        }
    }
    if left.is_empty() { Ok(released) } else { Err(UninstallError::Rules(left)) }
}

/// Every namespace a pod of ours may be in, once each.
fn namespaces(kernel: &dyn Kernel, netns_dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(netns_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut seen = std::collections::BTreeSet::new();
    let census = kernel.census();
    let all = files.chain(census.paths().map(Path::to_owned));
    all.filter(|path| kernel.identify(path).is_ok_and(|id| seen.insert(id))).collect()
}

/// Whether there was anything to remove; what counts is that nothing is read back afterwards.
fn release(kernel: &dyn Kernel, path: &Path) -> Result<bool, KernelError> {
    let namespace = kernel.open(path)?;
    if kernel.inspect(&namespace, &Capture::default())? == Inspection::Absent {
        return Ok(false);
    }
    kernel.remove(&namespace)?;
    match kernel.inspect(&namespace, &Capture::default())? {
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
            let kernel = Arc::<FakeKernel>::clone(&self.kernel);
            uninstall(kernel, &self.settings, &self.status, &self.directory.path().join("netns")).await
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
        assert_eq!(node.kernel.calls(), ["remove 7", "remove 8"], "a namespace without our rules is not touched");
        assert_eq!(node.uninstall().await.unwrap(), Uninstalled { released: 0, program_removed: true });
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
