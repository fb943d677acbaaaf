//! Tests of `grpc`.

use std::sync::Mutex as SyncMutex;
use std::time::Duration;

use fairway_proto::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use fairway_proto::ca::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use fairway_proto::ca::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::fake::{self, Pki};
use super::*;
use crate::io::tls::provider;

/// Generous: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers the metadata of each call.
#[derive(Clone, Default)]
struct Recorder(Arc<SyncMutex<Vec<MetadataMap>>>);

#[tonic::async_trait]
impl IstioCertificateService for Recorder {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.0.lock().unwrap().push(request.metadata().clone());
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![request.into_inner().csr] }))
    }
}

async fn server(pki: Option<&Pki>) -> (fake::FakeServer, Recorder) {
    let recorder = Recorder::default();
    let routes = Routes::new(IstioCertificateServiceServer::new(recorder.clone()));
    (fake::serve(routes, pki).await, recorder)
}

async fn call(control_plane: &ControlPlane) -> Result<Vec<String>, String> {
    let channel = control_plane.channel().await.map_err(|error| error.to_string())?;
    let request = IstioCertificateRequest { csr: "csr".to_owned(), ..Default::default() };
    match IstioCertificateServiceClient::new(channel).create_certificate(request).await {
        Ok(response) => Ok(response.into_inner().cert_chain),
        Err(status) => Err(match ConnectError::find(&status) {
            Some(error) => error.to_string(),
            None => status.message().to_owned(),
        }),
    }
}

#[tokio::test]
async fn calls_carry_token_cluster_and_headers_over_tls_to_an_ip() {
    let pki = Pki::new(&["127.0.0.1"]);
    let (server, recorder) = server(Some(&pki)).await;
    let control_plane = fake::control_plane(&server.address.to_string(), &pki.root_pem);
    assert_eq!(call(&control_plane).await, Ok(vec!["csr".to_owned()]));
    let seen = recorder.0.lock().unwrap().pop().unwrap();
    assert_eq!(seen.get("authorization").unwrap(), "Bearer secret");
    assert_eq!(seen.get("clusterid").unwrap(), "Kubernetes");
    assert_eq!(seen.get("x-test").unwrap(), "yes");
}

#[tokio::test]
async fn an_alternative_name_is_accepted_and_a_wrong_one_explained() {
    let pki = Pki::new(&["fairway-controller.fairway-system.svc"]);
    let (server, _) = server(Some(&pki)).await;
    let address = server.address.to_string();
    let error = call(&fake::control_plane(&address, &pki.root_pem)).await.unwrap_err();
    assert!(error.contains("ALT_XDS_HOSTNAME"), "{error}");

    let mut config = fake::config(&address, &pki.root_pem);
    config.alternative_name = Some("fairway-controller.fairway-system.svc".to_owned());
    let control_plane = ControlPlane::new(config, provider()).unwrap();
    assert!(call(&control_plane).await.is_ok());
}

#[tokio::test]
async fn roots_are_read_again_for_each_connection() {
    let (pki, other) = (Pki::new(&["127.0.0.1"]), Pki::new(&["127.0.0.1"]));
    let (server, _) = server(Some(&pki)).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &other.root_pem).unwrap();
    let mut config = fake::config(&server.address.to_string(), "");
    config.roots = RootSource::File(file.path().to_owned());
    let control_plane = ControlPlane::new(config, provider()).unwrap();

    let error = call(&control_plane).await.unwrap_err();
    assert!(error.contains("not trusted by root file"), "{error}");
    std::fs::write(file.path(), "").unwrap();
    let error = call(&control_plane).await.unwrap_err();
    assert!(error.contains("no certificate in it"), "{error}");
    std::fs::write(file.path(), &pki.root_pem).unwrap();
    assert!(call(&control_plane).await.is_ok());
}

#[tokio::test]
async fn the_token_file_is_read_for_each_request_and_named_when_missing() {
    let (server, recorder) = server(None).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("istio-token");
    let mut config = fake::config(&format!("http://{}", server.address), "");
    config.token = TokenSource::parse(file.to_str().unwrap());
    let control_plane = ControlPlane::new(config, provider()).unwrap();

    let error = call(&control_plane).await.unwrap_err();
    assert!(error.contains("istio-token") && error.contains("AUTH_TOKEN"), "{error}");
    for token in ["one", "two"] {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        assert!(call(&control_plane).await.is_ok());
        let seen = recorder.0.lock().unwrap().pop().unwrap();
        assert_eq!(*seen.get("authorization").unwrap(), format!("Bearer {token}"));
    }
}

#[tokio::test]
async fn failures_to_connect_name_the_suspect() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let pki = Pki::new(&["127.0.0.1"]);
    let error = fake::control_plane(&closed.to_string(), &pki.root_pem).connect().await.unwrap_err();
    assert!(matches!(&error, ConnectError::Tcp { address, .. } if *address == closed.to_string()), "{error}");

    let (plain, _) = server(None).await;
    let error = fake::control_plane(&plain.address.to_string(), &pki.root_pem).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
}

#[tokio::test]
async fn the_shared_channel_survives_a_lost_connection() {
    let (first, _) = server(None).await;
    let control_plane = fake::control_plane(&format!("http://{}", first.address), "");
    assert!(call(&control_plane).await.is_ok());
    drop(first);
    // The old connection is cut when the server task ends; until the client sees that, the call may still succeed.
    let failing = async {
        loop {
            if let Err(error) = call(&control_plane).await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, failing).await.expect("calls go on to succeed without a server");
    assert!(!error.is_empty());
}

#[test]
fn settings_that_cannot_be_sent_are_refused() {
    let mut config = fake::config("http://localhost:1", "");
    config.headers = vec![("bad name".to_owned(), "x".to_owned())];
    let error = ControlPlane::new(config, provider()).unwrap_err().to_string();
    assert!(error.contains("bad name"), "{error}");
}

#[test]
fn tokens_do_not_show_in_debug_output() {
    let config = fake::config("http://localhost:1", "");
    assert!(!format!("{config:?}").contains("secret"));
    assert_eq!(TokenSource::parse("./var/token"), TokenSource::File("./var/token".into()));
    assert_eq!(TokenSource::parse("a.b.c"), TokenSource::Literal("a.b.c".into()));
    assert_eq!(TokenSource::parse(""), TokenSource::None);
}

#[test]
fn the_machines_own_roots_can_be_asked_for() {
    let roots = RootSource::parse("SYSTEM");
    assert_eq!(roots, RootSource::System);
    assert!(!roots.read().unwrap().is_empty());
    assert_eq!(RootSource::parse("./SYSTEM"), RootSource::File("./SYSTEM".into()));
}
