//! What plugin and agent say to each other over the agent's socket: HTTP requests with a JSON body, named as Istio's
//! (interoperability notes §6.7), so that either end can be Istio's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// File name of the socket in the agent's run directory.
pub const SOCKET: &str = "pluginevent.sock";
/// A pod was given its network.
pub const ADD: &str = "/cmdadd";
/// A pod's network goes away. Ours alone; Istio's agent does not know it.
pub const DELETE: &str = "/cmddel";
/// Is the pod captured as it should be? Ours alone.
pub const CHECK: &str = "/cmdcheck";
/// Which sandboxes there are; what is kept of others is garbage. Ours alone.
pub const COLLECT: &str = "/cmdgc";

/// A pod's sandbox, as the runtime describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Path of its network namespace on the node; empty when the runtime has lost it.
    #[serde(rename = "Netns", default)]
    pub netns: String,
    /// Pod name.
    #[serde(rename = "PodName")]
    pub pod_name: String,
    /// Pod namespace.
    #[serde(rename = "PodNamespace")]
    pub pod_namespace: String,
    /// Pod uid; empty when the runtime does not say.
    #[serde(rename = "PodUID", default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    /// The runtime's id of the sandbox; empty from Istio's plugin.
    #[serde(rename = "ContainerID", default, skip_serializing_if = "String::is_empty")]
    pub container_id: String,
    /// Name of the network; empty from Istio's plugin.
    #[serde(rename = "Network", default, skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// Addresses it was given.
    #[serde(rename = "IPs", default, deserialize_with = "null_is_empty")]
    pub ips: Vec<AssignedAddress>,
}

/// The sandboxes that a network has, as its runtime knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Name of the network.
    #[serde(rename = "Network")]
    pub network: String,
    /// The runtime's ids of them.
    #[serde(rename = "ContainerIDs")]
    pub containers: BTreeSet<String>,
}

/// One address, in the form Go's `net` package writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedAddress {
    /// Index of its interface in the result; nobody needs it.
    #[serde(rename = "Interface", default)]
    pub interface: Value,
    /// The address with its network.
    #[serde(rename = "Address")]
    pub address: Network,
    /// The gateway, or empty.
    #[serde(rename = "Gateway", default)]
    pub gateway: Value,
}

/// Go's `net.IPNet`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The address.
    #[serde(rename = "IP")]
    pub ip: IpAddr,
    /// The network mask's bytes in base64.
    #[serde(rename = "Mask", default)]
    pub mask: Value,
}

impl Network {
    /// `ip` in a network whose prefix is `prefix` bits long.
    #[must_use]
    pub fn new(ip: IpAddr, prefix: u32) -> Self {
        let bytes = match ip {
            IpAddr::V4(_) => u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0).to_be_bytes().to_vec(),
            IpAddr::V6(_) => u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0).to_be_bytes().to_vec(),
        };
        Self { ip, mask: Value::String(STANDARD.encode(bytes)) }
    }
}

impl Attachment {
    /// The addresses alone.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ips.iter().map(|assigned| assigned.address.ip).collect()
    }
}

/// What the agent answers; with status 200 it says that the pod may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether the pod is captured now.
    #[serde(default)]
    pub captured: bool,
    /// Why so, or what is in the way.
    #[serde(default)]
    pub reason: String,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<AssignedAddress>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_istios_plugin_sends_is_understood() {
        let text = r#"{"Netns":"/var/run/netns/cni-1","PodName":"a","PodNamespace":"shop","IPs":[
            {"Interface":2,"Address":{"IP":"10.0.0.5","Mask":"////AA=="},"Gateway":"10.0.0.1"},
            {"Interface":null,"Address":{"IP":"fd00::5","Mask":"//////////8AAAAAAAAAAA=="},"Gateway":""}]}"#;
        let attachment: Attachment = serde_json::from_str(text).unwrap();
        let wanted: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(attachment.addresses(), wanted);
        assert_eq!(attachment.ips[0].address, Network::new(wanted[0], 24));
        assert_eq!(attachment.ips[1].address, Network::new(wanted[1], 64));
        let none: Attachment =
            serde_json::from_str(r#"{"Netns":"x","PodName":"a","PodNamespace":"b","IPs":null}"#).unwrap();
        assert_eq!(none.addresses(), Vec::<IpAddr>::new());
    }

    #[test]
    fn masks_of_any_length() {
        for (prefix, mask) in [(0, "AAAAAA=="), (32, "/////w=="), (33, "/////w==")] {
            assert_eq!(Network::new("10.0.0.1".parse().unwrap(), prefix).mask, mask, "{prefix}");
        }
    }
}
