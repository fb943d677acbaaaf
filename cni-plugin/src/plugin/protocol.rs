//! The CNI protocol as its specification 1.1.0 has it: environment and input to a request, failures to their text.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::event::{self, Attached};

/// Versions of the specification we speak, oldest first. Older ones have no chains of plugins.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Name of the plugin: its `type` in configurations and its file.
pub const PLUGIN: &str = "fairway-cni";
/// Where a GC says what there is.
pub(super) const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";
/// Longest interface name: `IFNAMSIZ` without its terminator, in bytes.
const MAX_INTERFACE_NAME: usize = 15;

/// Error codes: below 100 the specification's ("Error"), above ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A version that is not spoken.
    IncompatibleVersion,
    /// A variable that must be there is missing or malformed.
    InvalidEnvironment,
    /// The input is not what the specification says.
    CannotDecode,
    /// The configuration is not usable.
    InvalidConfiguration,
    /// The same call may succeed later.
    TryAgainLater,
    /// STATUS: ADD cannot be served.
    NotAvailable,
    /// CHECK: the pod is not captured as it should be.
    NotCaptured,
}

impl Code {
    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::InvalidEnvironment => 4,
            Self::CannotDecode => 6,
            Self::InvalidConfiguration => 7,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::NotCaptured => 100,
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    code: Code,
    message: String,
    details: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, " ({})", self.details) }
    }
}

impl Failure {
    /// A failure without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// The same with more to say.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The error object the runtime reads.
    #[must_use]
    pub fn render(&self, version: &str) -> String {
        let mut object = json!({"cniVersion": version, "code": self.code.number(), "msg": self.message});
        if let (false, Some(fields)) = (self.details.is_empty(), object.as_object_mut()) {
            fields.insert("details".to_owned(), Value::String(self.details.clone()));
        }
        object.to_string()
    }
}

/// What happens to a pod while the agent does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    /// Pods of enrolled namespaces do not start, all others do.
    #[default]
    Closed,
    /// All pods start; those that should have been captured are once the agent is back.
    Open,
}

/// Our entry in the list of plugins, as the agent wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Directory of the agent's socket. The same key as Istio's.
    #[serde(default = "default_run_dir")]
    pub cni_agent_run_dir: String,
    /// Where the agent keeps what the plugin has to know in its absence; absent means that no agent is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_file: Option<String>,
    /// How long the agent may take to answer, in milliseconds; 100 to 120000.
    #[serde(default = "default_timeout")]
    pub timeout_milliseconds: u64,
    /// What happens while it does not answer.
    #[serde(default)]
    pub fail: Fail,
}

/// Istio's, as the directory is mounted by its chart.
pub const DEFAULT_RUN_DIR: &str = "/var/run/istio-cni";

fn default_run_dir() -> String {
    DEFAULT_RUN_DIR.to_owned()
}

fn default_timeout() -> u64 {
    fairway_core::limits::PLUGIN_PATIENCE.default
}

impl Configuration {
    /// The agent's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        Path::new(&self.cni_agent_run_dir).join(event::SOCKET)
    }

    /// How long the agent may take, within bounds.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let limit = &fairway_core::limits::PLUGIN_PATIENCE;
        Duration::from_millis(self.timeout_milliseconds.clamp(limit.minimum, limit.maximum))
    }
}

/// The pod a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid; empty when the runtime does not say.
    pub uid: String,
}

/// A call about one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The runtime's id of the sandbox.
    pub container: String,
    /// Name of the network.
    pub network: String,
    /// Path of its network namespace; may be empty on DEL.
    pub netns: String,
    /// The pod, when a kubelet is behind the runtime.
    pub pod: Option<Pod>,
    /// What the plugins before gave.
    pub previous: Option<Value>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// ADD.
    Add(Call),
    /// DEL.
    Delete(Call),
    /// CHECK.
    Check(Call),
    /// GC; without a list nothing is known to be garbage.
    CollectGarbage(Option<Attached>),
    /// STATUS.
    Status,
    /// VERSION.
    Version,
}

/// One call of the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The version of the specification it is in.
    pub version: String,
    /// Our settings.
    pub configuration: Configuration,
    /// What is to be done.
    pub command: Command,
}

/// Reads a call; a failure comes with the version to report it in.
///
/// # Errors
/// With the specification's code for what is wrong.
pub fn parse(variable: impl Fn(&str) -> Option<String>, input: &str) -> Result<Request, (Failure, String)> {
    let newest = VERSIONS[VERSIONS.len() - 1];
    let variable = |name: &str| variable(name).unwrap_or_default();
    let named = variable("CNI_COMMAND");
    let value: Value = if named == "VERSION" && input.trim().is_empty() {
        json!({})
    } else {
        serde_json::from_str(input).map_err(|error| {
            let failure = Failure::new(Code::CannotDecode, format!("the configuration is not JSON: {error}"));
            (failure, newest.to_owned())
        })?
    };
    // Configurations without a version are of the first one ("Version considerations").
    let version = match value.get("cniVersion") {
        Some(Value::String(version)) if !version.is_empty() => version.clone(),
        _ if named == "VERSION" => newest.to_owned(),
        _ => "0.1.0".to_owned(),
    };
    let known = VERSIONS.contains(&version.as_str());
    let reported = if known { version.clone() } else { newest.to_owned() };
    let fail = |failure: Failure| (failure, reported.clone());
    if named == "VERSION" {
        let (configuration, command) = (Configuration::default(), Command::Version);
        return Ok(Request { version: reported, configuration, command });
    }
    if !known {
        let message = format!("version {version} is not supported; supported are {}", VERSIONS.join(", "));
        return Err(fail(Failure::new(Code::IncompatibleVersion, message)));
    }
    let configuration = match Configuration::deserialize(&value) {
        Ok(configuration) => configuration,
        // An end is never refused: the runtime would try it for ever.
        Err(_) if named == "DEL" => Configuration::default(),
        Err(error) => {
            let message = format!("the entry of {PLUGIN} is not usable: {error}");
            return Err(fail(Failure::new(Code::InvalidConfiguration, message)));
        }
    };
    let since = |first: &str| {
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        if place(&version) >= place(first) {
            return Ok(());
        }
        Err(Failure::new(Code::IncompatibleVersion, format!("{named} came with version {first}, this is {version}")))
    };
    let call = |netns_needed| call(&variable, &value, netns_needed);
    let command = match named.as_str() {
        "ADD" => call(true).map(Command::Add),
        "DEL" => call(false).map(Command::Delete),
        "CHECK" => since("0.4.0").and_then(|()| call(true)).map(Command::Check),
        "GC" => since("1.1.0").and_then(|()| attached(&value)).map(Command::CollectGarbage),
        "STATUS" => since("1.1.0").map(|()| Command::Status),
        "" => Err(Failure::new(Code::InvalidEnvironment, "CNI_COMMAND is not set")
            .details("this program is run by a container runtime, see the CNI specification")),
        other => Err(Failure::new(Code::InvalidEnvironment, format!("CNI_COMMAND is \"{other}\", which is unknown"))),
    }
    .map_err(fail)?;
    Ok(Request { version, configuration, command })
}

fn call(variable: &impl Fn(&str) -> String, value: &Value, netns_needed: bool) -> Result<Call, Failure> {
    let invalid = |name: &str, what: &str| Err(Failure::new(Code::InvalidEnvironment, format!("{name} {what}")));
    let container = variable("CNI_CONTAINERID");
    if container.is_empty() {
        return invalid("CNI_CONTAINERID", "is not set");
    }
    let starts_well = container.starts_with(|first: char| first.is_ascii_alphanumeric());
    if !starts_well || !container.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        return invalid("CNI_CONTAINERID", "must be letters and digits, then also '_', '.' and '-'");
    }
    let interface = variable("CNI_IFNAME");
    if interface.is_empty() {
        return invalid("CNI_IFNAME", "is not set");
    }
    let misleading = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if interface.len() > MAX_INTERFACE_NAME || interface == "." || interface == ".." || interface.contains(misleading) {
        return invalid("CNI_IFNAME", "is not the name of an interface");
    }
    let netns = variable("CNI_NETNS");
    if netns.is_empty() && netns_needed {
        return invalid("CNI_NETNS", "is not set");
    }
    let previous = value.get("prevResult").filter(|previous| previous.is_object()).cloned();
    let pod = match pod(&variable("CNI_ARGS")) {
        Err(_) if !netns_needed => None,
        pod => pod?,
    };
    Ok(Call { container, network: network(value), netns, pod, previous })
}

fn network(value: &Value) -> String {
    value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What a GC lists. Without a list nothing is known to be garbage: a missing one must not pass for an empty one. Nor is it a
/// fault: libcni writes `null` for a slice that was never made.
fn attached(value: &Value) -> Result<Option<Attached>, Failure> {
    let unusable = |what: &str| Failure::new(Code::InvalidConfiguration, format!("{VALID_ATTACHMENTS} {what}"));
    let Some(list) = value.get(VALID_ATTACHMENTS).filter(|list| !list.is_null()) else { return Ok(None) };
    let list = list.as_array().ok_or_else(|| unusable("is not a list"))?;
    let id = |attachment: &Value| attachment.get("containerID").and_then(Value::as_str).map(str::to_owned);
    let containers: Option<BTreeSet<String>> = list.iter().map(id).collect();
    let containers = containers.ok_or_else(|| unusable("has an attachment without a containerID"))?;
    Ok(Some(Attached { network: network(value), containers }))
}

fn pod(arguments: &str) -> Result<Option<Pod>, Failure> {
    let (mut namespace, mut name, mut uid) = (String::new(), String::new(), String::new());
    for argument in arguments.split(';').filter(|argument| !argument.is_empty()) {
        let Some((key, value)) = argument.split_once('=') else {
            let message = format!("CNI_ARGS has \"{argument}\", which is not of the form KEY=VALUE");
            return Err(Failure::new(Code::InvalidEnvironment, message));
        };
        match key {
            "K8S_POD_NAMESPACE" => value.clone_into(&mut namespace),
            "K8S_POD_NAME" => value.clone_into(&mut name),
            "K8S_POD_UID" => value.clone_into(&mut uid),
            // Arguments of other plugins.
            _ => {}
        }
    }
    Ok((!namespace.is_empty() && !name.is_empty()).then_some(Pod { namespace, name, uid }))
}

/// The answer to VERSION.
#[must_use]
pub fn versions(version: &str) -> String {
    json!({"cniVersion": version, "supportedVersions": VERSIONS}).to_string()
}
