//! The life of one pod: namespaces, network, containers, and the orderly end of all three.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fairway_core::source::ObjectKey;
use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::addresses::{self, Dual, node_name};
use crate::backoff::Backoff;
use crate::cni::{Attachment, Chain, Made};
use crate::container::{ContainerState, Launch, Restart, Runner};
use crate::error::{Doing, Error, Result};
use crate::hosts::{self, Entry};
use crate::kubelet::{Placement, Progress};
use crate::layout::{Layout, netns};
use crate::network;
use crate::probe::Probe;
use crate::reaper::Reaper;
use crate::sandbox::{self, Plan, Sandbox};
use crate::volumes::{self, Mount, Order};

/// Time to end when asked to, unless the pod says otherwise. Kubernetes' thirty seconds are for work that must not be lost.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);
/// State changes of containers not yet seen by the pod; they come one at a time per container.
const WAITING_STATES: usize = 16;

/// What became of a pod.
#[derive(Debug)]
pub(crate) enum PodEvent {
    /// Its namespaces are ready: the thread that holds them, and the pod's addresses.
    Networked(i32, Dual),
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
    /// What makes its network; none for a pod in its node's network.
    pub(crate) chain: Option<Chain>,
    /// Whether its network is complete only with the mesh's plugin.
    pub(crate) mesh: bool,
    pub(crate) node: Sandbox,
    pub(crate) reaper: Reaper,
    /// Environment of every container.
    pub(crate) variables: BTreeMap<String, String>,
    /// Where to order volumes.
    pub(crate) orders: mpsc::Sender<Order>,
    /// What its `/etc/hosts` says of services.
    pub(crate) hosts: Vec<Entry>,
    pub(crate) stop: CancellationToken,
    pub(crate) events: mpsc::Sender<(ObjectKey, String, PodEvent)>,
}

/// The private `/etc/hosts` of a pod.
pub(crate) fn hosts_file(uid: &str) -> PathBuf {
    Layout::inside().pod(uid).join("hosts")
}

/// Rewrites a mounted file: a new one in its place would not be seen by those who have the old one mounted. It is never empty in
/// between: somebody may be looking names up.
pub(crate) fn write_in_place(path: &Path, content: &str) -> Result<()> {
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all(content.as_bytes())?;
        file.set_len(content.len().try_into().unwrap_or(u64::MAX))
    };
    write().doing(|| format!("writing {}", path.display()))
}

impl PodTask {
    /// Runs the pod until it is stopped.
    pub(crate) async fn run(mut self) {
        self.attempt().await;
        self.emit(PodEvent::Gone).await;
    }

    /// As a kubelet does: a sandbox that could not be made whole is taken down, and another one tried.
    async fn attempt(&mut self) {
        let mut backoff = Backoff::default();
        if let (Some(chain), true) = (&self.chain, self.mesh) {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = chain.await_mesh() => {}
            }
        }
        for attempt in 1_u32.. {
            let mut made = match self.plan(attempt) {
                Ok(made) => made,
                Err(error) => return self.give_up(&error).await,
            };
            let set_up = self.set_up(made.as_mut()).await;
            let is_up = set_up.is_ok();
            match set_up {
                Ok((sandbox, address)) => {
                    self.placement.address = Some(address);
                    self.emit(PodEvent::Networked(sandbox.tid(), address)).await;
                    self.live(sandbox).await;
                }
                Err(error) => {
                    tracing::warn!(pod = %self.key, attempt, %error, "cannot set up a pod yet");
                    self.emit(PodEvent::Progress(waiting(error.to_string()))).await;
                }
            }
            self.tear_down(made).await;
            if is_up || self.stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(backoff.after_run(Duration::ZERO)) => {}
            }
        }
    }

    async fn give_up(&self, error: &Error) {
        tracing::error!(pod = %self.key, %error, "cannot set up a pod");
        self.emit(PodEvent::Progress(waiting(error.to_string()))).await;
        self.stop.cancelled().await;
    }

    /// What the next sandbox is made with; nothing for a pod in its node's network.
    fn plan(&self, attempt: u32) -> Result<Option<Made>> {
        let Some(chain) = &self.chain else { return Ok(None) };
        let uid = self.placement.uid.clone();
        let attachment = Attachment {
            container: format!("{uid}.{attempt}"),
            namespace: self.key.namespace.clone(),
            pod: self.key.name.clone(),
            uid,
        };
        chain.plan(attachment).map(Some)
    }

    async fn emit(&self, event: PodEvent) {
        // The supervisor listens as long as the lab lives.
        let _ = self.events.send((self.key.clone(), self.placement.uid.clone(), event)).await;
    }

    async fn set_up(&self, made: Option<&mut Made>) -> Result<(Sandbox, Dual)> {
        let uid = &self.placement.uid;
        let directory = Layout::inside().pod(uid);
        fs::create_dir_all(&directory).doing(|| format!("creating {}", directory.display()))?;
        let mut files = vec![(hosts_file(uid), PathBuf::from("/etc/hosts"))];
        self.write_hosts(&[])?;
        if Path::new("/etc/resolv.conf").exists() {
            // Without a name server of its own, a pod would wait for the host's, which it cannot reach.
            let resolver = directory.join("resolv.conf");
            let search = format!("search {}.svc.cluster.local svc.cluster.local cluster.local\n", self.key.namespace);
            write_in_place(&resolver, &search)?;
            files.push((resolver, PathBuf::from("/etc/resolv.conf")));
        }
        files.retain(|(_, target)| target.exists());
        for (source, target) in self.volumes().await? {
            volumes::make_mount_point(&target)?;
            files.push((source, target));
        }
        let files = Some(files);
        let (Some(chain), Some(made)) = (&self.chain, made) else {
            let number = self.placement.node;
            let sandbox = Sandbox::start(Plan { network: node_name(number), fresh: false, files }).await?;
            let address = addresses::node(number);
            self.write_hosts(&address.both())?;
            return Ok((sandbox, address));
        };
        let sandbox = Sandbox::start(Plan { network: uid.clone(), fresh: true, files }).await?;
        sandbox.run(|| network::configure(false)).await??;
        let address = chain.add(made).await?;
        self.write_hosts(&address.both())?;
        Ok((sandbox, address))
    }

    /// The pod's volumes, once their files are there.
    async fn volumes(&self) -> Result<Vec<Mount>> {
        let mut pod = Pod::clone(&self.pod);
        pod.metadata.uid = Some(self.placement.uid.clone());
        let (done, mounts) = oneshot::channel();
        let order = Order { pod: Arc::new(pod), placement: self.placement.clone(), done };
        self.orders.send(order).await.map_err(|_| Error::new("nobody makes the volumes of the lab any more"))?;
        tokio::select! {
            () = self.stop.cancelled() => Err(Error::new("the pod was deleted before it had its volumes")),
            mounts = mounts => mounts.doing(|| "preparing volumes")?,
        }
    }

    fn write_hosts(&self, own: &[IpAddr]) -> Result<()> {
        let text = hosts::render(&self.hosts, &self.key.namespace, &self.key.name, own);
        write_in_place(&hosts_file(&self.placement.uid), &text)
    }

    /// From the start of the containers to the end of the last one.
    async fn live(&mut self, sandbox: Sandbox) {
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
            Launch::of(&self.pod, container, &self.placement, &self.variables, log).map(|launch| (container, launch))
        });
        let mut number = 0;
        launches
            .map(|launch| {
                let (container, launch) = launch?;
                let runner = Runner {
                    launch,
                    probe: self.placement.address.and_then(|own| Probe::of(&self.pod, container, own.v4.into())),
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

    async fn tear_down(&self, made: Option<Made>) {
        let (Some(chain), Some(made)) = (&self.chain, made) else { return };
        kill_all_in(&netns(&self.placement.uid));
        chain.delete(&made).await;
        sandbox::unpin(&self.placement.uid);
        let _ = fs::remove_dir_all(Layout::inside().pod(&self.placement.uid));
    }
}

fn waiting(why: String) -> Progress {
    Progress { waiting: Some(why), containers: Vec::new() }
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
