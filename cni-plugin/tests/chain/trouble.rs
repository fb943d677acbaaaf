//! What tests do to a node: power cuts, meddling neighbours, missing programs, pods of unusual kinds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::node::{Node, succeeds};
use super::runtime::Sandbox;

impl Node {
    /// As a careless CNI does: its whole configuration, without us, in place.
    pub(crate) fn rewrite_configuration(&self, round: u32) {
        let mut list: Value = serde_json::from_str(&self.configuration_without_us()).unwrap();
        list["round"] = json!(round);
        fs::write(self.path("net.d/10-bridge.conflist"), format!("{list:#}")).unwrap();
    }

    /// The power fails: every namespace is gone, and so is what lives in memory.
    pub(crate) fn lose_namespaces(&self) {
        for entry in fs::read_dir(self.path("netns")).unwrap().flatten() {
            let target = fs::read_link(entry.path()).unwrap();
            succeeds("ip", &["netns", "del", &target.file_name().unwrap().to_string_lossy()]);
            fs::remove_file(entry.path()).unwrap();
        }
        fs::remove_dir_all(self.path("run")).unwrap();
        let _ = fs::remove_file(self.node_socket());
        self.exec(&["ip", "link", "del", "cni0"]);
        // host-local would hold the addresses for sandboxes that a runtime never names again.
        fs::remove_dir_all(self.path("ipam")).unwrap();
    }

    /// A search path with nothing but these programs.
    pub(crate) fn programs(&self, names: &[&str]) -> String {
        let directory = self.path("programs");
        fs::create_dir_all(&directory).unwrap();
        for name in names {
            let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|place| Path::new(place).join(name));
            let place = places.into_iter().find(|place| place.exists()).unwrap();
            symlink(place, directory.join(name)).unwrap();
        }
        directory.to_string_lossy().into_owned()
    }

    /// A network namespace that belongs to a user namespace of its own, as that of a pod with `hostUsers: false`; nothing
    /// where the kernel does not allow them.
    pub(crate) fn user_namespace(&self, uid: &str) -> Option<Owner> {
        let sign = self.path(&format!("sign-{uid}"));
        let script = format!("touch {}; exec sleep infinity", sign.display());
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "sh", "-c", &script]);
        let mut child = unshare.stdin(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        while !sign.exists() {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::yield_now();
        }
        let owner = Owner { child };
        owner.run(&["ip", "link", "set", "lo", "up"]);
        Some(owner)
    }

    pub(crate) fn add_in(&self, owner: &Owner, namespace: &str, pod: &str, uid: &str) -> Result<Value, String> {
        self.add_at(&owner.path(), namespace, pod, uid)
    }

    /// Starts a pod's network in a namespace that is there already.
    pub(crate) fn add_at(&self, netns: &Path, namespace: &str, pod: &str, uid: &str) -> Result<Value, String> {
        let list: Value = serde_json::from_str(&self.configuration()).unwrap();
        self.run_in(&list, "ADD", &Sandbox { namespace, pod, uid, netns }, None)
    }

    /// The same as a runtime does it that does not know of us.
    pub(crate) fn add_bare_in(&self, netns: &Path, namespace: &str, pod: &str, uid: &str) -> Result<Value, String> {
        let list: Value = serde_json::from_str(&self.configuration_without_us()).unwrap();
        self.run_in(&list, "ADD", &Sandbox { namespace, pod, uid, netns }, None)
    }

    /// Calls our plugin once more, with what the one before it gave.
    pub(crate) fn repeat_our_add(
        &self,
        namespace: &str,
        pod: &str,
        uid: &str,
        previous: &Value,
    ) -> Result<Value, String> {
        let mut list: Value = serde_json::from_str(&self.configuration()).unwrap();
        let plugins = list["plugins"].as_array_mut().unwrap();
        plugins.retain(|plugin| plugin["type"] == "fairway-cni");
        assert_eq!(plugins.len(), 1);
        let netns = Path::new("/run/netns").join(self.netns(uid));
        self.run_in(&list, "ADD", &Sandbox { namespace, pod, uid, netns: &netns }, Some(previous))
    }
}

/// The process that holds a user namespace.
pub(crate) struct Owner {
    child: Child,
}

impl Owner {
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.child.id()).into()
    }

    /// Runs a command in its network namespace; what it says.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        let network = format!("--net={}", self.path().display());
        let output = Command::new("nsenter").arg(network).args(command).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
