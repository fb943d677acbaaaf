//! The result of the plugin before: handed on unchanged, and read for the pod's addresses.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::event::{AssignedAddress, Network};

/// `previous` as a result of `version`. Nothing is added or lost; only what the versions write differently changes.
#[must_use]
pub fn pass_through(previous: &Value, version: &str) -> String {
    let mut result = previous.clone();
    // Version 1.0.0 dropped the family of an address, which the older ones require.
    let has_family = version.starts_with("0.");
    for address in result.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(address) = address.as_object_mut() else { continue };
        let text = address.get("address").and_then(Value::as_str).unwrap_or_default();
        let family = if text.contains(':') { "6" } else { "4" };
        if has_family {
            address.entry("version").or_insert_with(|| json!(family));
        } else {
            address.remove("version");
        }
    }
    if let Some(fields) = result.as_object_mut() {
        fields.insert("cniVersion".to_owned(), json!(version));
    }
    result.to_string()
}

/// The addresses inside the sandbox; those of interfaces on the node are not the pod's.
#[must_use]
pub fn addresses(previous: &Value) -> Vec<AssignedAddress> {
    let interfaces = previous.get("interfaces").and_then(Value::as_array);
    let in_sandbox = |address: &Value| {
        let index = address.get("interface").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
        let interface = index.zip(interfaces).and_then(|(index, interfaces)| interfaces.get(index));
        interface.is_none_or(|interface| {
            interface.get("sandbox").and_then(Value::as_str).is_some_and(|sandbox| !sandbox.is_empty())
        })
    };
    let list = previous.get("ips").and_then(Value::as_array);
    list.into_iter().flatten().filter(|address| in_sandbox(address)).filter_map(assigned).collect()
}

fn assigned(address: &Value) -> Option<AssignedAddress> {
    let (ip, prefix) = address.get("address")?.as_str()?.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    Some(AssignedAddress {
        interface: address.get("interface").cloned().unwrap_or_default(),
        address: Network::new(ip, prefix.parse().ok()?),
        gateway: address.get("gateway").cloned().unwrap_or(json!("")),
    })
}
