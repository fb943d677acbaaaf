//! The guided tour: `fairway lab demo`. Every step is checked against what really happened, and the first that does not hold ends it.

mod canary;
mod steps;
mod tour;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Doing, Error, Result};
use crate::lab::Lab;
use crate::layout::Layout;
use crate::manage;
use crate::options::Options;
use tour::Tour;

/// What the demo's lab is called; the process id is added.
const NAME: &str = "demo";
/// Lines of each component's log shown when a step fails; the whole of it is kept beside.
const LOG_LINES: usize = 20;
/// Exit code of a program ended by an interrupt, as shells have it.
const INTERRUPTED: i32 = 130;

/// Runs the demo in a lab of its own, which is gone afterwards, whatever happens.
///
/// # Errors
/// When a step does not hold.
pub fn run(options: Options, colour: bool) -> Result<()> {
    remove_killed_demos()?;
    let options = Options { name: format!("{NAME}-{}", std::process::id()), nodes: 2, ..options };
    let layout = Layout::of(&options.name)?;
    clean_up_when_interrupted(layout.clone())?;
    let mut tour = Tour::new(colour);
    let mut progress = |text: &str| crate::say!("{text} ...");
    let lab = Lab::up_with(options, &mut progress)?;
    let result = steps::walk(&lab, &mut tour);
    if result.is_err() {
        show_logs(&lab);
        keep_logs(&lab);
    }
    drop(lab);
    result.map_err(|error| Error::new(format!("the demo stopped: {}", tour.current())).because(error))?;
    steps::check_nothing_is_left(&layout)?;
    tour.finish();
    Ok(())
}

/// A demo that was killed took its processes along, but not its files.
fn remove_killed_demos() -> Result<()> {
    for lab in manage::list()?.into_iter().filter(|lab| lab.supervisor.is_none()) {
        let name = lab.layout.name();
        let owner = name.strip_prefix(NAME).and_then(|rest| rest.strip_prefix('-'));
        // While its owner lives, a lab without supervisor is one that is just being brought up.
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            manage::down(&lab.layout)?;
        }
    }
    Ok(())
}

/// On Ctrl-C the lab is removed before the program ends.
fn clean_up_when_interrupted(layout: Layout) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().doing(|| "listening for signals")?;
    let watch = move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            eprintln!("\ninterrupted, cleaning up");
            if let Err(error) = manage::down(&layout) {
                eprintln!("error: {error}");
            }
            std::process::exit(INTERRUPTED);
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop).doing(|| "listening for signals")
}

/// Copies the logs out of the lab, which will be gone, and says where to.
fn keep_logs(lab: &Lab) {
    let directory = match logs_directory(&lab.layout().name()) {
        Ok(directory) => directory,
        Err(error) => return eprintln!("the logs cannot be kept: {error}"),
    };
    match copy_logs(&crate::logs::list(lab.layout()), &directory) {
        Ok(()) => eprintln!("the whole logs are kept in {}", directory.display()),
        Err(error) => eprintln!("the logs cannot be kept in {}: {error}", directory.display()),
    }
}

/// A new directory that nobody else can foresee or write to: others may have put links where root would write.
fn logs_directory(lab: &str) -> std::io::Result<PathBuf> {
    let prefix = format!("fairway-{lab}-logs-");
    let directory = tempfile::Builder::new().prefix(&prefix).permissions(Permissions::from_mode(0o700)).tempdir()?;
    Ok(directory.keep())
}

fn copy_logs(logs: &[crate::logs::Log], directory: &Path) -> std::io::Result<()> {
    for log in logs {
        std::fs::copy(&log.path, directory.join(format!("{}.log", log.name.replace('/', "_"))))?;
    }
    Ok(())
}

fn show_logs(lab: &Lab) {
    for log in crate::logs::list(lab.layout()) {
        let text = std::fs::read_to_string(&log.path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default() {
            eprintln!("  {} | {line}", log.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_kept_whole_and_by_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("client.log");
        std::fs::write(&path, "said\n").unwrap();
        let logs = [crate::logs::Log { name: "shop/client/client".to_owned(), path }];
        let kept = root.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        copy_logs(&logs, &kept).unwrap();
        assert_eq!(std::fs::read_to_string(kept.join("shop_client_client.log")).unwrap(), "said\n");
    }
}
