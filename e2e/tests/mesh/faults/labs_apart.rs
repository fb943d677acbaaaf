//! Several labs on one machine, killed ones, and labs of ordinary users.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::mesh::{labs, shop};

/// Exit codes of programs that cannot be run at all start here.
const CANNOT_RUN: i32 = 126;
/// User and group of nobody.
const NOBODY: u32 = 65534;

#[test]
fn two_meshes_share_nothing_and_a_killed_one_leaves_nothing() {
    let Some(one) = shop::enrolled("apart-one") else { return };
    let Some(two) = shop::enrolled("apart-two") else { return };
    let root = one.layout().root().to_owned();
    let supervisor = one.status().unwrap().supervisor.unwrap();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    two.wait_for("every process of the killed lab to end", || mentioning(&root) == 0).unwrap();
    shop::mutual_tls(&two);
    drop(one);
    assert!(!root.exists());
    shop::carries_on(&two);
    assert!(crate::mesh::observe::restarts(&two).values().all(|count| *count == 0));
}

/// Processes whose arguments name `path`.
fn mentioning(path: &Path) -> usize {
    let wanted = path.to_string_lossy().into_owned();
    let mentions = |entry: &fs::DirEntry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&wanted)
    };
    fs::read_dir("/proc").unwrap().flatten().filter(mentions).count()
}

#[test]
fn an_unprivileged_user_can_have_a_mesh() {
    let what = "a mesh of an unprivileged user";
    if !labs::can_run(what) {
        return;
    }
    labs::build();
    if !nix::unistd::geteuid().is_root() {
        return labs::skip(what, "every other test here already runs unprivileged");
    }
    let base = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(base.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let manifests = base.path().join("shop.yaml");
    fs::write(&manifests, shop::MANIFESTS).unwrap();
    let run = |arguments: &[&str]| -> Output {
        let mut command = Command::new("setpriv");
        let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
        command.args(ids).arg(labs::binaries().join("fairway")).arg("lab").args(arguments);
        command.env("FAIRWAY_LAB_DIR", base.path()).stdin(Stdio::null()).output().unwrap()
    };
    let up = run(&["up", "--no-build", "--wait"]);
    let complaint = String::from_utf8_lossy(&up.stderr).into_owned();
    if complaint.contains("user namespaces") || up.status.code().is_none_or(|code| code >= CANNOT_RUN) {
        return labs::skip(what, complaint.trim());
    }
    assert!(up.status.success(), "{complaint}");
    let down = Down(&run);
    for arguments in
        [&["apply", "-f", &manifests.to_string_lossy()][..], &["label", "namespace", "shop", shop::AMBIENT]]
    {
        let done = run(arguments);
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    }
    let log = base.path().join("default/logs/ztunnel-node-2.log");
    let proven = || fs::read_to_string(&log).is_ok_and(|log| log.contains(shop::CLIENT_IDENTITY));
    let mut answered = run(&["exec", "shop/client", "--", "fairway", "lab", "tool", "http-get", "http://server/"]);
    let started = std::time::Instant::now();
    while !proven() && started.elapsed() < fairway_lab::lab::PATIENCE {
        answered = run(&["exec", "shop/client", "--", "fairway", "lab", "tool", "http-get", "http://server/"]);
    }
    assert!(proven() && answered.status.success(), "{answered:?}");
    drop(down);
    fs::remove_file(manifests).unwrap();
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
}

/// Takes the lab down even when a check before fails.
struct Down<'a>(&'a dyn Fn(&[&str]) -> Output);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let down = (self.0)(&["down"]);
        if !down.status.success() {
            labs::say(&format!("{down:?}"));
        }
    }
}
