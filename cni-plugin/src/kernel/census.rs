//! Which pods' processes run in which network namespace, by their control groups: finds a pod's namespace when nobody
//! told us of it, and unmasks one that belongs to another pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::NamespaceId;

/// Longest list of a process's control groups that is read, in bytes: a dozen of the older kind have a path each.
const LONGEST_GROUPS: usize = 16 * 1024;
/// How long a process counts as the one that it was: its number is given to another only after all others were, which takes
/// longer.
const TRUSTED_FOR: Duration = Duration::from_secs(30);
/// How long a process that belongs to no pod may still come to belong to one.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

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

/// To which pods the processes belong that were there at the last census. Control groups are what takes time to read, and a
/// process seldom has another: only who is new, or in another namespace than before, is asked.
#[derive(Debug, Default)]
pub(super) struct Register {
    state: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When all were asked; nothing before the first time.
    since: Option<Instant>,
    processes: BTreeMap<u32, Process>,
}

/// One process in a namespace that is not the node's own.
#[derive(Debug)]
struct Process {
    namespace: NamespaceId,
    /// When it was there for the first time.
    first: Instant,
    /// When it was asked.
    asked: Instant,
    /// The pod it belongs to, if any.
    uid: Option<Box<str>>,
}

impl Process {
    /// Whether it need not be asked again. A runtime moves a process into a pod's groups a moment after it was made.
    fn is_known(&self, namespace: NamespaceId) -> bool {
        let is_settled = self.uid.is_some() || self.asked.saturating_duration_since(self.first) >= SETTLED_AFTER;
        self.namespace == namespace && is_settled
    }
}

impl Register {
    /// Takes the census of all processes below `proc` that are not in the namespace `host`.
    pub(super) fn take(&self, proc: &Path, host: NamespaceId, now: Instant) -> Census {
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if known.since.is_none_or(|since| now.saturating_duration_since(since) >= TRUSTED_FOR) {
            *known = Known { since: Some(now), processes: BTreeMap::new() };
        }
        let mut before = std::mem::take(&mut known.processes);
        let mut census = Census::default();
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        let mut processes: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        // The oldest first: the sandbox itself rather than a helper that is gone in a moment.
        processes.sort_unstable();
        let mut buffer = vec![0; LONGEST_GROUPS];
        for number in processes {
            let directory = proc.join(number.to_string());
            let path = directory.join("ns/net");
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let namespace = (metadata.dev(), metadata.ino());
            // The node's own processes need no second look.
            if namespace == host {
                continue;
            }
            let process = match before.remove(&number) {
                Some(process) if process.is_known(namespace) => process,
                unsure => {
                    let Some(groups) = read(&directory.join("cgroup"), &mut buffer) else { continue };
                    let first = unsure.map_or(now, |process| process.first);
                    Process { namespace, first, asked: now, uid: pod_uid(groups).map(String::into_boxed_str) }
                }
            };
            if let Some(uid) = &process.uid {
                census.note(uid, namespace, &path);
            }
            known.processes.insert(number, process);
        }
        census
    }
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

    struct Processes(tempfile::TempDir);

    impl Processes {
        fn start(&self, pid: &str, namespace: &str, groups: &str) -> NamespaceId {
            let proc = self.0.path();
            let directory = proc.join(pid);
            fs::create_dir_all(directory.join("ns")).unwrap();
            fs::write(directory.join("cgroup"), format!("0::/{groups}/c\n")).unwrap();
            let file = proc.join(namespace);
            if !file.exists() {
                fs::write(&file, "").unwrap();
            }
            let link = directory.join("ns/net");
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&file, link).unwrap();
            let metadata = fs::metadata(file).unwrap();
            (metadata.dev(), metadata.ino())
        }
    }

    fn pod(uid: &str) -> String {
        format!("kubepods/pod{uid}")
    }

    #[test]
    fn the_oldest_process_of_a_pod_stands_for_its_namespace() {
        let processes = Processes(tempfile::tempdir().unwrap());
        let proc = processes.0.path();
        let other = UID.replace("1b9a", "2c9a");
        let host = processes.start("1", "host", "none");
        processes.start("30", "host", &pod(&other));
        let namespace = processes.start("200", "pod", &pod(UID));
        processes.start("31", "pod", &pod(UID));
        let census = Register::default().take(proc, host, Instant::now());
        assert_eq!(census.namespace_of(UID), Some(proc.join("31/ns/net").as_path()));
        assert_eq!(census.namespace_of(&other), None, "the node's namespace is nobody's");
        assert_eq!(census.other_owner(namespace, UID), None);
        assert_eq!(census.other_owner(namespace, &other), Some(UID));
        assert_eq!(census.other_owner(host, UID), None);
        assert!(census.is_home(namespace, UID) && !census.is_home(namespace, &other));
    }

    #[test]
    fn who_is_known_is_asked_again_only_in_another_namespace_or_after_a_while() {
        let processes = Processes(tempfile::tempdir().unwrap());
        let (proc, other) = (processes.0.path(), UID.replace("1b9a", "2c9a"));
        let (register, start) = (Register::default(), Instant::now());
        let host = processes.start("1", "host", "none");
        let namespace = processes.start("30", "pod", &pod(UID));
        let owner = |later| {
            let census = register.take(proc, host, start + later);
            [UID, &other].into_iter().find(|uid| census.namespace_of(uid).is_some()).map(str::to_owned)
        };
        assert_eq!(owner(Duration::ZERO).as_deref(), Some(UID));
        // Something that no process does, to see that it is not asked.
        processes.start("30", "pod", &pod(&other));
        assert_eq!(owner(SETTLED_AFTER).as_deref(), Some(UID));
        assert_eq!(owner(TRUSTED_FOR), Some(other.clone()), "the number may be another's");
        let moved = processes.start("30", "elsewhere", &pod(UID));
        assert_ne!(moved, namespace);
        assert_eq!(owner(TRUSTED_FOR).as_deref(), Some(UID));
        fs::remove_dir_all(proc.join("30")).unwrap();
        assert_eq!(owner(TRUSTED_FOR), None);
    }

    #[test]
    fn a_process_without_a_pod_is_asked_until_it_had_time_to_come_to_one() {
        let processes = Processes(tempfile::tempdir().unwrap());
        let (register, start) = (Register::default(), Instant::now());
        let host = processes.start("1", "host", "none");
        let belongs = |later| register.take(processes.0.path(), host, start + later).namespace_of(UID).is_some();
        processes.start("30", "pod", "runtime");
        assert!(!belongs(Duration::ZERO));
        processes.start("30", "pod", &pod(UID));
        assert!(belongs(Duration::ZERO));
        processes.start("40", "pod", "runtime");
        assert!(belongs(Duration::ZERO));
        assert!(belongs(SETTLED_AFTER), "asked once more");
        processes.start("30", "pod", "runtime");
        processes.start("40", "pod", &pod(UID));
        fs::remove_dir_all(processes.0.path().join("30")).unwrap();
        assert!(!belongs(SETTLED_AFTER), "it had its time");
    }
}
