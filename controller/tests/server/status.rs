//! How far the proxies are, asked for as `istioctl proxy-status` does.

use std::collections::BTreeMap;

use fairway_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use fairway_proto::discovery::{DiscoveryRequest, DiscoveryResponse};
use fairway_proto::status::{ClientConfig, ConfigStatus};
use fairway_proto::type_url::{ADDRESS, CLIENT_CONFIG, SYNC_STATUS};
use prost::Message;
use prost_types::value::Kind;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{Fixture, shop, soon, with_token};

async fn ask(fixture: &Fixture, token: &str, type_url: &str) -> Result<DiscoveryResponse, Status> {
    let (requests, outgoing) = mpsc::channel(2);
    requests.send(DiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() }).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(fixture.channel().await);
    let mut answers =
        soon(client.stream_aggregated_resources(with_token(ReceiverStream::new(outgoing), token))).await?.into_inner();
    let first = soon(answers.message()).await?.unwrap();
    // What is acknowledged is not said again; what is asked again is.
    let acknowledged =
        DiscoveryRequest { type_url: type_url.to_owned(), response_nonce: first.nonce.clone(), ..Default::default() };
    requests.send(acknowledged).await.unwrap();
    requests.send(DiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() }).await.unwrap();
    let second = soon(answers.message()).await?.unwrap();
    assert_eq!((first.nonce.as_str(), second.nonce.as_str()), ("1", "2"));
    Ok(second)
}

fn proxies(response: &DiscoveryResponse) -> Vec<ClientConfig> {
    let config = |any: &prost_types::Any| {
        assert_eq!(any.type_url, CLIENT_CONFIG);
        ClientConfig::decode(any.value.as_slice()).unwrap()
    };
    response.resources.iter().map(config).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_proxies_is_told_to_whom_it_concerns() {
    let fixture = Fixture::new(&[shop()]).await;
    let mut subscriber = fixture.subscribe(ADDRESS, BTreeMap::new()).await;
    subscriber.take().await;
    fixture.until("/debug/syncz", |page| page["proxies"][0]["types"]["istio.workload.Address"]["acked"] == 1).await;
    let root = fixture.token(|_| {});
    let answer = ask(&fixture, &root, SYNC_STATUS).await.unwrap();
    assert_eq!(answer.type_url, SYNC_STATUS);
    let identifier: Value = serde_json::from_str(&answer.control_plane.as_ref().unwrap().identifier).unwrap();
    assert_eq!(identifier["Component"], "fairway");
    let [proxy] = proxies(&answer).try_into().unwrap();
    let node = proxy.node.unwrap();
    assert_eq!(node.id, "ztunnel~10.99.0.11~ztunnel-node-1.fairway-system~fairway-system.svc.cluster.local");
    let namespace = node.metadata.unwrap().fields["NAMESPACE"].kind.clone();
    assert_eq!(namespace, Some(Kind::StringValue("fairway-system".to_owned())));
    let [addresses] = proxy.generic_xds_configs.try_into().unwrap();
    assert_eq!((addresses.type_url.as_str(), addresses.config_status()), (ADDRESS, ConfigStatus::Synced));
    assert!(addresses.last_updated.is_some() && addresses.error_state.is_none());

    let other = |claims: &mut Value| {
        claims["sub"] = json!("system:serviceaccount:shop:web");
        claims["kubernetes.io"]["namespace"] = json!("shop");
    };
    assert_eq!(proxies(&ask(&fixture, &fixture.token(other), SYNC_STATUS).await.unwrap()), []);
    assert_eq!(ask(&fixture, "", SYNC_STATUS).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(ask(&fixture, &root, ADDRESS).await.unwrap_err().code(), Code::Unimplemented);
}
