//! As much of an API server as the controller asks for, in this process: lists by way of watches, and changes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};

use super::mesh::Mesh;

/// Objects of a list that are written at once.
const BATCH: u32 = 100;
/// Changes that a watch may be behind.
const BACKLOG: usize = 100_000;
/// As whom every token is known.
const ACCOUNT: &str = "system:serviceaccount:fairway-system:ztunnel";

/// The kinds that there are objects of.
const KINDS: [&str; 8] = [
    "namespaces",
    "nodes",
    "serviceaccounts",
    "pods",
    "services",
    "endpointslices",
    "authorizationpolicies",
    "httproutes",
];

/// By kind, the events that a list by way of a watch begins with.
type Lists = BTreeMap<&'static str, Vec<Bytes>>;
type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The server.
#[derive(Clone)]
pub(super) struct Api {
    /// Written down before anybody asks: real API servers have their objects in memory as they send them, too.
    lists: Arc<Lists>,
    changes: broadcast::Sender<(&'static str, Bytes)>,
    lease: Arc<Mutex<Option<Value>>>,
}

impl Api {
    /// Starts it on a free port of the loopback.
    pub(super) async fn start(mesh: Mesh) -> Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let lists = Arc::new(KINDS.map(|kind| (kind, listed(mesh, kind))).into());
        let api = Self { lists, changes: broadcast::channel(BACKLOG).0, lease: Arc::default() };
        let accepting = api.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = accepting.clone();
                let service = hyper::service::service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(api.answer(request).await) }
                });
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(served);
            }
        });
        Ok((api, address))
    }

    /// Tells everyone who watches the kind.
    pub(super) fn tell(&self, plural: &'static str, what: &str, object: &Value) {
        // Nobody may be watching.
        let _ = self.changes.send((plural, line(what, object)));
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let mut object: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = parts.uri.path();
        let query: BTreeMap<&str, &str> =
            parts.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        if path.ends_with("/tokenreviews") {
            object["status"] = json!({"authenticated": true, "audiences": ["istio-ca"], "user": {"username": ACCOUNT}});
            return reply(StatusCode::CREATED, &object);
        }
        if path.contains("/leases") {
            return self.lease(&parts.method, object);
        }
        if parts.method != Method::GET {
            return reply(StatusCode::OK, &object);
        }
        if query.get("watch") == Some(&"true") {
            let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
            return self.watch(plural, query.contains_key("sendInitialEvents"));
        }
        reply(
            StatusCode::OK,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}),
        )
    }

    fn lease(&self, method: &Method, mut object: Value) -> Reply {
        let mut held = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if *method != Method::GET {
            object["metadata"]["resourceVersion"] = json!("1");
            *held = Some(object);
        }
        match &*held {
            Some(lease) => reply(StatusCode::OK, lease),
            None => reply(StatusCode::NOT_FOUND, &json!({"kind": "Status", "code": 404, "reason": "NotFound"})),
        }
    }

    fn watch(&self, plural: String, lists: bool) -> Reply {
        let mut changes = self.changes.subscribe();
        let (lines, written) = mpsc::channel::<Bytes>(4);
        let listed = self.lists.get(plural.as_str()).filter(|_| lists).cloned().unwrap_or_default();
        tokio::spawn(async move {
            for batch in listed {
                if lines.send(batch).await.is_err() {
                    return;
                }
            }
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            let end = json!({"kind": "Bookmark", "metadata": {"resourceVersion": "1", "annotations": annotations}});
            if lists && lines.send(line("BOOKMARK", &end)).await.is_err() {
                return;
            }
            while let Ok((of, line)) = changes.recv().await {
                if of == plural && lines.send(line).await.is_err() {
                    return;
                }
            }
        });
        let lines = stream::unfold(written, |mut written| async move {
            let line = written.recv().await?;
            Some((Ok(Frame::data(line)), written))
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
    }
}

fn listed(mesh: Mesh, kind: &str) -> Vec<Bytes> {
    let count = mesh.count(kind);
    let batches = (0..count).step_by(usize::try_from(BATCH).unwrap_or(1));
    let batch = |first: u32| (first..(first + BATCH).min(count)).flat_map(|it| line("ADDED", &mesh.object(kind, it)));
    batches.map(|first| batch(first).collect()).collect()
}

fn line(what: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": what, "object": object})).into()
}

fn reply(status: StatusCode, body: &Value) -> Reply {
    let mut reply = Response::new(BodyExt::boxed_unsync(Full::new(Bytes::from(body.to_string()))));
    *reply.status_mut() = status;
    reply
}
