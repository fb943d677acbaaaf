//! The lab as a container runtime towards CNI: Debian's plugins make pods' networks, and the mesh's own follows them in
//! the chain. Called as the specification says (CNI 1.0.0, sections 2 to 5): environment, input, results handed on.

pub mod runtime;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::addresses::{self, Dual, node_name};
use crate::error::{Doing, Error, Result};
use crate::layout::{Layout, NETNS_DIRECTORY, netns};
use crate::network::UPLINK;
use crate::prerequisites;
use crate::reaper::{Exit, Reaper};
use crate::sandbox::Sandbox;
use runtime::{AgentPlaces, Described, complaint, input, plugins};

/// The mesh's plugin, as configurations name it.
const PLUGIN: &str = "fairway-cni";
/// The newest version that Debian's plugins speak.
const VERSION: &str = "1.0.0";
/// Name of the pods' network.
const NETWORK: &str = "pods";
/// Longest a plugin may take; a kubelet waits two minutes for the whole chain.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a node that is not ready for pods yet is looked at.
const PERIOD: Duration = Duration::from_millis(20);

/// One node's chain of plugins.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    number: u8,
    node: Sandbox,
    reaper: Reaper,
    path: String,
}

/// One sandbox of a pod. Every attempt to start a pod has another one.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) container: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
}

impl Attachment {
    fn described<'a>(&'a self, netns: &'a Path, interface: &'a str) -> Described<'a> {
        let Self { container, namespace, pod, uid } = self;
        Described { container, namespace, pod, uid, netns, interface }
    }
}

/// What a sandbox was made with, and is taken down with.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    attachment: Attachment,
    list: Value,
    result: Option<Value>,
}

/// The network of node `number`'s pods: a link each, routed by the node. A bridge would take the answers of a service's
/// pod past the node, and with them past the rules that stand for the service.
fn configuration(number: u8, layout: &Layout) -> Value {
    let subnets = addresses::pod_networks(number);
    let [v4, v6] = subnets.map(|subnet| json!([{"subnet": subnet}]));
    json!({
        "cniVersion": VERSION, "name": NETWORK,
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local", "dataDir": layout.cni(&node_name(number)).join("addresses"),
                    "ranges": [v4, v6], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// What node `number`'s agent shares with the lab and the node proxy.
pub(crate) fn agent_places(number: u8, layout: &Layout) -> AgentPlaces {
    let node = node_name(number);
    AgentPlaces {
        node_socket: layout.node_socket(&node),
        namespaces: NETNS_DIRECTORY.into(),
        run: layout.node(&node),
        configurations: layout.cni_configurations(&node),
        programs: layout.cni_programs(&node),
        results: layout.cni_results(&node),
    }
}

/// Writes what a freshly installed node has: directories, and a configuration that the mesh is not in yet.
pub(crate) fn prepare(number: u8) -> Result<()> {
    let layout = Layout::inside();
    let node = node_name(number);
    for directory in [layout.cni_configurations(&node), layout.cni_programs(&node), layout.cni_results(&node)] {
        fs::create_dir_all(&directory).doing(|| format!("creating {}", directory.display()))?;
    }
    let path = layout.cni_configurations(&node).join("10-lab.conflist");
    fs::write(&path, format!("{:#}\n", configuration(number, &layout))).doing(|| format!("writing {}", path.display()))
}

impl Chain {
    pub(crate) fn new(number: u8, node: Sandbox, reaper: Reaper, path: String) -> Self {
        Self { number, node, reaper, path }
    }

    /// The configuration a runtime takes: the first one.
    fn list(&self) -> Result<Value> {
        let directory = Layout::inside().cni_configurations(&node_name(self.number));
        let mut files: Vec<PathBuf> = fs::read_dir(&directory)
            .doing(|| format!("reading {}", directory.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "conflist"))
            .collect();
        files.sort();
        let first = files.first().ok_or_else(|| Error::new("the node has no CNI configuration"))?;
        let text = fs::read(first).doing(|| format!("reading {}", first.display()))?;
        serde_json::from_slice(&text).doing(|| format!("reading {}", first.display()))
    }

    /// Waits until the mesh's agent has put its plugin into the chain, as the taint of a cluster's fresh node does.
    pub(crate) async fn await_mesh(&self) {
        let names_mesh = |list: Value| plugins(&list).iter().any(|plugin| plugin["type"] == PLUGIN);
        while !self.list().is_ok_and(names_mesh) {
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// What the sandbox `attachment` is going to be made with.
    pub(crate) fn plan(&self, attachment: Attachment) -> Result<Made> {
        Ok(Made { attachment, list: self.list()?, result: None })
    }

    /// Makes a sandbox's network; its namespace is there and empty. Its addresses.
    pub(crate) async fn add(&self, made: &mut Made) -> Result<Dual> {
        let loopback = json!({"cniVersion": VERSION, "name": "loopback", "type": "loopback"});
        self.call("ADD", "lo", &made.attachment, &loopback).await?;
        self.remember(made)?;
        let mut previous = None;
        for plugin in plugins(&made.list) {
            let output =
                self.call("ADD", UPLINK, &made.attachment, &input(plugin, &made.list, previous.as_ref())).await?;
            previous = Some(runtime::result(plugin, &output)?);
        }
        let address = previous.as_ref().and_then(assigned);
        made.result = previous;
        self.remember(made)?;
        address.ok_or_else(|| Error::new("the CNI plugins gave the pod no pair of addresses"))
    }

    /// Takes a sandbox's network down, as far as it was made. Going on after a failure leaves less behind.
    pub(crate) async fn delete(&self, made: &Made) {
        for plugin in plugins(&made.list).iter().rev() {
            let input = input(plugin, &made.list, made.result.as_ref());
            if let Err(error) = self.call("DEL", UPLINK, &made.attachment, &input).await {
                tracing::warn!(pod = made.attachment.pod, %error, "a CNI plugin could not take down its part");
            }
        }
        // Missing when nothing was made yet.
        let _ = fs::remove_file(self.remembered(&made.attachment));
    }

    /// As libcni does, for a runtime that is restarted; the agent's removal looks there for pods that still need it.
    fn remember(&self, made: &Made) -> Result<()> {
        let path = self.remembered(&made.attachment);
        let cached = runtime::remembered(&made.list, &made.attachment.container, UPLINK, made.result.as_ref());
        fs::write(&path, cached.to_string()).doing(|| format!("writing {}", path.display()))
    }

    fn remembered(&self, attachment: &Attachment) -> PathBuf {
        let results = Layout::inside().cni_results(&node_name(self.number));
        results.join(format!("{NETWORK}-{}-{UPLINK}", attachment.container))
    }

    async fn call(&self, verb: &str, interface: &str, attachment: &Attachment, input: &Value) -> Result<String> {
        let name = input["type"].as_str().unwrap_or_default().to_owned();
        let node = node_name(self.number);
        let directories = [Some(Layout::inside().cni_programs(&node)), prerequisites::plugin_directory()];
        let directories: Vec<PathBuf> = directories.into_iter().flatten().collect();
        let program = runtime::program(&name, &directories)?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(Layout::inside().component_log(&format!("cni-{node}")))
            .doing(|| "opening the CNI log")?;
        let mut command = Command::new(program);
        let netns = netns(&attachment.uid);
        let described = attachment.described(&netns, interface);
        command.env_clear().envs(runtime::environment(verb, &described)).env("PATH", &self.path);
        command.env("CNI_PATH", std::env::join_paths(&directories).doing(|| "joining CNI_PATH")?);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // Started by the node's thread, and with that in its namespaces; waited for elsewhere, as it may take a while.
        let reaper = self.reaper.clone();
        let (process, mut child) =
            self.node.run(move || reaper.spawn_child(&mut command)).await?.doing(|| format!("starting {name}"))?;
        let input = input.to_string();
        let talk = tokio::task::spawn_blocking(move || {
            if let Some(mut stdin) = child.stdin.take() {
                // A plugin that fails at once does not read; its output says why.
                let _ = stdin.write_all(input.as_bytes());
            }
            let mut output = String::new();
            child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut output)).map(|_| output)
        });
        let whole =
            async { Ok::<_, Error>((talk.await.doing(|| "reading")?.doing(|| "reading")?, process.exit.await)) };
        let Ok(ended) = tokio::time::timeout(PATIENCE, whole).await else {
            self.reaper.signal(process.pid, Signal::SIGKILL);
            return Err(Error::new(format!("{name} {verb} did not end within {PATIENCE:?}")));
        };
        match ended? {
            (output, Ok(Exit::Code(0))) => Ok(output),
            (output, _) => Err(Error::new(format!("{name} {verb} failed")).because(complaint(&output))),
        }
    }
}

/// The pair of addresses in a result.
fn assigned(result: &Value) -> Option<Dual> {
    let texts = result["ips"].as_array()?.iter().filter_map(|ip| ip["address"].as_str()?.split_once('/'));
    let (mut v4, mut v6) = (None, None);
    for address in texts.filter_map(|(address, _)| address.parse().ok()) {
        match address {
            IpAddr::V4(address) => v4 = v4.or(Some(address)),
            IpAddr::V6(address) => v6 = v6.or(Some(address)),
        }
    }
    Some(Dual { v4: v4?, v6: v6? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_ranges_and_each_plugin_its_part() {
        let list = configuration(2, &Layout::at("/x"));
        let [ptp, portmap] = plugins(&list) else { panic!("{list}") };
        assert_eq!(ptp["ipam"]["ranges"], json!([[{"subnet": "10.102.0.0/24"}], [{"subnet": "fd00:100:2::/64"}]]));
        assert_eq!(ptp["ipam"]["dataDir"], "/x/nodes/node-2/cni/addresses");
        let read = input(portmap, &list, Some(&json!({"ips": []})));
        let wanted = json!({"type": "portmap", "cniVersion": "1.0.0", "name": "pods",
            "runtimeConfig": {"portMappings": []}, "prevResult": {"ips": []}});
        assert_eq!(read, wanted);
    }

    #[test]
    fn a_result_has_a_pair_of_addresses() {
        let result = json!({"ips": [{"address": "10.101.0.2/24"}, {"address": "fd00:100:1::2/64"}]});
        let pair = assigned(&result).unwrap();
        assert_eq!(pair.both().map(|ip| ip.to_string()), ["10.101.0.2", "fd00:100:1::2"]);
        assert_eq!(assigned(&json!({"ips": [{"address": "10.101.0.2/24"}]})), None);
    }
}
