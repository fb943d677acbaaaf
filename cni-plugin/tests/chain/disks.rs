//! A node whose disks are full or can only be read.

use std::fs;
use std::path::PathBuf;

use super::node::{Node, skip, succeeds};

/// Size of each disk: room for what a test writes, and soon filled.
const SIZE: &str = "size=512k";

/// Directories of a node on small file systems of their own.
struct Disks(Vec<PathBuf>);

impl Disks {
    fn mount(node: &Node, names: &[&str]) -> Option<Self> {
        let mut disks = Self(Vec::new());
        for name in names {
            let path = node.path(name);
            let kept: Vec<_> = fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()).collect();
            let kept: Vec<_> = kept.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
            if !succeeds("mount", &["-t", "tmpfs", "-o", SIZE, "tmpfs", &path.to_string_lossy()]) {
                return None;
            }
            disks.0.push(path);
            for (path, content) in kept {
                fs::write(path, content).unwrap();
            }
        }
        Some(disks)
    }

    fn fill(&self) {
        for path in &self.0 {
            // It ends in an error: there is no room for all of it.
            assert!(fs::write(path.join(".filler"), vec![0; 1 << 20]).is_err());
        }
    }

    fn empty(&self) {
        for path in &self.0 {
            fs::remove_file(path.join(".filler")).unwrap();
        }
    }

    fn remount(&self, how: &str) {
        for path in &self.0 {
            assert!(succeeds("mount", &["-o", &format!("remount,{how},{SIZE}"), &path.to_string_lossy()]), "{how}");
        }
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for path in &self.0 {
            succeeds("umount", &["--lazy", &path.to_string_lossy()]);
        }
    }
}

#[test]
fn full_and_read_only_disks_are_said_and_hold_pods_back_until_there_is_room() {
    let Some(node) = Node::prepare("disks", "1.0.0", &[]) else { return };
    // What the agent writes: its notes for the plugin, the chain, and the pods' status.
    let Some(disks) = Disks::mount(&node, &["net.d", "manifests"]) else {
        skip("a disk that is full or read-only", "to mount file systems");
        return;
    };
    node.start_agent();
    let _proxy = node.enrol_shop();
    for (uid, complaint) in [("full", "not full"), ("readonly", "writable")] {
        node.declare("shop", uid, uid);
        node.wait_seen(uid);
        let configuration = node.configuration();
        if uid == "full" {
            disks.fill();
            // Another CNI needs no more room than it had.
            node.rewrite_configuration(1);
            let is_out = |line: &str| line == "istio_cni_install_ready 0";
            node.wait("it cannot be installed", || node.page("/metrics").lines().any(is_out));
        } else {
            disks.remount("ro");
        }
        std::thread::scope(|scope| {
            let add = scope.spawn(|| node.add_with(&configuration, "shop", uid, uid));
            node.wait("what is in the way is said", || node.page("/debug/pods").contains(complaint));
            assert!(!add.is_finished(), "the pod waits");
            if uid == "full" {
                disks.empty()
            } else {
                disks.remount("rw")
            }
            // In time, or when the kubelet tries again.
            if add.join().unwrap().is_err() {
                node.del_with(&configuration, "shop", uid, uid).unwrap();
                node.wait_installed();
                node.add_until_it_starts("shop", uid, uid);
            }
        });
        assert!(node.is_captured(uid) && node.status("shop", uid).contains("enabled"), "{uid}");
        node.wait_installed();
    }
    node.stop_agent();
}
