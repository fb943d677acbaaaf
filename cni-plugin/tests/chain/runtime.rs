//! Plugins of a chain as processes on a node; what a runtime tells them is the lab's.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fairway_lab::Error;
use fairway_lab::cni::runtime::{self, Described};
use serde_json::{Value, json};

/// A pod's interface.
pub(crate) const INTERFACE: &str = "eth0";

/// One pod as a kubelet asks for it.
pub(crate) struct Sandbox<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) netns: &'a Path,
}

/// The runtime's id of a pod's sandbox.
pub(crate) fn container(uid: &str) -> String {
    format!("c{uid}")
}

/// Runs `verb` on the plugins of `list`, in `node`'s network namespace.
pub(crate) fn run(
    node: &str,
    directories: &[PathBuf],
    list: &Value,
    verb: &str,
    sandbox: &Sandbox<'_>,
    previous: Option<&Value>,
) -> Result<Value, String> {
    let Sandbox { namespace, pod, uid, netns } = *sandbox;
    let container = container(uid);
    let sandbox = &Described { container: &container, namespace, pod, uid, netns, interface: INTERFACE };
    let call = |input: &Value| call(node, directories, verb, sandbox, input);
    let result = runtime::run(list, verb, previous, call).map_err(|error| error.to_string())?;
    Ok(result.unwrap_or_else(|| json!({})))
}

fn call(
    node: &str,
    directories: &[PathBuf],
    verb: &str,
    sandbox: &Described<'_>,
    input: &Value,
) -> fairway_lab::Result<String> {
    let name = input["type"].as_str().unwrap_or_default();
    let failed = |why: String| Error::new(format!("{name} {verb}: {why}"));
    let mut child = Command::new("ip")
        .args(["netns", "exec", node])
        .arg(runtime::program(name, directories)?)
        .envs(runtime::environment(verb, sandbox))
        .env("CNI_PATH", std::env::join_paths(directories).map_err(|error| failed(error.to_string()))?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that fails at once does not read.
        let _ = stdin.write_all(input.to_string().as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(failed(format!("{text}{}", String::from_utf8_lossy(&output.stderr))))
}
