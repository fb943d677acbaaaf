//! A node proxy as far as the controller sees it: subscribes to everything, takes it and says so.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use fairway_core::io::grpc::{ControlPlane, ControlPlaneConfig, RootSource, TokenSource};
use fairway_core::io::tls;
use fairway_core::io::xds::digest::METADATA_KEY;
use fairway_core::io::xds::{Digest, NodeInfo};
use fairway_core::limits::Limits;
use fairway_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use fairway_proto::type_url::{ADDRESS, AUTHORIZATION};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Requests on their way.
const OUTGOING: usize = 64;

/// Where the controller is.
pub(super) fn control_plane(address: &str, root: &Path) -> Result<ControlPlane> {
    let config = ControlPlaneConfig {
        address: format!("https://{address}").parse().map_err(|error| anyhow::anyhow!("{address}: {error}"))?,
        roots: RootSource::File(root.to_owned()),
        alternative_name: Some("istiod.istio-system.svc".to_owned()),
        token: TokenSource::Literal("bench".into()),
        cluster_id: "Kubernetes".to_owned(),
        headers: Vec::new(),
        packet_mark: None,
        limits: Limits::default(),
    };
    Ok(ControlPlane::new(config, tls::provider())?)
}

/// A client with its stream.
pub(super) struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

/// Names and versions of workloads and services.
pub(super) type Held = HashMap<String, String>;

impl Client {
    /// Connects and subscribes, as one that holds what the digest says.
    pub(super) async fn open(control: &ControlPlane, number: u32, digest: Option<&Digest>) -> Result<Self> {
        let name = format!("node-{number}");
        let mut node = NodeInfo {
            pod_name: format!("ztunnel-{number}"),
            namespace: "fairway-system".to_owned(),
            address: None,
            node_name: name,
            metadata: Default::default(),
        };
        if let Some(digest) = digest {
            node.metadata.insert(METADATA_KEY.to_owned(), digest.encode().into());
        }
        let (requests, outgoing) = mpsc::channel(OUTGOING);
        let message = node.message();
        for type_url in [ADDRESS, AUTHORIZATION] {
            let node = Some(message.clone()).filter(|_| type_url == ADDRESS);
            let first = DeltaDiscoveryRequest { node, type_url: type_url.to_owned(), ..Default::default() };
            requests.send(first).await.context("subscribing")?;
        }
        let channel = control.connect().await?;
        // Each client is on a machine of its own, and takes all there is in messages of a few megabytes.
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let responses = service.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn take(&mut self) -> Result<DeltaDiscoveryResponse> {
        let Some(mut response) = self.responses.message().await? else { bail!("the controller ended the stream") };
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: std::mem::take(&mut response.nonce),
            ..Default::default()
        };
        self.requests.send(request).await.context("answering")?;
        Ok(response)
    }

    /// Takes until there are so many resources; returns names and versions of addresses.
    pub(super) async fn take_all(&mut self, count: usize) -> Result<Held> {
        let mut held = Held::new();
        let mut policies = 0_usize;
        while held.len() + policies < count {
            let response = self.take().await?;
            if response.type_url == ADDRESS {
                held.extend(response.resources.into_iter().map(|resource| (resource.name, resource.version)));
            } else {
                policies += response.resources.len();
            }
        }
        Ok(held)
    }

    /// Takes until both subscriptions are answered.
    pub(super) async fn take_answers(&mut self) -> Result<()> {
        let mut open = vec![ADDRESS, AUTHORIZATION];
        while !open.is_empty() {
            let response = self.take().await?;
            open.retain(|type_url| *type_url != response.type_url);
        }
        Ok(())
    }

    /// Takes for good, and says when something came whose name is among `names`.
    pub(super) async fn follow(
        mut self,
        names: Arc<Vec<String>>,
        seen: mpsc::UnboundedSender<(usize, Instant)>,
    ) -> Result<()> {
        loop {
            let response = self.take().await?;
            let now = Instant::now();
            for resource in &response.resources {
                if let Some(place) = names.iter().position(|name| *name == resource.name) {
                    // The end of the measurement is the end of this.
                    let _ = seen.send((place, now));
                }
            }
        }
    }
}
