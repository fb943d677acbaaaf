//! A thread that lives in namespaces of its own and runs jobs there: the lab's stand-in for a pause container.
//!
//! Namespaces are a property of the thread, so whatever a job opens or starts belongs to them. They live as long as the thread.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::gettid;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Doing, Error, Result};
use crate::layout::{NETNS_DIRECTORY, netns};

/// Jobs waiting for one sandbox: more than the lab ever has in flight for it, and the next one waits.
const MAX_WAITING_JOBS: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// What a sandbox is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Name of its network namespace below [`NETNS_DIRECTORY`].
    pub(crate) network: String,
    /// Whether that namespace is made, or joined.
    pub(crate) fresh: bool,
    /// Private files: what is mounted over what. `None` shares the lab's mounts.
    pub(crate) files: Option<Vec<(PathBuf, PathBuf)>>,
}

/// Handle of a sandbox; the thread ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    tid: i32,
    jobs: mpsc::Sender<Job>,
}

impl Sandbox {
    /// Starts the thread and waits until it is in its namespaces.
    pub(crate) async fn start(plan: Plan) -> Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(MAX_WAITING_JOBS);
        let (ready, entered) = oneshot::channel();
        let name = format!("sandbox {}", plan.network);
        thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let result = enter(&plan).map(|()| gettid().as_raw());
                let failed = result.is_err();
                let _ = ready.send(result);
                while let Some(job) = queue.blocking_recv().filter(|_| !failed) {
                    job();
                }
            })
            .doing(|| format!("starting the thread `{name}`"))?;
        let tid = entered.await.map_err(|_| Error::new(format!("`{name}` ended early")))??;
        Ok(Self { tid, jobs })
    }

    /// Thread id within the lab: `/proc/1/task/TID/ns` has the namespaces.
    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    /// Runs `job` in the sandbox. Jobs of one sandbox run one after the other, so they must be short.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (send, receive) = oneshot::channel();
        let job: Job = Box::new(move || {
            let _ = send.send(job());
        });
        self.jobs.send(job).await.map_err(|_| ended())?;
        receive.await.map_err(|_| ended())
    }
}

fn ended() -> Error {
    Error::new("the sandbox has ended")
}

/// Unpins the network namespace `name`; it vanishes with its last process and socket.
pub(crate) fn unpin(name: &str) {
    let path = netns(name);
    // Both fail only when it was never pinned.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&path);
}

fn enter(plan: &Plan) -> Result<()> {
    let path = netns(&plan.network);
    if plan.fresh {
        unshare(CloneFlags::CLONE_NEWNET).doing(|| "making a network namespace")?;
        pin(&path)?;
    } else {
        let namespace = File::open(&path).doing(|| format!("opening {}", path.display()))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).doing(|| format!("entering {}", path.display()))?;
    }
    let Some(files) = &plan.files else { return Ok(()) };
    unshare(CloneFlags::CLONE_NEWNS).doing(|| "making a mount namespace")?;
    // A copy of the pinned namespaces here would keep deleted pods' networks alive.
    umount2(NETNS_DIRECTORY, MntFlags::MNT_DETACH).doing(|| format!("hiding {NETNS_DIRECTORY}"))?;
    for (source, target) in files {
        bind(source, target)?;
    }
    Ok(())
}

fn pin(path: &Path) -> Result<()> {
    File::create(path).doing(|| format!("creating {}", path.display()))?;
    bind(Path::new("/proc/thread-self/ns/net"), path)
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND, none)
        .doing(|| format!("mounting {} over {}", source.display(), target.display()))
}
