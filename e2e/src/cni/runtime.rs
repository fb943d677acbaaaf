//! A container runtime's part of the CNI specification (1.0.0, sections 2 to 5): what a plugin is told in environment and
//! input, in which order plugins are called, and how results are handed on. How a program is started is the caller's.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::error::{Doing, Error, Result};

/// One sandbox of a pod, as a runtime tells plugins of it. Every attempt to start a pod has another one.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// The runtime's id of the sandbox.
    pub container: &'a str,
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Name of the pod.
    pub pod: &'a str,
    /// Uid of the pod.
    pub uid: &'a str,
    /// Its network namespace.
    pub netns: &'a Path,
    /// The interface that is made or taken down.
    pub interface: &'a str,
}

/// What a plugin finds in its environment, besides where plugins are (`CNI_PATH`).
#[must_use]
pub fn environment(verb: &str, sandbox: &Described<'_>) -> [(&'static str, String); 5] {
    let Described { container, namespace, pod, uid, netns, interface } = sandbox;
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"
    );
    [
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", (*container).to_owned()),
        ("CNI_NETNS", netns.to_string_lossy().into_owned()),
        ("CNI_IFNAME", (*interface).to_owned()),
        ("CNI_ARGS", arguments),
    ]
}

/// The plugins of a list, in the order in which they make a network.
#[must_use]
pub fn plugins(list: &Value) -> &[Value] {
    list["plugins"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What one plugin reads (section 3, "Deriving request configuration from plugin configuration").
#[must_use]
pub fn input(plugin: &Value, list: &Value, previous: Option<&Value>) -> Value {
    let mut input = plugin.clone();
    for key in ["cniVersion", "name"] {
        input[key] = list[key].clone();
    }
    if plugin["capabilities"]["portMappings"] == true {
        input["runtimeConfig"] = json!({"portMappings": []});
    }
    if let Some(fields) = input.as_object_mut() {
        fields.remove("capabilities");
    }
    if let Some(previous) = previous {
        input["prevResult"] = previous.clone();
    }
    input
}

/// What a plugin printed, as the result that the next one reads.
///
/// # Errors
/// When it is no JSON.
pub fn result(plugin: &Value, output: &str) -> Result<Value> {
    serde_json::from_str(output).doing(|| format!("reading the result of {plugin}: {output}"))
}

/// Runs a whole list: for DEL in reverse, for ADD with each result handed on. What the last plugin gave, or `previous`.
///
/// # Errors
/// When a plugin fails, in the words of `call`, or gives no result.
pub fn run(
    list: &Value,
    verb: &str,
    previous: Option<&Value>,
    mut call: impl FnMut(&Value) -> Result<String>,
) -> Result<Option<Value>> {
    let mut order: Vec<&Value> = plugins(list).iter().collect();
    if verb == "DEL" {
        order.reverse();
    }
    let mut previous = previous.cloned();
    for plugin in order {
        let output = call(&input(plugin, list, previous.as_ref()))?;
        if verb == "ADD" {
            previous = Some(result(plugin, &output)?);
        }
    }
    Ok(previous)
}

/// The program of a plugin, in the first of the directories that has it.
///
/// # Errors
/// When none has it.
pub fn program(name: &str, directories: &[PathBuf]) -> Result<PathBuf> {
    let mut paths = directories.iter().map(|directory| directory.join(name));
    paths.find(|path| path.exists()).ok_or_else(|| Error::new(format!("the node has no CNI plugin {name}")))
}

/// What libcni writes down of a sandbox, for a runtime that is restarted, in a file of [`remembered_as`].
#[must_use]
pub fn remembered(list: &Value, container: &str, interface: &str, result: Option<&Value>) -> Value {
    json!({
        "kind": "cniCacheV1", "containerId": container, "ifName": interface, "networkName": list["name"],
        "config": STANDARD.encode(list.to_string()), "result": result,
    })
}

/// The name of that file, in the directory of results.
#[must_use]
pub fn remembered_as(list: &Value, container: &str, interface: &str) -> String {
    format!("{}-{container}-{interface}", list["name"].as_str().unwrap_or_default())
}

/// What a failed plugin says: its error object's words, or whatever it wrote.
#[must_use]
pub fn complaint(output: &str) -> String {
    let object: Value = serde_json::from_str(output).unwrap_or_default();
    let words = ["msg", "details"].map(|key| object[key].as_str().unwrap_or_default());
    match words.iter().any(|word| !word.is_empty()) {
        true => words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(": "),
        false => output.trim().to_owned(),
    }
}

/// Where a node's agent finds what it shares with the runtime and the node proxy.
#[derive(Clone, Debug)]
pub struct AgentPlaces {
    /// Socket that the node proxy connects to.
    pub node_socket: PathBuf,
    /// Directory of network namespaces.
    pub namespaces: PathBuf,
    /// Directory of the socket on which the plugin asks.
    pub run: PathBuf,
    /// The runtime's directory of configurations.
    pub configurations: PathBuf,
    /// The runtime's directory of plugins.
    pub programs: PathBuf,
    /// The runtime's directory of results.
    pub results: PathBuf,
}

impl AgentPlaces {
    /// The agent's flags for them.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let pairs = [
            ("--ztunnel-uds-address", &self.node_socket),
            ("--netns-dir", &self.namespaces),
            ("--cni-agent-run-dir", &self.run),
            ("--cni-net-dir", &self.configurations),
            ("--node-cni-net-dir", &self.configurations),
            ("--cni-bin-dir", &self.programs),
            ("--cni-cache-dir", &self.results),
        ];
        pairs.into_iter().flat_map(|(flag, path)| [flag.to_owned(), path.to_string_lossy().into_owned()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_handed_on_and_networks_are_taken_down_backwards() {
        let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "a"}, {"type": "b", "capabilities": {"portMappings": true}}]});
        let mut seen = Vec::new();
        let mut call = |input: &Value| {
            seen.push(input.clone());
            Ok(json!({"made by": input["type"]}).to_string())
        };
        assert_eq!(run(&list, "ADD", None, &mut call).unwrap(), Some(json!({"made by": "b"})));
        assert_eq!(run(&list, "DEL", Some(&json!(1)), &mut call).unwrap(), Some(json!(1)));
        let common = |name: &str| json!({"type": name, "cniVersion": "1.0.0", "name": "pods"});
        let mut with_result = common("b");
        with_result["runtimeConfig"] = json!({"portMappings": []});
        with_result["prevResult"] = json!({"made by": "a"});
        assert_eq!(seen[..2], [common("a"), with_result]);
        assert_eq!([&seen[2]["type"], &seen[3]["type"]], ["b", "a"]);
        let failed = run(&list, "ADD", None, |_| Ok("no result".to_owned())).unwrap_err().to_string();
        assert!(failed.contains("no result"), "{failed}");
    }

    #[test]
    fn a_failure_has_its_words() {
        assert_eq!(complaint(r#"{"code":11,"msg":"wait","details":"for the agent"}"#), "wait: for the agent");
        assert_eq!(complaint("killed\n"), "killed");
    }
}
