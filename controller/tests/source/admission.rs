//! The webhook as an API server meets it: told whom to trust, asked over TLS, and answered in the words of conditions.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_core::source::admission::MAXIMUM_REVIEW_BYTES;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::fake::{Fake, Lease};
use super::replicas::Replica;
use super::writes::LEASES;

const PATIENCE: Duration = Duration::from_secs(60);
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/fairway-controller";
/// The service that the configuration in `manifests` names.
const NAME: &str = "fairway-controller.fairway-system.svc";

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

/// Asks with this body, trusting this bundle alone; the status, and what is said.
async fn ask(replica: &Replica, bundle: &[u8], head: &str, body: &[u8]) -> (u16, String) {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle) {
        roots.add(root.unwrap()).unwrap();
    }
    let mut config = rustls::ClientConfig::builder_with_provider(fairway_core::io::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    // As Go's client does.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = soon(TcpStream::connect(replica.webhook)).await.unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), stream);
    let mut stream = soon(tls).await.unwrap();
    let head =
        format!("{head} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server may have answered before all is written.
    let _ = stream.write_all(body).await;
    let mut reply = Vec::new();
    let _ = soon(stream.read_to_end(&mut reply)).await;
    let reply = String::from_utf8(reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn review(spec: &Value) -> Vec<u8> {
    let policy = json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "it", "namespace": "shop"}, "spec": spec});
    let request = json!({"uid": "u-1", "operation": "CREATE", "name": "it", "namespace": "shop", "object": policy});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_is_told_whom_to_trust_and_answered_in_the_words_of_conditions() {
    let fake = Fake::start().await;
    fake.define("authorizationpolicies.security.istio.io", true);
    let lease = Lease::default();
    let (sender, mut replaced) = mpsc::unbounded_channel();
    fake.answers(move |method, path, body| match method {
        _ if path.starts_with(LEASES) => Some(lease.answer(method, body)),
        "PUT" if path == CONFIGURATION => {
            sender.send(body.clone()).unwrap();
            Some((200, body))
        }
        _ => None,
    });
    let webhook = json!({"name": "validate.fairway.dev", "clientConfig": {"url": "https://it"}, "sideEffects": "None"});
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "fairway-controller"}, "webhooks": [webhook]});
    fake.put(configuration.clone());
    let directory = tempfile::tempdir().unwrap();
    let replica = Replica::start(&fake, directory.path(), "first").await;
    let told = soon(replaced.recv()).await.unwrap();
    let client = told["webhooks"][0]["clientConfig"].clone();
    assert_eq!((&client["url"], &told["webhooks"][0]["sideEffects"]), (&json!("https://it"), &json!("None")));
    let bundle = STANDARD.decode(client["caBundle"].as_str().unwrap()).unwrap();
    assert_eq!(bundle, std::fs::read(&replica.root).unwrap());
    fake.put(told);
    // Somebody applies the file again.
    fake.put(configuration);
    assert_eq!(soon(replaced.recv()).await.unwrap()["webhooks"][0]["clientConfig"], client);

    let answer = async |spec: Value| {
        loop {
            let (status, body) = ask(&replica, &bundle, "POST /validate?timeout=5s", &review(&spec)).await;
            assert_eq!(status, 200, "{body}");
            let answer: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(answer["response"]["uid"], "u-1");
            // Until all objects are read nothing can be said.
            if !body.contains("has not read all objects yet") {
                return answer["response"].clone();
            }
        }
    };
    let good = answer(json!({"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["80"]}}]}]})).await;
    assert_eq!((&good["allowed"], &good["warnings"]), (&json!(true), &json!([])));
    let bad = answer(json!({"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["http"]}}]}]})).await;
    assert_eq!(bad["allowed"], false);
    let message = bad["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("spec.rules[0].to[0].operation.ports[0]: "), "{message}");
    let odd = answer(json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]})).await;
    assert_eq!(odd["allowed"], true);
    assert!(odd["warnings"][0].as_str().unwrap().contains("methods"), "{odd}");

    for (head, body, expected) in [
        ("POST /validate", b"{".to_vec(), 400),
        ("POST /validate", vec![b' '; MAXIMUM_REVIEW_BYTES + 1], 413),
        ("POST /elsewhere", review(&json!({})), 404),
        ("GET /validate", Vec::new(), 405),
    ] {
        let (status, said) = ask(&replica, &bundle, head, &body).await;
        assert_eq!(status, expected, "{head}: {said}");
    }
}
