//! Running test code inside a network namespace of the lab: for clients that no program of the lab is.

use std::fs::File;
use std::path::PathBuf;
use std::thread;

use fairway_lab::Lab;
use nix::sched::{CloneFlags, setns};

use super::labs;

/// Runs `work` on a thread of its own inside the network of the pod `NAMESPACE/POD`.
pub(crate) fn pod<T: Send>(lab: &Lab, pod: &str, work: impl AsyncFnOnce() -> T + Send) -> T {
    enter(lab, &labs::pod(lab, pod).uid, work)
}

/// Runs `work` on a thread of its own inside the network of a node, or of the `underlay`.
pub(crate) fn node<T: Send>(lab: &Lab, node: &str, work: impl AsyncFnOnce() -> T + Send) -> T {
    enter(lab, node, work)
}

fn enter<T: Send>(lab: &Lab, namespace: &str, work: impl AsyncFnOnce() -> T + Send) -> T {
    let supervisor = lab.status().unwrap().supervisor.unwrap();
    let pinned = fairway_lab::layout::netns(namespace);
    let path = PathBuf::from(format!("/proc/{supervisor}/root{}", pinned.display()));
    thread::scope(|scope| {
        let run = move || {
            setns(File::open(&path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            // One thread, so that every socket is made on the one that is inside.
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work())
        };
        scope.spawn(run).join().unwrap()
    })
}
