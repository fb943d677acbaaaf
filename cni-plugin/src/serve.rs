//! The plugin's socket: takes its calls and hands each to the reconciler, which answers.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fairway_core::io::metrics::Metrics;
use fairway_core::limits;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::event::{self, Answer, Attached, Attachment};

/// How long a plugin may take to send its request; it has it ready.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept, so that running out of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest list of sandboxes, in bytes: a GC names all that a network has on the node, each in some 70 bytes, and unlike one
/// pod's call it grows with the node; this is enough for 15 000.
const MAX_COLLECT: usize = 1024 * 1024;
/// Only root may call: whoever does can make the agent enter a namespace.
const MODE: u32 = 0o600;

/// What a plugin wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// The pod may run once it is captured, or is not to be.
    Add(Attachment),
    /// The pod's network goes away.
    Delete(Attachment),
    /// Is the pod captured?
    Check(Attachment),
    /// These sandboxes are all there are.
    Collect(Attached),
}

impl Want {
    /// What a request to `path` wants; nothing when there is no such call.
    fn read(path: &str, body: &[u8]) -> Option<serde_json::Result<Self>> {
        Some(match path {
            event::ADD => serde_json::from_slice(body).map(Self::Add),
            event::DELETE => serde_json::from_slice(body).map(Self::Delete),
            event::CHECK => serde_json::from_slice(body).map(Self::Check),
            event::COLLECT => serde_json::from_slice(body).map(Self::Collect),
            _ => return None,
        })
    }
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Agreed(Answer),
    /// No, and why.
    Refused(String),
}

/// One call, to be answered once.
#[derive(Debug)]
pub struct Call {
    /// What is wanted.
    pub want: Want,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Verdict>,
}

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {path}: {error}; check that the directory is writable and the path shorter than 108 bytes")]
pub struct ServeError {
    path: PathBuf,
    error: io::Error,
}

/// The bound socket, not served yet: plugins may connect already and wait.
#[derive(Debug)]
pub struct Listener(UnixListener);

/// Listens in `directory`, in place of whatever socket was there before.
///
/// # Errors
/// When the socket cannot be made.
pub fn bind(directory: &Path) -> Result<Listener, ServeError> {
    let path = directory.join(event::SOCKET);
    let failed = |error| ServeError { path: path.clone(), error };
    std::fs::create_dir_all(directory).map_err(failed)?;
    // Bound beside its place and moved there, so that nobody connects before the permissions are right.
    let beside = directory.join(format!(".{}.new", event::SOCKET));
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&beside).map_err(failed)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
    std::fs::rename(&beside, &path).map_err(failed)?;
    Ok(Listener(listener))
}

/// Serves plugins until dropped; their calls go to `calls`.
pub async fn serve(listener: Listener, calls: mpsc::Sender<Call>, metrics: Metrics) {
    let permits = Arc::new(Semaphore::new(limits::PLUGIN_CALLS.size()));
    // Dropping the set ends every connection.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // A permit before an accept: what we cannot serve stays in the kernel's queue, and its plugin gives up in time.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        tokio::select! {
            accepted = listener.0.accept() => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, calls.clone(), metrics.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a CNI plugin; check the file descriptor limit");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: UnixStream, calls: mpsc::Sender<Call>, metrics: Metrics) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (calls, metrics) = (calls.clone(), metrics.clone());
        async move {
            let (status, answer) = answer(request, calls).await;
            metrics.counter("istio_cni_plugin_requests_total", &[("response_code", status.as_str())]).increment(1);
            let body = serde_json::to_vec(&answer).unwrap_or_default();
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a CNI plugin's connection ended early");
    }
}

async fn answer(request: Request<Incoming>, calls: mpsc::Sender<Call>) -> (StatusCode, Answer) {
    let refused = |status, reason: &str| (status, Answer { captured: false, reason: reason.to_owned() });
    let (head, body) = request.into_parts();
    if Want::read(head.uri.path(), &[]).is_none() {
        return refused(StatusCode::NOT_FOUND, "");
    }
    if head.method != Method::POST {
        return refused(StatusCode::METHOD_NOT_ALLOWED, "");
    }
    let longest = if head.uri.path() == event::COLLECT { MAX_COLLECT } else { limits::PLUGIN_REQUEST.size() };
    let body = Limited::new(body, longest).collect();
    let body = match tokio::time::timeout(REQUEST_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return refused(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(_) => return refused(StatusCode::REQUEST_TIMEOUT, "the request does not end"),
    };
    let want = match Want::read(head.uri.path(), &body) {
        Some(Ok(want)) => want,
        Some(Err(error)) => return refused(StatusCode::BAD_REQUEST, &format!("the request makes no sense: {error}")),
        None => return refused(StatusCode::NOT_FOUND, ""),
    };
    let (answer, wait) = oneshot::channel();
    let ends = "the agent of this node is ending";
    if calls.send(Call { want, answer }).await.is_err() {
        return refused(StatusCode::SERVICE_UNAVAILABLE, ends);
    }
    match wait.await {
        Ok(Verdict::Agreed(answer)) => (StatusCode::OK, answer),
        // As Istio's agent does; 503 is for an agent that cannot say, and the plugin then decides by itself.
        Ok(Verdict::Refused(reason)) => refused(StatusCode::INTERNAL_SERVER_ERROR, &reason),
        Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, ends),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(path: &Path, text: &str) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn post(path: &str, body: &str) -> String {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn calls_are_handed_on_and_answered_and_nonsense_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        // What an agent that was killed has left.
        drop(bind(directory.path()).unwrap());
        let listener = bind(directory.path()).unwrap();
        let path = directory.path().join(event::SOCKET);
        let metadata = std::fs::metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket() && metadata.permissions().mode() & 0o777 == 0o600);
        let (calls, mut queue) = mpsc::channel::<Call>(1);
        let metrics = Metrics::new(&[]);
        tokio::spawn(serve(listener, calls, metrics.clone()));
        tokio::spawn(async move {
            while let Some(call) = queue.recv().await {
                let (kind, name) = match &call.want {
                    Want::Add(attachment) => ("Add", attachment.pod_name.clone()),
                    Want::Delete(attachment) => ("Delete", attachment.pod_name.clone()),
                    Want::Check(attachment) => ("Check", attachment.pod_name.clone()),
                    Want::Collect(attached) => ("Collect", attached.network.clone()),
                };
                let verdict = match name.as_str() {
                    "good" => Verdict::Agreed(Answer { captured: true, reason: kind.to_owned() }),
                    "dropped" => continue,
                    _ => Verdict::Refused("in the way".to_owned()),
                };
                call.answer.send(verdict).unwrap();
            }
        });
        let pod = |name: &str| format!(r#"{{"Netns":"/n","PodName":"{name}","PodNamespace":"shop","IPs":null}}"#);
        let ids: Vec<String> = (0..1000).map(|id| format!("{id:064}")).collect();
        let many = format!(r#"{{"Network":"good","ContainerIDs":["{}"]}}"#, ids.join(r#"",""#));
        assert!(many.len() > limits::PLUGIN_REQUEST.size());
        let rows = [
            (post("/cmdadd", &pod("good")), "200", r#"{"captured":true,"reason":"Add"}"#),
            (post("/cmddel", &pod("good")), "200", "Delete"),
            (post("/cmdcheck", &pod("bad")), "500", "in the way"),
            (post("/cmdgc", r#"{"Network":"good","ContainerIDs":["c1"]}"#), "200", "Collect"),
            (post("/cmdgc", r#"{"Network":"good"}"#), "400", "makes no sense"),
            (post("/cmdadd", &pod("dropped")), "503", "is ending"),
            (post("/cmdadd", "{"), "400", "makes no sense"),
            (post("/cmdadd", &"x".repeat(limits::PLUGIN_REQUEST.size() + 1)), "400", "length limit"),
            (post("/cmdgc", &many), "200", "Collect"),
            (post("/cmdgc", &"x".repeat(MAX_COLLECT + 1)), "400", "length limit"),
            (post("/other", "{}"), "404", ""),
            ("GET /cmdadd HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "405", ""),
            ("nonsense\r\n\r\n".to_owned(), "400", ""),
        ];
        for (request, status, body) in rows {
            let answer = ask(&path, &request).await;
            let name = format!("{}: {answer}", request.chars().take(80).collect::<String>());
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(body), "{name}");
        }
        assert!(metrics.render().contains(r#"istio_cni_plugin_requests_total{response_code="200"} 4"#));
    }
}
