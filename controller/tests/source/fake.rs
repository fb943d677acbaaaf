//! A small API server in this process: lists, watches with bookmarks, forgets, breaks off and refuses as it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What an answer is made of.
type Reply = Response<UnsyncBoxBody<Bytes, std::io::Error>>;
/// Answers requests that are not reads of objects: method, path, body to status and body.
type Extra = Box<dyn FnMut(&str, &str, Value) -> Option<(u16, Value)> + Send>;

/// The server.
#[derive(Clone)]
pub(super) struct Fake {
    address: SocketAddr,
    server: Arc<Mutex<Server>>,
    wake: watch::Sender<u64>,
}

/// The server as a client's connection.
#[derive(Clone)]
struct WithoutSockets(Fake);

impl tower_service::Service<Request<kube::client::Body>> for WithoutSockets {
    type Response = Reply;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let fake = self.0.clone();
        Box::pin(async move { fake.answer(request).await })
    }
}

struct Server {
    version: u64,
    /// By collection, then by namespace and name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    log: Vec<(u64, String, Value)>,
    /// Versions before this one are forgotten.
    oldest: u64,
    /// Collections that are not served.
    absent: BTreeSet<String>,
    /// Collections answered with this status.
    refused: BTreeMap<String, u16>,
    streams: Streams,
    is_gone: bool,
    /// Changes when all open watches break off.
    epoch: u64,
    page: usize,
    requests: Vec<String>,
    /// Token and path of each request that changes something by a patch.
    writes: Vec<(String, String)>,
    extra: Option<Extra>,
}

/// What the server makes of a watch that should list first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// Lists, and says when it is done.
    Yes,
    /// Refuses.
    Refused,
    /// Does not know the parameter and watches.
    Ignored,
}

/// The collection an object is in, as a path.
fn collection_of(object: &Value) -> String {
    let api_version = object["apiVersion"].as_str().unwrap();
    let kind = object["kind"].as_str().unwrap().to_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) if !kind.ends_with("ay") => format!("{stem}ies"),
        _ => format!("{kind}s"),
    };
    let root = if api_version.contains('/') { "apis" } else { "api" };
    format!("/{root}/{api_version}/{plural}")
}

fn name_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!("{}/{}", metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap())
}

impl Fake {
    /// Starts a server.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server {
            version: 1,
            objects: BTreeMap::new(),
            log: Vec::new(),
            oldest: 0,
            absent: BTreeSet::new(),
            refused: BTreeMap::new(),
            streams: Streams::Yes,
            is_gone: false,
            epoch: 0,
            page: usize::MAX,
            requests: Vec::new(),
            writes: Vec::new(),
            extra: None,
        };
        let fake = Self {
            address: listener.local_addr().unwrap(),
            server: Arc::new(Mutex::new(server)),
            wake: watch::channel(0).0,
        };
        let accepting = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if accepting.lock().is_gone {
                    continue;
                }
                let fake = accepting.clone();
                let service = hyper::service::service_fn(move |request| {
                    let fake = fake.clone();
                    async move { fake.answer(request).await }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        fake
    }

    /// Where it is.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client for it.
    pub(super) fn client(&self) -> kube::Client {
        let mut config = kube::Config::new(self.url().parse().unwrap());
        config.auth_info = kube::config::AuthInfo::default();
        kube::Client::try_from(config).unwrap()
    }

    /// A client that asks it without a socket, for tests whose clock stands still.
    pub(super) fn client_without_sockets(&self) -> kube::Client {
        kube::Client::new(WithoutSockets(self.clone()), "default")
    }

    fn lock(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    fn change<R>(&self, action: impl FnOnce(&mut Server) -> R) -> R {
        let result = action(&mut self.lock());
        self.wake.send_modify(|count| *count += 1);
        result
    }

    /// Creates or replaces an object.
    pub(super) fn put(&self, mut object: Value) {
        self.change(|server| {
            server.version += 1;
            object["metadata"]["resourceVersion"] = json!(server.version.to_string());
            let (collection, name) = (collection_of(&object), name_of(&object));
            let before = server.objects.entry(collection.clone()).or_default().insert(name, object.clone());
            let event = json!({"type": if before.is_some() { "MODIFIED" } else { "ADDED" }, "object": object});
            server.log.push((server.version, collection, event));
        });
    }

    /// Deletes an object.
    pub(super) fn delete(&self, object: &Value) {
        self.change(|server| {
            let (collection, name) = (collection_of(object), name_of(object));
            let Some(mut object) = server.objects.get_mut(&collection).and_then(|all| all.remove(&name)) else {
                return;
            };
            server.version += 1;
            object["metadata"]["resourceVersion"] = json!(server.version.to_string());
            server.log.push((server.version, collection, json!({"type": "DELETED", "object": object})));
        });
    }

    /// Sends this line to everyone who watches the collection.
    pub(super) fn say(&self, collection: &str, line: Value) {
        self.change(|server| {
            server.version += 1;
            server.log.push((server.version, collection.to_owned(), line));
        });
    }

    /// Sends a bookmark; returns its version.
    pub(super) fn bookmark(&self, collection: &str) -> u64 {
        let version = self.lock().version + 1;
        let object = json!({"kind": "Bookmark", "metadata": {"resourceVersion": version.to_string()}});
        self.say(collection, json!({"type": "BOOKMARK", "object": object}));
        version
    }

    /// Breaks all watches off.
    pub(super) fn cut(&self) {
        self.change(|server| server.epoch += 1);
    }

    /// Forgets all changes.
    pub(super) fn forget(&self) {
        self.change(|server| {
            server.version += 1;
            server.oldest = server.version;
            server.log.clear();
        });
    }

    /// Is gone, or is back.
    pub(super) fn gone(&self, is_gone: bool) {
        self.change(|server| {
            server.is_gone = is_gone;
            server.epoch += 1;
        });
    }

    /// Whether the collection is served.
    pub(super) fn serve(&self, collection: &str, is_served: bool) {
        self.change(|server| {
            if is_served {
                server.absent.remove(collection)
            } else {
                server.absent.insert(collection.to_owned())
            };
            server.epoch += 1;
        });
    }

    /// Refuses requests for the collection with this status, or no longer.
    pub(super) fn refuse(&self, collection: &str, status: Option<u16>) {
        self.change(|server| {
            match status {
                Some(status) => server.refused.insert(collection.to_owned(), status),
                None => server.refused.remove(collection),
            };
            server.epoch += 1;
        });
    }

    /// How lists by way of a watch are answered, and how many objects are on a page.
    pub(super) fn lists(&self, streams: Streams, page: usize) {
        self.change(|server| (server.streams, server.page) = (streams, page));
    }

    /// The paths and queries asked for so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    /// Who has patched what so far, by token and path.
    pub(super) fn writes(&self) -> Vec<(String, String)> {
        self.lock().writes.clone()
    }

    /// Answers what is not a read.
    pub(super) fn answers(&self, extra: impl FnMut(&str, &str, Value) -> Option<(u16, Value)> + Send + 'static) {
        self.lock().extra = Some(Box::new(extra));
    }

    async fn answer<B>(&self, request: Request<B>) -> Result<Reply, std::io::Error>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let mut server = self.lock();
        if server.is_gone {
            return Err(std::io::Error::other("gone"));
        }
        server.requests.push(parts.uri.to_string());
        if parts.method == hyper::Method::PATCH {
            let header = parts.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
            server.writes.push((header.trim_start_matches("Bearer ").to_owned(), path.clone()));
        }
        let body = serde_json::from_slice(&body).unwrap_or_default();
        if let Some(extra) = &mut server.extra
            && let Some((status, body)) = extra(parts.method.as_str(), &path, body)
        {
            return Ok(reply(status, &body));
        }
        if let Some(status) = server.refused.get(&path).copied() {
            return Ok(reply(status, &json!({"kind": "Status", "code": status, "message": "not allowed"})));
        }
        if let Some(name) = path.strip_prefix("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/") {
            let is_defined = server.objects.contains_key(&format!("definition of {name}"));
            let status = if is_defined { 200 } else { 404 };
            return Ok(reply(status, &json!({"code": status})));
        }
        if server.absent.contains(&path) {
            return Ok(reply(404, &json!({"kind": "Status", "code": 404, "message": "not found"})));
        }
        if query.get("watch").is_none_or(|watch| watch != "true") {
            return Ok(reply(200, &server.list(&path, &query)));
        }
        let streams = query.contains_key("sendInitialEvents");
        if streams && server.streams == Streams::Refused {
            return Ok(reply(
                422,
                &json!({"kind": "Status", "code": 422, "message": "sendInitialEvents is forbidden"}),
            ));
        }
        let from = match query.get("resourceVersion") {
            Some(version) => version.parse().unwrap(),
            None => server.version,
        };
        if from < server.oldest {
            return Ok(reply(410, &json!({"kind": "Status", "code": 410, "message": "too old resource version"})));
        }
        let mut first: VecDeque<Value> = VecDeque::new();
        if streams {
            let all = server.objects.get(&path).into_iter().flat_map(BTreeMap::values);
            first.extend(all.map(|object| json!({"type": "ADDED", "object": object})));
            let version = server.version.to_string();
            let annotations = match server.streams {
                Streams::Yes => json!({"k8s.io/initial-events-end": "true"}),
                _ => json!({}),
            };
            first.push_back(json!({"type": "BOOKMARK",
                "object": {"metadata": {"resourceVersion": version, "annotations": annotations}}}));
        }
        let watching = Watching {
            fake: self.clone(),
            wake: self.wake.subscribe(),
            collection: path,
            epoch: server.epoch,
            from,
            lines: first,
        };
        drop(server);
        let lines = stream::unfold(watching, |mut watching| async move {
            let line = watching.next().await?;
            Some((line.map(|line| Frame::data(Bytes::from(line))), watching))
        });
        Ok(Response::new(BodyExt::boxed_unsync(StreamBody::new(lines))))
    }

    /// Says that a custom kind is defined, such as `authorizationpolicies.security.istio.io`, or not.
    pub(super) fn define(&self, name: &str, is_defined: bool) {
        self.change(|server| {
            let key = format!("definition of {name}");
            if is_defined {
                server.objects.entry(key).or_default();
            } else {
                server.objects.remove(&key);
            }
        });
    }
}

impl Server {
    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> Value {
        if let Some((collection, name)) = object_path(path) {
            return self.objects.get(&collection).and_then(|all| all.get(&name)).cloned().unwrap_or_default();
        }
        let start: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
        let all = self.objects.get(path).into_iter().flat_map(BTreeMap::values);
        let items: Vec<&Value> = all.skip(start).take(self.page).collect();
        let total = self.objects.get(path).map_or(0, BTreeMap::len);
        let next = start + items.len();
        let token = if next < total { next.to_string() } else { String::new() };
        json!({"kind": "List", "metadata": {"resourceVersion": self.version.to_string(), "continue": token}, "items": items})
    }
}

/// A lease as an API server keeps it: who writes has to have read the last version.
#[derive(Clone, Default)]
pub(super) struct Lease(Arc<Mutex<Option<Value>>>);

impl Lease {
    /// Who has it.
    pub(super) fn holder(&self) -> Option<String> {
        let lease = self.0.lock().unwrap();
        lease.as_ref()?["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }

    /// Answers a request.
    pub(super) fn answer(&self, method: &str, mut body: Value) -> (u16, Value) {
        let mut lease = self.0.lock().unwrap();
        let version = lease.as_ref().and_then(|it| it["metadata"]["resourceVersion"].as_str()).map(str::to_owned);
        let conflict = (409, json!({"kind": "Status", "code": 409, "reason": "Conflict", "message": "conflict"}));
        match (method, &*lease) {
            ("GET", None) => {
                return (404, json!({"kind": "Status", "code": 404, "reason": "NotFound", "message": "none"}));
            }
            ("GET", Some(lease)) => return (200, lease.clone()),
            ("POST", Some(_)) => return conflict,
            ("PUT", _) if body["metadata"]["resourceVersion"].as_str() != version.as_deref() => return conflict,
            _ => {}
        }
        let next = version.map_or(1, |version| version.parse::<u64>().unwrap() + 1);
        body["metadata"]["resourceVersion"] = json!(next.to_string());
        *lease = Some(body.clone());
        (200, body)
    }
}

/// Collection and name of the path of one object.
fn object_path(path: &str) -> Option<(String, String)> {
    let (root, rest) = path.split_once("/namespaces/")?;
    let mut parts = rest.split('/');
    let (namespace, plural, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some((format!("{root}/{plural}"), format!("{namespace}/{name}")))
}

fn reply(status: u16, body: &Value) -> Reply {
    let body = Full::new(Bytes::from(body.to_string())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(BodyExt::boxed_unsync(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// One who watches.
struct Watching {
    fake: Fake,
    wake: watch::Receiver<u64>,
    collection: String,
    epoch: u64,
    from: u64,
    lines: VecDeque<Value>,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<String, std::io::Error>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                // Text stands for a line that is no JSON.
                let text = line.as_str().map_or_else(|| line.to_string(), str::to_owned);
                return Some(Ok(format!("{text}\n")));
            }
            {
                let server = self.fake.lock();
                if server.epoch != self.epoch {
                    return Some(Err(std::io::Error::other("cut")));
                }
                let new = server
                    .log
                    .iter()
                    .filter(|(version, collection, _)| *version > self.from && *collection == self.collection);
                self.lines.extend(new.map(|(_, _, event)| event.clone()));
                self.from = server.version;
            }
            if self.lines.is_empty() && self.wake.changed().await.is_err() {
                return None;
            }
        }
    }
}
