//! First steps of the supervisor, PID 1 of the lab: its own view of the file system, then the event loop.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use crate::error::{Doing, Error, Result};
use crate::layout::{Layout, NETNS_DIRECTORY};
use crate::options::Config;
use crate::supervisor;

/// Open files each process may have: ten thousand held connections and their proxies fit with room to spare.
const OPEN_FILES: u64 = 1 << 20;

/// How long the boot stage may take to write down who the supervisor is.
const BOOT_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the supervisor of the lab whose state directory is `root`, as PID 1 of fresh namespaces.
///
/// # Errors
/// When the lab cannot be set up; the log in the state directory says why.
pub fn run(root: &Path) -> Result<()> {
    if std::process::id() != 1 {
        return Err(Error::new("the supervisor only runs as PID 1 of a lab").hint("use `fairway lab up`"));
    }
    await_boot(&Layout::at(root))?;
    mount_file_systems(root)?;
    raise_open_files();
    let config = Config::read(&Layout::inside())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "starting the supervisor's runtime")?;
    runtime.block_on(supervisor::run(config))
}

/// Waits until the boot stage has written which process this is: without that nobody could end the lab.
fn await_boot(layout: &Layout) -> Result<()> {
    let started = std::time::Instant::now();
    while !layout.init().exists() {
        if started.elapsed() > BOOT_PATIENCE {
            return Err(
                Error::new("the boot stage ended before the lab was registered").hint("run `fairway lab up` again")
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn mount_file_systems(root: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).doing(|| "making the lab's mounts private")?;
    // Held open, because the state directory may itself be below the /run that is about to be covered.
    let state = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .doing(|| format!("opening {}", root.display()))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
        .doing(|| "mounting /run")?;
    let inside = Layout::inside();
    fs::create_dir_all(inside.root()).doing(|| "creating the state directory's mount point")?;
    let state = format!("/proc/self/fd/{}", state.as_raw_fd());
    mount(Some(state.as_str()), inside.root(), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .doing(|| "mounting the state directory")?;
    // Its own mount, so that pods can drop all pinned namespaces at once.
    fs::create_dir_all(NETNS_DIRECTORY).doing(|| format!("creating {NETNS_DIRECTORY}"))?;
    mount(Some("tmpfs"), NETNS_DIRECTORY, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
        .doing(|| format!("mounting {NETNS_DIRECTORY}"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).map_err(|error| {
        Error::new("mounting a fresh /proc")
            .because(error)
            .hint("containers that mask parts of /proc forbid this: start the container with --privileged")
    })
}

fn raise_open_files() {
    // Best effort: a lower limit only shows in very large labs, as a named error of whoever reaches it.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(OPEN_FILES), hard);
    }
}
