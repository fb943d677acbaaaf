//! The whole controller in process, spoken to over TLS as proxies do.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use fairway_controller::app::Controller;
use fairway_controller::config::{Args, Config};
use fairway_core::io::drain::{self, Mode, Trigger};
use fairway_core::source::Kind as ObjectKind;
use fairway_proto::ca::IstioCertificateRequest;
use fairway_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use fairway_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use fairway_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use fairway_proto::envoy_core::Node;
use fairway_proto::rpc_status::Status as Detail;
use fairway_proto::type_url::{ADDRESS, AUTHORIZATION};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prost_types::{Struct, value::Kind};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};

mod server {
    mod peers;
    mod status;
}

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

struct Fixture {
    directory: tempfile::TempDir,
    key: KeyPair,
    controller: Option<Controller>,
    trigger: Trigger,
    address: SocketAddr,
    admin: SocketAddr,
    root: String,
}

impl Fixture {
    async fn new(manifests: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        fs::create_dir(directory.path().join("manifests")).unwrap();
        fs::write(directory.path().join("key.pem"), key.public_key_pem()).unwrap();
        for (name, text) in manifests {
            fs::write(directory.path().join("manifests").join(name), text).unwrap();
        }
        let (controller, trigger) = start(directory.path()).await;
        Self {
            address: controller.listen,
            admin: controller.admin_listen,
            root: controller.root_pem.clone(),
            controller: Some(controller),
            directory,
            key,
            trigger,
        }
    }

    async fn stop(&mut self) {
        self.trigger.start(Mode::Graceful);
        soon(self.controller.take().unwrap().finished()).await;
    }

    async fn start(&mut self) {
        let (controller, trigger) = start(self.directory.path()).await;
        (self.address, self.admin) = (controller.listen, controller.admin_listen);
        (self.controller, self.trigger) = (Some(controller), trigger);
    }

    fn state(&self, name: &str) -> PathBuf {
        self.directory.path().join("state").join(name)
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.directory.path().join("manifests").join(name)
    }

    /// Replaces a manifest as a whole.
    fn write(&self, name: &str, text: &str) {
        let temporary = self.manifest(".new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.manifest(name)).unwrap();
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        token(&self.key, change)
    }

    async fn channel(&self) -> Channel {
        channel(self.address, &self.root).await
    }

    async fn subscribe(&self, type_url: &str, held: BTreeMap<String, String>) -> Subscriber {
        Subscriber::open(self.channel().await, &self.token(|_| {}), type_url, held).await.unwrap()
    }

    async fn page(&self, path: &str) -> String {
        soon(async {
            let mut stream = TcpStream::connect(self.admin).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.unwrap();
            reply
        })
        .await
    }

    async fn json(&self, path: &str) -> Value {
        let page = self.page(path).await;
        serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Asks until the page is as wanted.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        soon(async {
            loop {
                let page = self.json(path).await;
                if wanted(&page) {
                    return page;
                }
            }
        })
        .await
    }
}

async fn start(directory: &Path) -> (Controller, Trigger) {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let args = Args::try_parse_from([
        "controller",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        &format!("--manifests={}", path("manifests")),
        &format!("--state-dir={}", path("state")),
        &format!("--service-account-key={}", path("key.pem")),
        "--tls-san=127.0.0.1",
    ]);
    let (trigger, drain) = drain::new();
    let controller = Controller::start(Config::try_from(args.unwrap()).unwrap(), drain).await.unwrap();
    (controller, trigger)
}

fn token(key: &KeyPair, change: impl FnOnce(&mut Value)) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local", "aud": ["istio-ca"], "iat": now, "exp": now + 3600,
        "sub": "system:serviceaccount:fairway-system:ztunnel",
        "kubernetes.io": {
            "namespace": "fairway-system", "node": {"name": "node-1"},
            "pod": {"name": "ztunnel-node-1", "uid": "uid-ztunnel-node-1"},
        },
    });
    change(&mut claims);
    let key = EncodingKey::from_ec_der(&key.serialize_der());
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &key).unwrap()
}

#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
    address: SocketAddr,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { tls, address } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("istiod.istio-system.svc").unwrap();
            Ok(TokioIo::new(tls.connect(name, stream).await?))
        })
    }
}

fn connector(root: &str, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(fairway_core::io::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn channel(address: SocketAddr, root: &str) -> Channel {
    let connector = Connector { tls: connector(root, &[b"h2"]), address };
    soon(Endpoint::from_static("https://controller").connect_with_connector(connector)).await.unwrap()
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

struct Subscriber {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Subscriber {
    async fn open(
        channel: Channel,
        token: &str,
        type_url: &str,
        held: BTreeMap<String, String>,
    ) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let text = |text: &str| prost_types::Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let metadata = [("NAMESPACE", "fairway-system"), ("NODE_NAME", "node-1")];
        let first = DeltaDiscoveryRequest {
            node: Some(Node {
                id: "ztunnel~10.99.0.11~ztunnel-node-1.fairway-system~fairway-system.svc.cluster.local".to_owned(),
                metadata: Some(Struct { fields: metadata.map(|(key, value)| (key.to_owned(), text(value))).into() }),
                ..Node::default()
            }),
            type_url: type_url.to_owned(),
            initial_resource_versions: held,
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await.unwrap();
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let request = with_token(ReceiverStream::new(outgoing), token);
        let responses = soon(client.delta_aggregated_resources(request)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        Ok(soon(self.responses.message()).await?.unwrap())
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, refusal: Option<&str>) {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: refusal.map(|message| Detail { message: message.to_owned(), ..Detail::default() }),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    async fn take(&mut self) -> DeltaDiscoveryResponse {
        let response = self.next().await.unwrap();
        self.answer(&response, None).await;
        response
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

fn pod(namespace: &str, name: &str, account: &str, node: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, uid: uid-{name}}}\n\
         spec: {{nodeName: {node}, serviceAccountName: {account}, containers: [{{name: c, image: none}}]}}\n\
         status: {{phase: Running, podIP: {address}, conditions: [{{type: Ready, status: \"True\"}}]}}\n"
    )
}

fn nodes() -> (&'static str, String) {
    let proxy = |node| pod("fairway-system", &format!("ztunnel-{node}"), "ztunnel", node, "10.99.0.11");
    ("nodes.yaml", format!("{}---\n{}", proxy("node-1"), proxy("node-2")))
}

fn shop() -> (&'static str, String) {
    ("shop.yaml", pod("shop", "web", "web", "node-1", "10.101.0.2"))
}

fn deny(port: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\n\
         spec: {{action: DENY, rules: [{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}]}}\n"
    )
}

const WEB: &str = "Kubernetes//Pod/shop/web";
const DB: &str = "Kubernetes//Pod/shop/db";

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_files_reach_a_subscriber() {
    let fixture = Fixture::new(&[shop()]).await;
    let mut subscriber = fixture.subscribe(ADDRESS, BTreeMap::new()).await;
    assert_eq!(names(&subscriber.take().await), [WEB]);
    fixture.write("db.yaml", &pod("shop", "db", "db", "node-2", "10.102.0.2"));
    assert_eq!(names(&subscriber.take().await), [DB]);
    fixture.write("db.yaml", &pod("shop", "db", "db", "node-2", "10.102.0.3"));
    assert_eq!(names(&subscriber.take().await), [DB]);
    fs::remove_file(fixture.manifest("db.yaml")).unwrap();
    let response = subscriber.take().await;
    assert_eq!((names(&response), &response.removed_resources), (vec![], &vec![DB.to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_withdraws_nothing() {
    let fixture = Fixture::new(&[shop(), ("policy.yaml", deny("80"))]).await;
    let mut subscriber = fixture.subscribe(AUTHORIZATION, BTreeMap::new()).await;
    let first = subscriber.take().await;
    fixture.write("policy.yaml", &deny("eighty"));
    let sources = fixture.until("/debug/sources", |page| page["errors"][0]["message"].is_string()).await;
    let error = &sources["errors"][0];
    assert_eq!(error["field"], "spec.rules[0].to[0].operation.ports[0]");
    let place = (&error["file"], &error["line"], &error["column"], &error["object"]);
    assert_eq!(place, (&json!("policy.yaml"), &json!(4), &json!(57), &json!("AuthorizationPolicy shop/p")));
    fixture.write("policy.yaml", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p");
    let in_file = |page: &Value| page["errors"][0]["file"] == "policy.yaml";
    fixture.until("/debug/sources", in_file).await;
    // The next thing the subscriber hears is the repaired policy.
    fixture.write("policy.yaml", &deny("81"));
    let second = subscriber.take().await;
    assert_eq!(names(&second), ["shop/p"]);
    assert_ne!(first.resources, second.resources);
    fixture.until("/debug/sources", |page| page["errors"] == json!([])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_subscriber_hears_only_what_it_missed() {
    let fixture = Fixture::new(&[shop(), ("db.yaml", pod("shop", "db", "db", "node-2", "10.102.0.2"))]).await;
    let mut subscriber = fixture.subscribe(ADDRESS, BTreeMap::new()).await;
    let first = subscriber.take().await;
    drop(subscriber);
    let mut held: BTreeMap<String, String> =
        first.resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect();
    held.insert("gone".to_owned(), "1".to_owned());
    fixture.write("db.yaml", &pod("shop", "db", "db", "node-2", "10.102.0.3"));
    fixture.until("/debug/syncz", |page| page["generation"] == 2).await;
    let mut subscriber = fixture.subscribe(ADDRESS, held).await;
    let response = subscriber.take().await;
    assert_eq!((names(&response), &response.removed_resources), (vec![DB], &vec!["gone".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_progress_are_shown() {
    let fixture = Fixture::new(&[shop()]).await;
    let mut subscriber = fixture.subscribe(ADDRESS, BTreeMap::new()).await;
    let first = subscriber.next().await.unwrap();
    subscriber.answer(&first, Some("web: not to my taste")).await;
    let of_type = |page: &Value| page["proxies"][0]["types"]["istio.workload.Address"].clone();
    let page = fixture.until("/debug/syncz", |page| !of_type(page)["nacked"].is_null()).await;
    assert_eq!(of_type(&page), json!({"sent": 1, "acked": 0, "nacked": "web: not to my taste"}));
    assert_eq!(page["proxies"][0]["node"], "node-1");
    fixture.write("db.yaml", &pod("shop", "db", "db", "node-2", "10.102.0.2"));
    subscriber.take().await;
    let page = fixture.until("/debug/syncz", |page| of_type(page)["acked"] == 2).await;
    assert_eq!(of_type(&page), json!({"sent": 2, "acked": 2, "nacked": null}));
    assert!(fixture.page("/metrics").await.contains("fairway_discovery_refusals_total 1"));
    drop(subscriber);
    fixture.until("/debug/syncz", |page| page["proxies"] == json!([])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_needs_a_token_of_the_namespace_claimed() {
    let fixture = Fixture::new(&[shop()]).await;
    let foreign = token(&KeyPair::generate().unwrap(), |_| {});
    for token in ["", "nonsense", &foreign] {
        let opened = Subscriber::open(fixture.channel().await, token, ADDRESS, BTreeMap::new()).await;
        assert_eq!(opened.err().unwrap().code(), Code::Unauthenticated, "{token}");
    }
    let other = fixture.token(|claims| claims["sub"] = json!("system:serviceaccount:shop:web"));
    let mut subscriber = Subscriber::open(fixture.channel().await, &other, ADDRESS, BTreeMap::new()).await.unwrap();
    assert_eq!(subscriber.next().await.unwrap_err().code(), Code::PermissionDenied);
}

async fn certificate(fixture: &Fixture, token: &str, identity: &str) -> Result<Vec<String>, Status> {
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let kind = Some(Kind::StringValue(identity.to_owned()));
    let request = IstioCertificateRequest {
        csr: csr.pem().unwrap(),
        validity_duration: 600,
        metadata: Some(Struct { fields: [("ImpersonatedIdentity".to_owned(), prost_types::Value { kind })].into() }),
    };
    let mut client = IstioCertificateServiceClient::new(fixture.channel().await);
    Ok(soon(client.create_certificate(with_token(request, token))).await?.into_inner().cert_chain)
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_for_identities_on_the_node() {
    let db = ("db.yaml", pod("shop", "db", "db", "node-2", "10.102.0.2"));
    let fixture = Fixture::new(&[shop(), nodes(), db]).await;
    let good = fixture.token(|_| {});
    let chain = certificate(&fixture, &good, "spiffe://cluster.local/ns/shop/sa/web").await.unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1], fixture.root);
    let foreign = token(&KeyPair::generate().unwrap(), |_| {});
    let rows = [
        ("another node", good.clone(), "db", Code::PermissionDenied),
        ("expired", fixture.token(|claims| claims["exp"] = json!(1)), "web", Code::Unauthenticated),
        ("audience", fixture.token(|claims| claims["aud"] = json!(["other"])), "web", Code::Unauthenticated),
        ("foreign key", foreign, "web", Code::Unauthenticated),
        ("no token", String::new(), "web", Code::Unauthenticated),
        (
            "not a node proxy",
            fixture.token(|claims| claims["sub"] = json!("system:serviceaccount:shop:db")),
            "web",
            Code::PermissionDenied,
        ),
    ];
    for (what, token, account, code) in rows {
        let refused = certificate(&fixture, &token, &format!("spiffe://cluster.local/ns/shop/sa/{account}")).await;
        assert_eq!(refused.unwrap_err().code(), code, "{what}");
    }
    let metrics = fixture.page("/metrics").await;
    assert!(metrics.contains("fairway_certificate_requests_total{outcome=\"signed\"} 1"), "{metrics}");
    assert!(metrics.contains("fairway_certificate_requests_total{outcome=\"refused\"} 6"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_does_not_stop_the_port() {
    let fixture = Fixture::new(&[shop()]).await;
    // Silent: stays open while the others are served.
    let _silent = TcpStream::connect(fixture.address).await.unwrap();
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16; 600], &[0; 64]] {
        let mut stream = TcpStream::connect(fixture.address).await.unwrap();
        // The server may close before all is written.
        let _ = stream.write_all(garbage).await;
        let mut rest = Vec::new();
        let _ = soon(stream.read_to_end(&mut rest)).await;
    }
    // TLS, then not HTTP/2.
    let stream = TcpStream::connect(fixture.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = connector(&fixture.root, &[]).connect(name.clone(), stream).await.unwrap();
    let _ = soon(stream.read_to_end(&mut Vec::new())).await;
    // HTTP/2 by name only.
    let stream = TcpStream::connect(fixture.address).await.unwrap();
    let mut stream = connector(&fixture.root, &[b"h2"]).connect(name, stream).await.unwrap();
    let _ = stream.write_all(&[0xff; 1000]).await;
    let _ = soon(stream.read_to_end(&mut Vec::new())).await;

    let mut subscriber = fixture.subscribe(ADDRESS, BTreeMap::new()).await;
    assert_eq!(names(&subscriber.take().await), [WEB]);
    assert!(fixture.page("/metrics").await.contains("fairway_handshake_failures_total 4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_root_and_sends_clients_away_first() {
    let mut fixture = Fixture::new(&[shop()]).await;
    assert!(fixture.page("/ready").await.starts_with("HTTP/1.1 200"));
    let mut subscriber = fixture.subscribe(ADDRESS, BTreeMap::new()).await;
    subscriber.take().await;
    fixture.trigger.start(Mode::Graceful);
    assert_eq!(subscriber.next().await.unwrap_err().code(), Code::Unavailable);
    drop(subscriber);
    soon(fixture.controller.take().unwrap().finished()).await;
    let (controller, _trigger) = start(fixture.directory.path()).await;
    assert_eq!(controller.root_pem, fixture.root);
    let channel = channel(controller.listen, &fixture.root).await;
    let mut subscriber = Subscriber::open(channel, &fixture.token(|_| {}), ADDRESS, BTreeMap::new()).await.unwrap();
    assert_eq!(names(&subscriber.take().await), [WEB]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_there_yet_withdraws_nothing() {
    let mut fixture = Fixture::new(&[shop()]).await;
    fixture.stop().await;
    let (manifests, hidden) = (fixture.manifest(""), fixture.directory.path().join("hidden"));
    fs::rename(&manifests, &hidden).unwrap();
    fixture.start().await;
    assert!(fixture.page("/ready").await.starts_with("HTTP/1.1 503"));
    let held = BTreeMap::from([(WEB.to_owned(), "1".to_owned()), ("gone".to_owned(), "1".to_owned())]);
    let mut subscriber = fixture.subscribe(ADDRESS, held).await;
    fs::rename(&hidden, &manifests).unwrap();
    let response = subscriber.take().await;
    assert_eq!((names(&response), &response.removed_resources), (vec![WEB], &vec!["gone".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_world_can_be_read() {
    let fixture =
        Fixture::new(&[shop(), ("odd.yaml", "apiVersion: v1\nkind: Odd\nmetadata: {name: o}\n".to_owned())]).await;
    let world = fixture.json("/debug/world").await;
    assert_eq!(world["workloads"][0]["uid"], WEB);
    let sources = fixture.json("/debug/sources").await;
    let counts: BTreeMap<_, _> =
        ObjectKind::ALL.into_iter().map(|kind| (kind.as_str(), usize::from(kind == ObjectKind::Pod))).collect();
    let unknown = json!({"file": "odd.yaml", "apiVersion": "v1", "kind": "Odd", "name": "o"});
    assert_eq!(
        sources,
        json!({"objects": counts, "unknownKinds": [unknown], "errors": [], "warnings": [], "meshConfigError": null})
    );

    fixture.write("broken.yaml", "kind: [");
    let sources = fixture.until("/debug/sources", |page| page["errors"] != json!([])).await;
    let keys: Vec<_> = sources["errors"][0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["column", "field", "file", "line", "message", "object"]);

    let _subscriber = fixture.subscribe(ADDRESS, BTreeMap::new()).await;
    let syncz = fixture.until("/debug/syncz", |page| page["proxies"] != json!([])).await;
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&syncz), ["generation", "proxies"]);
    assert_eq!(keys(&syncz["proxies"][0]), ["connectedSince", "id", "node", "types", "version"]);
}

const BROKEN: &str = "kind: [";
const POLICY: &str = "shop/p";

fn held(response: &DeltaDiscoveryResponse) -> BTreeMap<String, String> {
    response.resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_of_a_file_that_is_broken_at_the_start_stay_in_force() {
    // The newest version is not valid, so the one before it is in force.
    let mut fixture = Fixture::new(&[shop(), ("policy.yaml", deny("80"))]).await;
    let good = fixture.subscribe(AUTHORIZATION, BTreeMap::new()).await.take().await;
    fixture.write("policy.yaml", &deny("eighty"));
    fixture.until("/debug/sources", |page| page["errors"] != json!([])).await;
    for text in [deny("eighty"), BROKEN.to_owned(), deny("eighty").replace("action", "akt"), BROKEN.to_owned()] {
        fixture.stop().await;
        fixture.write("policy.yaml", &text);
        fixture.start().await;
        // Neither who comes back nor who comes new sees another version.
        let mut returning = fixture.subscribe(AUTHORIZATION, held(&good)).await;
        let response = returning.take().await;
        assert_eq!((names(&response), &response.removed_resources), (vec![], &vec![]), "{text}");
        let response = fixture.subscribe(AUTHORIZATION, BTreeMap::new()).await.take().await;
        assert_eq!(response.resources, good.resources, "{text}");
    }
    // Taken out of the file.
    fixture.write("policy.yaml", &pod("shop", "db", "db", "node-2", "10.102.0.2"));
    let mut returning = fixture.subscribe(AUTHORIZATION, held(&good)).await;
    let mut removed = returning.take().await.removed_resources;
    if removed.is_empty() {
        removed = returning.take().await.removed_resources;
    }
    assert_eq!(removed, [POLICY]);
    // Gone for good.
    fixture.until("/debug/sources", |page| page["errors"] == json!([])).await;
    fixture.stop().await;
    fixture.write("policy.yaml", BROKEN);
    fixture.start().await;
    assert_eq!(names(&fixture.subscribe(AUTHORIZATION, BTreeMap::new()).await.take().await), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_never_was_valid_refuses_after_a_restart_too() {
    for text in [deny("eighty"), deny("80").replace("action", "akt")] {
        let peers = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: q, namespace: shop}\n\
                     spec: {mtls: {mode: SOMETIMES}}\n";
        let mut fixture = Fixture::new(&[shop(), ("policy.yaml", format!("{text}---\n{peers}"))]).await;
        let refusing = fixture.subscribe(AUTHORIZATION, BTreeMap::new()).await.take().await;
        assert_eq!(names(&refusing), ["fairway-system/istio_converted_static_strict", POLICY]);
        fixture.stop().await;
        fixture.write("policy.yaml", BROKEN);
        fixture.start().await;
        let again = fixture.subscribe(AUTHORIZATION, BTreeMap::new()).await.take().await;
        assert_eq!(again.resources, refusing.resources, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kept_policies_nothing_is_served_while_a_file_is_broken() {
    let mut fixture = Fixture::new(&[shop(), ("policy.yaml", deny("80"))]).await;
    let good = fixture.subscribe(AUTHORIZATION, BTreeMap::new()).await.take().await;
    fixture.stop().await;
    fs::write(fixture.state("policies.json"), "{").unwrap();
    fixture.write("policy.yaml", BROKEN);
    fixture.start().await;
    assert!(fixture.page("/ready").await.starts_with("HTTP/1.1 503"));
    assert!(fixture.page("/metrics").await.contains("fairway_kept_policies_lost 1"));
    let sources = fixture.json("/debug/sources").await;
    let message = sources["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("policies.json") && message.contains("nothing is served"), "{message}");
    let mut returning = fixture.subscribe(AUTHORIZATION, held(&good)).await;
    fixture.write("policy.yaml", &deny("80"));
    let response = returning.take().await;
    assert_eq!((names(&response), &response.removed_resources), (vec![], &vec![]));
    assert!(fixture.page("/ready").await.starts_with("HTTP/1.1 200"));
    assert!(fixture.page("/metrics").await.contains("fairway_kept_policies_lost 0"));
    // Alone it is no reason to stop.
    fixture.stop().await;
    fs::write(fixture.state("policies.json"), "{").unwrap();
    fixture.start().await;
    let response = fixture.subscribe(AUTHORIZATION, BTreeMap::new()).await.take().await;
    assert_eq!(response.resources, good.resources);
}

#[tokio::test(flavor = "multi_thread")]
async fn workloads_of_a_file_that_is_broken_at_the_start_are_not_withdrawn() {
    let db = |address: &str| pod("shop", "db", "db", "node-2", address);
    let mut fixture = Fixture::new(&[shop(), ("db.yaml", db("10.102.0.2"))]).await;
    let first = fixture.subscribe(ADDRESS, BTreeMap::new()).await.take().await;
    let mut held = held(&first);
    held.insert("gone".to_owned(), "1".to_owned());
    fixture.stop().await;
    fixture.write("db.yaml", BROKEN);
    fixture.start().await;
    let mut returning = fixture.subscribe(ADDRESS, held).await;
    let response = returning.take().await;
    assert_eq!((names(&response), &response.removed_resources), (vec![], &vec![]));
    fixture.write("db.yaml", &db("10.102.0.3"));
    let response = returning.take().await;
    assert_eq!((names(&response), &response.removed_resources), (vec![DB], &vec!["gone".to_owned()]));
}
