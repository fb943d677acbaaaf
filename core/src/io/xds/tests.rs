//! Tests of `xds`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fairway_proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use fairway_proto::discovery::{DiscoveryRequest, DiscoveryResponse, Resource};
use fairway_proto::security::Authorization;
use fairway_proto::type_url;
use fairway_proto::workload::{Address, Workload, address};
use prost_types::Any;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::{Request, Response, Streaming};

use super::*;
use crate::io::drain;
use crate::io::grpc::fake;
use crate::policy::PolicyKey;
use crate::snapshot::PodRef;

/// Generous: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

type Scripted = Result<DeltaDiscoveryResponse, Status>;

/// One stream as the server sees it: what came in, and where to write.
struct ServerStream {
    requests: mpsc::Receiver<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Scripted>,
}

impl ServerStream {
    async fn request(&mut self) -> DeltaDiscoveryRequest {
        tokio::time::timeout(PATIENCE, self.requests.recv()).await.unwrap().unwrap()
    }

    async fn respond(&self, response: DeltaDiscoveryResponse) {
        self.responses.send(Ok(response)).await.unwrap();
    }
}

#[derive(Clone)]
struct Server {
    streams: mpsc::Sender<ServerStream>,
    tokens: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = tokio_stream::Empty<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Scripted>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if request.metadata().get("authorization").is_some() {
            self.tokens.fetch_add(1, Ordering::SeqCst);
        }
        let mut incoming = request.into_inner();
        let (sender, requests) = mpsc::channel(16);
        let (responses, outgoing) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(request)) = incoming.message().await {
                if sender.send(request).await.is_err() {
                    return;
                }
            }
        });
        let _ = self.streams.send(ServerStream { requests, responses }).await;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

struct Fixture {
    server: Option<fake::FakeServer>,
    routes: Routes,
    pki: fake::Pki,
    streams: mpsc::Receiver<ServerStream>,
    tokens: Arc<AtomicUsize>,
    live: Live,
    readiness: Readiness,
    metrics: Metrics,
    trigger: drain::Trigger,
    client: tokio::task::JoinHandle<()>,
}

impl Fixture {
    async fn start() -> Self {
        Self::start_with(Live::new(), None).await
    }

    async fn start_with(live: Live, kept_in: Option<&std::path::Path>) -> Self {
        let (sender, streams) = mpsc::channel(4);
        let tokens = Arc::new(AtomicUsize::new(0));
        let service = Server { streams: sender, tokens: Arc::clone(&tokens) };
        let routes = Routes::new(AggregatedDiscoveryServiceServer::new(service));
        let pki = fake::Pki::new(&["127.0.0.1"]);
        let server = fake::serve(routes.clone(), Some(&pki)).await;
        let control_plane = fake::control_plane(&server.address.to_string(), &pki.root_pem);
        let (readiness, metrics) = (Readiness::new(), Metrics::default());
        let (trigger, handle) = drain::new();
        let mut client = Client::new(control_plane, NodeInfo::default(), live.clone(), &readiness, &metrics);
        if let Some(directory) = kept_in {
            let owner = Owner { cluster: "c".to_owned(), node: "n".to_owned(), on_demand: live.demand().is_some() };
            client = client.kept_by(Keeper::new(directory.to_owned(), owner, Duration::ZERO, &metrics));
        }
        let client = tokio::spawn(client.run(handle));
        Self { server: Some(server), routes, pki, streams, tokens, live, readiness, metrics, trigger, client }
    }

    async fn stream(&mut self) -> ServerStream {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.unwrap().unwrap()
    }
}

fn any(url: &str, message: &impl Message) -> Option<Any> {
    Some(Any { type_url: url.to_owned(), value: message.encode_to_vec() })
}

fn workload(name: &str, version: &str, valid: bool) -> Resource {
    let message = Workload {
        uid: name.to_owned(),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        addresses: vec![if valid { vec![10, 0, 0, 1] } else { vec![1] }],
        ..Default::default()
    };
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: any(type_url::ADDRESS, &Address { r#type: Some(address::Type::Workload(message)) }),
        ..Default::default()
    }
}

fn policy(name: &str) -> Resource {
    let message = Authorization { name: name.to_owned(), namespace: "shop".to_owned(), ..Default::default() };
    Resource { name: format!("shop/{name}"), resource: any(type_url::AUTHORIZATION, &message), ..Default::default() }
}

fn response(url: &str, nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse { type_url: url.to_owned(), nonce: nonce.to_owned(), resources, ..Default::default() }
}

#[tokio::test]
async fn becomes_ready_after_the_first_response_of_each_type() {
    let mut fixture = Fixture::start().await;
    let mut stream = fixture.stream().await;
    assert_eq!(stream.request().await.type_url, type_url::AUTHORIZATION);
    assert_eq!(stream.request().await.type_url, type_url::ADDRESS);
    assert_eq!(fixture.readiness.pending().len(), 2);
    let pod = PodRef { node: None, namespace: "shop".into(), name: "w1".into(), service_account: "default".into() };
    assert_eq!(fixture.tokens.load(Ordering::SeqCst), 1);

    stream.respond(response(type_url::ADDRESS, "n1", vec![workload("w1", "v1", true)])).await;
    let answer = stream.request().await;
    assert_eq!((answer.response_nonce.as_str(), answer.error_detail), ("n1", None));
    // Published before it is acknowledged.
    assert!(fixture.live.snapshot().workload_by_uid("w1").is_some());
    assert_eq!(fixture.readiness.pending(), ["xds policies"]);
    // Whether it may be reached is not known yet.
    assert_eq!(fixture.live.snapshot().view(&pod).workload, None);

    stream.respond(response(type_url::AUTHORIZATION, "n2", vec![policy("deny")])).await;
    stream.request().await;
    fixture.readiness.wait().await;
    assert!(fixture.live.snapshot().view(&pod).workload.is_some());
    assert!(fixture.live.snapshot().policy(&PolicyKey::new("shop", "deny")).is_some());

    let text = fixture.metrics.render();
    assert!(text.contains(&format!("{MESSAGES}{{url=\"{}\"}} 1", type_url::ADDRESS)), "{text}");
    assert!(text.contains(&format!("{CONNECTED} 1")), "{text}");
    fixture.trigger.drain(drain::Mode::Graceful, PATIENCE).await;
    fixture.client.await.unwrap();
}

#[tokio::test]
async fn a_partly_bad_response_is_applied_and_refused_by_name() {
    let mut fixture = Fixture::start().await;
    let mut stream = fixture.stream().await;
    stream.request().await;
    stream.request().await;
    let resources = vec![workload("bad", "v1", false), workload("good", "v1", true)];
    stream.respond(response(type_url::ADDRESS, "n1", resources)).await;
    let answer = stream.request().await;
    let message = answer.error_detail.unwrap().message;
    assert!(answer.response_nonce == "n1" && message.starts_with("bad: "), "{message}");
    assert!(fixture.live.snapshot().workload_by_uid("good").is_some());
    assert!(fixture.live.snapshot().workload_by_uid("bad").is_none());
    assert!(fixture.metrics.render().contains(&format!("{REJECTED} 1")));
}

#[tokio::test]
async fn reconnects_with_versions_and_keeps_what_it_had() {
    let mut fixture = Fixture::start().await;
    let mut stream = fixture.stream().await;
    stream.request().await;
    stream.request().await;
    stream.respond(response(type_url::ADDRESS, "n1", vec![workload("w1", "v7", true)])).await;
    stream.request().await;
    // A clean end, then a refusal.
    drop(stream);
    let stream = fixture.stream().await;
    stream.responses.send(Err(Status::unauthenticated("token expired"))).await.unwrap();
    drop(stream);
    let mut stream = fixture.stream().await;
    assert_eq!(stream.request().await.type_url, type_url::AUTHORIZATION);
    let request = stream.request().await;
    assert_eq!(request.initial_resource_versions.get("w1").map(String::as_str), Some("v7"));
    assert!(request.node.is_some() && request.response_nonce.is_empty());
    assert!(fixture.live.snapshot().workload_by_uid("w1").is_some());

    let removed = DeltaDiscoveryResponse {
        type_url: type_url::ADDRESS.to_owned(),
        nonce: "n2".to_owned(),
        removed_resources: vec!["w1".to_owned()],
        ..Default::default()
    };
    stream.respond(removed).await;
    stream.request().await;
    assert!(fixture.live.snapshot().workload_by_uid("w1").is_none());
    let text = fixture.metrics.render();
    for reason in ["Complete", "Error"] {
        assert!(text.contains(&format!("{TERMINATIONS}{{reason=\"{reason}\"}} 1")), "{text}");
    }
}

#[tokio::test]
async fn survives_the_death_of_the_control_plane() {
    let mut fixture = Fixture::start().await;
    let mut stream = fixture.stream().await;
    stream.request().await;
    stream.request().await;
    stream.respond(response(type_url::ADDRESS, "n1", vec![workload("w1", "v1", true)])).await;
    stream.request().await;

    let address = fixture.server.take().unwrap().address;
    let rebound = async {
        loop {
            // The port is free once the old server's runtime has wound up.
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let listener = tokio::time::timeout(PATIENCE, rebound).await.expect("the old server keeps its port");
    fixture.server = Some(fake::serve_on(listener, fixture.routes.clone(), Some(&fixture.pki)));
    let mut stream = fixture.stream().await;
    assert_eq!(stream.request().await.type_url, type_url::AUTHORIZATION);
    assert_eq!(stream.request().await.initial_resource_versions.len(), 1);
    assert!(fixture.live.snapshot().workload_by_uid("w1").is_some());
}

#[tokio::test]
async fn a_response_that_could_not_be_applied_is_asked_for_again() {
    let live = Live::new();
    let control_plane = fake::control_plane("http://127.0.0.1:1", "");
    let mut client =
        Client::new(control_plane, NodeInfo::default(), live.clone(), &Readiness::new(), &Metrics::default());
    client.respond(response(type_url::ADDRESS, "n1", vec![workload("w1", "v1", true)])).await.unwrap();
    assert_eq!(lock(&client.session).connected()[1].initial_resource_versions.len(), 1);
    let (session, unapplied) = (Arc::clone(&client.session), workload("w2", "v1", true));
    let ending = client
        .off_the_workers(move || {
            lock(&session).received(response(type_url::ADDRESS, "n2", vec![unapplied]));
            panic!("before it was applied");
        })
        .await
        .unwrap_err();
    assert!(matches!(ending, Ending::Error(_)), "{ending}");
    // No versions are said, so that the server sends everything; what it does not send is gone.
    assert_eq!(lock(&client.session).connected()[1].initial_resource_versions.len(), 0);
    client.respond(response(type_url::ADDRESS, "n3", vec![workload("w2", "v1", true)])).await.unwrap();
    let snapshot = live.snapshot();
    assert!(snapshot.workload_by_uid("w2").is_some() && snapshot.workload_by_uid("w1").is_none());
}

#[tokio::test]
async fn what_was_kept_is_served_at_once_and_corrected_by_the_whole_answer() {
    let directory = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::start_with(Live::new(), Some(directory.path())).await;
    let mut stream = fixture.stream().await;
    stream.respond(response(type_url::AUTHORIZATION, "n1", vec![policy("deny")])).await;
    let workloads = vec![workload("w1", "v1", true), workload("bad", "v1", false)];
    stream.respond(response(type_url::ADDRESS, "n2", workloads)).await;
    for _ in 0..4 {
        stream.request().await;
    }
    // It is brought to the disk when the process ends at the latest.
    fixture.trigger.drain(drain::Mode::Graceful, PATIENCE).await;
    fixture.client.await.unwrap();

    let mut fixture = Fixture::start_with(Live::new(), Some(directory.path())).await;
    let mut stream = fixture.stream().await;
    let (policies, addresses) = (stream.request().await, stream.request().await);
    // Nothing has been answered, and everything is in force, what was refused included.
    fixture.readiness.wait().await;
    let pod = PodRef { node: None, namespace: "shop".into(), name: "w1".into(), service_account: "default".into() };
    let view = fixture.live.snapshot().view(&pod);
    assert!(view.workload.is_some());
    assert_eq!(fixture.live.snapshot().resource_names().0, ["w1", "bad"].map(str::to_owned).into());
    assert!(fixture.live.snapshot().policy(&PolicyKey::new("shop", "deny")).is_some());
    assert!(fixture.metrics.render().contains("fairway_xds_state_from_disk 1"));
    assert_eq!(policies.initial_resource_versions.len(), 1);
    assert_eq!(addresses.initial_resource_versions.get("w1").map(String::as_str), Some("v1"));

    let removed = vec!["shop/deny".to_owned()];
    let withdrawn = response(type_url::AUTHORIZATION, "n1", vec![]);
    stream.respond(DeltaDiscoveryResponse { removed_resources: removed, ..withdrawn }).await;
    stream.request().await;
    assert!(fixture.metrics.render().contains("fairway_xds_state_from_disk 1"));
    stream.respond(response(type_url::ADDRESS, "n2", vec![])).await;
    stream.request().await;
    // What had been refused could not be named, and is not there any more.
    assert_eq!(fixture.live.snapshot().resource_names().0, ["w1"].map(str::to_owned).into());
    assert!(fixture.live.snapshot().policy(&PolicyKey::new("shop", "deny")).is_none());
    assert!(fixture.metrics.render().contains("fairway_xds_state_from_disk 0"));
}

#[tokio::test]
async fn a_damaged_file_is_as_good_as_none() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("last-good-configuration"), b"fairway-last-good\x01").unwrap();
    let mut fixture = Fixture::start_with(Live::new(), Some(directory.path())).await;
    let mut stream = fixture.stream().await;
    assert!(stream.request().await.initial_resource_versions.is_empty());
    assert!(!fixture.live.snapshot().is_complete() && fixture.readiness.pending().len() == 2);
}

#[tokio::test]
async fn addresses_are_asked_for_when_they_are_needed_and_again_on_the_next_stream() {
    let mut fixture = Fixture::start_with(Live::on_demand(), None).await;
    let mut stream = fixture.stream().await;
    stream.request().await;
    let first = stream.request().await;
    assert_eq!(
        (first.resource_names_subscribe, first.resource_names_unsubscribe),
        (vec!["*".to_owned()], vec!["*".to_owned()])
    );
    let demand = fixture.live.demand().unwrap().clone();
    let ask = |name: &'static str| {
        let demand = demand.clone();
        tokio::spawn(async move { demand.ask(name, PATIENCE).await })
    };
    let known = ask("/10.0.0.1");
    assert_eq!(stream.request().await.resource_names_subscribe, ["/10.0.0.1"]);
    let unknown = ask("/10.9.9.9");
    assert_eq!(stream.request().await.resource_names_subscribe, ["/10.9.9.9"]);
    let found = Resource { aliases: vec!["/10.0.0.1".to_owned()], ..workload("w1", "v1", true) };
    let missing = vec!["/10.9.9.9".to_owned()];
    let answer = response(type_url::ADDRESS, "n1", vec![found]);
    stream.respond(DeltaDiscoveryResponse { removed_resources: missing, ..answer }).await;
    assert_eq!((known.await.unwrap(), unknown.await.unwrap()), (Ok(()), Ok(())));
    // Whoever asked sees it.
    assert!(fixture.live.snapshot().workload_by_uid("w1").is_some());
    stream.request().await;

    drop(stream);
    let mut stream = fixture.stream().await;
    stream.request().await;
    assert_eq!(stream.request().await.initial_resource_versions.keys().collect::<Vec<_>>(), ["w1"]);
    assert_eq!(stream.request().await.resource_names_subscribe, ["/10.9.9.9"]);
}

#[tokio::test]
async fn the_pages_of_an_answer_are_published_together() {
    let live = Live::new();
    let control_plane = fake::control_plane("http://127.0.0.1:1", "");
    let mut client =
        Client::new(control_plane, NodeInfo::default(), live.clone(), &Readiness::new(), &Metrics::default());
    let page = |nonce, name, extent: Extent| DeltaDiscoveryResponse {
        system_version_info: extent.in_generation(1),
        ..response(type_url::ADDRESS, nonce, vec![workload(name, "v1", true)])
    };
    client.respond(page("n1", "w1", Extent::Part)).await.unwrap();
    assert_eq!(live.snapshot().counts().workloads, 0);
    client.respond(page("n2", "w2", Extent::Whole)).await.unwrap();
    assert_eq!((live.snapshot().counts().workloads, live.snapshot().version()), (2, 1));
}
