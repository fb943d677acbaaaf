//! `/config_dump` in the shape `istioctl ztunnel-config` reads (interop §9.6).

use std::collections::BTreeMap;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fairway_core::ident::Identity;
use fairway_core::io::certs::describe::{Described, describe};
use fairway_core::io::certs::manager::State;
use fairway_core::io::xds::Report;
use fairway_core::snapshot::{Dump, Snapshot};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::PodState;
use crate::node::PodInfo;
use crate::telemetry::OpenConnection;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigDump<'a> {
    #[serde(flatten)]
    world: Dump<'a>,
    static_config: Value,
    version: Value,
    configuration: Value,
    config: &'a Value,
    certificates: Vec<Value>,
    workload_state: BTreeMap<String, Value>,
}

impl<'a> ConfigDump<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        stream: Report,
        certificates: &[(Identity, State)],
        pods: &[PodState],
        connections: &[OpenConnection],
        config: &'a Value,
    ) -> Self {
        Self {
            world: Dump(snapshot),
            static_config: json!({ "workloads": [], "policies": [], "services": [] }),
            version: json!({ "version": env!("CARGO_PKG_VERSION") }),
            configuration: json!({
                "source": stream.source.as_str(),
                "connected": stream.is_connected,
                "secondsSinceContact": stream.since_contact.map(|since| since.as_secs()),
            }),
            config,
            certificates: certificates.iter().map(|(identity, state)| certificate(identity, state)).collect(),
            workload_state: pods.iter().map(|state| (state.uid.to_string(), pod(state, connections))).collect(),
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
    let all = |texts: &[String]| -> Vec<Value> {
        texts.iter().flat_map(|text| describe(text)).map(|described| one_certificate(&described)).collect()
    };
    json!({
        "identity": identity.to_string(),
        "state": shown,
        "lastError": state.last_error,
        "certChain": all(&certificate.chain_pem),
        "rootCerts": all(&certificate.roots_pem),
    })
}

/// Readers take the dates for text, so what is not known is empty rather than absent.
fn one_certificate(described: &Described) -> Value {
    let (serial, from, to) = match &described.facts {
        Some((serial, from, to)) => (serial.clone(), date(*from), date(*to)),
        None => Default::default(),
    };
    json!({
        "pem": STANDARD.encode(&described.pem),
        "serialNumber": serial,
        "validFrom": from,
        "expirationTime": to,
    })
}

fn pod(state: &PodState, connections: &[OpenConnection]) -> Value {
    let info = &state.info;
    let mut shown = json!({
        "state": if state.pending.is_some() { "Pending" } else { "Up" },
        "connections": connections_of(info, connections),
        "info": { "name": info.name, "namespace": info.namespace, "serviceAccount": info.service_account },
    });
    if let (Some(error), Value::Object(fields)) = (&state.pending, &mut shown) {
        fields.insert("error".to_owned(), error.as_str().into());
    }
    shown
}

fn connections_of(info: &PodInfo, connections: &[OpenConnection]) -> Value {
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
    json!({ "inbound": of("inbound"), "outbound": of("outbound") })
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
