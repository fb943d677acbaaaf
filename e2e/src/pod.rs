//! The life of one pod: namespaces, link, containers, and the orderly end of all three.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fairway_core::source::ObjectKey;
use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::addresses::node_name;
use crate::container::{ContainerState, Launch, Restart, Runner};
use crate::error::{Doing, Result};
use crate::kubelet::{Placement, Progress};
use crate::layout::{Layout, netns};
use crate::network;
use crate::probe::Probe;
use crate::reaper::Reaper;
use crate::sandbox::{self, Plan, Sandbox};

/// Time to end when asked to, unless the pod says otherwise. Kubernetes' thirty seconds are for work that must not be lost.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);
/// State changes of containers not yet seen by the pod; they come one at a time per container.
const WAITING_STATES: usize = 16;

/// What became of a pod.
#[derive(Debug)]
pub(crate) enum PodEvent {
    /// Its namespaces are ready; the thread that holds them.
    Networked(i32),
    /// It came further, or fell back.
    Progress(Progress),
    /// Nothing of it is left.
    Gone,
}

/// Everything one pod needs.
pub(crate) struct PodTask {
    pub(crate) key: ObjectKey,
    pub(crate) pod: Arc<Pod>,
    pub(crate) placement: Placement,
    /// Host number on its node; none for a pod in its node's network.
    pub(crate) host: Option<u8>,
    pub(crate) node: Sandbox,
    pub(crate) reaper: Reaper,
    pub(crate) path: String,
    pub(crate) hosts: String,
    /// Turns true when its containers may start.
    pub(crate) may_start: watch::Receiver<bool>,
    pub(crate) stop: CancellationToken,
    pub(crate) events: mpsc::Sender<(ObjectKey, String, PodEvent)>,
}

/// The private `/etc/hosts` of a pod.
pub(crate) fn hosts_file(uid: &str) -> PathBuf {
    Layout::inside().pod(uid).join("hosts")
}

/// Rewrites a mounted file: a new one in its place would not be seen by those who have the old one mounted.
pub(crate) fn write_in_place(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).doing(|| format!("writing {}", path.display()))
}

impl PodTask {
    /// Runs the pod until it is stopped.
    pub(crate) async fn run(mut self) {
        match self.set_up().await {
            Ok(sandbox) => {
                self.emit(PodEvent::Networked(sandbox.tid())).await;
                self.live(sandbox).await;
            }
            Err(error) => {
                tracing::error!(pod = %self.key, %error, "cannot set up a pod");
                let waiting = Some(error.to_string());
                self.emit(PodEvent::Progress(Progress { waiting, containers: Vec::new() })).await;
                self.stop.cancelled().await;
            }
        }
        self.tear_down().await;
        self.emit(PodEvent::Gone).await;
    }

    async fn emit(&self, event: PodEvent) {
        // The supervisor listens as long as the lab lives.
        let _ = self.events.send((self.key.clone(), self.placement.uid.clone(), event)).await;
    }

    async fn set_up(&self) -> Result<Sandbox> {
        let uid = &self.placement.uid;
        let directory = Layout::inside().pod(uid);
        fs::create_dir_all(&directory).doing(|| format!("creating {}", directory.display()))?;
        write_in_place(&hosts_file(uid), &self.hosts)?;
        let mut files = vec![(hosts_file(uid), PathBuf::from("/etc/hosts"))];
        if Path::new("/etc/resolv.conf").exists() {
            // Without a name server of its own, a pod would wait for the host's, which it cannot reach.
            let resolver = directory.join("resolv.conf");
            let search = format!("search {}.svc.cluster.local svc.cluster.local cluster.local\n", self.key.namespace);
            write_in_place(&resolver, &search)?;
            files.push((resolver, PathBuf::from("/etc/resolv.conf")));
        }
        let files = Some(files.into_iter().filter(|(_, target)| target.exists()).collect());
        let Some(host) = self.host else {
            return Sandbox::start(Plan { network: node_name(self.placement.node), fresh: false, files }).await;
        };
        let sandbox = Sandbox::start(Plan { network: uid.clone(), fresh: true, files }).await?;
        let (reaper, path) = (self.reaper.clone(), self.path.clone());
        let script = network::pod_on_node(self.placement.node, host, self.placement.address, uid);
        self.node.run(move || network::apply(&reaper, &path, &script)).await??;
        let (reaper, path) = (self.reaper.clone(), self.path.clone());
        let script = network::pod(self.placement.address);
        sandbox
            .run(move || {
                network::configure(false)?;
                network::apply(&reaper, &path, &script)
            })
            .await??;
        Ok(sandbox)
    }

    /// From the first wait to the end of the last container.
    async fn live(&mut self, sandbox: Sandbox) {
        if !*self.may_start.borrow() {
            let waiting = Some("enrolled, waiting for the agent to capture it".to_owned());
            self.emit(PodEvent::Progress(Progress { waiting, containers: Vec::new() })).await;
        }
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => return,
            // A closed channel means that the lab ends.
            _ = self.may_start.wait_for(|may| *may) => {}
        }
        let (states, mut changes) = mpsc::channel(WAITING_STATES);
        let mut runners = JoinSet::new();
        let mut progress = Progress::default();
        for runner in self.runners(&sandbox, &states) {
            match runner {
                Ok(runner) => {
                    progress.containers.push(runner.state.clone());
                    runners.spawn(runner.run(self.stop.clone()));
                }
                Err(message) => progress.waiting = Some(message),
            }
        }
        drop(states);
        self.emit(PodEvent::Progress(progress.clone())).await;
        while let Some((number, state)) = changes.recv().await {
            let Some(slot) = progress.containers.get_mut(number) else { continue };
            *slot = state;
            self.emit(PodEvent::Progress(progress.clone())).await;
        }
        while runners.join_next().await.is_some() {}
        self.stop.cancelled().await;
    }

    fn runners(
        &self,
        sandbox: &Sandbox,
        states: &mpsc::Sender<(usize, ContainerState)>,
    ) -> Vec<std::result::Result<Runner, String>> {
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let grace = spec.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let grace = grace.map_or(DEFAULT_GRACE, Duration::from_secs);
        let launches = spec.containers.iter().map(|container| {
            let log = Layout::inside().container_log(&self.key.namespace, &self.key.name, &container.name);
            Launch::of(&self.pod, container, &self.placement, &self.path, log).map(|launch| (container, launch))
        });
        let mut number = 0;
        launches
            .map(|launch| {
                let (container, launch) = launch?;
                let runner = Runner {
                    launch,
                    probe: Probe::of(&self.pod, container, self.placement.address.v4.into()),
                    restart: Restart::of(&self.pod),
                    grace,
                    reaper: self.reaper.clone(),
                    sandbox: sandbox.clone(),
                    node: self.node.clone(),
                    states: states.clone(),
                    number,
                    state: ContainerState { name: container.name.clone(), ..ContainerState::default() },
                };
                number += 1;
                Ok(runner)
            })
            .collect()
    }

    async fn tear_down(&self) {
        let Some(host) = self.host else { return };
        kill_all_in(&netns(&self.placement.uid));
        let (reaper, path) = (self.reaper.clone(), self.path.clone());
        let script = network::remove_pod(host);
        // The link is missing when setting up failed; there is nothing else to do about it.
        let _ = self.node.run(move || network::apply(&reaper, &path, &script)).await;
        sandbox::unpin(&self.placement.uid);
        let _ = fs::remove_dir_all(Layout::inside().pod(&self.placement.uid));
    }
}

/// Kills every process in a network namespace: children that left their group, and commands run by `exec`.
fn kill_all_in(namespace: &Path) {
    let Ok(wanted) = fs::metadata(namespace).map(|metadata| metadata.st_ino()) else { return };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|pid| *pid > 1) {
        if fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|metadata| metadata.st_ino() == wanted) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
