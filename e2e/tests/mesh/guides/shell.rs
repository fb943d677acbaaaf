//! A reader's shell in a checkout: what one block of commands sets, the next one knows. It has one lab, which ends with it.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use super::page::{self, Block};
use super::{checkout, labs};

/// How long what a page shows may take to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// Seconds after which a block of commands is ended: one of them waits for ever.
const LONGEST: &str = "240";
/// Parts of the checkout that pages speak of.
const PARTS: [&str; 4] = ["docs", "e2e", "manifests", "dev"];

/// Brings labs up from the programs under test. Cargo is not asked: they were built before, all of the workspace together.
const FAIRWAY: &str = r#"#!/bin/bash
if [[ "${1:-} ${2:-}" == "lab up" ]]; then shift 2; set -- lab up --no-build "$@"; fi
exec "@BINARIES@/fairway" "$@"
"#;
/// For machines without one.
const KUBECTL: &str = "#!/bin/bash\nexec \"@BINARIES@/../kubernetes/hyperkube\" kubectl \"$@\"\n";

/// Variables of one block are there for the next.
const REMEMBER: &str = "if [ -f .state ]; then . ./.state; fi; set -a; trap 'export -p > .state' EXIT; ";
/// A block that is not a look stops where a command fails, and says where. Lines are the page's.
const STOP: &str =
    "set -eE -o pipefail; trap 'printf \"failed at line %s: %s\\n\" \"$LINENO\" \"$BASH_COMMAND\" >&2' ERR; ";

/// The shell.
#[derive(Debug)]
pub(crate) struct Shell {
    directory: tempfile::TempDir,
    lab: String,
    /// Takes the lab down as soon as its standard input closes, also when this process is killed.
    keeper: Child,
}

impl Shell {
    pub(crate) fn new(title: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for part in PARTS {
            symlink(checkout().join(part), directory.path().join(part)).unwrap();
        }
        let programs = directory.path().join("target/debug");
        fs::create_dir_all(&programs).unwrap();
        // What `./dev setup` has put there; where it has not, pages that need it are left out.
        symlink(labs::binaries().join("../kubernetes"), directory.path().join("target/kubernetes")).unwrap();
        let binaries = labs::binaries().display().to_string();
        for (program, text) in [("fairway", FAIRWAY), ("kubectl", KUBECTL)] {
            let file = programs.join(program);
            fs::write(&file, text.replace("@BINARIES@", &binaries)).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        }
        let lab = format!("g{}-{title}", std::process::id());
        let keeper = Command::new("bash")
            .args(["-c", "read -r _; exec \"$0\" lab down"])
            .arg(labs::binaries().join("fairway"))
            .env("FAIRWAY_LAB", &lab)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { directory, lab, keeper }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a block, every command of which must succeed.
    pub(crate) fn run(&self, block: &Block) -> Result<(), String> {
        let (succeeded, printed) = self.bash(block, STOP);
        if succeeded { Ok(()) } else { Err(format!("the commands fail:\n{printed}")) }
    }

    /// Runs a block that only looks, again and again until it prints what the page shows. That may be an error.
    pub(crate) fn look(&self, block: &Block, patience: Duration) -> Result<(), String> {
        let expected = block.output.as_deref().unwrap_or_default();
        let started = Instant::now();
        loop {
            let (_, printed) = self.bash(block, "");
            if page::shows(expected, &printed) {
                return Ok(());
            }
            if started.elapsed() >= patience {
                return Err(format!("the page shows:\n{expected}\nand the commands print:\n{printed}"));
            }
            // Another process's doing, which cannot be waited for otherwise than by looking again.
            thread::sleep(PAUSE); // between two looks, each of which is a condition
        }
    }

    fn bash(&self, block: &Block, prelude: &str) -> (bool, String) {
        let script = self.directory().join(".block");
        // All of the prelude is on one line, so that the others have the numbers that they have in the page.
        let above = "\n".repeat(block.line - 1);
        fs::write(&script, format!("{REMEMBER}{prelude}{above}{}", block.commands)).unwrap();
        let output = self.directory().join(".output");
        let file = File::create(&output).unwrap();
        let callers = env::var("PATH").unwrap_or_default();
        let path = fairway_lab::prerequisites::search_path(Some(&self.directory().join("target/debug")), &callers);
        let status = Command::new("timeout")
            .args(["--kill-after=5", LONGEST, "bash", ".block"])
            .current_dir(self.directory())
            .env("PATH", path)
            .env("FAIRWAY_LAB", &self.lab)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        (status.success(), String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // There is nobody to tell.
        let _ = self.keeper.wait();
    }
}
