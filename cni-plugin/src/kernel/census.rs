//! Which pods' processes run in which network namespace, by their control groups: finds a pod's namespace when nobody
//! told us of it, and unmasks one that belongs to another pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::NamespaceId;

/// Longest list of a process's control groups that is read, in bytes: a dozen of the older kind have a path each.
const LONGEST_GROUPS: usize = 16 * 1024;

/// The processes of a node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    namespaces: BTreeMap<String, (NamespaceId, PathBuf)>,
    owners: BTreeMap<NamespaceId, BTreeSet<String>>,
}

impl Census {
    /// Notes that the process with namespace file `path` belongs to the pod `uid`. The first one of a pod counts.
    pub fn note(&mut self, uid: &str, namespace: NamespaceId, path: &Path) {
        self.namespaces.entry(uid.to_owned()).or_insert_with(|| (namespace, path.to_owned()));
        self.owners.entry(namespace).or_default().insert(uid.to_owned());
    }

    /// A file that stands for the namespace of the pod, as long as its process lives.
    #[must_use]
    pub fn namespace_of(&self, uid: &str) -> Option<&Path> {
        self.namespaces.get(uid).map(|(_, path)| path.as_path())
    }

    /// Whether the pod has a process in the namespace.
    #[must_use]
    pub fn is_home(&self, namespace: NamespaceId, uid: &str) -> bool {
        self.owners.get(&namespace).is_some_and(|owners| owners.contains(uid))
    }

    /// One file for the namespace of each pod.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.namespaces.values().map(|(_, path)| path.as_path())
    }

    /// Another pod's uid when only other pods have processes in the namespace.
    #[must_use]
    pub fn other_owner(&self, namespace: NamespaceId, uid: &str) -> Option<&str> {
        let owners = self.owners.get(&namespace)?;
        if owners.contains(uid) { None } else { owners.first().map(String::as_str) }
    }
}

/// Takes the census of all processes below `proc` that are not in the namespace `host`.
pub(super) fn take(proc: &Path, host: NamespaceId) -> Census {
    let mut census = Census::default();
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let mut processes: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The oldest first: the sandbox itself rather than a helper that is gone in a moment.
    processes.sort_unstable();
    let mut buffer = vec![0; LONGEST_GROUPS];
    for process in processes {
        let directory = proc.join(process.to_string());
        let path = directory.join("ns/net");
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let namespace = (metadata.dev(), metadata.ino());
        // The node's own processes need no second look, which takes three times as long.
        if namespace == host {
            continue;
        }
        let Some(groups) = read(&directory.join("cgroup"), &mut buffer) else { continue };
        if let Some(uid) = pod_uid(groups) {
            census.note(&uid, namespace, &path);
        }
    }
    census
}

/// A short file of the kernel's, which gives all of it at once. A pod that starts waits for hundreds of them, so nothing is
/// asked before, such as its size.
fn read<'a>(path: &Path, buffer: &'a mut [u8]) -> Option<&'a str> {
    let length = File::open(path).ok()?.read(buffer).ok()?;
    std::str::from_utf8(buffer.get(..length)?).ok()
}

/// The pod in a process's control groups. A kubelet names a pod's group `podUID`, or `...-podUID.slice` with
/// underscores under systemd.
fn pod_uid(groups: &str) -> Option<String> {
    let segments = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    segments
        .filter_map(|segment| {
            let name = segment.strip_suffix(".slice").unwrap_or(segment);
            let uid = name.rsplit_once("-pod").map_or_else(|| name.strip_prefix("pod"), |(_, uid)| Some(uid))?;
            let uid = uid.replace('_', "-");
            is_uid(&uid).then_some(uid)
        })
        .next_back()
}

/// A UUID, or the hash that names a static pod.
fn is_uid(text: &str) -> bool {
    let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    hexadecimal && (text.len() == 36 && text.matches('-').count() == 4 || text.len() == 32 && !text.contains('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "1b9a3c7e-0000-4000-8000-0123456789ab";

    #[test]
    fn uids_in_every_layout_of_control_groups() {
        let systemd = UID.replace('-', "_");
        let rows = [
            (format!("0::/kubepods/besteffort/pod{UID}/c0ffee\n"), Some(UID)),
            (format!("12:cpu:/kubepods/pod{UID}/c\n0::/\n"), Some(UID)),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/cri-containerd-c.scope\n"
                ),
                Some(UID),
            ),
            (
                format!("0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{systemd}.slice/crio-c.scope\n"),
                Some(UID),
            ),
            (
                "0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/c\n".to_owned(),
                Some("0123456789abcdef0123456789abcdef"),
            ),
            ("0::/system.slice/podman.service\n".to_owned(), None),
            ("0::/user.slice/podium\n".to_owned(), None),
            ("0::/\n".to_owned(), None),
            (String::new(), None),
        ];
        for (groups, uid) in rows {
            assert_eq!(pod_uid(&groups).as_deref(), uid, "{groups}");
        }
    }

    #[test]
    fn the_oldest_process_of_a_pod_stands_for_its_namespace() {
        let proc = tempfile::tempdir().unwrap();
        let other = UID.replace("1b9a", "2c9a");
        let process = |pid: &str, namespace: &str, uid: &str| {
            let directory = proc.path().join(pid);
            fs::create_dir_all(directory.join("ns")).unwrap();
            fs::write(directory.join("cgroup"), format!("0::/kubepods/pod{uid}/c\n")).unwrap();
            let file = proc.path().join(namespace);
            if !file.exists() {
                fs::write(&file, "").unwrap();
            }
            std::os::unix::fs::symlink(&file, directory.join("ns/net")).unwrap();
            let metadata = fs::metadata(file).unwrap();
            (metadata.dev(), metadata.ino())
        };
        let host = process("1", "host", "none");
        process("30", "host", &other);
        let namespace = process("200", "pod", UID);
        process("31", "pod", UID);
        let census = take(proc.path(), host);
        assert_eq!(census.namespace_of(UID), Some(proc.path().join("31/ns/net").as_path()));
        assert_eq!(census.namespace_of(&other), None, "the node's namespace is nobody's");
        assert_eq!(census.other_owner(namespace, UID), None);
        assert_eq!(census.other_owner(namespace, &other), Some(UID));
        assert_eq!(census.other_owner(host, UID), None);
    }
}
