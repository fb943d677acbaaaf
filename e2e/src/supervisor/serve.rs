//! The supervisor's end of the control socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::{Question, Supervisor, pod_key, unknown};
use crate::addresses::node_name;
use crate::control::{Answer, Location, Page, Request};
use crate::error::{Doing, Error, Result};
use crate::http;
use crate::layout::Layout;
use crate::sandbox::Sandbox;

/// How long a page may take that somebody asked for.
const GET_PATIENCE: Duration = Duration::from_secs(10);

/// Opens the control socket, for its owner only.
pub(super) fn listen(layout: &Layout) -> Result<UnixListener> {
    let path = layout.control();
    // A partial file is renamed once ready, so that whoever finds the socket can connect to it.
    let listener = UnixListener::bind(&path).doing(|| format!("listening on {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).doing(|| format!("protecting {}", path.display()))?;
    Ok(listener)
}

/// Answers for ever.
pub(super) async fn run(listener: UnixListener, questions: mpsc::Sender<Question>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, questions.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, questions: mpsc::Sender<Question>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match reply(&line, &questions).await {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Error(error.to_string()),
        };
        let Ok(mut text) = serde_json::to_string(&answer) else { return };
        text.push('\n');
        if write.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn reply(line: &str, questions: &mpsc::Sender<Question>) -> Result<Value> {
    let request: Request = serde_json::from_str(line).doing(|| "reading the question")?;
    let (send, receive) = oneshot::channel();
    questions.send((request, send)).await.map_err(|_| Error::new("the lab is ending"))?;
    receive.await.map_err(|_| Error::new("the lab is ending"))?
}

impl Supervisor {
    /// Answers at once, or in a task when it takes time.
    pub(super) fn answer(&self, request: Request, answer: oneshot::Sender<Result<Value>>) {
        // Nobody waits any more when the asker went away; that is what the ignored results below mean.
        match request {
            Request::Ping => drop(answer.send(Ok(Value::Null))),
            Request::Status => {
                let report = self.report();
                tokio::spawn(async move { answer.send(report.await) });
            }
            Request::Locate { namespace, pod } => drop(answer.send(self.locate(&namespace, &pod))),
            Request::Signal { component, signal } => drop(answer.send(self.signal(&component, &signal))),
            Request::Get { node, url } => {
                let sandbox = self.sandbox_of(node.as_deref()).cloned();
                tokio::spawn(async move { answer.send(get(sandbox, &url).await) });
            }
        }
    }

    fn locate(&self, namespace: &str, pod: &str) -> Result<Value> {
        let record = self.pods.get(&pod_key(namespace, pod)).ok_or_else(|| {
            let known: Vec<String> = self.pods.keys().map(|key| format!("{}/{}", key.namespace, key.name)).collect();
            unknown("pod", &format!("{namespace}/{pod}"), &known)
        })?;
        let tid = record
            .tid
            .ok_or_else(|| Error::new(format!("pod {namespace}/{pod} is still being set up")).hint("try again"))?;
        Ok(json!(Location { tid }))
    }

    fn signal(&self, name: &str, signal: &str) -> Result<Value> {
        let component = self.components.iter().find(|component| component.name() == name).ok_or_else(|| {
            let known: Vec<String> = self.components.iter().map(|component| component.name().to_owned()).collect();
            unknown("component", name, &known)
        })?;
        let signal = signal.parse::<Signal>().doing(|| format!("understanding signal {signal}"))?;
        let pid = component.signal(signal).ok_or_else(|| Error::new(format!("{name} does not run")))?;
        Ok(json!(pid))
    }

    fn sandbox_of(&self, node: Option<&str>) -> Result<&Sandbox> {
        let Some(name) = node else { return Ok(&self.underlay) };
        self.nodes.iter().find(|node| node_name(node.number) == name).map(|node| &node.sandbox).ok_or_else(|| {
            let known: Vec<String> = self.nodes.iter().map(|node| node_name(node.number)).collect();
            unknown("node", name, &known)
        })
    }
}

async fn get(sandbox: Result<Sandbox>, url: &str) -> Result<Value> {
    let page = http::fetch(&sandbox?, url, GET_PATIENCE).await?;
    Ok(json!(Page { status: page.status, date: page.date, body: page.body }))
}
