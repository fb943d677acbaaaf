//! Two replicas beside each other: both serve proxies, one writes, and when that one is killed the other takes over both.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use fairway_controller::app::Controller;
use fairway_controller::config::{Args, Config};
use fairway_core::io::drain::{self, Trigger};
use fairway_core::io::grpc::{ControlPlane, ControlPlaneConfig, RootSource, TokenSource};
use fairway_core::io::xds::Digest;
use fairway_core::io::xds::digest::METADATA_KEY;
use fairway_core::io::{tls, xds::NodeInfo};
use fairway_core::limits::Limits;
use fairway_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use fairway_proto::type_url::{ADDRESS, AUTHORIZATION};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::contract::policy;
use super::fake::{Fake, Lease};
use super::writes::{LEASES, REVIEWS};

/// More than the lease of a dead replica holds.
const PATIENCE: Duration = Duration::from_secs(120);
const PODS: usize = 300;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            // Nobody tells; it is looked at again.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn pod(number: usize, phase: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("web-{number}"), "namespace": "shop", "uid": format!("u-{number}"),
            "labels": {"version": phase}},
        "spec": {"nodeName": "node-1", "containers": []},
        "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", number / 250, number % 250 + 1)}})
}

/// A replica in a runtime of its own, which can be killed.
pub(super) struct Replica {
    runtime: Option<tokio::runtime::Runtime>,
    address: std::net::SocketAddr,
    /// Where the API server asks of what is applied.
    pub(super) webhook: std::net::SocketAddr,
    /// The mesh's root.
    pub(super) root: PathBuf,
    _trigger: Trigger,
}

impl Replica {
    pub(super) async fn start(fake: &Fake, directory: &Path, name: &str) -> Self {
        let own = directory.join(name);
        std::fs::create_dir_all(own.join("state")).unwrap();
        // Both sign with one root.
        if let Ok(files) = std::fs::read_dir(directory.join("first/state/ca"))
            && name != "first"
        {
            std::fs::create_dir_all(own.join("state/ca")).unwrap();
            for file in files.map(Result::unwrap) {
                std::fs::copy(file.path(), own.join("state/ca").join(file.file_name())).unwrap();
            }
        }
        let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": fake.url()}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": name}}],
            "users": [{"name": name, "user": {"token": name}}]});
        std::fs::write(own.join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let path = |name: &str| own.join(name).to_str().unwrap().to_owned();
        let args = Args::try_parse_from([
            "controller",
            "--source=kubernetes",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
            "--waypoints=false",
            "--root-config-map=",
            "--ca-secret=",
            "--webhook-listen=127.0.0.1:0",
            &format!("--replica={name}"),
            &format!("--kubeconfig={}", path("kubeconfig")),
            &format!("--state-dir={}", path("state")),
        ]);
        let config = Config::try_from(args.unwrap()).unwrap();
        let (trigger, drain) = drain::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let controller = soon(runtime.spawn(Controller::start(config, drain))).await.unwrap().unwrap();
        let root = own.join("root.pem");
        std::fs::write(&root, &controller.root_pem).unwrap();
        let (address, webhook) = (controller.listen, controller.webhook_listen.unwrap());
        Self { runtime: Some(runtime), address, webhook, root, _trigger: trigger }
    }

    /// Ends everything it does, at once and without a word.
    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A node proxy.
struct Proxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    held: std::collections::BTreeMap<String, String>,
    /// Resources that it was sent.
    sent: usize,
}

impl Proxy {
    async fn open(replica: &Replica, held: std::collections::BTreeMap<String, String>) -> Self {
        let config = ControlPlaneConfig {
            address: format!("https://{}", replica.address).parse().unwrap(),
            roots: RootSource::File(replica.root.clone()),
            alternative_name: Some("istiod.istio-system.svc".to_owned()),
            token: TokenSource::Literal("proxy".into()),
            cluster_id: "Kubernetes".to_owned(),
            headers: Vec::new(),
            packet_mark: None,
            limits: Limits::default(),
        };
        let mut node = NodeInfo {
            pod_name: "ztunnel-1".to_owned(),
            namespace: "fairway-system".to_owned(),
            address: None,
            node_name: "node-1".to_owned(),
            metadata: Default::default(),
        };
        if !held.is_empty() {
            let digest = Digest::of(held.len(), held.iter().map(|(name, version)| (name.as_str(), version.as_str())));
            node.metadata.insert(METADATA_KEY.to_owned(), digest.encode().into());
        }
        let (requests, outgoing) = mpsc::channel(64);
        for type_url in [ADDRESS, AUTHORIZATION] {
            let node = Some(node.message()).filter(|_| type_url == ADDRESS);
            let first = DeltaDiscoveryRequest { node, type_url: type_url.to_owned(), ..Default::default() };
            requests.send(first).await.unwrap();
        }
        let channel = soon(ControlPlane::new(config, tls::provider()).unwrap().connect()).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = soon(client.delta_aggregated_resources(ReceiverStream::new(outgoing))).await.unwrap();
        Self { requests, responses: responses.into_inner(), held, sent: 0 }
    }

    /// Takes a response and acknowledges it; none when the stream has ended.
    async fn take(&mut self) -> Option<DeltaDiscoveryResponse> {
        let response = soon(self.responses.message()).await.ok()??;
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..Default::default()
        };
        self.requests.send(answer).await.ok()?;
        self.sent += response.resources.len();
        if response.type_url == ADDRESS {
            self.held.extend(response.resources.iter().map(|it| (it.name.clone(), it.version.clone())));
        }
        Some(response)
    }

    async fn until(&mut self, is_done: impl Fn(&Self, &DeltaDiscoveryResponse) -> bool) {
        loop {
            let response = self.take().await.unwrap();
            if is_done(self, &response) {
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_is_missed_by_nobody() {
    let fake = Fake::start().await;
    fake.define("authorizationpolicies.security.istio.io", true);
    let lease = Lease::default();
    let (kept, user) = (lease.clone(), json!({"username": "system:serviceaccount:fairway-system:ztunnel"}));
    fake.answers(move |method, path, body| match method {
        _ if path.starts_with(LEASES) => Some(kept.answer(method, body)),
        "POST" if path == REVIEWS => {
            Some((201, json!({"status": {"authenticated": true, "audiences": ["istio-ca"], "user": user}, "spec": {}})))
        }
        "PATCH" => Some((200, body)),
        _ => None,
    });
    (0..PODS).for_each(|number| fake.put(pod(number, "v1")));
    let directory = tempfile::tempdir().unwrap();
    let mut first = Replica::start(&fake, directory.path(), "first").await;
    until(|| lease.holder().as_deref() == Some("first")).await;
    let second = Replica::start(&fake, directory.path(), "second").await;

    // Both serve, and one writes.
    let mut here = Proxy::open(&first, Default::default()).await;
    here.until(|proxy, _| proxy.held.len() == PODS).await;
    let mut there = Proxy::open(&second, Default::default()).await;
    there.until(|proxy, _| proxy.held.len() == PODS).await;
    fake.put(policy("deny", "DENY"));
    for proxy in [&mut here, &mut there] {
        proxy.until(|_, response| response.type_url == AUTHORIZATION && !response.resources.is_empty()).await;
    }
    until(|| !fake.writes().is_empty()).await;
    assert!(fake.writes().iter().all(|(who, _)| who == "first"), "{:?}", fake.writes());

    // Its proxy goes to the other one, which has nothing to say to it but what is new.
    first.kill();
    while here.take().await.is_some() {}
    fake.put(pod(7, "v2"));
    let held = std::mem::take(&mut here.held);
    let mut here = Proxy::open(&second, held).await;
    here.until(|_, response| response.resources.iter().any(|it| it.name.ends_with("/web-7"))).await;
    assert!(here.sent < 10, "{} resources are sent to who has them", here.sent);

    // The other one writes once the lease has run out.
    until(|| lease.holder().as_deref() == Some("second")).await;
    fake.put(policy("allow", "ALLOW"));
    until(|| fake.writes().iter().any(|(who, path)| who == "second" && path.contains("/allow/"))).await;
    let allow = fake.writes().into_iter().filter(|(_, path)| path.contains("/allow/"));
    assert!(allow.into_iter().all(|(who, _)| who == "second"));
}
