//! Labs for tests: binaries that are up to date, worlds, and checks that cannot run said out loud.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;
use std::{env, fs};

use fairway_lab::binaries::Build;
use fairway_lab::options::Overrides;
use fairway_lab::status::PodStatus;
use fairway_lab::{Lab, Options};

/// The programs a lab runs.
const BINARIES: [&str; 6] = ["fairway", "controller", "ztunnel", "fairway-cni-agent", "fairway-cni", "waypoint"];
/// Environment variable naming a directory of binaries to test instead of those of this checkout.
const OTHER_BINARIES: &str = "FAIRWAY_TEST_BINARIES";
/// Where the sources of those programs are.
const SOURCES: [&str; 9] = [
    "Cargo.toml",
    "proto",
    "core/src",
    "ztunnel/src",
    "waypoint/src",
    "controller/src",
    "cni-plugin/src",
    "cli/src",
    "e2e/src",
];

/// Says something even when the test passes; the harness keeps what the usual macros print to itself.
pub(crate) fn say(text: &str) {
    // Nobody to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says that a check could not be made.
pub(crate) fn skip(what: &str, why: &str) {
    say(&format!("SKIPPED: {what}: {why}"));
}

/// Whether labs can run here; when not, says that `what` is skipped.
pub(crate) fn can_run(what: &str) -> bool {
    let path = fairway_lab::prerequisites::search_path(None, &env::var("PATH").unwrap_or_default());
    match fairway_lab::prerequisites::check(&path) {
        Ok(()) => true,
        Err(reason) => {
            skip(what, &reason.to_string());
            false
        }
    }
}

/// Whether this process may enter the network of a lab's pods; when not, says that `what` is skipped.
pub(crate) fn can_enter(what: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(what, "only root can enter a pod's network from a test");
    }
    root
}

/// A lab with a mesh, every component ready; `None` when none can run here.
pub(crate) fn mesh(test: &str) -> Option<Lab> {
    mesh_in(test, BTreeMap::new())
}

/// As [`mesh`], with this environment added to each kind of component.
pub(crate) fn mesh_in(test: &str, environment: BTreeMap<String, BTreeMap<String, String>>) -> Option<Lab> {
    if !can_run(test) {
        return None;
    }
    build();
    let lab = Lab::up(Options { environment, ..options(test) }).unwrap();
    lab.wait_ready().unwrap();
    Some(lab)
}

/// As [`mesh`], with these manifests applied and their pods ready.
pub(crate) fn mesh_with(test: &str, world: &str) -> Option<Lab> {
    let lab = mesh(test)?;
    lab.apply(world).unwrap();
    lab.wait_ready().unwrap();
    Some(lab)
}

/// As [`mesh_with`], with this mesh configuration.
pub(crate) fn mesh_configured(test: &str, mesh_config: &str, world: &str) -> Option<Lab> {
    if !can_run(test) {
        return None;
    }
    build();
    let lab = Lab::up(Options { mesh_config: Some(mesh_config.to_owned()), ..options(test) }).unwrap();
    lab.apply(world).unwrap();
    lab.wait_ready().unwrap();
    Some(lab)
}

/// What the labs of these tests are asked to be.
pub(crate) fn options(test: &str) -> Options {
    let path = |name: &str| Some(binaries().join(name));
    let [fairway, controller, ztunnel, agent, _plugin, _waypoint] = BINARIES.map(path);
    Options {
        name: format!("m{}-{test}", std::process::id()),
        build: Build::Never,
        binaries: Overrides { fairway, controller, ztunnel, agent, ..Overrides::default() },
        ..Options::default()
    }
}

/// The directory of the binaries under test: the parent of the one this test is in, unless another is named.
pub(crate) fn binaries() -> PathBuf {
    if let Some(other) = env::var_os(OTHER_BINARIES) {
        return other.into();
    }
    let running = env::current_exe().unwrap().canonicalize().unwrap();
    running.parent().and_then(Path::parent).unwrap().to_owned()
}

/// Builds the binaries if one is missing or older than a source, once per run. All of the workspace at once, and with its
/// tests: then every dependency has the features it has when the whole workspace is tested, and nothing is compiled twice.
pub(crate) fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let directory = binaries();
        let built = BINARIES.iter().map(|name| changed(&directory.join(name))).min().flatten();
        let edited = SOURCES.iter().filter_map(|source| newest(&checkout.join(source))).max();
        if env::var_os(OTHER_BINARIES).is_some() || (built.is_some() && built >= edited) {
            return;
        }
        say("building the binaries under test");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(checkout).args(["build", "--quiet", "--workspace", "--bins", "--tests"]);
        if directory.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "the binaries under test do not build");
    });
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn newest(path: &Path) -> Option<SystemTime> {
    let Ok(entries) = fs::read_dir(path) else { return changed(path) };
    entries.flatten().filter_map(|entry| newest(&entry.path())).max()
}

/// A pod of the lab, named `NAMESPACE/POD`.
pub(crate) fn pod(lab: &Lab, name: &str) -> PodStatus {
    let pods = lab.status().unwrap().pods;
    pods.into_iter().find(|pod| format!("{}/{}", pod.namespace, pod.name) == name).unwrap()
}

/// Asks `url` once from a pod: the answer, or a text that starts with `error:`.
pub(crate) fn get(lab: &Lab, pod: &str, url: &str) -> String {
    let output = lab.exec(pod, &["fairway", "lab", "tool", "http-get", url]).unwrap();
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// What a command run in a pod prints.
pub(crate) fn output(lab: &Lab, pod: &str, command: &[&str]) -> String {
    let output = lab.exec(pod, command).unwrap();
    assert!(output.status.success(), "{command:?} in {pod}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
