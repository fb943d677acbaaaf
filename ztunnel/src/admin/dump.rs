//! `/config_dump` in the shape `istioctl ztunnel-config` reads (interop §9.6).

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fairway_core::ident::Identity;
use fairway_core::io::certs::manager::State;
use fairway_core::snapshot::{Dump, Snapshot};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::node::{PodInfo, PodUid};
use crate::telemetry::OpenConnection;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigDump<'a> {
    #[serde(flatten)]
    world: Dump<'a>,
    static_config: Value,
    version: Value,
    config: &'a Value,
    certificates: Vec<Value>,
    workload_state: BTreeMap<String, Value>,
}

impl<'a> ConfigDump<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        certificates: &[(Identity, State)],
        pods: &[(PodUid, PodInfo)],
        connections: &[OpenConnection],
        config: &'a Value,
    ) -> Self {
        Self {
            world: Dump(snapshot),
            static_config: json!({ "workloads": [], "policies": [], "services": [] }),
            version: json!({ "version": env!("CARGO_PKG_VERSION") }),
            config,
            certificates: certificates.iter().map(|(identity, state)| certificate(identity, state)).collect(),
            workload_state: pods.iter().map(|(uid, info)| (uid.to_string(), pod(info, connections))).collect(),
        }
    }
}

fn certificate(identity: &Identity, state: &State) -> Value {
    let shown = match (&state.certificate, &state.last_error) {
        (Some(_), _) => "Available".to_owned(),
        (None, None) => "Initializing".to_owned(),
        (None, Some(error)) => format!("Unavailable: {error}"),
    };
    let Some(certificate) = &state.certificate else {
        return json!({ "identity": identity.to_string(), "state": shown, "certChain": [], "rootCerts": [] });
    };
    let pem = |text: &String| json!({ "pem": STANDARD.encode(text) });
    let mut chain: Vec<Value> = certificate.chain_pem.iter().map(pem).collect();
    if let Some(Value::Object(leaf)) = chain.first_mut() {
        leaf.insert("serialNumber".to_owned(), certificate.serial.as_str().into());
        leaf.insert("validFrom".to_owned(), date(certificate.not_before).into());
        leaf.insert("expirationTime".to_owned(), date(certificate.not_after).into());
    }
    json!({
        "identity": identity.to_string(),
        "state": shown,
        "lastError": state.last_error,
        "certChain": chain,
        "rootCerts": certificate.roots_pem.iter().map(pem).collect::<Vec<_>>(),
    })
}

fn pod(info: &PodInfo, connections: &[OpenConnection]) -> Value {
    let own = format!("/{}/{}", info.namespace, info.name);
    let of = |direction: &str| -> Vec<Value> {
        let is_own = |connection: &&OpenConnection| {
            let workload = match direction {
                "inbound" => &connection.destination_workload,
                _ => &connection.source_workload,
            };
            connection.direction == direction && workload.as_ref().is_some_and(|uid| uid.ends_with(&own))
        };
        connections.iter().filter(is_own).map(row).collect()
    };
    json!({
        "state": "Up",
        "connections": { "inbound": of("inbound"), "outbound": of("outbound") },
        "info": { "name": info.name, "namespace": info.namespace, "serviceAccount": info.service_account },
    })
}

fn row(connection: &OpenConnection) -> Value {
    let original = connection.hbone_destination.as_ref().unwrap_or(&connection.destination);
    json!({
        "src": connection.source,
        "originalDst": original,
        "actualDst": connection.destination,
        "protocol": if connection.mutual_tls { "HBONE" } else { "TCP" },
    })
}

fn date(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}
