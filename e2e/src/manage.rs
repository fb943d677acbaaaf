//! Bringing labs up and down, seen from the host.

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::binaries;
use crate::boot;
use crate::control::{self, Request};
use crate::error::{Doing, Error, Result};
use crate::layout::{self, Layout};
use crate::options::{Config, MAX_NODES, Options, PASSED_VARIABLES};
use crate::prerequisites;
use crate::process::{Init, Life};

/// How long the supervisor may take to make its namespaces.
const UP_PATIENCE: Duration = Duration::from_secs(60);
/// How long the kernel may take to end a killed lab's processes.
const DOWN_PATIENCE: Duration = Duration::from_secs(30);
/// How long whoever is parent of a killed command may take to collect it. In containers without an init nobody ever does, and
/// the supervisor stays as a shell of itself until then; nothing of it works or holds anything any more.
const COLLECT_PATIENCE: Duration = Duration::from_secs(3);
/// How often conditions are looked at.
const POLL: Duration = Duration::from_millis(10);
/// Lines of the supervisor's log shown when it fails.
const LOG_LINES: usize = 20;

/// A lab that was brought up.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) layout: Layout,
    pub(crate) config: Config,
    /// For a tied lab: closing it ends the lab.
    pub(crate) tie: Option<ChildStdin>,
}

/// Brings a lab up; it runs on until [`down`].
///
/// # Errors
/// When a prerequisite or binary is missing, the lab already runs, or it cannot be set up.
pub fn up(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Config> {
    start(options, progress).map(|running| running.config)
}

pub(crate) fn start(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Running> {
    if !(1..=MAX_NODES).contains(&options.nodes) {
        return Err(
            Error::new(format!("a lab cannot have {} nodes", options.nodes)).hint(format!("choose 1 to {MAX_NODES}"))
        );
    }
    let mut others = options.binaries.node_ztunnels.keys();
    if let Some(node) = others.find(|node| !(1..=options.nodes).contains(node)) {
        return Err(Error::new(format!(
            "a node tunnel is given for node {node}, but there are {} nodes",
            options.nodes
        )));
    }
    let callers = env::var("PATH").unwrap_or_default();
    prerequisites::check(&prerequisites::search_path(None, &callers))?;
    let layout = Layout::of(&options.name)?;
    refuse_running(&layout)?;
    let binaries = binaries::resolve(options, progress)?;
    let config = Config {
        name: options.name.clone(),
        nodes: options.nodes,
        mesh: options.mesh,
        tied: options.tied,
        mesh_config: options.mesh_config.is_some(),
        path: prerequisites::search_path(binaries.fairway.parent(), &callers),
        binaries,
        passed: PASSED_VARIABLES.into_iter().filter_map(|name| Some((name.to_owned(), env::var(name).ok()?))).collect(),
        environment: options.environment.clone(),
    };
    // Held until the supervisor answers: another `up` of the same name sees that this one is at work.
    let lock = create(&layout, &config, options.mesh_config.as_deref())?;
    let booted = boot_and_wait(&layout, &config);
    drop(lock);
    match booted {
        Ok(tie) => Ok(Running { layout, config, tie }),
        Err(error) => {
            // The first error is the one to show.
            let _ = down(&layout);
            Err(error)
        }
    }
}

fn refuse_running(layout: &Layout) -> Result<()> {
    if !layout.root().exists() {
        return Ok(());
    }
    if supervisor(layout).is_some() {
        return Err(Error::new(format!("lab `{}` is already up", layout.name()))
            .hint("use it, end it with `fairway lab down`, or bring up another one with --lab NAME"));
    }
    let lock = lock(layout.root())?;
    // What a killed lab left behind.
    down(layout)?;
    drop(lock);
    Ok(())
}

fn lock(root: &Path) -> Result<Flock<File>> {
    let directory = File::open(root).doing(|| format!("opening {}", root.display()))?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
        Error::new(format!("the lab in {} is just being brought up", root.display()))
            .because(error)
            .hint("wait for it, or choose another name with --lab")
    })
}

/// Makes the state directory under another name and moves it into place, so that it is never there without its lock and
/// its description, and of two that bring up the same lab at once one fails.
fn create(layout: &Layout, config: &Config, mesh_config: Option<&str>) -> Result<Flock<File>> {
    if let Some(base) = layout.root().parent() {
        fs::create_dir_all(base).map_err(|error| {
            Error::new(format!("creating {}", base.display()))
                .because(error)
                .hint(format!("set {} to a directory you own", layout::BASE_VARIABLE))
        })?;
    }
    let partial = Layout::at(layout.root().with_file_name(format!(".{}.{}", config.name, std::process::id())));
    // Only a process of the same id, long ended, can have left it.
    let _ = fs::remove_dir_all(partial.root());
    fs::DirBuilder::new()
        .mode(0o700)
        .create(partial.root())
        .doing(|| format!("creating {}", partial.root().display()))?;
    let lock = lock(partial.root())?;
    for directory in [partial.logs(), partial.manifests()] {
        fs::create_dir(&directory).doing(|| format!("creating {}", directory.display()))?;
    }
    config.write(&partial)?;
    if let Some(text) = mesh_config {
        let file = partial.mesh_config();
        fs::write(&file, text).doing(|| format!("writing {}", file.display()))?;
    }
    if let Err(error) = fs::rename(partial.root(), layout.root()) {
        let _ = fs::remove_dir_all(partial.root());
        return Err(Error::new(format!("lab `{}` was just brought up by somebody else", layout.name())).because(error));
    }
    Ok(lock)
}

fn boot_and_wait(layout: &Layout, config: &Config) -> Result<Option<ChildStdin>> {
    let mut boot = Command::new(&config.binaries.fairway)
        .args(["lab", boot::COMMAND])
        .arg(layout.root())
        .stdin(if config.tied { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("starting {}", config.binaries.fairway.display()))?;
    let tie = boot.stdin.take();
    let output = boot.wait_with_output().doing(|| "waiting for the boot stage")?;
    if !output.status.success() {
        return Err(Error::new(
            String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("error: ").to_owned(),
        ));
    }
    let init =
        Init::read(&layout.init()).ok_or_else(|| Error::new("the boot stage did not say which process it started"))?;
    let started = Instant::now();
    loop {
        if control::ask::<()>(layout, &Request::Ping).is_ok() {
            return Ok(tie);
        }
        if !init.is_running() || started.elapsed() > UP_PATIENCE {
            let what = if init.is_running() { "is stuck" } else { "ended" };
            return Err(Error::new(format!("the lab's supervisor {what}")).because(log_tail(layout)));
        }
        thread::sleep(POLL);
    }
}

fn log_tail(layout: &Layout) -> String {
    let log = fs::read_to_string(layout.component_log("supervisor")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
}

/// Ends a lab and removes everything of it. Works for labs whose supervisor is dead, and does nothing for labs that do not exist.
///
/// # Errors
/// When the supervisor does not end, or the state directory cannot be removed.
pub fn down(layout: &Layout) -> Result<()> {
    if let Some(init) = Init::read(&layout.init()) {
        init.kill();
        let started = Instant::now();
        while init.is_running() {
            if init.life() == Life::Ending && started.elapsed() > COLLECT_PATIENCE {
                break;
            }
            if started.elapsed() > DOWN_PATIENCE {
                return Err(Error::new(format!("process {} of lab `{}` does not end", init.pid, layout.name()))
                    .hint("a process of the lab may be stuck in the kernel: see `ps -eo pid,stat,args`"));
            }
            thread::sleep(POLL);
        }
    }
    let started = Instant::now();
    loop {
        match fs::remove_dir_all(layout.root()) {
            // On a busy machine, what was killed may write once more before it is gone.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && started.elapsed() < DOWN_PATIENCE => {
                thread::sleep(POLL);
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::new(format!("removing {}", layout.root().display())).because(error));
            }
            _ => return Ok(()),
        }
    }
}

/// One lab on this machine.
#[derive(Clone, Debug)]
pub struct Known {
    /// Where it keeps its files.
    pub layout: Layout,
    /// Host pid of its supervisor, while it runs.
    pub supervisor: Option<i32>,
}

/// Every lab of this user on this machine, running or left behind.
///
/// # Errors
/// When the base directory cannot be read.
pub fn list() -> Result<Vec<Known>> {
    let base = layout::base_directory()?;
    let entries = match fs::read_dir(&base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::new(format!("listing {}", base.display())).because(error)),
    };
    let mut labs: Vec<Known> = entries.flatten().filter_map(|entry| known(&Layout::at(entry.path()))).collect();
    labs.sort_by_key(|lab| lab.layout.name());
    Ok(labs)
}

fn known(layout: &Layout) -> Option<Known> {
    // Nothing else in this directory is ours to remove.
    layout.config().exists().then(|| Known { supervisor: supervisor(layout), layout: layout.clone() })
}

/// Host pid of a lab's supervisor, while it runs.
#[must_use]
pub fn supervisor(layout: &Layout) -> Option<i32> {
    Init::read(&layout.init()).filter(|init| init.life() == Life::Running).map(|init| init.pid)
}
