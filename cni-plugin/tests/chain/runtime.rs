//! A container runtime's part of the CNI specification, sections 3 to 5.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// One pod as a kubelet asks for it.
pub(crate) struct Sandbox<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) netns: &'a Path,
}

/// Runs `command` on the plugins of `list`, in `node`'s network namespace.
pub(crate) fn run(
    node: &str,
    path: &str,
    list: &Value,
    command: &str,
    sandbox: &Sandbox<'_>,
    previous: Option<&Value>,
) -> Result<Value, String> {
    let mut plugins: Vec<&Value> = list["plugins"].as_array().ok_or("no plugins")?.iter().collect();
    if command == "DEL" {
        plugins.reverse();
    }
    let mut previous = previous.cloned();
    for plugin in plugins {
        let mut input = plugin.clone();
        input["cniVersion"] = list["cniVersion"].clone();
        input["name"] = list["name"].clone();
        if let Some(previous) = &previous {
            input["prevResult"] = previous.clone();
        }
        let output = call(node, path, command, sandbox, &input)?;
        if command == "ADD" {
            previous = Some(serde_json::from_str(&output).map_err(|error| format!("{error}: {output}"))?);
        }
    }
    Ok(previous.unwrap_or(json!({})))
}

fn call(node: &str, path: &str, command: &str, sandbox: &Sandbox<'_>, input: &Value) -> Result<String, String> {
    let name = input["type"].as_str().ok_or("a plugin without a type")?;
    let program = path.split(':').map(|directory| Path::new(directory).join(name)).find(|path| path.exists());
    let program = program.ok_or_else(|| format!("failed to find plugin {name} in {path}"))?;
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID=c{uid};K8S_POD_UID={uid}",
        sandbox.namespace,
        sandbox.pod,
        uid = sandbox.uid
    );
    let mut child = Command::new("ip")
        .args(["netns", "exec", node])
        .arg(program)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", format!("c{}", sandbox.uid))
        .env("CNI_NETNS", sandbox.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", arguments)
        .env("CNI_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    // A plugin that fails at once does not read.
    let _ = child.stdin.take().unwrap().write_all(input.to_string().as_bytes());
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{name} {command}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
