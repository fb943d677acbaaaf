//! How far each proxy is, to whoever asks over discovery: `istioctl proxy-status` (interop §9.7).

use std::collections::BTreeMap;
use std::time::SystemTime;

use fairway_proto::discovery::{DiscoveryRequest, DiscoveryResponse};
use fairway_proto::envoy_core::{ControlPlane, Node};
use fairway_proto::status::client_config::GenericXdsConfig;
use fairway_proto::status::{ClientConfig, ConfigStatus, UpdateFailureState};
use fairway_proto::type_url::{CLIENT_CONFIG, SYNC_STATUS};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Any, Struct, Timestamp, Value};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::clients::{Client, Clients, TypeStatus};
use crate::world::ResourceType;

/// Answers each question on a stream with the proxies of one namespace, or with all of them.
pub(super) async fn answer(
    first: DiscoveryRequest,
    requests: &mut Streaming<DiscoveryRequest>,
    answers: &mpsc::Sender<Result<DiscoveryResponse, Status>>,
    clients: &Clients,
    namespace: Option<&str>,
) -> Result<(), Status> {
    let mut questions = 0_u64;
    let mut request = first;
    loop {
        // With a nonce it has taken what we said.
        if request.response_nonce.is_empty() {
            questions = questions.wrapping_add(1);
            let is_ours = |client: &Client| namespace.is_none_or(|namespace| client.namespace == namespace);
            let answer = match request.type_url.as_str() {
                SYNC_STATUS => response(clients.list().iter().filter(|client| is_ours(client)), questions),
                other => {
                    return Err(Status::unimplemented(format!("{other:?} is not served with {SYNC_STATUS:?}")));
                }
            };
            if answers.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
        }
        request = match requests.message().await {
            Ok(Some(request)) => request,
            _ => return Ok(()),
        };
    }
}

fn response<'a>(clients: impl Iterator<Item = &'a Client>, nonce: u64) -> DiscoveryResponse {
    let identifier = serde_json::json!({
        "Component": "fairway",
        "ID": "fairway-controller",
        "Info": {"version": env!("CARGO_PKG_VERSION")},
    });
    let any = |client: &Client| Any { type_url: CLIENT_CONFIG.to_owned(), value: config(client).encode_to_vec() };
    DiscoveryResponse {
        resources: clients.map(any).collect(),
        type_url: SYNC_STATUS.to_owned(),
        nonce: nonce.to_string(),
        control_plane: Some(ControlPlane { identifier: identifier.to_string() }),
        ..DiscoveryResponse::default()
    }
}

fn config(client: &Client) -> ClientConfig {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let fields =
        [("CLUSTER_ID", &client.cluster), ("NAMESPACE", &client.namespace), ("ISTIO_VERSION", &client.version)];
    let fields: BTreeMap<String, Value> = fields.map(|(key, value)| (key.to_owned(), text(value))).into();
    let of_type = |kind: ResourceType| Some(generic(kind, client.types.get(kind.short_name())?));
    ClientConfig {
        node: Some(Node { id: client.id.clone(), metadata: Some(Struct { fields }), ..Node::default() }),
        generic_xds_configs: ResourceType::ALL.into_iter().filter_map(of_type).collect(),
    }
}

fn generic(kind: ResourceType, status: &TypeStatus) -> GenericXdsConfig {
    let updated = status.updated.map(timestamp);
    let error = |details: &String| UpdateFailureState { last_update_attempt: updated, details: details.clone() };
    GenericXdsConfig {
        type_url: kind.type_url().to_owned(),
        last_updated: updated,
        config_status: summary(status).into(),
        error_state: status.nacked.as_ref().map(error),
    }
}

fn summary(status: &TypeStatus) -> ConfigStatus {
    match status {
        TypeStatus { nacked: Some(_), .. } => ConfigStatus::Error,
        TypeStatus { sent: 0, .. } => ConfigStatus::NotSent,
        TypeStatus { sent, acked, .. } if sent == acked => ConfigStatus::Synced,
        _ => ConfigStatus::Stale,
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::Refusals;
    use super::*;

    #[test]
    fn a_type_is_as_far_as_its_last_answer() {
        let status = |sent, acked, nacked: Option<&str>| TypeStatus {
            sent,
            acked,
            nacked: nacked.map(str::to_owned),
            refused: Refusals::default(),
            updated: None,
        };
        for (status, expected) in [
            (status(0, 0, None), ConfigStatus::NotSent),
            (status(2, 1, None), ConfigStatus::Stale),
            (status(2, 2, None), ConfigStatus::Synced),
            (status(2, 1, Some("web: bad")), ConfigStatus::Error),
        ] {
            assert_eq!(summary(&status), expected, "{status:?}");
        }
    }
}
