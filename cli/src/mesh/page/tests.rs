//! Pages by port-forward, against an API server played in the test.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::super::{Mesh, Part, Where};
use super::answered;

/// Subprotocol of port-forwards, as kube asks for it.
const PROTOCOL: &str = "v4.channel.k8s.io";

/// An API server with a mesh of one node, whose proxy answers as `proxy` says: with a page, or with the node's error.
struct Server {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

type Proxy = fn(path: &str) -> Result<String, String>;

impl Server {
    fn start(proxy: Proxy) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, proxy));
            }
        });
        Self { address, _runtime: runtime }
    }

    fn mesh(&self) -> Mesh {
        let file = tempfile::NamedTempFile::new().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
        let place = Where {
            lab: None,
            kubeconfig: Some(file.path().to_owned()),
            context: None,
            mesh_namespace: "fairway-system".to_owned(),
        };
        place.mesh().unwrap()
    }
}

/// One connection: lists, one after the other, or a port-forward. Which one shows before anything is taken off the socket.
async fn serve(mut stream: TcpStream, proxy: Proxy) {
    loop {
        let mut head = vec![0; 4096];
        let Ok(length @ 1..) = stream.peek(&mut head).await else { return };
        let text = String::from_utf8_lossy(&head[..length]).into_owned();
        if text.contains("/portforward?") {
            return forward(stream, proxy).await;
        }
        let Some(end) = text.find("\r\n\r\n") else { continue };
        stream.read_exact(&mut head[..end + 4]).await.unwrap();
        let body = list(text.split(' ').nth(1).unwrap_or_default()).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    }
}

fn list(path: &str) -> Value {
    let pod = |name: &str, account: &str| {
        json!({
            "metadata": {"name": name, "namespace": "fairway-system"},
            "spec": {"serviceAccountName": account, "nodeName": "n1", "containers": []},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        })
    };
    let (kind, items) = match path.split('?').next() {
        Some("/api/v1/pods") => ("PodList", vec![pod("ztunnel-1", "ztunnel"), pod("c-0", "fairway-controller")]),
        _ => ("NodeList", vec![json!({"metadata": {"name": "n1"}})]),
    };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {}, "items": items})
}

/// A port-forward over a WebSocket, as a kubelet does it: two channels for the port, the first frame of each says which port it
/// is, and then bytes in one and errors in the other.
#[expect(clippy::result_large_err, reason = "the callback of tungstenite is made so")]
async fn forward(stream: TcpStream, proxy: Proxy) {
    let agree = |request: &Request, mut response: Response| {
        assert!(request.uri().path().starts_with("/api/v1/namespaces/fairway-system/pods/"), "{}", request.uri());
        response.headers_mut().insert("sec-websocket-protocol", PROTOCOL.parse().unwrap());
        Ok(response)
    };
    let mut socket = accept_hdr_async(stream, agree).await.unwrap();
    let frame = |channel: u8, bytes: &[u8]| Message::binary([&[channel], bytes].concat());
    for channel in [0, 1] {
        socket.send(frame(channel, &15_000u16.to_le_bytes())).await.unwrap();
    }
    let mut asked = String::new();
    while let Some(Ok(message)) = socket.next().await {
        asked.push_str(&String::from_utf8_lossy(message.into_data().get(1..).unwrap_or_default()));
        if !asked.contains("\r\n\r\n") {
            continue;
        }
        let path = asked.split(' ').nth(1).unwrap_or_default();
        match proxy(path) {
            Ok(body) => {
                let date = "date: Thu, 01 Jan 2026 00:00:00 GMT";
                let head = format!("HTTP/1.1 200 OK\r\n{date}\r\ncontent-length: {}\r\n\r\n", body.len());
                socket.send(frame(0, format!("{head}{body}").as_bytes())).await.unwrap();
            }
            Err(error) => {
                socket.send(frame(1, error.as_bytes())).await.unwrap();
                let _ = socket.close(None).await;
                return;
            }
        }
        asked.clear();
    }
}

#[test]
fn pages_of_a_cluster_come_by_port_forward() {
    let server = Server::start(|path| Ok(format!("{{\"path\": \"{path}\", \"much\": \"{}\"}}", "x".repeat(100_000))));
    let mesh = server.mesh();
    assert_eq!(mesh.nodes(None).unwrap(), ["n1"]);
    assert_eq!(mesh.replicas(), ["c-0"]);
    let dump: Value = mesh.ask(Part::Proxy("n1"), "/config_dump").unwrap();
    assert_eq!((&dump["path"], dump["much"].as_str().unwrap().len()), (&json!("/config_dump"), 100_000));
    let page = mesh.page(Part::Proxy("n1"), "/").unwrap();
    assert_eq!(page.date.as_deref(), Some("Thu, 01 Jan 2026 00:00:00 GMT"), "the node's own clock");
}

#[test]
fn what_the_node_says_of_a_port_that_nobody_listens_on_is_told() {
    let server = Server::start(|_| Err("connection refused on port 15000".to_owned()));
    let error = server.mesh().text(Part::Proxy("n1"), "/config_dump").unwrap_err().to_string();
    assert!(error.contains("asking fairway-system/ztunnel-1 for /config_dump"), "{error}");
    assert!(error.contains("connection refused on port 15000"), "{error}");
}

#[test]
fn what_a_program_inside_a_pod_has_heard_is_read() {
    let page = answered("200 {\"a\": 1}\n").unwrap();
    assert_eq!((page.status, page.body.as_str()), (200, "{\"a\": 1}\n"));
    assert!(answered("error: connection refused\n").is_none());
}
